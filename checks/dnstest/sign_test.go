package dnstest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// What a Signer signs passes with the zone that has its record, and with no other.
func TestSignedMailPasses(t *testing.T) {
	s := NewSigner()
	signed, err := s.Sign([]byte("From: a@D.example\r\nSubject: x\r\n\r\nHello.\r\n"), "D.example")
	if err != nil {
		t.Fatal(err)
	}
	for record, want := range map[string]bool{s.Record("D.example"): true, NewSigner().Record("d.example"): false, "": false} {
		z, err := Parse(record)
		if err != nil {
			t.Fatal(err)
		}
		found, err := dkim.VerifyWithOptions(bytes.NewReader(signed), &dkim.VerifyOptions{
			LookupTXT: func(name string) ([]string, error) { return z.LookupTXT(t.Context(), name) },
		})
		if err != nil || len(found) != 1 || found[0].Domain != "d.example" || (found[0].Err == nil) != want {
			t.Errorf("%q: %+v, %v", record, found, err)
		}
	}
	if _, err := s.Sign([]byte("no header at all"), "d.example"); err == nil || !strings.Contains(err.Error(), "dnstest: sign for d.example") {
		t.Error(err)
	}
}
