package service

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"postern/checks/dnstest"
	"postern/checks/logtest"
	"postern/configs"
	"postern/proxy/smtptest"
)

// broken is a service of which one thing is down, and how that shows.
type broken struct {
	t     *testing.T
	dir   string
	s     *Service
	log   *logtest.Log
	heard string // by the client: the answer that counts
}

// sections are those of a configuration. What is not said is sound.
type sections struct {
	dns, backends, more string
	sink                smtptest.SinkOptions
}

// begin starts a service before an MTA that takes everything.
func (b *broken) begin(o sections) {
	b.t.Helper()
	if o.dns == "" {
		zone, err := dnstest.Parse("example.org. TXT \"v=spf1 ?all\"\n")
		if err != nil {
			b.t.Fatal(err)
		}
		address, stop := zone.Serve()
		b.t.Cleanup(stop)
		o.dns = fmt.Sprintf("{servers: [%q]}", address)
	}
	if o.backends == "" {
		sink := smtptest.NewSink(o.sink)
		b.t.Cleanup(sink.Close)
		o.backends = fmt.Sprintf(`[{name: mta, addresses: [%q], tls: "off", identity: xclient}]`, sink.Addr())
	}
	b.write(fmt.Sprintf(`
hostname: mx.example.org
listeners: [{name: mx, address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
dns: %s
backends: %s
%s`, o.dns, o.backends, o.more))
	opt := configs.Options{File: b.file(), NoEnvironment: true}
	cfg, err := configs.Load(opt)
	if err != nil {
		b.t.Fatal(err)
	}
	b.s = New(Options{Config: opt, Log: slog.New(slog.NewJSONHandler(b.log, nil)), Maildir: b.t.TempDir()})
	if err := b.s.Start(cfg, nil, nil); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if b.s != nil {
			b.s.Stop(nil)
		}
	})
}

func (b *broken) file() string      { return filepath.Join(b.dir, "postern.yaml") }
func (b *broken) write(text string) { write(b.t, b.file(), text) }

// send delivers a message of so many octets, and keeps the answer that ends it.
func (b *broken) send(from string, octets int) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.s.Address("mx").String())
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	text := "From: <" + from + ">\r\nSubject: hard times\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", octets/72) + ".\r\n"
	for _, say := range []string{"", "EHLO client.example\r\n", "MAIL FROM:<" + from + ">\r\n", "RCPT TO:<someone@example.org>\r\n", "DATA\r\n", text} {
		if _, err := io.WriteString(conn, say); err != nil {
			b.t.Fatal(err)
		}
		for {
			if b.heard, err = r.ReadString('\n'); err != nil {
				b.t.Fatalf("after %.30q: %v", say, err)
			}
			if len(b.heard) < 4 || b.heard[3] != '-' {
				break
			}
		}
		if b.heard[0] > '3' {
			return
		}
	}
}

// metrics is what a scraper sees.
func (b *broken) metrics() string {
	b.t.Helper()
	resp, err := http.Get("http://" + b.s.AdminAt.String() + "/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(page)
}

// breaks has what breaks each thing of the table, by its first cell.
var breaks = map[string]func(b *broken){
	"the DNS": func(b *broken) {
		b.begin(sections{dns: `{servers: ["127.0.0.1:9"], timeout: 50ms, total: 1s}`})
		for i := range 14 { // different domains
			b.send(fmt.Sprintf("a@d%d.example", i), 0)
		}
	},
	"the MTA": func(b *broken) {
		b.begin(sections{backends: `[{name: mta, addresses: ["127.0.0.1:9"], tls: "off", identity: xclient}]`})
		b.send("a@example.org", 0)
	},
	"the MTA's trust in Postern": func(b *broken) {
		b.begin(sections{sink: smtptest.SinkOptions{Without: []string{"XCLIENT"}}})
		b.send("a@example.org", 0)
	},
	"the MTA, as a message ends": func(b *broken) {
		b.begin(sections{sink: smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
			return smtptest.Action{Close: st.Verb == "."}
		}}})
		b.send("a@example.org", 0)
	},
	"the disk for temporary files": func(b *broken) {
		b.t.Setenv("TMPDIR", filepath.Join(b.t.TempDir(), "gone"))
		b.begin(sections{more: `policy: {rules: [{name: large, when: "message.size > 1000", do: tag, header: "X-Large: yes"}]}`})
		b.send("a@example.org", 4<<20)
	},
	"the disk of the journal": func(b *broken) {
		folder := filepath.Join(b.t.TempDir(), "journal")
		if err := os.Mkdir(folder, 0o700); err != nil {
			b.t.Fatal(err)
		}
		for _, day := range []time.Time{time.Now(), time.Now().Add(time.Hour)} { // it may be midnight soon
			if err := os.Symlink("/dev/full", filepath.Join(folder, day.UTC().Format(time.DateOnly)+".jsonl")); err != nil && !errors.Is(err, os.ErrExist) {
				b.t.Fatal(err)
			}
		}
		b.begin(sections{more: fmt.Sprintf("journal: {path: %q}", folder)})
		b.send("a@example.org", 0)
	},
	"the state": func(b *broken) {
		server := miniredis.RunT(b.t)
		b.begin(sections{more: fmt.Sprintf(`
state: {servers: [%q], tls: "off"}
policy: {rules: [{name: first, when: "past.delivered == 0", do: tag, header: "X-First: yes"}]}`, server.Addr())})
		server.Close()
		for range 4 { // the third that fails is the last that asks
			b.send("a@example.org", 0)
		}
	},
	"a milter": func(b *broken) {
		b.begin(sections{more: `
milters: [{name: rspamd, address: "127.0.0.1:9"}]
policy: {rules: [{name: filters-away, when: 'milter.rspamd.action == "temperror"', do: defer}]}`})
		b.send("a@example.org", 0)
	},
	"a policy service": func(b *broken) {
		b.begin(sections{more: `
policy_services: [{name: postgrey, address: "127.0.0.1:9"}]
policy: {rules: [{name: postgrey-away, when: 'service.postgrey.action == "temperror"', do: defer}]}`})
		b.send("a@example.org", 0)
	},
	"a file of networks": func(b *broken) {
		b.begin(sections{more: `
checks: {geo: {files: [gone.mmdb]}}
policy: {rules: [{name: far, when: 'client.country == "XX"', do: reject}]}`})
		b.send("a@example.org", 0)
	},
	"the clock": func(b *broken) { b.begin(sections{}) },
	"the certificate": func(b *broken) {
		writePair(b.t, b.dir, time.Now().AddDate(-10, 0, -1))
		b.begin(sections{more: "tls: {certificates: [{certificate: cert.pem, key: key.pem}]}"})
		b.send("a@example.org", 0)
	},
	"a configuration that was changed": func(b *broken) {
		b.begin(sections{})
		b.write("listenerz: []\n")
		b.s.reload()
		b.send("a@example.org", 0)
	},
	"Postern": func(b *broken) {
		b.begin(sections{})
		address := b.s.Address("mx").String()
		b.s.Stop(nil)
		b.s = nil
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			b.t.Error("somebody still listens")
		}
	},
}

// The table of deploy/README.md is what somebody reads who was woken: each of its rows is
// what happens when that thing is broken.
func TestWhatHappensWhenSomethingIsDown(t *testing.T) {
	guide, err := os.ReadFile("../../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(guide), "| what is down | a client hears | the log says | metric | alert | what to do |\n")
	if !ok {
		t.Fatal("the table is not there")
	}
	alerts, err := os.ReadFile("../../../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`[^`]*`")
	told := func(cell string) (all []string) {
		for _, c := range code.FindAllString(cell, -1) {
			all = append(all, strings.Trim(c, "`"))
		}
		return all
	}
	rows := map[string]bool{}
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") {
			if strings.HasPrefix(line, "|--") {
				continue
			}
			break
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 6 {
			t.Fatalf("%d cells in %s", len(cells), line)
		}
		what := strings.TrimSpace(cells[0])
		rows[what] = true
		if breaks[what] == nil {
			t.Errorf("no test breaks %s", what)
			continue
		}
		t.Run(what, func(t *testing.T) {
			b := &broken{t: t, dir: t.TempDir(), log: &logtest.Log{}}
			breaks[what](b)
			hears := told(cells[1])
			for _, c := range hears {
				if strings.HasPrefix(c, "4") && !strings.HasPrefix(b.heard, c) {
					t.Errorf("the client hears %q, not %q", b.heard, c)
				}
			}
			if (len(hears) == 0 || strings.HasPrefix(cells[1], "nothing")) && b.heard != "" && !strings.HasPrefix(b.heard, "250 ") {
				t.Errorf("the client hears %q", b.heard)
			}
			for _, name := range strings.Split(cells[4], ", ") {
				if !strings.Contains(string(alerts), "alert: "+name+"\n") {
					t.Errorf("there is no alert %s", name)
				}
			}
			if b.s == nil {
				return
			}
			deadline := time.Now().Add(patience)
			for missing := "?"; missing != ""; time.Sleep(10 * time.Millisecond) { // what is said behind the answer
				missing = b.missing(cells[2], cells[3], told)
				if missing != "" && time.Now().After(deadline) {
					t.Fatalf("%s\nthe log:\n%s", missing, b.log.String())
				}
			}
		})
	}
	for what := range breaks {
		if !rows[what] {
			t.Errorf("%s is not in the table", what)
		}
	}
}

// missing is what the row says and neither log nor metrics do; empty: nothing.
func (b *broken) missing(log, metric string, told func(string) []string) string {
	logged := b.log.String()
	if found := told(log); len(found) > 0 {
		// Of several, which are alternatives, one.
		if !strings.Contains(logged, found[0]) && !(strings.Contains(log, "what else") && strings.Contains(logged, "no such file or directory")) {
			return "not in the log: " + found[0]
		}
	}
	page := b.metrics()
	for _, want := range told(metric) {
		name, value, valued := strings.Cut(want, "} ")
		if valued {
			name += "}"
		} else if n, v, ok := strings.Cut(want, " "); ok {
			name, value, valued = n, v, true
		}
		pattern := regexp.QuoteMeta(name)
		pattern = strings.NewReplacer("ADDRESS", "[^\"]*", "NAME", "[^\"]*").Replace(pattern)
		m := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`).FindStringSubmatch(page)
		switch {
		case m == nil:
			return "no metric " + want
		case valued && strings.Contains(metric, "or more"):
			if m[1] == "0" {
				return "still 0: " + want
			}
		case valued && m[1] != value:
			return fmt.Sprintf("%s is %s", want, m[1])
		case strings.Contains(metric, "in the past") || strings.Contains(metric, "far from"):
			var seconds float64
			if _, err := fmt.Sscan(m[1], &seconds); err != nil {
				return err.Error()
			}
			off := time.Since(time.Unix(int64(seconds), 0))
			if past := strings.Contains(metric, "in the past"); past && off < 0 || !past && off.Abs() > time.Minute {
				return fmt.Sprintf("%s is %v off", name, off)
			}
		}
	}
	return ""
}
