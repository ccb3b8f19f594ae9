package dnscache_test

import (
	"fmt"
	"strings"
	"testing"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
)

func TestLookupTLSA(t *testing.T) {
	var many strings.Builder
	for i := range 40 { // more than a datagram holds
		fmt.Fprintf(&many, "_25._tcp.many.example. TLSA 3 1 1 %064x\n", i)
	}
	zone, err := dnstest.Parse(`
_25._tcp.mx.example.    TLSA  3 1 1 00ff
_25._tcp.alias.example. CNAME _25._tcp.mx.example.
mx.example.             A     192.0.2.1
; SERVFAIL _25._tcp.broken.example
` + many.String())
	if err != nil {
		t.Fatal(err)
	}
	address, stop := zone.Serve()
	defer stop()
	r, err := dnscache.New(dnscache.Options{Servers: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, signed := range []bool{false, true} {
		zone.SetAuthentic(signed)
		for name, n := range map[string]int{"_25._tcp.mx.example": 1, "_25._tcp.ALIAS.example.": 1, "_25._tcp.none.example": 0, "_25._tcp.many.example": 40, "bad..name": 0} {
			records, authentic, err := r.LookupTLSA(t.Context(), name)
			if err != nil || len(records) != n || n > 0 && authentic != signed {
				t.Errorf("%s: %d records, authentic %v, %v", name, len(records), authentic, err)
			}
			if n == 1 && (records[0].Usage != 3 || records[0].Selector != 1 || records[0].Matching != 1 || string(records[0].Data) != "\x00\xff") {
				t.Errorf("%s: %+v", name, records[0])
			}
		}
	}
	if records, authentic, err := r.LookupTLSA(t.Context(), "_25._tcp.broken.example"); err == nil || authentic || records != nil {
		t.Errorf("broken: %v, %v, %v", records, authentic, err)
	}
	if addrs, err := r.LookupNetIP(t.Context(), "ip4", "mx.example"); err != nil || len(addrs) != 1 {
		t.Errorf("the cache: %v, %v", addrs, err)
	}
}
