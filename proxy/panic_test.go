package proxy

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/policy/journal"
)

// panicLog is a log that panics at some of its lines, and remembers the others.
type panicLog struct {
	at func(r slog.Record) bool

	mu    sync.Mutex
	lines []string
}

func (p *panicLog) Enabled(context.Context, slog.Level) bool { return true }
func (p *panicLog) WithAttrs([]slog.Attr) slog.Handler       { return p }
func (p *panicLog) WithGroup(string) slog.Handler            { return p }

func (p *panicLog) Handle(_ context.Context, r slog.Record) error {
	if p.at(r) {
		panic("the log fails")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	p.lines = append(p.lines, line)
	return nil
}

func (p *panicLog) has(t *testing.T, words ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
line:
	for _, line := range p.lines {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue line
			}
		}
		return
	}
	t.Errorf("no line with %q in\n%s", words, strings.Join(p.lines, "\n"))
}

// TestPanicsWhereOneHasBeen: whatever fails when a session ends, the process
// lives, the session is counted and gone, and its slots are free.
func TestPanicsWhereOneHasBeen(t *testing.T) {
	for _, tt := range []struct {
		name   string
		log    func(slog.Record) bool
		record bool
		line   []string // of the log, when it is over
	}{
		{name: "the record", record: true, line: []string{"connection", "result=panic"}},
		{name: "the line of a transaction", log: func(r slog.Record) bool { return r.Message == "transaction" }, line: []string{"connection", "result=panic"}},
		{name: "the line of a connection", log: func(r slog.Record) bool { return r.Message == "connection" }, line: []string{"transaction"}},
		{name: "the line of a panic too", record: true, log: func(r slog.Record) bool { return r.Level == slog.LevelError }, line: []string{"connection", "result=panic"}},
		{name: "all lines", log: func(r slog.Record) bool { return r.Level >= slog.LevelInfo }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, rigOptions{
				policy:  &streamPolicy,
				config:  func(c *configs.Config) { c.Limits.ConnectionsPerClient = 1 },
				backend: func(b *configs.Backend) { b.Connections = 1 },
			})
			m, log, broken := metrics.New(), &panicLog{at: func(slog.Record) bool { return false }}, true
			if tt.log != nil {
				log.at = func(r slog.Record) bool { return broken && tt.log(r) }
			}
			r.srv = New(Options{Log: slog.New(log), Metrics: m, Record: func(*journal.Record) {
				if tt.record && broken {
					panic("the journal fails")
				}
			}}, r.set)

			// A client goes in the middle of a transaction: it is recorded by the
			// end of the session.
			c := r.until("DATA")
			_ = c.conn.Close()
			<-c.done
			// Another one in the middle of a message that is delivered: it hears so.
			c = r.until("end")
			c.send(rigMessage + ".\r\n")
			c.expect("250 ")
			_ = c.conn.Close()
			<-c.done
			if len(tt.line) > 0 {
				log.has(t, tt.line...)
			}
			if n := gaugeValue(t, m, "postern_sessions_active"); n != 0 {
				t.Errorf("sessions_active is %v", n)
			}
			if n := counterValue(t, m, "postern_connections_total"); n != 2 {
				t.Errorf("connections_total is %v", n)
			}

			// The one connection of this client and the one to the backend are free.
			broken = false
			c = r.connect("192.0.2.1")
			c.ehlo()
			if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
				t.Error(got)
			}
			if n := len(r.sink.Messages()); n != 2 {
				t.Errorf("%d messages at the backend", n)
			}
		})
	}
}

func gaugeValue(t *testing.T, m *metrics.Metrics, name string) (sum float64) {
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, x := range f.GetMetric() {
				sum += x.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestPanicIsAFailure: a transaction in which something of ours panics is
// recorded as one that failed, with what the client heard.
func TestPanicIsAFailure(t *testing.T) {
	r := newRig(t, rigOptions{policy: &streamPolicy})
	var rec *journal.Record
	log := &panicLog{at: func(r slog.Record) bool { return r.Message == "reply" && strings.Contains(attr(r, "reply"), "354") }}
	r.srv = New(Options{Log: slog.New(log), Record: func(got *journal.Record) { rec = got.Clone() }}, r.set)
	c := r.until("DATA")
	c.send("DATA\r\n")
	c.expect("354 ")
	c.expect("421 4.3.0 ")
	c.closed()
	if rec == nil || rec.Outcome != journal.OutcomeFailed || !strings.HasPrefix(rec.Reply, "421 4.3.0 ") || rec.Error != "panic" {
		t.Errorf("record: %+v", rec)
	}
}

func attr(r slog.Record, key string) (value string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			value = a.Value.String()
		}
		return true
	})
	return value
}

// TestReplyBeforeBookkeeping: what the backend said of a message is with the
// client whatever becomes of our log, even if more is in the pipe. Until it is,
// the client would send the message again.
func TestReplyBeforeBookkeeping(t *testing.T) {
	for _, end := range []string{"DATA", "BDAT"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, rigOptions{policy: &streamPolicy})
				stuck := make(chan struct{})
				log := &panicLog{at: func(r slog.Record) bool {
					if r.Message == "transaction" {
						<-stuck
					}
					return false
				}}
				r.srv = New(Options{Log: slog.New(log)}, r.set)
				c := r.until("DATA")
				start := time.Now()
				if end == "DATA" {
					c.cmd("DATA", "354 ")
					c.send(rigMessage + ".\r\nQUIT\r\n")
				} else {
					c.send("BDAT 4 LAST\r\n\r\n\r\nQUIT\r\n")
				}
				c.expect("250 ")
				if d := time.Since(start); d > 0 {
					t.Errorf("after %v", d)
				}
				close(stuck)
				c.expect("221 ")
				r.close()
			})
		})
	}
}
