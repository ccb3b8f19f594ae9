package dnscache

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// examineWith examines a server that answers as told; nil is silence.
func examineWith(t *testing.T, o Options, answer func(network string, query []byte, keys, edns bool, room int) []byte) Examination {
	t.Helper()
	o.Servers = []string{serve(t, func(network string, query []byte) [][]byte {
		room := 0
		if edns := query[11] == 1; edns {
			i := bytes.Index(query, []byte{0, 0, 41}) // the root, OPT
			room = int(query[i+3])<<8 | int(query[i+4])
		}
		keys := query[headerSize] == 0 // the root is asked for
		if m := answer(network, query, keys, query[11] == 1, room); m != nil {
			return [][]byte{m}
		}
		return nil
	})}
	return newTest(t, o).Examine(t.Context())
}

var (
	noSuchName = response{rcode: 3, soa: soa(60, 60)}
	// Two keys of a zone, by size: 900 octets.
	rootKeys = response{records: []record{{rrtype: 48, ttl: 60, rdata: make([]byte, 450)}, {rrtype: 48, ttl: 60, rdata: make([]byte, 420)}}}
	cut      = response{flags: 0x02}
)

func TestExamineAGoodServer(t *testing.T) {
	x := examineWith(t, Options{}, func(network string, query []byte, keys, edns bool, room int) []byte {
		switch {
		case !edns:
			t.Error("it was asked without EDNS")
		case keys && network == "udp" && room < 900:
			return cut.to(query)
		case keys:
			return rootKeys.to(query)
		}
		return noSuchName.to(query)
	})
	if x.TLS || x.Plain || x.UDP.Err != nil || x.Stream.Err != nil || x.UDP.Code != "NXDOMAIN" || x.Stream.Code != "NXDOMAIN" || x.Invented != nil {
		t.Errorf("%+v", x)
	}
	if l := x.Large; !l.Truncated || l.Octets < 870 || l.Err != nil || l.Datagram != nil {
		t.Errorf("%+v", l)
	}
	if x.UDP.Took <= 0 || x.Stream.Took <= 0 {
		t.Errorf("it took %v and %v", x.UDP.Took, x.Stream.Took)
	}
}

func TestExamineAServerThatMakesAnswersUp(t *testing.T) {
	x := examineWith(t, Options{}, func(_ string, query []byte, _, _ bool, _ int) []byte {
		return response{records: []record{{rrtype: typeA, ttl: 60, rdata: []byte{192, 0, 2, 99}}}}.to(query)
	})
	if len(x.Invented) != 2 || x.Invented[0].String() != "192.0.2.99" || x.UDP.Code != "NOERROR" {
		t.Errorf("%+v", x)
	}
}

func TestExamineAServerThatServesOneWayOnly(t *testing.T) {
	noTCP := func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "tcp" {
			return refuse(ctx, network, address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	x := examineWith(t, Options{Dial: noTCP}, func(_ string, query []byte, keys, _ bool, _ int) []byte {
		if keys {
			return cut.to(query)
		}
		return noSuchName.to(query)
	})
	if x.UDP.Err != nil || x.Stream.Err == nil || !x.Large.Truncated || x.Large.Err == nil || x.Large.Octets != 0 {
		t.Errorf("without TCP: %+v", x)
	}
	x = examineWith(t, Options{Timeout: 100 * time.Millisecond}, func(network string, query []byte, _, _ bool, _ int) []byte {
		if network == "udp" {
			return nil
		}
		return noSuchName.to(query)
	})
	if x.UDP.Err == nil || x.UDP.Err.Error() != textTimeout || x.Plain || x.Stream.Err != nil || x.Large != (LargeAnswer{}) {
		t.Errorf("without UDP: %+v", x)
	}
}

// Something on the way swallows EDNS, or the server refuses it.
func TestExamineAServerWithoutEDNS(t *testing.T) {
	for name, refusal := range map[string]func(query []byte) []byte{
		"silence": func([]byte) []byte { return nil },
		"FORMERR": func(query []byte) []byte { return response{rcode: 1}.to(query) },
	} {
		x := examineWith(t, Options{Timeout: 100 * time.Millisecond}, func(network string, query []byte, _, edns bool, _ int) []byte {
			if edns && network == "udp" {
				return refusal(query)
			}
			return noSuchName.to(query)
		})
		if !x.Plain || x.UDP.Err != nil || x.UDP.Code != "NXDOMAIN" || x.Large != (LargeAnswer{}) {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

// A firewall that lets no large datagram pass: the look-up would wait a try for it.
func TestExamineAWayThatTakesNoLargeDatagrams(t *testing.T) {
	x := examineWith(t, Options{Timeout: 100 * time.Millisecond}, func(network string, query []byte, keys, _ bool, room int) []byte {
		switch {
		case keys && network == "udp" && room > 512:
			return nil
		case keys && network == "udp":
			return cut.to(query)
		case keys:
			return rootKeys.to(query)
		}
		return noSuchName.to(query)
	})
	if l := x.Large; !l.Truncated || l.Octets < 870 || l.Datagram == nil {
		t.Errorf("%+v", l)
	}
	// A resolver that cannot reach the root says nothing on it.
	x = examineWith(t, Options{}, func(_ string, query []byte, keys, _ bool, _ int) []byte {
		if keys {
			return response{rcode: 2}.to(query)
		}
		return noSuchName.to(query)
	})
	if x.Large != (LargeAnswer{}) {
		t.Errorf("%+v", x.Large)
	}
}

func TestExamineAServerOverTLS(t *testing.T) {
	cert, pool := authority(t, "dns.example", nil)
	address := serveTLS(t, cert, func(_ string, query []byte) [][]byte { return [][]byte{noSuchName.to(query)} })
	r := newTest(t, Options{Servers: []string{"tls://" + address + "#dns.example"}, RootCAs: pool})
	if x := r.Examine(t.Context()); !x.TLS || x.Stream.Err != nil || x.Stream.Code != "NXDOMAIN" || x.UDP != (Exchange{}) {
		t.Errorf("%+v", x)
	}
	r = newTest(t, Options{Servers: []string{"tls://" + address + "#other.example"}, RootCAs: pool})
	if x := r.Examine(t.Context()); x.Stream.Err == nil || !strings.Contains(x.Stream.Err.Error(), "other.example") {
		t.Errorf("another name: %+v", x)
	}
}

func TestServersAreThoseThatNewAsks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# none\nsearch example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"192.0.2.53 2001:db8::53":   {ResolvConf: file},
		"127.0.0.1":                 {ResolvConf: file + ".gone"},
		"tls://192.0.2.1#a.example": {ResolvConf: file, Servers: []string{"tls://192.0.2.1#a.example"}},
	} {
		got, err := Servers(o)
		if err != nil || !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%v %v, not %s", got, err, want)
		}
	}
}
