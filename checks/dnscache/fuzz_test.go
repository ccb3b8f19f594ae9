package dnscache

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// seeds are the responses of testdata.
func seeds(f *testing.F) {
	text, err := os.ReadFile("testdata/responses-dev.json")
	if err != nil {
		f.Fatal(err)
	}
	var file struct{ Cases []responseCase }
	if err := json.Unmarshal(text, &file); err != nil {
		f.Fatal(err)
	}
	types := map[string]rrtype{"A": typeA, "TXT": typeTXT, "MX": typeMX, "PTR": typePTR}
	for _, c := range file.Cases {
		b, err := hex.DecodeString(c.Response)
		if err != nil {
			f.Fatal(err)
		}
		name, t, _ := strings.Cut(c.Query, " ")
		f.Add(b, name, uint16(types[t]))
	}
}

// Whatever octets come: no panic, no answer out of a message that is none to our
// question, nothing that was not asked for, and all of it within bounds.
func FuzzResponse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, msg []byte, name string, rr uint16) {
		name, ok := canonical(name)
		if !ok {
			return
		}
		q := pack(question{name, rrtype(rr)}, true, true)
		m := q.match(msg)
		if m != matchNot && len(msg) > headerSize {
			// What we take for an answer, another reader takes for one to our question.
			if msg[0] != q.wire[0] || msg[1] != q.wire[1] || msg[2]&0x80 == 0 ||
				!bytes.EqualFold(msg[headerSize:q.end], q.wire[headerSize:q.end]) {
				t.Fatalf("% x is taken for an answer to %s %v", msg, name, q.rrtype)
			}
		}
		a, err := parse(msg, q.question)
		if err != nil {
			var known answerError
			if !errors.As(err, &known) && rr != 0 && q.rrtype.String() != "other" {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		if n := len(a.text) + len(a.mx) + len(a.ips) + len(a.tlsa); n > maxRecords || (a.kind == kindFound) != (n > 0) && a.kind != kindFailure {
			t.Fatalf("%d records in an answer of kind %d", n, a.kind)
		}
		if (len(a.ips) > 0) && q.rrtype != typeA && q.rrtype != typeAAAA || len(a.mx) > 0 && q.rrtype != typeMX {
			t.Fatal("an answer of another type")
		}
		for _, ip := range a.ips {
			if ip.Is4() != (q.rrtype == typeA) || ip.Is6() != (q.rrtype == typeAAAA) {
				t.Fatalf("the address %s", ip)
			}
		}
		if q.rrtype == typePTR {
			for _, host := range a.text {
				if !hostName(host) {
					t.Fatalf("%q as a host name", host)
				}
			}
		}
	})
}

// A query is what another implementation reads as that question.
func FuzzQuery(f *testing.F) {
	f.Add("host.example", true, true)
	f.Add("a b@c\\d\"e;f.example", true, false)
	f.Add("_dmarc.Example.", false, true)
	f.Fuzz(func(t *testing.T, text string, mixed, edns bool) {
		name, ok := canonical(text)
		if !ok {
			return
		}
		q := pack(question{name, typeTXT}, mixed, edns)
		var m dns.Msg
		if err := m.Unpack(q.wire); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if len(m.Question) != 1 || m.Question[0].Qtype != dns.TypeTXT || m.Question[0].Qclass != dns.ClassINET || !m.RecursionDesired || m.Response {
			t.Fatalf("%q: %v", name, m)
		}
		if opt := m.IsEdns0(); (opt != nil) != edns || edns && opt.UDPSize() != udpSize {
			t.Fatalf("%q: EDNS %v", name, opt)
		}
		if got := asked(q.wire); got != q.question {
			t.Fatalf("asked for %v, want %v", got, q.question)
		}
		// An answer to it fits; in another case it is seen to be so.
		r := response{}.to(q.wire)
		if q.match(r) != matchExact {
			t.Fatal("an echo does not match")
		}
		for i := headerSize; i < q.end-4; i++ {
			if b := r[i]; lower(b) >= 'a' && lower(b) <= 'z' {
				r[i] ^= 0x20
				if q.match(r) != matchCase {
					t.Fatal("another case is not seen")
				}
				break
			}
		}
	})
}

func FuzzServer(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "[2001:db8::1]:53", "tls://192.0.2.1:853#dns.example", "fe80::1%eth0", "tls://[::1]#a", "[0:100::1%0]00]", "fe80::1%a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := New(Options{Servers: []string{text}, CacheBytes: 1})
		if err != nil {
			return
		}
		defer r.Close()
		if _, _, err := net.SplitHostPort((*r.servers.Load())[0].address); err != nil {
			t.Fatalf("%q is taken as %q", text, (*r.servers.Load())[0].address)
		}
	})
}
