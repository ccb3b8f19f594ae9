package configs

import "testing"

// A terminal is shown what a stranger wrote, and obeys none of it.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ÄÖ, 日本\nand a second line": "plain, ÄÖ, 日本\nand a second line",
		"\x1b[2Jgone":                      `\x1b[2Jgone`,
		"a\rb\tc\x7f":                      `a\rb\tc\x7f`,
		"right\u202eleft\u200b":            `right\u202eleft\u200b`,
		"\u0085\u009b":                     `\u0085\u009b`,
		"no UTF-8: \xff\xc3":               `no UTF-8: \xff\xc3`,
		"":                                 "",
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}
