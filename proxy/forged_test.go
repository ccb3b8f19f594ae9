package proxy

import (
	"strings"
	"testing"

	"postern/proxy/fields"
	"postern/proxy/smtp"
)

// TestForgedFieldsInOddForms: neither white space nor unseen octets in a field's name
// save it from being taken out, and nothing else goes with it.
func TestForgedFieldsInOddForms(t *testing.T) {
	for _, by := range []string{"DATA", "BDAT"} {
		for _, field := range []string{
			"Authentication-Results\r\n : mx.local.example; spf=pass\r\n",
			"Authentication-Results \t: mx.local.example; spf=pass\r\n",
			"Authentication-Results\u00a0: mx.local.example; spf=pass\r\n",
			"Authentication\u200b-Results: dkim=pass\r\n",
			"X-Postern-Tag\r\n\t: harmless\r\n",
			"x-postern-tag\x7f: harmless\r\n",
		} {
			r := localRig(t, rigOptions{})
			c := r.connect("192.0.2.1")
			c.ehlo()
			const above, below = "Subject: x\r\nrubbish\r\n", "Authentication-Results\r\n : mx.other.example; spf=pass\r\nFrom: alice@good.example\r\n\r\ntext\r\n"
			if got := c.deliver(by, above+field+below); code(got) != "250" {
				t.Fatalf("%q by %s: %s", field, by, got)
			}
			text := string(r.sink.Messages()[0].Text)
			if !strings.HasSuffix(text, "\r\n"+above+below) {
				t.Errorf("%q by %s: the backend got %q", field, by, text)
			}
			r.close()
		}
	}
}

// FuzzForgedToTheLetter: what a strict reader takes for a field of ours is taken out.
func FuzzForgedToTheLetter(f *testing.F) {
	f.Add(" mx.example.org (x) 1; dkim/1=pass (y) header.d=z; none")
	f.Add(` "mx\.example.org"; spf=pass reason="a;b"`)
	f.Fuzz(func(t *testing.T, value string) {
		const id = "mx.example.org"
		head := []byte("Authentication-Results:" + value + "\r\n")
		a, err := parseAuthResults(string(head))
		if err != nil || !strings.EqualFold(a.ID, id) {
			return
		}
		h, bad := smtp.ParseHeader(head)
		if len(h) == 1 && bad == 0 && len(fields.WithoutForged(head, h, bad, id, nil)) != 0 {
			t.Fatalf("%q bears our id", value)
		}
	})
}
