// Package doctor says whether an installation is sound: DNS, certificates, MTA, disk, and who the client is.
package doctor

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
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

// patient is what is examined.
type patient struct {
	*service.Parts
	file    string // of the configuration; empty: none
	version string // of this build
	running scrape // of the proxy that runs
	now     time.Time
	web     *http.Client // fetches what domains publish there
	unit    unit
}

// Examine looks at everything that a configuration relies on. version is that of this
// build. Where the configuration itself has faults, the error has them, and so has the report.
func Examine(ctx context.Context, opt configs.Options, version string) (*Report, error) {
	d, err := newPatient(opt)
	if err != nil {
		return configFaults(err), err
	}
	defer d.Close(nil)
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
	d := &patient{Parts: p, file: opt.File, now: time.Now(), unit: readUnit(unitFolders)}
	d.web = d.webClient()
	return d, nil
}

// configFaults is the report where there is nothing else to examine.
func configFaults(err error) *Report {
	r := &Report{}
	for _, f := range configs.FaultsOf(configs.Position{}, err) {
		r.on("configuration", "", f.Position.String()).Fault("the proxy does not start, and does not reload, with it", "%s", f.Text)
	}
	return r
}

// check is one thing that is looked at.
type check struct {
	name  string // of its findings, or of the first of them
	title string // stands above its findings; empty: they stand with those of the check before
	run   func(*patient, context.Context, *Report)
}

// examinations are all the checks, in the order in which they are told. Where run is nil, the
// check before it finds these as well.
var examinations = []check{
	{"configuration", "Configuration", (*patient).configuration},
	{"process", "Machine", (*patient).machine},
	{"dns.server", "Name servers", (*patient).resolvers},
	{"dnsbl", "DNS lists", nil},
	{"hostname", "Our name", (*patient).name},
	{"certificate", "", (*patient).pairs},
	{"tls", "TLS", nil},
	{"domain", "Our domains", (*patient).domains},
	{"listener", "Listeners", (*patient).ports},
	{"amtp", "AMTP", (*patient).amtp},
	{"client.address", "Is the client's address real?", (*patient).clientAddress},
	{"backend", "Backends", (*patient).backendsAndOffers},
	{"announced", "What clients are offered", nil},
	{"admin", "Admin address", (*patient).adminSide},
	{"state", "What is remembered", (*patient).memory},
	{"filter", "Other people's filters", (*patient).filters},
	{"journal", "Disk", (*patient).folders},
}

// title is what stands above the findings of a name.
func title(name string) string {
	for _, c := range examinations {
		if c.name == name {
			return c.title
		}
	}
	return ""
}

// examine looks at everything, side by side.
func (d *patient) examine(ctx context.Context) *Report {
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	d.running = scrapeAdmin(ctx, d.Config.Admin.Address)
	results := make([]chan Report, len(examinations))
	for i, c := range examinations {
		results[i] = make(chan Report, 1)
		go func() {
			var r Report
			if c.run != nil {
				c.run(d, ctx, &r)
			}
			results[i] <- r
		}()
	}
	// All waits have bounds but those for a disk, and one that hangs is what somebody
	// may be looking for. Its goroutine ends with the process.
	late, cancelLate := context.WithTimeout(context.WithoutCancel(ctx), doctorTime+time.Second)
	defer cancelLate()
	all := &Report{}
	for i, c := range examinations {
		var some Report
		select {
		case some = <-results[i]:
		case <-late.Done():
			select {
			case some = <-results[i]:
			default:
				some.on(c.name, "", "").Fault("look for a disk or a network file system that hangs", "not done within %v", doctorTime)
			}
		}
		all.join(some)
	}
	return all
}

// configuration tells of what is legal and hardly meant.
func (d *patient) configuration(_ context.Context, r *Report) {
	cfg := d.Config
	r.on("configuration", "", "").OK("%s: mode %s, %s, %s, %s, %s", cmp.Or(d.file, "defaults and the environment"), cfg.Policy.Mode,
		view.Counted(len(d.Rules.Chain.Plan()), "rule"), view.Counted(len(cfg.Lists), "list"), view.Counted(len(cfg.Overrides), "override"),
		view.Counted(len(service.Listeners(cfg)), "listener"))
	for _, w := range d.ConfigurationWarnings() {
		r.on("configuration", "", w.Position.String()).Warn("it is legal, and hardly meant: change it or take it out", "%s", w.Text)
	}
	for i := range cfg.Overrides {
		o := &cfg.Overrides[i]
		if d.now.Before(o.End()) && d.now.Add(certificateSoon).After(o.End()) {
			r.on("configuration", o.Name, o.Position.String()).Warn("ask "+o.Owner+" whether it is still needed: "+o.Reason, "override %s ends on %s", o.Name, o.Until)
		}
	}
}
