// Package doctor says whether an installation is sound: DNS, certificates, MTA, disk, and who the client is.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
)

// The bounds of an examination. The times of the configuration are for days on which
// something is slow; who waits at a terminal wants to hear that it is.
const (
	doctorTime = 20 * time.Second // all of it
	doctorWait = 8 * time.Second  // one wait for a peer
	doctorTry  = 3 * time.Second  // one DNS query
)

// Status says how a finding is to be taken.
type Status string

// Statuses.
const (
	OK    Status = "ok"
	Warn  Status = "warning"
	Fault Status = "fault"
)

// Finding is one thing that was looked at. Its JSON is for programs, and stays.
type Finding struct {
	// Check is what was looked at, a closed set: configuration, process, clock, descriptors,
	// dns.server, dns.names, dns.canaries, dnsbl, hostname, tls, certificate, listener,
	// client.address, backend, backend.client, announced, admin, journal, lists, spool, maildir.
	Check   string `json:"check"`
	Subject string `json:"subject,omitempty"` // of several: a server, a file, an address
	Status  Status `json:"status"`
	Seen    string `json:"seen"`
	Advice  string `json:"advice,omitempty"` // what to do about it
	At      string `json:"at,omitempty"`     // file:line:column
}

// patient is what is examined.
type patient struct {
	*service.Parts
	file    string // of the configuration; empty: none
	version string // of this build
	running scrape // of the proxy that runs
	now     time.Time
}

// Examine looks at everything that a configuration relies on. version is that of this
// build. Where the configuration itself has faults, the error has them, and so have the findings.
func Examine(ctx context.Context, opt configs.Options, version string) ([]Finding, error) {
	d, err := newPatient(opt)
	if err != nil {
		return configFaults(err), err
	}
	defer d.Parts.Close(nil)
	d.version = version
	return d.examine(ctx), nil
}

// newPatient loads the configuration and builds its parts, with waits that are bounded
// for somebody who watches.
func newPatient(opt configs.Options) (*patient, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return nil, err
	}
	for _, t := range []struct {
		d     *time.Duration
		bound time.Duration
	}{
		{&cfg.DNS.Timeout, doctorTry}, {&cfg.DNS.Total, doctorWait},
		{&cfg.Timeouts.BackendConnect, doctorWait}, {&cfg.Timeouts.BackendCommand, doctorWait}, {&cfg.Timeouts.TLSHandshake, doctorWait},
	} {
		*t.d = min(*t.d, t.bound)
	}
	p, err := service.Build(cfg, &service.World{Log: slog.New(slog.DiscardHandler), Fallback: service.InnerBackend("maildir", "xclient")}, nil)
	if err != nil {
		return nil, err
	}
	return &patient{Parts: p, file: opt.File, now: time.Now()}, nil
}

// configFaults are the findings where there is nothing else to examine.
func configFaults(err error) (found []Finding) {
	for _, f := range configs.FaultsOf(configs.Position{}, err) {
		found = append(found, Finding{
			Check: "configuration", Status: Fault, Seen: f.Text, Advice: "the proxy does not start, and does not reload, with it", At: f.Position.String(),
		})
	}
	return found
}

// examinations are all that is looked at, in the order in which it is told.
var examinations = []struct {
	check string
	run   func(*patient, context.Context) []Finding
}{
	{"configuration", (*patient).configuration},
	{"process", (*patient).machine},
	{"dns.server", (*patient).resolvers},
	{"hostname", (*patient).name},
	{"certificate", (*patient).pairs},
	{"listener", (*patient).ports},
	{"client.address", (*patient).clientAddress},
	{"backend", (*patient).backendsAndOffers},
	{"admin", (*patient).adminSide},
	{"journal", (*patient).folders},
}

// examine looks at everything, side by side.
func (d *patient) examine(ctx context.Context) (found []Finding) {
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	d.running = scrapeAdmin(ctx, d.Config.Admin.Address)
	results := make([]chan []Finding, len(examinations))
	for i, x := range examinations {
		results[i] = make(chan []Finding, 1)
		go func() { results[i] <- x.run(d, ctx) }()
	}
	// All waits have bounds but those for a disk, and one that hangs is what somebody
	// may be looking for. Its goroutine ends with the process.
	late, cancelLate := context.WithTimeout(context.WithoutCancel(ctx), doctorTime+time.Second)
	defer cancelLate()
	for i, x := range examinations {
		var some []Finding
		select {
		case some = <-results[i]:
		case <-late.Done():
			select {
			case some = <-results[i]:
			default:
				some = []Finding{{Check: x.check, Status: Fault, Seen: fmt.Sprintf("not done within %v", doctorTime), Advice: "look for a disk or a network file system that hangs"}}
			}
		}
		found = append(found, some...)
	}
	return found
}

// configuration tells of what is legal and hardly meant.
func (d *patient) configuration(context.Context) []Finding {
	cfg := d.Config
	what := cmp.Or(d.file, "defaults and the environment")
	seen := fmt.Sprintf("%s: mode %s, %s, %s, %s, %s", what, cfg.Policy.Mode, view.Counted(len(d.Rules.Chain.Plan()), "rule"),
		view.Counted(len(cfg.Lists), "list"), view.Counted(len(cfg.Overrides), "override"), view.Counted(len(service.Listeners(cfg)), "listener"))
	found := []Finding{{Check: "configuration", Status: OK, Seen: seen}}
	for _, w := range d.ConfigurationWarnings() {
		found = append(found, Finding{
			Check: "configuration", Status: Warn, Seen: w.Text, Advice: "it is legal, and hardly meant: change it or take it out", At: w.Position.String(),
		})
	}
	for i := range cfg.Overrides {
		o := &cfg.Overrides[i]
		if d.now.Before(o.End()) && d.now.Add(certificateSoon).After(o.End()) {
			found = append(found, Finding{
				Check: "configuration", Subject: o.Name, Status: Warn, Seen: fmt.Sprintf("override %s ends on %s", o.Name, o.Until),
				Advice: "ask " + o.Owner + " whether it is still needed: " + o.Reason, At: o.Position.String(),
			})
		}
	}
	return found
}

// titles head the findings of one kind in the text.
var titles = map[string]string{
	"configuration": "Configuration", "process": "Machine", "dns.server": "Name servers", "dnsbl": "DNS lists", "hostname": "Our name",
	"tls": "TLS", "listener": "Listeners", "client.address": "Is the client's address real?", "backend": "Backends",
	"announced": "What clients are offered", "admin": "Admin address", "journal": "Disk",
}

// WriteText prints the findings for people.
func WriteText(w io.Writer, found []Finding) error {
	var b strings.Builder
	count := map[Status]int{}
	said := map[string]bool{}
	for _, f := range found {
		if title := titles[f.Check]; title != "" && !said[title] {
			said[title] = true
			b.WriteString(title + "\n")
		}
		count[f.Status]++
		seen := f.Seen
		if f.Subject != "" && !strings.Contains(seen, f.Subject) {
			seen = f.Subject + ": " + seen
		}
		if f.At != "" && f.Status != OK {
			seen += " (" + f.At + ")"
		}
		fmt.Fprintf(&b, "  %-8s %s\n", f.Status, strings.ReplaceAll(seen, "\n", "; "))
		if f.Advice != "" {
			fmt.Fprintf(&b, "           -> %s\n", f.Advice)
		}
	}
	fmt.Fprintf(&b, "\n%s, %s, %d ok\n", view.Counted(count[Fault], "fault"), view.Counted(count[Warn], "warning"), count[OK])
	_, err := io.WriteString(w, view.Printable(b.String()))
	return err
}
