package smtp

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestXtext(t *testing.T) {
	for _, tt := range []struct{ plain, xtext string }{
		{"", ""},
		{"alice@example.com", "alice@example.com"},
		{"bob+tag@example.com", "bob+2Btag@example.com"},
		{"a=b@example.com", "a+3Db@example.com"},
		{`"john doe"@example.com`, `"john+20doe"@example.com`},
		{"ü@example.com", "+C3+BC@example.com"},
	} {
		if got := EncodeXtext(tt.plain); got != tt.xtext {
			t.Errorf("EncodeXtext(%q) = %q, want %q", tt.plain, got, tt.xtext)
		}
		if got, err := DecodeXtext(tt.xtext); got != tt.plain || err != nil {
			t.Errorf("DecodeXtext(%q) = %q, %v, want %q", tt.xtext, got, err, tt.plain)
		}
	}
}

func TestDecodeXtext(t *testing.T) {
	if got, err := DecodeXtext("x+41@example.com"); got != "xA@example.com" || err != nil {
		t.Errorf("what need not be encoded may be: %q, %v", got, err)
	}
	if got, err := DecodeXtext("ü+2B@example.com"); got != "ü+@example.com" || err != nil {
		t.Errorf("UTF-8 that SMTPUTF8 let in: %q, %v", got, err)
	}
	for story, s := range map[string]string{
		"a plus that is not encoded": "bob+tag@example.com",
		"lower-case digits":          "bob+2btag@example.com",
		"a plus at the end":          "bob+",
		"half a code":                "bob+2",
		"an equals sign":             "a=b",
		"a blank":                    "a b",
		"a control character":        "a\tb",
		"an encoded NUL":             "bob+00@example.com",
		"an encoded CR LF":           "bob+0D+0Ax",
		"an encoded DEL":             "bob+7F",
	} {
		if got, err := DecodeXtext(s); err == nil {
			t.Errorf("%s: DecodeXtext(%q) = %q", story, s, got)
		}
	}
}

func TestXtextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[ -~äß漢😀+=]*`).Draw(t, "text")
		got, err := DecodeXtext(EncodeXtext(s))
		if got != s || err != nil {
			t.Fatalf("%q came back as %q, %v", s, got, err)
		}
	})
}

func FuzzXtext(f *testing.F) {
	for _, s := range []string{"bob+2Btag@b", "+", "+4", "+00", "ü", "a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if e := EncodeXtext(s); strings.ContainsFunc(e, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '=' }) {
			t.Fatalf("%q encoded as %q", s, e)
		}
		d, err := DecodeXtext(s)
		if err != nil {
			return
		}
		for i := range len(d) {
			if isControl(d[i]) {
				t.Fatalf("%q gave %q", s, d)
			}
		}
		if again, err := DecodeXtext(EncodeXtext(d)); again != d || err != nil {
			t.Fatalf("%q gave %q, which came back as %q, %v", s, d, again, err)
		}
	})
}
