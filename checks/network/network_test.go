package network

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/checks/network/networktest"
)

func TestLookup(t *testing.T) {
	dir := t.TempDir()
	systems, countries, other := filepath.Join(dir, "asn.mmdb"), filepath.Join(dir, "country.mmdb"), filepath.Join(dir, "other.mmdb")
	networktest.Write(t, systems, map[string]networktest.Record{
		"192.0.2.0/24":  networktest.System(64500, "Example\r\nNetworks \u202e"),
		"2001:db8::/32": networktest.System(4200000000, "Example Six"),
	})
	networktest.Write(t, countries, map[string]networktest.Record{
		"192.0.2.0/25":    networktest.Country("DE"),
		"198.51.100.0/24": networktest.Country("nowhere"),
		"203.0.113.0/24":  networktest.Country("FR"),
	})
	networktest.Write(t, other, map[string]networktest.Record{
		"192.0.2.0/24":   {"asn": "AS64501", "as_name": "Late", "country": "Germany", "country_code": "AT"},
		"203.0.113.0/24": {"asn": "AS64502", "as_name": strings.Repeat("x", 280), "country": "Italy", "country_code": "IT"},
		"100.64.0.0/10":  {"asn": "64503x", "country": "Spain"},
	})
	f := Open([]string{systems, countries, other}, nil, nil)
	for _, fault := range f.Faults() {
		if fault != "" {
			t.Fatal(fault)
		}
	}
	for _, c := range []struct {
		addr string
		want Found
	}{
		{"192.0.2.1", Found{64500, `Example\r Networks \u202e`, "DE"}},
		{"::ffff:192.0.2.1", Found{64500, `Example\r Networks \u202e`, "DE"}},
		{"192.0.2.200", Found{64500, `Example\r Networks \u202e`, "AT"}}, // the first file that says it
		{"198.51.100.1", Found{}}, // no code of two letters
		{"203.0.113.9", Found{64502, strings.Repeat("x", 200), "FR"}},
		{"2001:db8::1", Found{4200000000, "Example Six", ""}},
		{"fe80::1%eth0", Found{}},
		{"100.64.0.1", Found{}}, // the number is none, and country is no code
		{"8.8.8.8", Found{}},
	} {
		got, ok := f.Lookup(netip.MustParseAddr(c.addr))
		if !ok || got != c.want {
			t.Errorf("%s: %+v (%v), want %+v", c.addr, got, ok, c.want)
		}
	}
	if _, ok := f.Lookup(netip.Addr{}); !ok {
		t.Error("no address: unknown, and no trouble")
	}
}

// A file that is missing makes what it would say unknown, not empty; one that is replaced by
// a broken one stays in force. Each is said once.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "asn.mmdb")
	var log bytes.Buffer
	said := func() int { defer log.Reset(); return strings.Count(log.String(), "\n") }
	f := Open([]string{path}, nil, slog.New(slog.NewTextHandler(&log, nil)))
	addr := netip.MustParseAddr("192.0.2.1")
	expect := func(when string, known bool, asn int64, lines int) {
		t.Helper()
		found, ok := f.Lookup(addr)
		if ok != known || found.ASN != asn {
			t.Errorf("%s: %+v (%v)", when, found, ok)
		}
		if n := said(); n != lines {
			t.Errorf("%s: %d lines, want %d", when, n, lines)
		}
	}
	expect("missing", false, 0, 1)
	f.Reload()
	expect("still missing", false, 0, 0)
	networktest.Write(t, path, map[string]networktest.Record{"192.0.2.0/24": networktest.System(64500, "One")})
	f.Reload()
	expect("there", true, 64500, 1)
	if err := os.WriteFile(path, []byte("an error page"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Reload()
	expect("broken", true, 64500, 1)
	f.Reload()
	expect("still broken", true, 64500, 0)
	if again := Open([]string{path}, f, nil); again.Faults()[0] == "" {
		t.Error("a new configuration does not know that the file is broken")
	} else if found, ok := again.Lookup(addr); !ok || found.ASN != 64500 {
		t.Errorf("a new configuration forgets what the file said: %+v", found)
	}
	networktest.Write(t, path, map[string]networktest.Record{"192.0.2.0/24": networktest.System(64501, "Two")})
	f.Reload()
	expect("mended", true, 64501, 1)
	networktest.Write(t, path, map[string]networktest.Record{"192.0.2.0/24": {"connection_type": "Cable"}})
	f.Reload()
	if fault := f.Faults()[0]; !strings.Contains(fault, "has neither autonomous_system_number nor country.iso_code") {
		t.Errorf("a file of something else: %q", fault)
	}
}

// Whatever stands in a file, it is found broken or it answers.
func FuzzFile(f *testing.F) {
	good := networktest.File(map[string]networktest.Record{
		"192.0.2.0/24": networktest.System(64500, "Example"), "2001:db8::/32": networktest.Country("DE"),
	})
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("\xab\xcd\xefMaxMind.com"))
	f.Fuzz(func(t *testing.T, octets []byte) {
		r, err := parse("fuzz", octets)
		if err != nil {
			return
		}
		for _, a := range []string{"192.0.2.1", "2001:db8::1", "::", "255.255.255.255"} {
			var found Found
			_ = found.add(r, netip.MustParseAddr(a)) // an error is an answer
			if len(found.Name) > maxName || len(found.Country) > 2 || found.ASN < 0 || found.ASN > 1<<32-1 {
				t.Errorf("%s: %+v", a, found)
			}
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	path := filepath.Join(b.TempDir(), "asn.mmdb")
	networktest.Write(b, path, map[string]networktest.Record{"192.0.2.0/24": networktest.System(64500, "Example")})
	f := Open([]string{path}, nil, nil)
	addr := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		f.Lookup(addr)
	}
}
