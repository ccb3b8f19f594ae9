package dnscache

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// summary says what was read from an answer.
func summary(a *answer, err error) string {
	if err != nil {
		return err.Error()
	}
	text := map[kind]string{kindFound: "found", kindNoData: "nodata", kindNXDomain: "nxdomain", kindFailure: "failure", kindAlias: "alias"}[a.kind]
	for _, s := range a.text {
		text += fmt.Sprintf(" %q", s)
	}
	for _, mx := range a.mx {
		text += fmt.Sprintf(" %d %s", mx.Pref, mx.Host)
	}
	for _, ip := range a.ips {
		text += " " + ip.String()
	}
	if a.kind == kindAlias {
		text += " " + a.alias
	}
	return fmt.Sprintf("%s for %d s", text, a.ttl)
}

// A query has the octets that the library would have packed, which is another one's reading of the RFCs.
func TestQueriesAreThoseOfTheLibrary(t *testing.T) {
	long := strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 49)+".", 5), ".")
	for _, name := range []string{"example", "_dmarc.d.example", "1.2.0.192.in-addr.arpa", `a"\ @\065.example`, strings.Repeat("x", maxLabel) + ".example", long + ".bcd"} {
		for _, edns := range []bool{true, false} {
			q, err := newQuery(question{name, typeTXT}, true, edns)
			if err != nil {
				t.Errorf("%q: %v", name, err)
				continue
			}
			var m dns.Msg
			if err := m.Unpack(q.wire); err != nil {
				t.Errorf("%q: %v", name, err)
				continue
			}
			if got, ok := plainName(m.Question[0].Name); !ok || got != name || m.Question[0].Qtype != dns.TypeTXT || !m.RecursionDesired {
				t.Errorf("%q is read as %v", name, &m)
			}
			opt := m.IsEdns0()
			if (opt != nil) != edns || edns && (opt.UDPSize() != udpSize || opt.Do() || opt.Version() != 0) {
				t.Errorf("%q: %v", name, opt)
			}
			if packed, err := m.Pack(); err != nil || !bytes.Equal(packed, q.wire) {
				t.Errorf("%q:\n%x, want\n%x (%v)", name, q.wire, packed, err)
			}
		}
	}
	for _, name := range []string{"", ".", "a..example", "a.", strings.Repeat("x", maxLabel+1) + ".example", long + ".bcdefg.hi"} {
		if q, err := newQuery(question{name, typeTXT}, true, true); err == nil {
			t.Errorf("%q was packed as %x", name, q.wire)
		}
	}
}

func TestParse(t *testing.T) {
	ptr := func(ttl uint32, host string) record { return record{rrtype: typePTR, ttl: ttl, rdata: wireName(host)} }
	mx := func(ttl uint32, host string) record {
		return record{rrtype: typeMX, ttl: ttl, rdata: append([]byte{0, 10}, wireName(host)...)}
	}
	below := func(zone string) *record { s := soa(60, 60); s.name = zone; return s }
	ns := &record{name: "example", rrtype: 2, ttl: 60, rdata: wireName("ns.example")}
	dotted := record{rrtype: typePTR, ttl: 70, rdata: []byte("\x03a.b\x00")}
	var manyPTR []record
	for i := range 200 {
		manyPTR = append(manyPTR, ptr(60, fmt.Sprintf("h%d.example", i)))
	}
	for _, c := range []struct {
		name   string
		rrtype rrtype
		r      response
		want   string
	}{
		{"least TTL", typeA, response{records: []record{a(60, 1, 2, 3, 4), a(30, 1, 2, 3, 5)}}, "found 1.2.3.4 1.2.3.5 for 30 s"},
		{"AAAA", typeAAAA, response{records: []record{{rrtype: typeAAAA, ttl: 60, rdata: net.ParseIP("2001:db8::1")}}}, "found 2001:db8::1 for 60 s"},
		{"A of 5 octets", typeA, response{records: []record{a(60, 1, 2, 3, 4, 5)}}, "malformed answer"},
		{"AAAA of 4 octets", typeAAAA, response{records: []record{{rrtype: typeAAAA, ttl: 60, rdata: []byte{1, 2, 3, 4}}}}, "malformed answer"},
		{"TTL of 2^31", typeA, response{records: []record{a(1<<31, 1, 2, 3, 4)}}, "found 1.2.3.4 for 0 s"},
		{"TXT without strings", typeTXT, response{records: []record{{rrtype: typeTXT, ttl: 60}}}, "nodata for 60 s"},
		{"TXT without strings beside one with", typeTXT, response{records: []record{{rrtype: typeTXT, ttl: 60}, txt(60, "x")}}, `found "x" for 60 s`},
		{"TXT string beyond its record", typeTXT, response{records: []record{{rrtype: typeTXT, ttl: 60, rdata: []byte("\x09x")}}}, "malformed answer"},
		{"null MX", typeMX, response{records: []record{mx(60, "")}}, "found 10 . for 60 s"},
		{"MX that is no host", typeMX, response{records: []record{mx(60, "a b.example")}}, "nodata for 60 s"},
		{"MX cut short", typeMX, response{records: []record{{rrtype: typeMX, ttl: 60, rdata: []byte{0, 10, 0xc0, 0xff}}}}, "nodata for 60 s"},
		{"PTR with a dot in a label", typePTR, response{records: []record{dotted, ptr(60, "ok.example")}}, `found "ok.example." for 60 s`},
		{"PTR to the root", typePTR, response{records: []record{ptr(60, "")}}, "nodata for 60 s"},
		{"alias to itself", typeA, response{records: []record{cname("", 60, "n.example")}}, "CNAME chain too long, or a loop"},
		{"two aliases", typeA, response{records: []record{cname("", 60, "x.example"), cname("", 60, "y.example"), {name: "y.example", rrtype: typeA, ttl: 60, rdata: []byte{1, 2, 3, 4}}}}, "alias x.example for 60 s"},
		{"alias and data at one name", typeA, response{records: []record{a(60, 9, 9, 9, 9), cname("", 60, "x.example")}}, "alias x.example for 60 s"},
		{"alias to the root", typeA, response{records: []record{cname("", 60, ""), a(60, 9, 9, 9, 9)}}, "nodata for 60 s"},
		{"alias to no data", typeA, response{records: []record{cname("", 60, "x.example")}, soa: soa(30, 30)}, "nodata for 30 s"},
		{"SOA of another zone", typeA, response{rcode: 3, soa: below("elsewhere")}, "nxdomain for 1 s"},
		{"SOA of the zone above", typeA, response{rcode: 3, soa: below("example")}, "nxdomain for 60 s"},
		{"SOA below", typeA, response{rcode: 3, soa: below("x.n.example")}, "nxdomain for 1 s"},
		{"no SOA", typeA, response{}, "nodata for 1 s"},
		{"no SOA behind an alias for once", typeA, response{rcode: 3, records: []record{cname("", 0, "x.example")}}, "nxdomain for 0 s"},
		{"referral", typeA, response{soa: ns}, "referral instead of an answer"},
		// What miekg/dns takes for good records, of empty fields.
		{"A without data", typeA, response{records: []record{{rrtype: typeA, ttl: 60}}}, "malformed answer"},
		{"CNAME without data", typeA, response{records: []record{{rrtype: 5, ttl: 60}}}, "malformed answer"},
		{"MX without host", typeMX, response{records: []record{{rrtype: typeMX, ttl: 60, rdata: []byte{0, 10}}, mx(60, "ok.example")}}, "found 10 ok.example. for 60 s"},
		{"MX with more than a host", typeMX, response{records: []record{{rrtype: typeMX, ttl: 60, rdata: []byte{0, 10, 1, 'a', 0, 1}}}}, "nodata for 60 s"},
		{"PTR without data", typePTR, response{records: []record{{rrtype: typePTR, ttl: 60}}}, "nodata for 60 s"},
		{"SOA without minimum", typeA, response{rcode: 3, soa: &record{name: ".", rrtype: 6, ttl: 60, rdata: make([]byte, 2+4*4)}}, "malformed answer"},
		{"SOA of names alone", typeA, response{rcode: 3, soa: &record{name: ".", rrtype: 6, ttl: 60, rdata: make([]byte, 2)}}, "malformed answer"},
		// What comes escaped out of it.
		{"TXT of quotes, backslashes and odd octets", typeTXT, response{records: []record{txt(60, "\"a\\ \x00\x7f\xe9")}}, `found "\"a\\ \x00\x7f\xe9" for 60 s`},
		{"TXT that looks escaped", typeTXT, response{records: []record{txt(60, `\065\"\`)}}, `found "\\065\\\"\\" for 60 s`},
		{"TXT with an escape across two strings", typeTXT, response{records: []record{{rrtype: typeTXT, ttl: 60, rdata: []byte("\x01\\\x03065")}}}, `found "\\065" for 60 s`},
		{"MX with a backslash", typeMX, response{records: []record{mx(60, `a\b.example`), mx(60, `a\046b.example`)}}, "nodata for 60 s"},
		{"PTR with octets that are not ASCII", typePTR, response{records: []record{{rrtype: typePTR, ttl: 60, rdata: []byte("\x02\xc3\xa9\x00")}}}, "nodata for 60 s"},
		{"alias to a name with odd octets", typeA, response{records: []record{cname("", 60, `a"\ B@.example`), {name: `A"\ b@.example`, rrtype: typeA, ttl: 60, rdata: []byte{1, 2, 3, 4}}}}, "found 1.2.3.4 for 60 s"},
		{"alias to a name with a dot in a label", typeA, response{records: []record{{rrtype: 5, ttl: 60, rdata: dotted.rdata}}}, "malformed answer"},
		{"SERVFAIL", typeA, response{rcode: 2}, "failure for 4294967295 s"},
	} {
		q := pack(question{"n.example", c.rrtype}, true, true)
		if got := summary(parse(c.r.to(q.wire), q.question)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}

	q := pack(question{"n.example", typePTR}, false, true)
	m := response{records: manyPTR}.to(q.wire)
	n := len(m)
	m = append(m, bytes.Repeat(m[n-(12+len(wireName("h199.example"))):], 200)...)
	m[6], m[7] = 400>>8, 400&0xff
	if a, err := parse(m, q.question); err != nil || len(a.text) != maxRecords {
		t.Errorf("400 reverse names: %s", summary(a, err))
	}

	// Padding behind the last record is none of it.
	if a, err := parse(append(m, make([]byte, 40)...), q.question); err != nil {
		t.Errorf("padded: %s", summary(a, err))
	}

	// Cut anywhere, an answer is malformed, or none: never half of one.
	q = pack(question{"n.example", typeTXT}, false, true)
	whole := response{records: []record{txt(60, "one"), txt(60, "two")}, soa: soa(1, 1)}.to(q.wire)
	for i := range whole {
		if a, err := parse(whole[:i], q.question); err == nil {
			t.Errorf("cut at %d: %s", i, summary(a, err))
		}
	}
	other := bytes.Clone(whole)
	if i := bytes.Index(other[q.end-1:], []byte{0, 16, 0, 1}); i >= 0 {
		other[q.end-1+i+3] = 3 // CHAOS
	}
	if a, err := parse(other, q.question); err != nil || len(a.text) != 1 {
		t.Errorf("a record of another class: %s", summary(a, err))
	}
}

func TestPanicOverAnAnswer(t *testing.T) {
	r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Dial: func(context.Context, string, string) (net.Conn, error) { panic("for the test") }})
	wantError(t, r, "a.example", "temporary")
	if !strings.Contains(fmt.Sprint(lookupError(r)), "panic") {
		t.Error("the failure does not say what it is")
	}
	if underWay(r) != 0 {
		t.Error("the query is still counted")
	}
}

func lookupError(r *Resolver) error {
	_, err := r.LookupTXT(context.Background(), "a.example")
	return err
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int32
		server := pipe(func(_, network string, query []byte) [][]byte {
			if network == "udp" {
				return [][]byte{response{flags: 0x02}.to(query)}
			}
			return [][]byte{someTXT.to(query)}
		})
		r, err := New(Options{Servers: []string{"192.0.2.1"}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := server(ctx, network, address)
			if network == "tcp" {
				open.Add(1)
				c = &countedConn{Conn: c, open: &open}
			}
			return c, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for i := range 3 {
			wantTXT(t, r, fmt.Sprintf("n%d.example", i), "x")
			time.Sleep(idleTime * 2 / 3)
		}
		if n := open.Load(); n != 1 {
			t.Errorf("%d connections open, want 1", n)
		}
		time.Sleep(2 * idleTime)
		if n := open.Load(); n != 0 {
			t.Errorf("%d connections open after their time", n)
		}
	})
}

type countedConn struct {
	net.Conn
	open   *atomic.Int32
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// A stream whose answers are out of step is of no use any more.
func TestStreamOutOfStep(t *testing.T) {
	r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Dial: pipe(func(_, network string, query []byte) [][]byte {
		m := someTXT.to(query)
		if network == "udp" {
			m[2] |= 0x02
		} else {
			m[0] ^= 1
		}
		return [][]byte{m}
	})})
	wantError(t, r, "a.example", "temporary")
	if p := &(*r.servers.Load())[0].pool; len(p.idle) != 0 || p.turnstile.Used() != 0 {
		t.Error("the connection was kept")
	}
}
