package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/jsonline"
	"postern/proxy/smtp"
)

// publishing returns what publishes a record of the usual size, with a log that goes to w.
func publishing(t testing.TB, from string, w io.Writer, record func(*journal.Record)) func() {
	facts := policy.Facts{}.Transaction("0123456789ab")
	facts.Client = policy.Client{IP: "192.0.2.1", Port: 54321, Name: "client.example"}
	facts.Mail = policy.MailFrom{From: from, Domain: "good.example"}
	facts.SPF = policy.SPF{Result: policy.Pass, Domain: "good.example", Identity: "mailfrom", Reason: "ip4:192.0.2.0/24 matched"}
	srv := New(Options{Log: slog.New(jsonline.NewHandler(w, slog.LevelInfo)), Metrics: metrics.New(), Record: record}, rigSettings(t, rigOptions{}))
	return func() {
		srv.publish(srv.settings.Load(), &journal.Record{
			Time: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), ID: facts.ID, Session: "ab", Outcome: journal.OutcomeDelivered,
			Stage: "message", Reached: "message", Backend: "mta 127.0.0.1:10025", BackendReply: "250 2.0.0 OK", Bytes: 4321,
			Reply: "250 2.6.0 OK", Took: journal.Took{Mail: .0001, Rcpt: .0002, Header: .0001, Data: .001, Backend: .0005, EndOfData: .0004},
			Recipients: []journal.Recipient{{Address: "bob@local.example", Disposition: "pass", Reply: "250 2.1.5 OK", Taken: true}},
		}, &facts, policy.Verdict{Decided: true}, true, []smtp.Field{{Name: "X-Tag", Value: " a"}})
	}
}

// What the log shows of a transaction in JSON are the octets of its record.
func TestTheLogHasTheRecordsOctets(t *testing.T) {
	var log bytes.Buffer
	var record string
	publishing(t, "<a\u202elice>@good.example", &log, func(r *journal.Record) {
		line, err := r.Line()
		if err != nil {
			t.Error(err)
		}
		record = string(line)
	})()
	_, facts, _ := strings.Cut(log.String(), `,"facts":`)
	facts = strings.TrimSuffix(facts, "}\n")
	if !strings.Contains(record, `,"facts":`+facts+`,"reached":`) || !strings.Contains(facts, `"from":"<a\u202elice>@good.example"`) || !strings.HasSuffix(facts, `"size":0}}`) {
		t.Errorf("the log has\n%s\nthe journal\n%s", log.String(), record)
	}
	const head = `"backend_reply":"250 2.0.0 OK","error":"","bytes":4321,` +
		`"took":{"backend":0.0005,"data":0.001,"end_of_data":0.0004,"header":0.0001,"mail":0.0001,"rcpt":0.0002},` +
		`"recipients":[{"address":"bob@local.example","disposition":"pass","reply":"250 2.1.5 OK","taken":true}],"tags":["X-Tag: a"],"facts":{"id":"0123456789ab","client":{"ip":`
	if !strings.Contains(log.String(), head) {
		t.Errorf("the log has\n%s\nwant\n%s", log.String(), head)
	}
}

// Whoever has the log at warnings hears of the messages that failed or are unknown all the same.
func TestTheLogAtWarningsHasWhatFailed(t *testing.T) {
	for outcome, want := range map[journal.Outcome]bool{
		journal.OutcomeDelivered: false, journal.OutcomeRefused: false, journal.OutcomeFailed: true, journal.OutcomeUnknown: true,
	} {
		var log bytes.Buffer
		srv := New(Options{Log: slog.New(jsonline.NewHandler(&log, slog.LevelWarn)), Metrics: metrics.New()}, rigSettings(t, rigOptions{}))
		srv.logTransaction(&journal.Record{ID: "0123456789ab", Outcome: outcome})
		if got := strings.Contains(log.String(), "0123456789ab"); got != want {
			t.Errorf("%s: %q", outcome, log.String())
		}
	}
}

// BenchmarkPublish is what the end of a transaction costs.
func BenchmarkPublish(b *testing.B) {
	for _, on := range []bool{false, true} {
		name, record := "log", (func(*journal.Record))(nil)
		if on {
			w, err := journal.New(configs.Journal{Path: b.TempDir(), RotateSize: 1 << 40}, journal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = w.Close(b.Context()) }()
			name, record = "log and journal", w.Write
		}
		publish := publishing(b, "alice@good.example", io.Discard, record)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				publish()
			}
		})
	}
}
