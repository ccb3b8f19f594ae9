package smtp

import (
	"strings"
	"testing"
)

func TestASCIIDomain(t *testing.T) {
	long := strings.Repeat("abcdefg.", 31) + "abcde" // 253 octets
	for _, tt := range []struct{ story, in, want string }{
		{"as it should be", "mx.example.org", "mx.example.org"},
		{"upper case", "MX.Example.ORG", "mx.example.org"},
		{"the root's dot", "example.org.", "example.org"},
		{"a single label", "localhost", "localhost"},
		{"underscores", "_spf.example.org", "_spf.example.org"},
		{"hyphens wherever DNS takes them", "-a-.example", "-a-.example"},
		{"a U-label", "bücher.example", "xn--bcher-kva.example"},
		{"in upper case", "BÜCHER.example", "xn--bcher-kva.example"},
		{"decomposed", "bu\u0308cher.example", "xn--bcher-kva.example"},
		{"with the ideographic full stop", "bücher。example。", "xn--bcher-kva.example"},
		{"the sharp s is itself (RFC 5894)", "straße.example", "xn--strae-oqa.example"},
		{"with underscores and hyphens beside it", "_a.b--c.bücher.example", "_a.b--c.xn--bcher-kva.example"},
		{"an A-label", "XN--BCHER-KVA.example", "xn--bcher-kva.example"},
		{"253 octets", long, long},
		{"a label of 63", strings.Repeat("a", 63) + ".b", strings.Repeat("a", 63) + ".b"},
	} {
		if got, err := ASCIIDomain(tt.in); got != tt.want || err != nil {
			t.Errorf("%s: ASCIIDomain(%q) = %q, %v; want %q", tt.story, tt.in, got, err, tt.want)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "a..b", ".a", "a.b..", "[192.0.2.1]", "a b", "a@b", "a/b", `a\b`, "a\x00b", "a\nb", "*.b",
		"a" + long, strings.Repeat("a", 64) + ".b", "\xff.b", strings.Repeat("ü", 60) + ".b", strings.Repeat("ü", 2000), "ü..b", "a b.ü", "xn--a\u00fc.b", "\u05d0a\u05d1.b",
	} {
		if got, err := ASCIIDomain(bad); err == nil {
			t.Errorf("ASCIIDomain(%q) = %q", bad, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { ASCIIDomain("mx.example.org") }); n != 0 {
		t.Errorf("%v allocations for a name in its final form", n)
	}
}

func TestIsDomain(t *testing.T) {
	for _, s := range []string{"a.b", "mail.example.org.", "Bücher.example", "1.2.3.com", "_x.y"} {
		if !IsDomain(s) {
			t.Errorf("IsDomain(%q) is false", s)
		}
	}
	for _, s := range []string{"", "localhost", "localhost.", "192.0.2.1", "[192.0.2.1]", "a..b", "a b.c"} {
		if IsDomain(s) {
			t.Errorf("IsDomain(%q) is true", s)
		}
	}
}

func FuzzDomain(f *testing.F) {
	for _, s := range []string{"a.b", "BÜCHER.example.", "xn--bcher-kva", "[::1]", "a。b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ASCIIDomain(s)
		if err != nil {
			return
		}
		if again, err := ASCIIDomain(a); again != a || err != nil {
			t.Fatalf("%q gave %q, and that %q, %v", s, a, again, err)
		}
		if len(a) > 253 || strings.Trim(a, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			t.Fatalf("%q gave %q", s, a)
		}
	})
}

func TestCutAddress(t *testing.T) {
	for _, tc := range []struct {
		address, local, domain string
		ok                     bool
	}{
		{"bob@example.org", "bob", "example.org", true},
		{`"a@b"@example.org`, `"a@b"`, "example.org", true},
		{"@example.org", "", "example.org", true},
		{"bob@", "bob", "", true},
		{"bob", "bob", "", false},
		{"", "", "", false},
	} {
		if local, domain, ok := CutAddress(tc.address); local != tc.local || domain != tc.domain || ok != tc.ok {
			t.Errorf("%q: %q, %q, %v", tc.address, local, domain, ok)
		}
	}
}
