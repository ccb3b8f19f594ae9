package checks

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/dkim"
	"postern/checks/dnstest"
	"postern/policy"
)

// Seven clients whose large messages take all turns, for as long as a check may
// take: small signed mail is verified at once, large mail is temperror with a reason
// of its own, and passes when they are through.
func TestLargeSignedMailWaitsForItsTurn(t *testing.T) {
	signer := dnstest.NewSigner()
	z := parseZone(t, signer.Record("good.example"))
	sign := func(octets int) Message {
		line := strings.Repeat("x", 70) + "\r\n"
		raw, err := signer.Sign([]byte("From: a@good.example\r\n\r\n"+strings.Repeat(line, octets/len(line)+1)), "good.example")
		if err != nil {
			t.Fatal(err)
		}
		return held(string(raw))
	}
	small, large := sign(100), sign(largeBody)
	synctest.Test(t, func(t *testing.T) {
		old := verifying
		verifying = newTurns(2)
		defer func() { verifying = old }()
		stop := make(chan struct{})
		for range 7 {
			r := verifying.reader(t.Context(), strings.NewReader("x"), 50<<20)
			go func() {
				_, _ = r.Read(make([]byte, 1))
				<-stop
				r.end()
			}()
		}
		synctest.Wait()
		verify := func(msg Message) (policy.DKIM, time.Duration) {
			f := transaction("192.0.2.1", "client.example", "")
			start := time.Now()
			only(Deps{Resolver: z}, "dkim").Run(t.Context(), policy.Message, f, msg, nil)
			return f.DKIM, time.Since(start)
		}
		if got, took := verify(small); got.Result != policy.Pass || took != 0 {
			t.Errorf("%+v after %v", got, took)
		}
		got, took := verify(large)
		if got.Result != policy.TempError || len(got.Domains) != 0 || got.Signatures[0].Reason != dkim.ErrBusy.Error() || took != defaultTimeout {
			t.Errorf("%+v after %v", got, took)
		}
		close(stop)
		synctest.Wait()
		if got, took := verify(large); got.Result != policy.Pass || took != 0 {
			t.Errorf("%+v after %v", got, took)
		}
		if len(verifying.small)+len(verifying.large) != 0 {
			t.Errorf("%d and %d turns were not given back", len(verifying.small), len(verifying.large))
		}
	})
}
