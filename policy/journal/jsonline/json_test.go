package jsonline

import (
	"strings"
	"testing"
	"time"
)

// FuzzJSON: names, texts, numbers and times are written as an Encoder writes them.
func FuzzJSON(f *testing.F) {
	f.Add(`"quoted\" <a&b>`, int64(-1), 0.25, int64(1764500000_123456789), 3600)
	f.Add("\x00\b\t\n\f\r\x1b\x7f \u009b \u2028 \U000e0041 gr\u00fc\u00dfe \xff", int64(0), 1e-7, int64(0), 0)
	f.Add("0123456789", int64(1<<62), 1e21, int64(-1), -1800)
	f.Fuzz(func(t *testing.T, text string, whole int64, number float64, at int64, offset int) {
		moment := time.Unix(0, at).In(time.FixedZone("", offset%86400))
		want := marshal(t, text)
		want = `{"a":` + want + `,"b":` + marshal(t, whole) + `,"c":[` + want + `,` + want + `],"d":` + marshal(t, moment) + `,"e":`
		if number-number != 0 {
			want += "null}" // JSON has no infinity, and nothing that is no number
		} else {
			want += marshal(t, number) + "}"
		}
		got := JSON("{").Text("a", text).Int("b", whole).Texts("c", []string{text, text}).Time("d", moment).Float("e", number).Close()
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// A character that needs an escape is found wherever it stands.
func TestJSONFindsWhatNeedsAnEscape(t *testing.T) {
	for before := range 20 {
		for c := range rune(0x180) {
			text := strings.Repeat("~", before) + string(c) + strings.Repeat(" ", 10)
			if got, want := string(appendText(nil, text)), marshal(t, text); got != want {
				t.Errorf("%q: %s, want %s", text, got, want)
			}
		}
	}
}

func BenchmarkText(b *testing.B) {
	line := make([]byte, 0, 100)
	for b.Loop() {
		line = appendText(line[:0], "user@mail.example.org")
	}
}
