package service

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// aTransaction writes the line of one, as the proxy has it.
func aTransaction(l *slog.Logger, r *journal.Record) {
	if err := r.Seal(); err != nil {
		panic(err)
	}
	l.Info("transaction", slog.Any("", r))
	r.Release()
}

func refusedRecord() *journal.Record {
	f := policy.Facts{}.Transaction("7k2m9d0x4qzr")
	f.Client, f.Helo.Name = policy.Client{IP: "192.0.2.1", Name: "mail.a.example", Port: 4711}, "mail.a.example"
	f.Mail.From, f.SPF.Result, f.SPF.Reason = "ann@a.example", policy.Fail, `"-all" of a.example`
	return &journal.Record{
		ID: "7k2m9d0x4qzr", Facts: f, Stage: "rcpt", Disposition: "reject", Rule: "spf-fail", Outcome: journal.OutcomeRefused, Reply: "550 5.7.23 no (7k2m9d0x4qzr)",
		Recipients: []journal.Recipient{{Address: "bob@example.org", Disposition: "reject", Rule: "spf-fail", Reply: "550 5.7.23 no (7k2m9d0x4qzr)"}},
		Took:       journal.Took{Mail: .0125, Rcpt: .001}, Tags: []string{"X-A: b", "X-C: d"}, Candidate: &journal.Candidate{Disposition: "tag", Rule: "soft"},
	}
}

func logged(t *testing.T, c configs.Log, write func(*slog.Logger)) string {
	t.Helper()
	var out bytes.Buffer
	write(NewLogger(c, &out))
	return out.String()
}

// A log for people has no innards of the program, and nothing that is empty.
func TestLogText(t *testing.T) {
	got := logged(t, configs.Log{Level: "info", Format: "text"}, func(l *slog.Logger) {
		l.Debug("not asked for")
		aTransaction(l, refusedRecord())
		l.With("session", "x y").WithGroup("g").Warn("two\nlines \u202e", "error", errors.New(`it said "no"`), "n", 3, slog.Group("in", "a", 1.5), "none", []string(nil), "list", []string{"a", "b"})
	})
	want := `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d\d:\d\d INFO  transaction id=7k2m9d0x4qzr client=192.0.2.1 helo=mail.a.example from=ann@a.example stage=rcpt rule=spf-fail disposition=reject ` +
		`outcome=refused reply="550 5.7.23 no \(7k2m9d0x4qzr\)" bytes=0 took=13.5ms to="bob@example.org \(reject by spf-fail\)" tags="X-A: b, X-C: d" candidate="tag by soft"\n` +
		`.{23} .{6} WARN  two\\nlines \\u202e session="x y" g.error="it said \\"no\\"" g.n=3 g.in.a=1.5 g.list="a, b"\n$`
	if !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("got\n%s, not\n%s", got, want)
	}
}

func TestLogfmt(t *testing.T) {
	got := logged(t, configs.Log{Level: "info", Format: "logfmt"}, func(l *slog.Logger) {
		aTransaction(l, refusedRecord())
		l.Error("a b", "error", "=")
	})
	for _, want := range []string{
		`^time=\d{4}-\d\d-\d\dT\S+ level=info msg=transaction id=7k2m9d0x4qzr session="" client=192.0.2.1 `, ` submitter="" stage=rcpt rule=spf-fail `, ` took.mail=0.0125 took.rcpt=0.001 `,
		` recipients.0.address=bob@example.org recipients.0.disposition=reject recipients.0.rule=spf-fail `, ` tags="X-A: b, X-C: d" `,
		` facts.client.ip=192.0.2.1 facts.client.port=4711 `, ` facts.spf.result=fail `, ` facts.spf.reason="\\"-all\\" of a.example" `, ` candidate.disposition=tag `,
		`\ntime=\S+ level=error msg="a b" error="="\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s\ndoes not have\n%s", got, want)
		}
	}
	if strings.Contains(got, "facts.dkim.domains") || strings.Contains(got, "&{") || strings.Contains(got, "map[") {
		t.Errorf("empty things, or the program's own: %s", got)
	}
	if flat := string(appendFlat(nil, "x", []byte(`{"a":[1,{"b":null}`))); flat != ` x="{\"a\":[1,{\"b\":null}"` {
		t.Errorf("what is no JSON: %s", flat)
	}
}

// TestLogNoQueue: the lines are those of postfix/smtpd, for refusals of ours and no others.
func TestLogNoQueue(t *testing.T) {
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(host, ".")
	head := `(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d\d:\d\d:\d\d ` + host + ` postfix/smtpd\[\d+\]: NOQUEUE: reject: `
	for name, c := range map[string]struct {
		change func(*journal.Record)
		want   string
	}{
		"at RCPT": {func(*journal.Record) {}, head + `RCPT from mail\.a\.example\[192\.0\.2\.1\]: 550 5\.7\.23 <bob@example\.org>: Recipient address rejected: no \(7k2m9d0x4qzr\); from=<ann@a\.example> to=<bob@example\.org> proto=ESMTP helo=<mail\.a\.example>\n`},
		"two, one of whom was taken": {func(r *journal.Record) {
			r.Outcome, r.Reply, r.Facts.Client.Name = journal.OutcomeDelivered, "250 OK", ""
			r.Recipients = append([]journal.Recipient{{Address: "c@example.org", Disposition: "pass", Reply: "250 OK"}}, r.Recipients...)
		}, head + `RCPT from unknown\[192\.0\.2\.1\]: 550 .* to=<bob@example\.org> .*\n`},
		"at the end": {func(r *journal.Record) {
			r.Stage, r.Recipients[0].Disposition, r.Recipients[0].Reply = "message", "pass", "250 OK"
		}, head + `END-OF-MESSAGE from .*: 550 5\.7\.23 <END-OF-MESSAGE>: End-of-data rejected: no \(7k2m9d0x4qzr\); from=<ann@a\.example> to=<bob@example\.org> proto=ESMTP helo=.*\n`},
		"the connection": {func(r *journal.Record) {
			r.Stage, r.Recipients, r.Facts.Helo.Name, r.Reply = "connect", nil, "", "554 5.7.1 \x1b\nno"
		}, head + `CONNECT from mail\.a\.example\[192\.0\.2\.1\]: 554 5\.7\.1 <mail\.a\.example\[192\.0\.2\.1\]>: Client host rejected: \\x1b\\nno; proto=ESMTP\n`},
		"observed": {func(r *journal.Record) { r.Observed, r.Outcome, r.Reply = true, journal.OutcomeDelivered, "250 OK" }, ``},
		"by the backend": {func(r *journal.Record) {
			r.Outcome, r.Recipients[0].Disposition = journal.OutcomeBackendRefused, "pass"
		}, ``},
	} {
		r := refusedRecord()
		c.change(r)
		got := logged(t, configs.Log{Level: "info", Format: "json", NoQueue: "postfix/smtpd"}, func(l *slog.Logger) {
			aTransaction(l.With().WithGroup(""), r)
			l.Info("connection")
		})
		first, rest, _ := strings.Cut(got, "\n")
		if !strings.HasPrefix(first, `{"time"`) || !regexp.MustCompile(`^`+c.want+`\{"time".*"connection".*\n$`).MatchString(rest) {
			t.Errorf("%s:\n%s, not\n%s", name, got, c.want)
		}
	}
}
