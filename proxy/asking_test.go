package proxy

import (
	"context"
	"net"
	"testing"
	"time"

	"postern/checks"
	"postern/policy"
	"postern/proxy/smtp"
)

// A context of the checks whose clock runs out just as they come back looks at what is above it when
// the transaction has ended, and perhaps another has its memory: it must find what was there.
func TestContextsOutliveTheirTransaction(t *testing.T) {
	r := newRig(t, rigOptions{})
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	s := newSession(r.srv, ours, &Listener{})
	s.set = r.set
	for range 3 {
		tx := newTransaction(s, smtp.Path{Local: "ann", Domain: "good.example"}, nil)
		tx.runChecks(policy.Mail, checks.Message{})
		_, cancel := context.WithTimeout(tx.ctx, time.Hour)
		ctx := tx.ctx
		tx.release()
		cancel() // as the clock does
		if ctx.Err() != nil || ctx.Value(t) != nil {
			t.Error("the context of a transaction has ended with it")
		}
	}
}
