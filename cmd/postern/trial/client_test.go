package trial

import (
	"testing"
)

func TestCRLF(t *testing.T) {
	for in, want := range map[string]string{
		"":           "",
		"a":          "a\r\n",
		"a\nb\n":     "a\r\nb\r\n",
		"a\r\nb\nc":  "a\r\nb\r\nc\r\n",
		"\n\n":       "\r\n\r\n",
		"bare\rcr\n": "bare\rcr\r\n", // is refused by the session, as it should be
	} {
		if got := string(CRLF([]byte(in))); got != want {
			t.Errorf("%q is read as %q, not %q", in, got, want)
		}
	}
}
