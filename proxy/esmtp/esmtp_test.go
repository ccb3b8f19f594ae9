package esmtp

import (
	"strings"
	"testing"

	"postern/policy"
	"postern/proxy/backend"
	"postern/proxy/smtp"
)

// TestOffer: what the backend lacks is not offered, REQUIRETLS only inside TLS, and what
// was not offered is not known.
func TestOffer(t *testing.T) {
	all := backend.Capabilities{EightBitMIME: true, SMTPUTF8: true, DSN: true, Chunking: true, BinaryMIME: true, RequireTLS: true, TLS: true, Verified: true}
	for _, tt := range []struct {
		caps     backend.Capabilities
		tls      bool
		keywords string
	}{
		{all, true, "BINARYMIME 8BITMIME SMTPUTF8 DSN REQUIRETLS"},
		{all, false, "BINARYMIME 8BITMIME SMTPUTF8 DSN"},
		{backend.Capabilities{SMTPUTF8: true, BinaryMIME: true, Chunking: true}, true, ""},
	} {
		got := OfferOf(tt.caps, tt.tls).Keywords(1000, false)
		want := strings.TrimRight("\nPIPELINING\nSIZE 1000\nENHANCEDSTATUSCODES\nSUBMITTER\nCHUNKING\n"+strings.ReplaceAll(tt.keywords, " ", "\n"), "\n")
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, p := range []string{"RET=HDRS", "ENVID=x", "SMTPUTF8", "REQUIRETLS", "BODY=8BITMIME", "X=1"} {
		_, params, err := smtp.ParseMail("FROM:<a@b.example> " + p)
		if err != nil {
			t.Fatal(err)
		}
		if _, r := (Offer{Size: true}).MailParams(new(policy.Facts), params, 1000, false); r.Code != 555 {
			t.Errorf("%s: %v", p, r)
		}
	}
}

// TestLimits: the backend's limits are ours, and fewer of each is what counts.
func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		n      int
		one    bool
		theirs backend.Limits
		want   string
	}{
		{1000, false, backend.Limits{}, "LIMITS RCPTMAX=1000"},
		{1000, true, backend.Limits{RcptMax: 50, RcptDomainMax: 3}, "LIMITS RCPTMAX=50 RCPTDOMAINMAX=1"},
		{10, false, backend.Limits{RcptMax: 50, RcptDomainMax: 3}, "LIMITS RCPTMAX=10 RCPTDOMAINMAX=3"},
	} {
		if got := Limits(tt.n, tt.one, tt.theirs); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// FuzzParams: whatever the parameters of MAIL and RCPT are, what is taken keeps its
// promises, and what is refused is so by a reply of the right class.
func FuzzParams(f *testing.F) {
	for _, s := range []string{"SIZE=10 BODY=8BITMIME", "SUBMITTER=a+40b.example SMTPUTF8", "RET=FULL ENVID=x+2B", "NOTIFY=NEVER,DELAY ORCPT=rfc822;a", "AUTH=<> X"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, params string, lenient bool) {
		o := Offer{EightBit: true, UTF8: true, DSN: true, Size: true, Submitter: true}
		if _, ps, err := smtp.ParseMail("FROM:<a@b.example> " + params); err == nil {
			facts := new(policy.Facts)
			body, r := o.MailParams(facts, ps, 1000, lenient)
			if !r.IsZero() && r.Code != 501 && r.Code != 552 && r.Code != 555 {
				t.Errorf("%q: %v", params, r)
			}
			if r.IsZero() && (facts.Mail.Size < 0 || facts.Mail.Size > 1000 || body == BodyBinary) {
				t.Errorf("%q: size %d, body %d", params, facts.Mail.Size, body)
			}
		}
		if _, ps, err := smtp.ParseRcpt("TO:<a@b.example> "+params, true); err == nil {
			for _, p := range ps {
				if r := o.RcptParam(p); !r.IsZero() && r.Code != 501 && r.Code != 555 {
					t.Errorf("%q: %v", params, r)
				}
			}
		}
	})
}
