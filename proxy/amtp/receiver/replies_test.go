package receiver

import (
	"os"
	"strings"
	"testing"

	"postern/proxy/amtp"
	"postern/proxy/smtp"
)

// Whoever reads one of our answers on the telephone finds it on the page.
func TestRepliesAreOnThePage(t *testing.T) {
	page, err := os.ReadFile("../../../deploy/replies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []smtp.Reply{errNoDomain, errAddress, errNotTheirs, errLookup, errIPv6, errNoRoom, errFrom, errMailForm, errInside, amtp.NoSelo, amtp.NotLocal} {
		if !strings.Contains(string(page), "| `"+r.String()+"` |") {
			t.Errorf("%s is not on the page", r)
		}
	}
}
