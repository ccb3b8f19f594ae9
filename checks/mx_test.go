package checks

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"postern/policy"
)

const mxZone = `
mail.example.         MX    10 mx.mail.example.
mail.example.         MX    20 mx2.mail.example.
lost.example.         MX    10 mx.gone.example.
null.example.         MX    0 .
null.example.         A     192.0.2.10
shouting.example.     MX    10 .
twice.example.        MX    0 .
twice.example.        MX    10 .
twice.example.        A     192.0.2.10
half.example.         MX    0 .
half.example.         MX    10 mx.half.example.
four.example.         A     192.0.2.4
six.example.          AAAA  2001:db8::6
empty.example.        TXT   "v=spf1 -all"
host.below.example.   A     192.0.2.5
alias.example.        CNAME mail.example.
aliasnull.example.    CNAME null.example.
aliasfour.example.    CNAME four.example.
aliasgone.example.    CNAME gone.example.
xn--bcher-kva.example. MX   0 .
_mail.under.example.  MX    10 mx.mail.example.
*.any.example.        MX    10 mx.mail.example.
; SERVFAIL broken.example
; REFUSED  closed.example
; TIMEOUT  slow.example
; SERVFAIL nomx.example MX
nomx.example.         A     192.0.2.10
; SERVFAIL noa.example A
noa.example.          AAAA  2001:db8::7
; SERVFAIL noaaaa.example AAAA
noaaaa.example.       A     192.0.2.11
; SERVFAIL nofour.example A
nofour.example.       TXT   "no address"
; TIMEOUT  nosix.example AAAA
nosix.example.        TXT   "no address"
`

// What a domain publishes, and what it costs to learn it: read from the zone, and
// by the resolver of the live proxy from a name server on loopback.
func TestMX(t *testing.T) {
	type asks struct{ mx, a, aaaa int }
	for domain, want := range map[string]struct {
		mx policy.MX
		asks
	}{
		"mail.example":        {policy.MX{Result: policy.Pass}, asks{mx: 1}},
		"lost.example":        {policy.MX{Result: policy.Pass}, asks{mx: 1}}, // its hosts are not asked for
		"_mail.under.example": {policy.MX{Result: policy.Pass}, asks{mx: 1}},
		"x.any.example":       {policy.MX{Result: policy.Pass}, asks{mx: 1}},

		// RFC 7505 §3: preference 0, and nothing else.
		"null.example":     {policy.MX{Result: policy.Fail, Reason: "null MX"}, asks{mx: 1}},
		"bücher.example":   {policy.MX{Result: policy.Fail, Reason: "null MX"}, asks{}},
		"half.example":     {policy.MX{Result: policy.Pass}, asks{mx: 1}},
		"shouting.example": {policy.MX{Result: policy.PermError, Reason: "MX without a host"}, asks{mx: 1}},
		"twice.example":    {policy.MX{Result: policy.PermError, Reason: "MX without a host"}, asks{mx: 1}},

		// RFC 5321 §5.1: an address in place of an MX.
		"four.example":  {policy.MX{Result: policy.Pass, Reason: "no MX, but an address"}, asks{mx: 1, a: 1}},
		"six.example":   {policy.MX{Result: policy.Pass, Reason: "no MX, but an address"}, asks{mx: 1, a: 1, aaaa: 1}},
		"empty.example": {policy.MX{Result: policy.PermError, Reason: "neither MX nor address"}, asks{mx: 1, a: 1, aaaa: 1}},
		"below.example": {policy.MX{Result: policy.PermError, Reason: "neither MX nor address"}, asks{mx: 1, a: 1, aaaa: 1}},
		"gone.example":  {policy.MX{Result: policy.PermError, Reason: "no such domain"}, asks{mx: 1}},

		"alias.example":     {policy.MX{Result: policy.Pass}, asks{mx: 1}},
		"aliasnull.example": {policy.MX{Result: policy.Fail, Reason: "null MX"}, asks{mx: 1}},
		"aliasfour.example": {policy.MX{Result: policy.Pass, Reason: "no MX, but an address"}, asks{mx: 1, a: 1}},
		"aliasgone.example": {policy.MX{Result: policy.PermError, Reason: "no such domain"}, asks{mx: 1}},

		// Trouble: nothing is concluded from what was not said.
		"broken.example": {policy.MX{Result: policy.TempError, Reason: "look-up failed: MX broken.example"}, asks{mx: 1}},
		"closed.example": {policy.MX{Result: policy.TempError, Reason: "look-up failed: MX closed.example"}, asks{mx: 1}},
		"slow.example":   {policy.MX{Result: policy.TempError, Reason: "look-up failed: MX slow.example"}, asks{mx: 1}},
		"nomx.example":   {policy.MX{Result: policy.TempError, Reason: "look-up failed: MX nomx.example"}, asks{mx: 1}},
		"noa.example":    {policy.MX{Result: policy.Pass, Reason: "no MX, but an address"}, asks{mx: 1, a: 1, aaaa: 1}},
		"noaaaa.example": {policy.MX{Result: policy.Pass, Reason: "no MX, but an address"}, asks{mx: 1, a: 1}},
		"nofour.example": {policy.MX{Result: policy.TempError, Reason: "look-up failed: A nofour.example"}, asks{mx: 1, a: 1, aaaa: 1}},
		"nosix.example":  {policy.MX{Result: policy.TempError, Reason: "look-up failed: AAAA nosix.example"}, asks{mx: 1, a: 1, aaaa: 1}},

		// No domain to ask, and none that can be.
		"":                   {policy.MX{Result: policy.None, Reason: "the reverse-path is null"}, asks{}},
		"[192.0.2.1]":        {policy.MX{Result: policy.None, Reason: "an address literal is no domain"}, asks{}},
		"[ipv6:2001:db8::1]": {policy.MX{Result: policy.None, Reason: "an address literal is no domain"}, asks{}},
		"localhost":          {policy.MX{Result: policy.PermError, Reason: "Malformed Domain"}, asks{}},
		"192.0.2.1":          {policy.MX{Result: policy.PermError, Reason: "Malformed Domain"}, asks{}},
		"a b.example":        {policy.MX{Result: policy.PermError, Reason: "Malformed Domain"}, asks{}},
	} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			z := parseZone(t, mxZone)
			for how, r := range map[string]Resolver{"zone": z, "network": cached(t, parseZone(t, mxZone))} {
				from := ""
				if domain != "" {
					from = "user@" + domain
				}
				f := transaction("192.0.2.1", "client.example", from)
				ran := only(Deps{Resolver: r}, "mx").Run(t.Context(), policy.Mail, f, Message{}, nil)
				if f.MX != want.mx || len(ran) != 1 || ran[0].Name != "mx" || ran[0].Result != want.mx.Result {
					t.Errorf("%s: %+v, ran %+v", how, f.MX, ran)
				}
			}
			if got := (asks{z.Asked(domain, "MX"), z.Asked(domain, "A"), z.Asked(domain, "AAAA")}); got != want.asks {
				t.Errorf("asked %+v", got)
			}
		})
	}
}

// An internationalized domain is asked for by its A-labels, however it is written.
func TestMXOfAnInternationalizedDomain(t *testing.T) {
	for _, from := range []string{"user@bücher.example", "user@BÜCHER.example.", "user@xn--bcher-kva.example"} {
		z := parseZone(t, mxZone)
		f := transaction("192.0.2.1", "client.example", from)
		only(Deps{Resolver: z}, "mx").Run(t.Context(), policy.Mail, f, Message{}, nil)
		if f.MX.Result != policy.Fail || z.Asked("xn--bcher-kva.example", "MX") != 1 || z.Queries() != 1 {
			t.Errorf("%s: %+v after %d queries", from, f.MX, z.Queries())
		}
	}
}

// The check has the time that every check has, for all its questions together; what
// it found by then, even if that was an answer, is a temperror.
func TestMXTakesNoMoreTimeThanACheckMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for timeout, want := range map[time.Duration]policy.MX{
			4 * time.Second:         {Result: policy.PermError, Reason: "neither MX nor address"},
			2500 * time.Millisecond: {Result: policy.TempError, Reason: "look-up failed: AAAA empty.example"},
			500 * time.Millisecond:  {Result: policy.TempError, Reason: "look-up failed: MX empty.example"},
		} {
			z := parseZone(t, mxZone)
			z.SetDelay(time.Second)
			f := transaction("192.0.2.1", "client.example", "user@empty.example")
			start := time.Now()
			only(Deps{Resolver: z, Timeout: timeout}, "mx").Run(t.Context(), policy.Mail, f, Message{}, nil)
			if took := time.Since(start); f.MX != want || took != min(timeout, 3*time.Second) {
				t.Errorf("in %v: %+v after %v", timeout, f.MX, took)
			}
		}
	})
}

// Who gives up is no reason to say anything about a domain.
func TestMXOfACanceledTransaction(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := transaction("192.0.2.1", "client.example", "user@null.example")
	only(Deps{Resolver: parseZone(t, mxZone)}, "mx").Run(ctx, policy.Mail, f, Message{}, nil)
	if f.MX.Result != policy.TempError {
		t.Errorf("%+v", f.MX)
	}
}
