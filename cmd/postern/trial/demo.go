package trial

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"postern/checks/dnstest"
	"postern/cmd/postern/service"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// demoZone is the DNS of the demonstration.
//
//go:embed demo.zone
var demoZone string

// demoMail is one session, and what should come of it.
type demoMail struct {
	title  string
	client string // the address that it comes from
	Mail
	want verdict // Reply is the beginning; Tags are not compared but for their number
}

func demoMails() []demoMail {
	text := func(from, subject string) []byte {
		return []byte("From: " + from + "\r\nTo: you@mx.example\r\nSubject: " + subject + "\r\nDate: " +
			time.Now().Format(time.RFC1123Z) + "\r\n\r\nHello!\r\n")
	}
	to := []string{"you@mx.example"}
	return []demoMail{
		{
			"SPF says pass", "127.0.0.11",
			Mail{"mail.good.example", "ann@good.example", to, "", text("Ann <ann@good.example>", "passes")},
			verdict{Disposition: "pass", Reply: "250 2."},
		},
		{
			"SPF says softfail: tagged", "127.0.0.12",
			Mail{"laptop.unsure.example", "bob@unsure.example", to, "", text("Bob <bob@unsure.example>", "is tagged")},
			verdict{Disposition: "tag", Rule: "spf-doubtful", Reply: "250 2.", Tags: []string{"X-Postern-Tag: spf-softfail"}},
		},
		{
			"SUBMITTER not authorized", "127.0.0.13",
			Mail{"host.nowhere.example", "eve@nowhere.example", to, "list@strict.example", text("Eve <eve@nowhere.example>", "refused")},
			verdict{Disposition: "reject", Rule: "submitter-fail", Reply: "550 5.7.1 Submitter not allowed."},
		},
		{
			"SPF says fail", "127.0.0.14",
			Mail{"host.nowhere.example", "boss@strict.example", to, "", text("The Boss <boss@strict.example>", "refused")},
			verdict{Disposition: "reject", Rule: "spf-fail", Reply: "550 5.7.23 SPF validation failed."},
		},
		{
			"SUBMITTER is not in the header", "127.0.0.11",
			Mail{"mail.good.example", "ann@good.example", to, "list@good.example", text("Ann <ann@good.example>", "refused")},
			verdict{Disposition: "reject", Rule: "submitter-mismatch", Reply: "550 5.7.1 Submitter does not match header."},
		},
		{
			"the sender's DNS is broken", "127.0.0.15",
			Mail{"mail.broken.example", "dan@broken.example", to, "", text("Dan <dan@broken.example>", "deferred")},
			verdict{Disposition: "defer", Rule: "dns-trouble", Reply: "451 4.4.3 "},
		},
	}
}

// Demo brings everything up, sends the mails, says how it went, and whether all was as
// it should be.
func Demo(ctx context.Context, out io.Writer, version string, page func(*service.Service) service.Page, stay bool) (good bool, err error) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	st, err := newStage(ctx, version, page)
	if err != nil {
		return false, err
	}
	defer st.close()
	_, _ = fmt.Fprintf(out, `Postern %s, everything on loopback:
  DNS zone  %s (TCP and UDP)
  proxy     %s, the built-in policy
  MTA       a Maildir, %s
  page      %s/
  log       %s

`, version, st.dns, st.proxy, st.mailIn, st.web, st.log)
	good, err = st.play(ctx, out)
	if err != nil {
		return false, err
	}
	if !good {
		_, _ = fmt.Fprintf(out, "Not everything went as it should; the log may say why.\n")
	}
	if stay {
		_, _ = fmt.Fprintf(out, `
Staying until Ctrl-C. To play with it:
  swaks --server %s --from ann@good.example --to you@mx.example   (refused: this machine is not 127.0.0.11)
  swaks --server %s --local-interface 127.0.0.11 --tls --from ann@good.example --to you@mx.example
  dig @%s -p %s strict.example TXT
  %s/      (the page: what came of them, and why)
`, st.proxy, st.proxy, host(st.dns), port(st.dns), st.web)
		<-ctx.Done()
	}
	return good, nil
}

// stage is what the demonstration plays on: a DNS zone, and a service with a Maildir.
type stage struct {
	dns, proxy, web string // addresses; web with its scheme
	mailIn, log     string // files
	records         chan *journal.Record
	undo            []func()
}

// newStage brings everything up on loopback. It is to be closed.
func newStage(ctx context.Context, version string, page func(*service.Service) service.Page) (_ *stage, err error) {
	st := &stage{records: make(chan *journal.Record, 100)}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	zone, err := dnstest.Parse(demoZone)
	if err != nil {
		return nil, err
	}
	dns, closeDNS, err := zone.Listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	st.dns, st.undo = dns, append(st.undo, closeDNS)
	folder, err := os.MkdirTemp("", "postern-demo-")
	if err != nil {
		return nil, err
	}
	st.mailIn, st.log = filepath.Join(folder, "Maildir"), filepath.Join(folder, "postern.log")
	logFile, err := os.OpenFile(st.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	st.undo = append(st.undo, func() { _ = logFile.Close() }) // a look into it while we run is all there is to it

	cfg := configs.Default()
	cfg.Hostname = "mx.example"
	cfg.Listeners = []configs.Listener{{Name: "mx", Address: "127.0.0.1:0", TLS: "starttls"}}
	cfg.DNS.Servers, cfg.DNS.Timeout = []string{dns}, cfg.DNS.Total // which answers, however busy the machine
	cfg.Admin.Address = "127.0.0.1:0"
	cfg.Journal.Path = filepath.Join(folder, "journal") // for the page to look into
	s := service.New(service.Options{Version: version, Log: service.NewLogger(cfg.Log, logFile), Maildir: st.mailIn, Page: page})
	if err := s.Start(cfg, nil, st.record); err != nil {
		return nil, err
	}
	st.undo = append(st.undo, func() { s.Stop(nil) })
	st.proxy, st.web = s.Address("mx").String(), "http://"+s.AdminAt.String()
	return st, s.WaitUp(ctx, time.Minute)
}

func (st *stage) record(r *journal.Record) {
	select {
	case st.records <- r.Clone():
	default: // somebody plays with --stay: nobody reads
	}
}

// close ends all that newStage began, the last first.
func (st *stage) close() {
	for _, f := range slices.Backward(st.undo) {
		f()
	}
}

// play sends the mails, prints what each heard and why, and says whether all was as it
// should be.
func (st *stage) play(ctx context.Context, out io.Writer) (good bool, err error) {
	good = true
	row := func(cells ...any) { _, _ = fmt.Fprintf(out, "%-31s %-11s %-8s %s\n", cells...) }
	fault := func(what any) {
		good = false
		_, _ = fmt.Fprintf(out, "    NOT AS EXPECTED: %v\n", what)
	}
	row("SESSION", "CLIENT", "VERDICT", "RULE")
	for _, m := range demoMails() {
		r, reply, err := sendDemo(ctx, st.proxy, m, st.records)
		if err != nil {
			row(m.title, m.client, "-", "-")
			fault(err)
			continue
		}
		row(m.title, m.client, r.Disposition, cmp.Or(r.Rule, "-"))
		_, _ = fmt.Fprintf(out, "    heard: %s\n    why:   %s\n", reply, why(r))
		if text := m.differs(r, reply); text != "" {
			fault(text)
		}
	}
	arrived, err := filepath.Glob(filepath.Join(st.mailIn, "new", "*"))
	if err != nil {
		return false, err
	}
	_, _ = fmt.Fprintf(out, "\n%d messages have arrived in %s\n", len(arrived), filepath.Join(st.mailIn, "new"))
	return good && len(arrived) == 2, nil
}

// sendDemo sends one mail from its address and returns the record of the
// transaction, and the last reply.
func sendDemo(ctx context.Context, to string, m demoMail, records <-chan *journal.Record) (*journal.Record, string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(m.client)}}
	conn, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := NewClient(conn)
	reply, err := c.Send(m.Mail)
	c.Quit()
	if err != nil {
		return nil, "", err
	}
	select {
	case r := <-records:
		return r, reply.String(), nil
	case <-ctx.Done():
		return nil, "", errors.New("no record of the transaction")
	}
}

// differs says what is not as it should be.
func (m *demoMail) differs(r *journal.Record, reply string) string {
	switch {
	case r.Disposition != m.want.Disposition || r.Rule != m.want.Rule:
		return fmt.Sprintf("expected %s by %q", m.want.Disposition, m.want.Rule)
	case !strings.HasPrefix(reply, m.want.Reply):
		return fmt.Sprintf("expected the reply %q", m.want.Reply)
	case strings.Join(r.Tags, "\n") != strings.Join(m.want.Tags, "\n"):
		return fmt.Sprintf("expected the tags %q, got %q", m.want.Tags, r.Tags)
	}
	return ""
}

// why puts the facts that mattered into words.
func why(r *journal.Record) string {
	f := &r.Facts
	var words []string
	add := func(name string, result policy.Result, reason string) {
		switch result {
		case policy.None, policy.Skipped, "":
			return
		}
		text := name + "=" + string(result)
		if reason != "" {
			text += " (" + reason + ")"
		}
		words = append(words, text)
	}
	if f.Submitter.Address != "" {
		add("submitter", f.Submitter.Result, f.Submitter.Reason)
	}
	add("spf", f.SPF.Result, f.SPF.Reason)
	if f.Submitter.Address != "" && f.PRA.Address != "" {
		words = append(words, fmt.Sprintf("SUBMITTER is %s, the header's responsible address %s", f.Submitter.Address, f.PRA.Address))
	}
	for _, tag := range r.Tags {
		words = append(words, "added "+tag)
	}
	return strings.Join(words, "; ")
}

func host(address string) string {
	h, _, _ := net.SplitHostPort(address) // it came from a listener
	return h
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address) // it came from a listener
	return p
}
