package page

import (
	"encoding/json"
	"testing"

	"postern/configs"
)

// Whatever a sender writes, what leaves here is JSON whose texts are printable, and no less than was there.
func FuzzEncode(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, err := encode(map[string]any{"text": s, "list": []string{s}, s: s, "number": 12345678901234567})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range text {
			if c < 0x20 || c == '<' || c == '>' || c == '&' || c == 0x7f {
				t.Fatalf("%q", text)
			}
		}
		var back struct {
			Text   string
			List   []string
			Number json.Number
		}
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		switch s {
		case "text", "list", "number", "Text", "List", "Number":
			return // that is another field
		}
		if want := configs.Printable(inJSON(t, s)); back.List[0] != want || back.Number != "12345678901234567" {
			t.Fatalf("%q is %q, not %q; %s", s, back.List[0], want, back.Number)
		}
	})
}
