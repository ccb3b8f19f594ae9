package doctor

import (
	"context"
	"fmt"
	"time"

	"postern/checks"
	"postern/configs"
	"postern/policy"
)

// filters asks each policy service about a harmless message.
func (d *patient) filters(ctx context.Context, r *Report) {
	for i, c := range d.Config.PolicyServices {
		it := r.on("filter", c.Name+" "+c.Address, d.Config.At(fmt.Sprintf("policy_services[%d]", i)).String())
		f := harmless(d.Settings.Hostname)
		ctx, cancel := context.WithTimeout(ctx, doctorWait)
		began := time.Now()
		a, err := d.Service(c.Name).Ask(ctx, checks.ServiceRequest(f, &f.Recipient, checks.Session{ESMTP: true}))
		cancel()
		took := time.Since(began)
		switch {
		case err != nil:
			it.Fault(fmt.Sprintf("service.%s.action is temperror for all mail: what that means, the rules that read it say", c.Name), "%v", err)
		case took > c.Timeout/2:
			it.Warn("see what it waits for", "answers %q, and took %s of the %s that it has", a.Action, took.Round(time.Millisecond), configs.FormatDuration(c.Timeout))
		default:
			it.OK("answers %q to a harmless message, in %s", a.Action, took.Round(time.Millisecond))
		}
	}
}

// harmless is a message to postmaster, from this machine, with a reverse-path that nobody has.
func harmless(hostname string) *policy.Facts {
	f := &policy.Facts{Client: policy.Client{IP: "127.0.0.1", Port: 25000}, Helo: policy.HeloName{Name: hostname, Domain: hostname}}
	f.Begin("doctor")
	f.Client.Name = "localhost"
	f.Rcpt = policy.RcptTo{Address: "postmaster@" + hostname, Domain: hostname}
	return f
}
