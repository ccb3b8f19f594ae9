package trial

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
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
func Demo(ctx context.Context, out io.Writer, version string, stay bool) (good bool, err error) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	zone, err := dnstest.Parse(demoZone)
	if err != nil {
		return false, err
	}
	dns, closeDNS, err := zone.Listen("127.0.0.1:0")
	if err != nil {
		return false, err
	}
	defer closeDNS()

	folder, err := os.MkdirTemp("", "postern-demo-")
	if err != nil {
		return false, err
	}
	logName := filepath.Join(folder, "postern.log")
	logFile, err := os.OpenFile(logName, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { _ = logFile.Close() }() // a look into it while we run is all there is to it

	cfg := configs.Default()
	cfg.Hostname = "mx.example"
	cfg.Listeners = []configs.Listener{{Name: "mx", Address: "127.0.0.1:0", TLS: "starttls"}}
	cfg.DNS.Servers, cfg.DNS.Timeout = []string{dns}, cfg.DNS.Total // which answers, however busy the machine
	cfg.Admin.Address = "127.0.0.1:0"
	mailIn := filepath.Join(folder, "Maildir")
	s := service.New(service.Options{Version: version, Log: service.NewLogger(cfg.Log, logFile), Maildir: mailIn})
	records := make(chan *journal.Record, 100)
	record := func(r *journal.Record) {
		select {
		case records <- r:
		default: // somebody plays with --stay: nobody reads
		}
	}
	if err := s.Start(cfg, nil, record); err != nil {
		return false, err
	}
	defer s.Stop(nil)
	if err := s.WaitUp(ctx, time.Minute); err != nil {
		return false, err
	}

	at := s.Address("mx").String()
	web := "http://" + s.AdminAt.String()
	_, _ = fmt.Fprintf(out, `Postern %s, everything on loopback:
  DNS zone  %s (TCP and UDP)
  proxy     %s, the built-in policy
  MTA       a Maildir, %s
  metrics   %s/metrics
  log       %s

`, version, dns, at, mailIn, web, logName)

	failed := 0
	row := func(cells ...any) { _, _ = fmt.Fprintf(out, "%-31s %-11s %-8s %s\n", cells...) }
	row("SESSION", "CLIENT", "VERDICT", "RULE")
	for _, m := range demoMails() {
		r, reply, err := sendDemo(ctx, at, m, records)
		if err != nil {
			failed++
			row(m.title, m.client, "-", "-")
			_, _ = fmt.Fprintf(out, "    NOT AS EXPECTED: %v\n", err)
			continue
		}
		rule := r.Rule
		if rule == "" {
			rule = "-"
		}
		row(m.title, m.client, r.Disposition, rule)
		_, _ = fmt.Fprintf(out, "    heard: %s\n    why:   %s\n", reply, why(r))
		if fault := m.differs(r, reply); fault != "" {
			failed++
			_, _ = fmt.Fprintf(out, "    NOT AS EXPECTED: %s\n", fault)
		}
	}

	arrived, err := filepath.Glob(filepath.Join(mailIn, "new", "*"))
	if err != nil {
		return false, err
	}
	_, _ = fmt.Fprintf(out, "\n%d messages have arrived in %s\n", len(arrived), filepath.Join(mailIn, "new"))
	if len(arrived) != 2 {
		failed++
	}
	if failed > 0 {
		_, _ = fmt.Fprintf(out, "Not everything went as it should; the log may say why.\n")
	}
	if stay {
		_, _ = fmt.Fprintf(out, `
Staying until Ctrl-C. To play with it:
  swaks --server %s --from ann@good.example --to you@mx.example   (refused: this machine is not 127.0.0.11)
  swaks --server %s --local-interface 127.0.0.11 --tls --from ann@good.example --to you@mx.example
  dig @%s -p %s strict.example TXT
  %s/
`, at, at, host(dns), port(dns), web)
		<-ctx.Done()
	}
	return failed == 0, nil
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
		return r, fmt.Sprintf("%d %s", reply.Code, reply.Text), nil
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
