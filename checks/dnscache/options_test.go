package dnscache

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/configs"
)

func TestServers(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":                         "192.0.2.1:53",
		"192.0.2.1:5353":                    "192.0.2.1:5353",
		"2001:db8::1":                       "[2001:db8::1]:53",
		"[2001:db8::1]":                     "[2001:db8::1]:53",
		"[2001:db8::1]:5353":                "[2001:db8::1]:5353",
		"fe80::1%eth0":                      "[fe80::1%eth0]:53",
		"tls://192.0.2.1#dns.example":       "192.0.2.1:853 dns.example",
		"tls://192.0.2.1:8853#dns.example":  "192.0.2.1:8853 dns.example",
		"tls://[2001:db8::1]:853#a.example": "[2001:db8::1]:853 a.example",
		"tls://192.0.2.1":                   "192.0.2.1:853 192.0.2.1",
	} {
		r, err := New(Options{Servers: []string{text}})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := (*r.servers.Load())[0].address
		if c := (*r.servers.Load())[0].tls; c != nil {
			got += " " + c.ServerName
		}
		if got != want {
			t.Errorf("%s = %s, want %s", text, got, want)
		}
		r.Close()
	}
	for text, want := range map[string]string{
		"":                       "no IP address",
		"dns.example":            "a name would itself need DNS",
		"dns.example:53":         "a name would itself need DNS",
		"192.0.2.1:0":            "no number from 1",
		"192.0.2.1:65536":        "no number from 1",
		"192.0.2.1:domain":       "no number from 1",
		"192.0.2.1#dns.example":  "only a tls:// server",
		"tls://192.0.2.1#":       "no host name",
		"tls://192.0.2.1#a b":    "no host name",
		"https://192.0.2.1/":     "unknown scheme https",
		"0.0.0.0":                "not the address of a host",
		"224.0.0.251":            "not the address of a host",
		"[2001:db8::1":           "",
		"192.0.2.1, 192.0.2.2":   "no IP address",
		"tls://dns.example#name": "no IP address",
	} {
		r, err := New(Options{Servers: []string{text}})
		if err == nil {
			if want != "" {
				t.Errorf("%q is taken, want an error about %q", text, want)
			}
			r.Close()
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "write 192.0.2.1, 192.0.2.1:53") {
			t.Errorf("%q: %v, want it to say %q and what to write", text, err, want)
		}
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	for name, o := range map[string]Options{
		"negative timeout":  {Timeout: -1},
		"negative stale":    {Cache: configs.DNSCache{Entries: 1, ServeStale: -time.Second}},
		"too many servers":  {Servers: slices.Repeat([]string{"192.0.2.1"}, maxServers+1)},
		"canary":            {Servers: []string{"192.0.2.1"}, Canaries: []string{"a..b"}},
		"too many canaries": {Servers: []string{"192.0.2.1"}, Canaries: slices.Repeat([]string{"a.b"}, configs.MaxCanaries+1)},
		"resolv.conf":       {ResolvConf: t.TempDir()},
	} {
		if r, err := New(o); err == nil {
			t.Errorf("%s is taken", name)
			r.Close()
		}
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	for text, want := range map[string]string{
		"# comment\nnameserver 192.0.2.1\nsearch example\nnameserver 2001:db8::1 # second\nnameserver bogus\nnameserver\n": "[192.0.2.1:53 [2001:db8::1]:53]",
		"search example\n":                     "[127.0.0.1:53]",
		strings.Repeat("nameserver ::1\n", 20): fmt.Sprint(slices.Repeat([]string{"[::1]:53"}, maxServers)),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newTest(t, Options{ResolvConf: file})
		var got []string
		for _, s := range *r.servers.Load() {
			got = append(got, s.address)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%q: %v, want %s", text, got, want)
		}
	}
	r := newTest(t, Options{ResolvConf: file + ".none"})
	if (*r.servers.Load())[0].address != "127.0.0.1:53" {
		t.Errorf("no file: %s", (*r.servers.Load())[0].address)
	}
}

// Somebody changes resolv.conf while mail flows.
func TestResolvConfChanges(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 192.0.2.1\n")
	var now clock
	var mu sync.Mutex
	var last string
	r := newTest(t, Options{ResolvConf: file, Now: now.now, Dial: pipe(func(address, _ string, query []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		last = address
		return [][]byte{response{}.to(query)}
	})})
	ask := func(want string) {
		t.Helper()
		now.advance(resolvConfPause)
		_, _ = r.LookupTXT(context.Background(), "a.example")
		mu.Lock()
		defer mu.Unlock()
		if last != want {
			t.Errorf("asked %s, want %s", last, want)
		}
	}
	ask("192.0.2.1:53")
	write("nameserver 192.0.2.22\n")
	ask("192.0.2.22:53")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	ask("192.0.2.22:53")
	write("nameserver 192.0.2.3\nnameserver 192.0.2.4\n")
	ask("192.0.2.3:53")
}

func TestCanonical(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]string{
		"a.example": "a.example", "A.Example.": "a.example", "localhost": "localhost",
		"_spf.example": "_spf.example", "a b@c%.example": "a b@c%.example", "1.2.3.4.dnsbl.example": "1.2.3.4.dnsbl.example",
		long + ".example":               long + ".example",
		strings.Repeat("a.", 126) + "b": strings.Repeat("a.", 126) + "b",
		"":                              "", ".": "", "..": "", ".a": "", "a..b": "", "a..": "",
		long + "a.example": "", strings.Repeat("a.", 127): strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 127) + "b": "",
		"192.0.2.1": "", "192.0.2.1.": "", "bücher.example": "", "a\nb.example": "", "a\x00.example": "", "a\x7f.example": "",
		"1.2": "1.2", "2001:db8::1": "2001:db8::1",
	} {
		got, ok := canonical(name)
		if got != want || ok != (want != "") {
			t.Errorf("canonical(%q) = %q, %v, want %q", name, got, ok, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { canonical("mail.example.org.") }); n != 0 {
		t.Errorf("%v allocations for a name that is canonical", n)
	}
}

func TestReverseName(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1":          "1.2.0.192.in-addr.arpa",
		"255.10.0.99":        "99.0.10.255.in-addr.arpa",
		"::ffff:192.0.2.30":  "30.2.0.192.in-addr.arpa",
		"2001:db8::567:89ab": "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
	} {
		if got := reverseName(netip.MustParseAddr(ip)); got != want {
			t.Errorf("reverseName(%s) = %s, want %s", ip, got, want)
		}
	}
}

func TestOrganization(t *testing.T) {
	for name, want := range map[string]string{
		"example": "example", "site.example": "site.example", "b.site.example": "site.example", "c.b.site.example": "site.example",
		"site.co.uk": "site.co.uk", "b.site.co.uk": "site.co.uk", "mx.gmx.de": "mx.gmx.de", "a.b.gmx.de": "b.gmx.de",
	} {
		if got := organization(name); got != want {
			t.Errorf("organization(%s) = %s, want %s", name, got, want)
		}
	}
}
