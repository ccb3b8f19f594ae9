package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/configs"
)

func newDoctor() *cobra.Command {
	var opt configs.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say whether this installation is sound: DNS, certificates, MTA, who the client is", Args: noArguments,
		Long: `Try what the configuration relies on, before the port is opened and afterwards; the
proxy may run meanwhile, or not. Each line says what was seen:

  ok        as it should be
  warning   mail flows; something is missing, or will end
  fault     mail is deferred, refused, judged wrongly or lost from sight

and below a warning or a fault stands what to do about it. The name servers are
asked over UDP and TCP, for names that do not exist, canaries and the test
points of DNS lists; each MTA is greeted and told of a client with an address
of documentation, and no transaction begins; nothing is changed on the disk.

Run it as the user that the proxy runs as, or its rights are not tested. It ends
within about 20 seconds. The exit code is 1 where there is a fault.`,
		Example: `  runuser -u postern -- postern doctor -c /etc/postern/postern.yaml
  postern doctor --json | jq '.[] | select(.status != "ok")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := newPatient(opt)
			if err != nil && !asJSON {
				return err
			}
			var found []finding
			if err != nil {
				found = configFaults(err)
			} else {
				found = d.examine(cmd.Context())
				d.parts.close(nil)
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), found)
			} else {
				err = writeFindings(cmd.OutOrStdout(), found)
			}
			if err == nil && slices.ContainsFunc(found, func(f finding) bool { return f.Status == statusFault }) {
				err = errReported
			}
			return err
		},
	}
	configFlag(cmd, &opt.File)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON list and nothing else")
	return cmd
}

// The bounds of an examination. The times of the configuration are for days on which
// something is slow; who waits at a terminal wants to hear that it is.
const (
	doctorTime = 20 * time.Second // all of it
	doctorWait = 8 * time.Second  // one wait for a peer
	doctorTry  = 3 * time.Second  // one DNS query
)

// status says how a finding is to be taken.
type status string

const (
	statusOK      status = "ok"
	statusWarning status = "warning"
	statusFault   status = "fault"
)

// finding is one thing that was looked at. Its JSON is for programs, and stays.
type finding struct {
	// Check is what was looked at, a closed set: configuration, process, clock, descriptors,
	// dns.server, dns.names, dns.canaries, dnsbl, hostname, tls, certificate, listener,
	// client.address, backend, backend.client, announced, admin, journal, lists, spool, maildir.
	Check   string `json:"check"`
	Subject string `json:"subject,omitempty"` // of several: a server, a file, an address
	Status  status `json:"status"`
	Seen    string `json:"seen"`
	Advice  string `json:"advice,omitempty"` // what to do about it
	At      string `json:"at,omitempty"`     // file:line:column
}

// patient is what is examined.
type patient struct {
	*parts
	file    string // of the configuration; empty: none
	running scrape // of the proxy that runs
	now     time.Time
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
	p, err := build(cfg, &world{log: slog.New(slog.DiscardHandler), fallback: innerBackend("maildir", "xclient")}, nil)
	if err != nil {
		return nil, err
	}
	return &patient{parts: p, file: opt.File, now: time.Now()}, nil
}

// configFaults are the findings where there is nothing else to examine.
func configFaults(err error) (found []finding) {
	for _, f := range asFaults(configs.Position{}, err) {
		found = append(found, finding{
			Check: "configuration", Status: statusFault, Seen: f.Text, Advice: "the proxy does not start, and does not reload, with it", At: f.Position.String(),
		})
	}
	return found
}

// examinations are all that is looked at, in the order in which it is told.
var examinations = []struct {
	check string
	run   func(*patient, context.Context) []finding
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
func (d *patient) examine(ctx context.Context) (found []finding) {
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	d.running = scrapeAdmin(ctx, d.config.Admin.Address)
	results := make([]chan []finding, len(examinations))
	for i, x := range examinations {
		results[i] = make(chan []finding, 1)
		go func() { results[i] <- x.run(d, ctx) }()
	}
	// All waits have bounds but those for a disk, and one that hangs is what somebody
	// may be looking for. Its goroutine ends with the process.
	late, cancelLate := context.WithTimeout(context.WithoutCancel(ctx), doctorTime+time.Second)
	defer cancelLate()
	for i, x := range examinations {
		var some []finding
		select {
		case some = <-results[i]:
		case <-late.Done():
			select {
			case some = <-results[i]:
			default:
				some = []finding{{Check: x.check, Status: statusFault, Seen: fmt.Sprintf("not done within %v", doctorTime), Advice: "look for a disk or a network file system that hangs"}}
			}
		}
		found = append(found, some...)
	}
	return found
}

// configuration tells of what is legal and hardly meant.
func (d *patient) configuration(context.Context) []finding {
	cfg := d.config
	what := cmp.Or(d.file, "defaults and the environment")
	seen := fmt.Sprintf("%s: mode %s, %s, %s, %s, %s", what, cfg.Policy.Mode, counted(len(d.rules.chain.Plan()), "rule"),
		counted(len(cfg.Lists), "list"), counted(len(cfg.Overrides), "override"), counted(len(configuredListeners(cfg)), "listener"))
	found := []finding{{Check: "configuration", Status: statusOK, Seen: seen}}
	for _, w := range d.configurationWarnings() {
		found = append(found, finding{
			Check: "configuration", Status: statusWarning, Seen: w.Text, Advice: "it is legal, and hardly meant: change it or take it out", At: w.Position.String(),
		})
	}
	for i := range cfg.Overrides {
		o := &cfg.Overrides[i]
		if d.now.Before(o.End()) && d.now.Add(certificateSoon).After(o.End()) {
			found = append(found, finding{
				Check: "configuration", Subject: o.Name, Status: statusWarning, Seen: fmt.Sprintf("override %s ends on %s", o.Name, o.Until),
				Advice: "ask " + o.Owner + " whether it is still needed: " + o.Reason, At: o.Position.String(),
			})
		}
	}
	return found
}

// counted is a number of things.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// titles head the findings of one kind in the text.
var titles = map[string]string{
	"configuration": "Configuration", "process": "Machine", "dns.server": "Name servers", "dnsbl": "DNS lists", "hostname": "Our name",
	"tls": "TLS", "listener": "Listeners", "client.address": "Is the client's address real?", "backend": "Backends",
	"announced": "What clients are offered", "admin": "Admin address", "journal": "Disk",
}

func writeFindings(w io.Writer, found []finding) error {
	var b strings.Builder
	count := map[status]int{}
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
		if f.At != "" && f.Status != statusOK {
			seen += " (" + f.At + ")"
		}
		fmt.Fprintf(&b, "  %-8s %s\n", f.Status, oneLine(errors.New(seen)))
		if f.Advice != "" {
			fmt.Fprintf(&b, "           -> %s\n", f.Advice)
		}
	}
	fmt.Fprintf(&b, "\n%s, %s, %d ok\n", counted(count[statusFault], "fault"), counted(count[statusWarning], "warning"), count[statusOK])
	_, err := io.WriteString(w, printable(b.String()))
	return err
}
