package dnstest_test

import (
	"context"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"postern/checks/dnstest"
)

const suite = `
example.com:
  - TIMEOUT
half.example:
  - TXT: v=spf1 -all
  - TIMEOUT
none.example:
  - SPF: v=spf1 -all
  - TXT: NONE
old.example:
  - SPF: ["v=spf1 ip4:192.0.2.1", " -all"]
txtslow.example:
  - TXT: TIMEOUT
  - A: 192.0.2.1
fail.example:
  - rcode: SERVFAIL
deep.below.example:
  - AAAA: CAFE:BABE::4
  - MX: [10, "mx.example."]
  - MX: [0, ""]
loop.example:
  - CNAME: LOOP.example.
alias.example:
  - CNAME: old.example
1.2.0.192.in-addr.arpa:
  - PTR: "host.example."
"macro%percent  space%20url-space.example":
  - TXT: "a\"b\\c\xE9"
'evil.example"@good.example':
  - TXT: evil
a234567890123456789012345678901234567890123456789012345678901234.example:
  - TXT: too long a label
gone.example:
  - rcode: NXDOMAIN
`

func loadYAML(text string) (*dnstest.Zone, error) {
	var doc struct{ Zonedata yaml.Node }
	if err := yaml.Unmarshal([]byte("zonedata:\n  "+strings.ReplaceAll(text, "\n", "\n  ")), &doc); err != nil {
		return nil, err
	}
	return dnstest.LoadYAML(&doc.Zonedata)
}

// The layout of the public suites, by the zone and through the real resolver.
func TestLoadYAML(t *testing.T) {
	z, err := loadYAML(suite)
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := z.Serve()
	defer stop()
	ctx := context.Background()
	for _, by := range []struct{ answered, silent resolver }{{z, z}, {asks(t, addr, patient), asks(t, addr, hasty)}} {
		for name, want := range map[string]string{
			"example.com": "timeout", "half.example": "v=spf1 -all", "none.example": "nodata",
			"old.example": "v=spf1 ip4:192.0.2.1 -all", "alias.example": "v=spf1 ip4:192.0.2.1 -all",
			"txtslow.example": "timeout", "fail.example": "temporary", "loop.example": "temporary",
			"below.example": "nxdomain", "deep.below.example": "nodata", "gone.example": "nxdomain",
			"macro%percent  space%20url-space.example":                                 "a\"b\\c\u00e9",
			`evil.example"@good.example`:                                               "evil",
			"a234567890123456789012345678901234567890123456789012345678901234.example": "nxdomain",
		} {
			r := by.answered
			if want == "timeout" {
				r = by.silent
			}
			got, err := r.LookupTXT(ctx, name)
			if err != nil {
				got = []string{class(err)}
			}
			if len(got) != 1 || got[0] != want {
				t.Errorf("%T: TXT %s = %q (%v), want %q", r, name, got, err, want)
			}
		}
		if _, err := by.silent.LookupNetIP(ctx, "ip4", "half.example"); class(err) != "timeout" {
			t.Errorf("%T: A half.example: %v", by.silent, err)
		}
		if ips, err := by.answered.LookupNetIP(ctx, "ip", "deep.below.example"); err != nil || len(ips) != 1 || ips[0].String() != "cafe:babe::4" {
			t.Errorf("%T: %v, %v", by.answered, ips, err)
		}
	}
}

func TestFaultsOfASuite(t *testing.T) {
	for text, want := range map[string]string{
		"a:\n  - SLOW":           "line 3: neither a record nor TIMEOUT",
		"a:\n  - A: 2001:db8::1": "line 3: no address of that type",
		"a:\n  - MX: 10":         "an MX is",
		"a:\n  - MX: [x, y]":     "preference",
		"a:\n  - XYZ: 1":         "unknown record type",
		"a:\n  - SRV: 1":         "a record type that no suite has",
		"a:\n  - rcode: MAYBE":   "rcode is",
		"? " + strings.Repeat("a", 1025) + "\n: - TIMEOUT": "at most 1024",
		"a: b":                 "the records of a name are a list",
		"- a":                  "zonedata is no map",
		"a:\n  - {A: 1, B: 2}": "a record is a map of one type",
	} {
		if _, err := loadYAML(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if z, err := loadYAML(""); err != nil || z == nil {
		t.Errorf("no zonedata: %v", err)
	}
}

func FuzzLoadYAML(f *testing.F) {
	f.Add(suite)
	f.Fuzz(func(_ *testing.T, text string) {
		z, err := loadYAML(text)
		if err != nil {
			return
		}
		for field := range strings.FieldsSeq(text) {
			_, _ = z.LookupTXT(context.Background(), strings.Trim(field, `":`))
		}
	})
}
