package doctor

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"postern/checks"
	"postern/checks/milter"
	"postern/configs"
	"postern/policy"
)

// filters asks each policy service and each milter about a harmless message.
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
	for i, c := range d.Config.Milters {
		it := r.on("filter", c.Name+" "+c.Address, d.Config.At(fmt.Sprintf("milters[%d]", i)).String())
		ctx, cancel := context.WithTimeout(ctx, doctorWait)
		began := time.Now()
		v, err := d.Milter(c.Name).Ask(ctx, harmlessMessage(d.Settings.Hostname))
		cancel()
		if err != nil {
			it.Fault(fmt.Sprintf("milter.%s.action is temperror for all mail: what that means, the rules that read it say", c.Name), "%v", err)
			continue
		}
		it.OK("negotiates, and says %q of a harmless message, in %s", v.Action, time.Since(began).Round(time.Millisecond))
	}
}

// harmlessMessage is what milters are asked about.
func harmlessMessage(hostname string) *milter.Message {
	return &milter.Message{
		Hostname: hostname, Daemon: "doctor", ID: "doctor", Client: net.IPv4(127, 0, 0, 1), Port: 25000, Name: "localhost", Reverse: "localhost", Helo: hostname,
		Recipients: []milter.Recipient{{Address: "postmaster@" + hostname}},
		Header: []milter.Field{
			{Name: "From", Value: " postern doctor <postmaster@" + hostname + ">"}, {Name: "To", Value: " postmaster@" + hostname}, {Name: "Subject", Value: " A question of postern doctor"},
			{Name: "Date", Value: " " + time.Now().Format(time.RFC1123Z)}, {Name: "Message-ID", Value: " <doctor@" + hostname + ">"},
		},
		Body: strings.NewReader("A harmless message, which goes nowhere.\r\n"),
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
