//go:build e2e

package main_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

const honest, forger = "127.0.0.7", "127.0.0.66"

// queued begins Postfix's own words for a message that it took: "Ok: queued as
// ID" after DATA, "Ok: N bytes queued as ID" after BDAT.
const queued = "250 2.0.0 Ok: "

// Mail arrives byte for byte, our fields on top, with the true client in
// Postfix's log: by a client that does everything by hand, so that each byte
// is known, and with a forged Authentication-Results on top, which is removed.
func TestE2EBytesArriveAsSent(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)

	s, _ := dial(t, p.addr(), honest)
	ehlo := s.say("250-mx.example.org", "EHLO mx.sender.example")
	for _, keyword := range []string{"PIPELINING", "SIZE 52428800", "STARTTLS", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "SUBMITTER"} {
		if !regexp.MustCompile(`(?m)^250[- ]` + keyword + `$`).MatchString(ehlo) {
			t.Errorf("EHLO does not list %s:\n%s", keyword, ehlo)
		}
	}
	for _, keyword := range []string{"XCLIENT", "XFORWARD", "ETRN", "VRFY", "AUTH"} {
		if strings.Contains(ehlo, keyword) {
			t.Errorf("EHLO lists %s:\n%s", keyword, ehlo)
		}
	}
	s.say("250 ", "MAIL FROM:<alice@sender.example> BODY=8BITMIME")
	s.say("250 ", "RCPT TO:<raw@example.org>")
	s.say("354 ", "DATA")
	sent := message("alice@sender.example", "raw")
	if _, err := s.w.Write(onWire(append([]byte(forgery), sent...))); err != nil {
		t.Fatal(err)
	}
	s.expect(queued) // Postfix's own words
	s.say("221 ", "QUIT")

	checkArrived(t, mta, "raw", sent, "ESMTP")
	mta.logged(t, `client=mx\.sender\.example\[127\.0\.0\.7\]`)
	entry := p.transaction(t, "raw@example.org")
	for key, want := range map[string]any{"disposition": "pass", "outcome": "delivered", "bytes": float64(len(forgery) + len(sent))} {
		if entry[key] != want {
			t.Errorf("log: %s is %v, want %v", key, entry[key], want)
		}
	}
}

// checkArrived compares what lies in a mailbox with what was sent: Postfix's
// fields, then ours in their order, then the message, octet for octet.
func checkArrived(t *testing.T, mta *postfix, mailbox string, sent []byte, with string) {
	t.Helper()
	got := mta.received(t, mailbox)
	trace, whole := bytes.CutSuffix(got, onDisk(sent))
	if !whole {
		t.Fatalf("the message was changed on its way:\n got %q\nwant at its end %q", got, onDisk(sent))
	}
	var names []string
	for line := range strings.Lines(string(trace)) {
		if line[0] != ' ' && line[0] != '\t' {
			name, _, _ := strings.Cut(line, ":")
			names = append(names, name)
		}
	}
	ours := []string{"Received", "Authentication-Results", "Received-SPF"}
	theirs := slices.Index(names, "Received") // Postfix's own is the first
	if theirs < 0 || len(names) < theirs+4 || !slices.Equal(names[theirs+1:theirs+4], ours) {
		t.Fatalf("fields on top are %v, want Received of Postfix, then %v", names, ours)
	}
	for _, name := range names[theirs+4:] {
		if name != "Received-SPF" {
			t.Errorf("unexpected field %s on top", name)
		}
	}
	added := regexp.MustCompile(`\n\s+`).ReplaceAllString(string(trace), " ")
	for _, pattern := range []string{
		`(?m)^Received: from mx\.sender\.example \(.*\[127\.0\.0\.\d+\]\) by mx\.example\.org .*with ` + with + `\b`,
		`(?m)^Authentication-Results: mx\.example\.org;.* spf=pass .*smtp\.mailfrom=`,
		`(?m)^Received-SPF: pass .*client-ip="?127\.0\.0\.\d+"?;`,
	} {
		if !regexp.MustCompile(pattern).MatchString(added) {
			t.Errorf("no %s in\n%s", pattern, added)
		}
	}
	if strings.Contains(added, "bank.example") {
		t.Errorf("the forged Authentication-Results came through:\n%s", added)
	}
}

func TestE2ESwaks(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	for _, c := range []struct{ mailbox, with, flag string }{
		{"swaks", "ESMTP", "--no-hints"},
		{"swaks-tls", "ESMTPS", "--tls"},
	} {
		sent := message("alice@sender.example", c.mailbox)
		// The file is what goes over the wire, so that swaks mends nothing.
		wire := filepath.Join(t.TempDir(), "wire")
		writeFile(t, wire, string(onWire(sent)))
		out := tool(t, nil, "swaks", "--server", "127.0.0.1", "--port", fmt.Sprint(p.port), "--local-interface", "127.0.0.8",
			"--ehlo", "mx.sender.example", "--from", "alice@sender.example", "--to", c.mailbox+"@example.org",
			"--no-data-fixup", "--data", "@"+wire, c.flag)
		if !strings.Contains(out, queued) {
			t.Errorf("swaks %s:\n%s", c.flag, out)
		}
		checkArrived(t, mta, c.mailbox, sent, c.with)
	}
	mta.logged(t, `client=\S*\[127\.0\.0\.8\]`)
}

func TestE2EOpenSSL(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	needs(t, "openssl")
	cmd := exec.Command("openssl", "s_client", "-starttls", "smtp", "-connect", p.addr(), "-bind", "127.0.0.9:0", "-quiet",
		"-servername", "mx.example.org", "-CAfile", p.ca, "-verify_return_error", "-verify_hostname", "mx.example.org")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errors bytes.Buffer
	cmd.Stderr = &errors
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(10*patience, func() { cmd.Process.Kill() })
	defer func() {
		hung.Stop()
		in.Close()
		cmd.Wait()
		if t.Failed() {
			t.Logf("openssl: %s", errors.String())
		}
	}()

	sent := message("alice@sender.example", "openssl")
	s := &dialogue{t: t, r: bufio.NewReader(out), w: in}
	s.send("EHLO mx.sender.example")
	ehlo := s.reply()
	if !strings.HasPrefix(ehlo, "250-mx.example.org") { // some versions show the last line from before the handshake
		ehlo = s.expect("250-mx.example.org")
	}
	if strings.Contains(ehlo, "STARTTLS") {
		t.Errorf("STARTTLS is offered inside TLS (RFC 3207 §4.2):\n%s", ehlo)
	}
	s.say("250 ", "MAIL FROM:<alice@sender.example>")
	s.say("250 ", "RCPT TO:<openssl@example.org>")
	s.say("354 ", "DATA")
	if _, err := in.Write(onWire(sent)); err != nil {
		t.Fatal(err)
	}
	s.expect(queued)
	s.say("221 ", "QUIT")
	checkArrived(t, mta, "openssl", sent, "ESMTPS")
	mta.logged(t, `client=\S*\[127\.0\.0\.9\]`)
}

func TestE2EPythonSmtplib(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	sent := message("alice@sender.example", "python")
	out := tool(t, sent, "python3", "testdata/e2e/smtplib_client.py", "mx.example.org", fmt.Sprint(p.port), honest, p.ca,
		"bounces@list.example", "alice@sender.example", "python@example.org")
	if !strings.Contains(out, "TLS TLSv1.3") {
		t.Errorf("smtplib: %s", out)
	}
	checkArrived(t, mta, "python", sent, "ESMTPS")
	if got := p.transaction(t, "python@example.org"); !strings.Contains(fmt.Sprint(got["facts"]), "alice@sender.example") {
		t.Errorf("SUBMITTER is not in the record: %v", got)
	}
}

// Postfix's own load generator: a few hundred messages over ten parallel
// sessions; every one accepted arrives, once.
func TestE2ESmtpSource(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	const messages = 300
	began := time.Now()
	tool(t, nil, "smtp-source", "-s", "10", "-m", fmt.Sprint(messages), "-l", "5120", "-M", "mx.bulk.example",
		"-f", "user@bulk.example", "-t", "bulk@example.org", p.addr())
	t.Logf("%d messages accepted in %v", messages, time.Since(began).Round(time.Millisecond))
	eventually(t, "the last of the messages", func() bool { return len(mta.mailbox("bulk")) >= messages })
	seen := map[string]bool{}
	id := regexp.MustCompile(`Message-I[dD]: <\S+>`)
	for _, file := range mta.mailbox("bulk") {
		seen[id.FindString(string(readFile(t, file)))] = true
	}
	if got := len(mta.mailbox("bulk")); got != messages || len(seen) != messages {
		t.Errorf("%d messages arrived, %d of them different; %d were accepted", got, len(seen), messages)
	}
	_, metrics := p.get("/metrics")
	if want := fmt.Sprintf(`postern_transactions_total{disposition="pass",rule="none"} %d`, messages); !strings.Contains(metrics, want) {
		t.Errorf("no %s in\n%s", want, metrics)
	}
}

// The SUBMITTER cases of RFC 4405 §4: each with the reply on the wire, the
// line in the log, and the same verdict from test-session.
func TestE2ESubmitter(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	good := message("alice@sender.example", "submitter")
	twoFrom := append([]byte("From: bob@sender.example\r\n"), good...)

	for _, c := range []struct {
		name  string
		try   attempt
		reply string // as RFC 4405 has it
		stage string // none: refused as a command, before there is anything to judge
	}{
		{name: "authorised", try: attempt{source: honest, submitter: "alice@sender.example", message: good}, reply: queued},
		{name: "not-authorised", try: attempt{source: forger, submitter: "alice@sender.example", message: good},
			reply: "550 5.7.1 Submitter not allowed.", stage: "rcpt"},
		{name: "mismatch", try: attempt{source: honest, submitter: "alice@sender.example", message: message("mallory@sender.example", "m")},
			reply: "550 5.7.1 Submitter does not match header.", stage: "header"},
		{name: "no-pra", try: attempt{source: honest, submitter: "alice@sender.example", message: twoFrom},
			reply: "554 5.7.7 Cannot verify submitter address.", stage: "header"},
		{name: "malformed-xtext", try: attempt{source: honest, submitter: "alice+2btag@sender.example", message: good}, reply: "501 5.5.4 "},
		{name: "after-helo", try: attempt{source: honest, hello: "HELO", submitter: "alice@sender.example", message: good}, reply: "555 5.5.4 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.try.from, c.try.to = c.name+"@plain.example", "submitter@example.org" // a reverse-path without SPF: SUBMITTER alone decides
			got := c.try.run(t, p.addr())
			if !strings.HasPrefix(got, c.reply) {
				t.Fatalf("got %q, want %q", got, c.reply)
			}
			if c.reply[0] == '5' && c.stage == "" {
				entry := p.logged(t, "the refused command", func(line string, entry map[string]any) bool {
					return entry["msg"] == "connection" && entry["last_error"] == got && strings.Contains(line, c.try.source)
				})
				shown, _ := json.Marshal(entry)
				t.Logf("reply: %s\nlog: %s", got, shown)
				return
			}
			live := p.transaction(t, c.try.from)
			shown, _ := json.Marshal(live)
			t.Logf("reply: %s\nlog: %s", got, shown)
			if c.stage != "" {
				text, id := splitID(got)
				if text != c.reply || id == "" || live["id"] != id || live["disposition"] != "reject" || live["stage"] != c.stage || live["rule"] == "" {
					t.Errorf("reply %q and log line do not fit", got)
				}
			}
			compareTestSession(t, p, c.try, "alice@sender.example", live)
		})
	}
	if n := len(mta.mailbox("submitter")); n != 1 {
		t.Errorf("%d messages arrived, want the authorised one only", n)
	}
}

// compareTestSession asks the command line for the verdict of an attempt that
// was made, and wants the one that the live session reached.
func compareTestSession(t *testing.T, p *postern, try attempt, submitter string, live map[string]any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "message.eml")
	writeFile(t, file, string(try.message))
	args := []string{"test-session", "-c", p.config, "--json", "--ip", try.source, "--helo", "mx.sender.example",
		"--from", try.from, "--rcpt", try.to, "--message", file}
	if submitter != "" {
		args = append(args, "--submitter", submitter)
	}
	cmd := exec.Command(p.binary, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	var told struct {
		Verdict map[string]any `json:"verdict"`
	}
	if err := json.Unmarshal(out, &told); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for key, logged := range map[string]string{"disposition": "disposition", "rule": "rule", "stage": "rule_stage"} {
		if fmt.Sprint(told.Verdict[key]) != fmt.Sprint(live[logged]) && live[logged] != nil {
			t.Errorf("test-session says %s %v, the live session said %v", key, told.Verdict[key], live[logged])
		}
	}
	if refused := live["disposition"] == "reject" || live["disposition"] == "defer"; refused {
		text, _ := splitID(fmt.Sprint(live["reply"]))
		if told, _ := splitID(fmt.Sprint(told.Verdict["reply"])); told != text {
			t.Errorf("test-session would reply %q, the live session replied %q", told, text)
		}
	}
}

// Forged reverse-paths by the built-in policy; and a forger reaches the postmaster.
func TestE2ESPF(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	body := message("alice@sender.example", "spf")
	for _, c := range []struct{ name, source, from, to, reply, disposition string }{
		{"forged", forger, "alice@sender.example", "forged@example.org", "550 5.7.23 ", "reject"},
		{"doubtful", forger, "alice@soft.example", "soft@example.org", "250 ", "tag"},
		{"dns-trouble", honest, "alice@broken.example", "raw@example.org", "451 4.4.3 ", "defer"},
		{"postmaster", forger, "carol@sender.example", "postmaster@example.org", "250 ", "pass"},
	} {
		t.Run(c.name, func(t *testing.T) {
			try := attempt{source: c.source, from: c.from, to: c.to, message: body}
			if got := try.run(t, p.addr()); !strings.HasPrefix(got, c.reply) {
				t.Errorf("got %q, want %q", got, c.reply)
			}
			live := p.transaction(t, c.to)
			if live["disposition"] != c.disposition {
				t.Errorf("disposition %v, want %s", live["disposition"], c.disposition)
			}
			compareTestSession(t, p, try, "", live)
		})
	}
	if got := mta.received(t, "soft"); !regexp.MustCompile(`(?m)^X-Postern-\S+: .*spf`).Match(got) {
		t.Errorf("a softfail is not tagged:\n%s", got)
	}
	if n := len(mta.mailbox("forged")); n != 0 {
		t.Errorf("%d forged messages arrived", n)
	}
}

// kill -9 of Postfix in the middle of DATA: the client hears 4yz in the same
// session, nothing arrives, and the retry arrives once.
func TestE2EPostfixKilledDuringData(t *testing.T) {
	mta := startPostfix(t)
	// A policy that needs nothing of the body, so that it is streamed as it comes
	// and Postfix dies with a part of the message in its hands.
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, "policy: {builtin: off}\n")
	s, _ := dial(t, p.addr(), honest)
	s.say("250", "EHLO mx.sender.example")
	s.say("250 ", "MAIL FROM:<alice@sender.example>")
	s.say("250 ", "RCPT TO:<kill@example.org>")
	s.say("354 ", "DATA")
	half := append(message("alice@sender.example", "kill"), bytes.Repeat([]byte("half of the body\r\n"), 1<<16)...)
	wire := bytes.TrimSuffix(onWire(half), []byte(".\r\n"))
	if _, err := s.w.Write(wire); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Postfix to have a part of the message", func() bool {
		files, _ := filepath.Glob(mta.dir + "/spool/incoming/*")
		return slices.ContainsFunc(files, func(f string) bool { info, err := os.Stat(f); return err == nil && info.Size() > 100<<10 })
	})
	mta.kill(t)
	if _, err := s.w.Write(bytes.Repeat([]byte("the other half\r\n"), 1<<16)); err != nil {
		t.Fatalf("Postern stopped reading: %v", err) // it must drain, or the client never sees the reply
	}
	got := s.say("4", ".")
	if text, id := splitID(got); id == "" || !regexp.MustCompile(`^4\d\d 4\.\d\.\d `).MatchString(text) {
		t.Errorf("reply %q", got)
	}
	entry := p.transaction(t, "kill@example.org")
	if entry["outcome"] != "failed" {
		t.Errorf("outcome %v, want failed", entry["outcome"])
	}
	t.Logf("reply: %s, error: %v", got, entry["error"])

	mta.start(t)
	if n := len(mta.mailbox("kill")); n != 0 {
		t.Errorf("%d messages arrived of one that was never finished", n)
	}
	sent := message("alice@sender.example", "retry")
	eventually(t, "the retry to be accepted", func() bool { // Postern leaves the failed backend alone for a second
		got := attempt{source: honest, from: "alice@sender.example", to: "kill@example.org", message: sent}.run(t, p.addr())
		if got[0] == '5' {
			t.Fatalf("trouble of ours became %q", got)
		}
		return got[0] == '2'
	})
	if got := mta.received(t, "kill"); !bytes.HasSuffix(got, onDisk(sent)) {
		t.Errorf("the retry was changed:\n%s", got)
	}
}

// A message of exactly the limit, 50 MiB, arrives identical while Postern's
// memory stays far below its size; one octet more is refused.
func TestE2EBigMessage(t *testing.T) {
	const limit, memory = 50 << 20, 60 << 20
	mta := startPostfix(t)
	p := startPostern(t, mta.port)

	s, _ := dial(t, p.addr(), honest)
	s.say("250", "EHLO mx.sender.example")
	s.say("552 5.3.4 ", "MAIL FROM:<alice@sender.example> SIZE=%d", limit+1)
	s.say("250 ", "MAIL FROM:<alice@sender.example> SIZE=%d", limit)
	s.say("250 ", "RCPT TO:<big@example.org>")
	s.say("354 ", "DATA")
	header := "From: alice@sender.example\r\nTo: big@example.org\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <big@sender.example>\r\n\r\n"
	sum := sha256.New()
	began := time.Now()
	w := bufio.NewWriterSize(s.w, 64<<10)
	io.WriteString(w, header)
	line := make([]byte, 0, 128)
	for sent, n := len(header), 0; sent < limit; n++ {
		line = fmt.Appendf(line[:0], "%08d %0*d", n, n%61, n)
		if rest := limit - sent - len(line) - 2; rest < 100 {
			line = append(line, bytes.Repeat([]byte("x"), rest)...) // ends the message on the octet
		}
		sum.Write(line)
		sum.Write([]byte("\n"))
		line = append(line, "\r\n"...)
		sent += len(line)
		if _, err := w.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	s.say(queued, ".")
	took := time.Since(began)
	peak := p.peakMemory(t)

	_, body, whole := bytes.Cut(mta.received(t, "big"), onDisk([]byte(header)))
	if !whole {
		t.Error("the header was changed on its way")
	}
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum.Sum(nil)) {
		t.Errorf("the body has sha256 %x, %x was sent", got, sum.Sum(nil))
	}
	if entry := p.transaction(t, "big@example.org"); entry["bytes"] != float64(limit) {
		t.Errorf("%v octets recorded, %d sent", entry["bytes"], limit)
	}
	t.Logf("50 MiB in %v, sha256 %x, peak memory of Postern %.1f MiB", took.Round(time.Millisecond), sum.Sum(nil), float64(peak)/(1<<20))
	if peak > memory {
		t.Errorf("peak memory %d octets, want at most %d", peak, memory)
	}
}

// SIGTERM: nobody new is let in, an idle client hears 421, the message in
// flight is finished and delivered, and the process ends with 0.
func TestE2ESigtermDrains(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	idle, _ := dial(t, p.addr(), "127.0.0.8")
	idle.say("250", "EHLO idle.sender.example")

	busy, _ := dial(t, p.addr(), honest)
	busy.say("250", "EHLO mx.sender.example")
	busy.say("250 ", "MAIL FROM:<alice@sender.example>")
	busy.say("250 ", "RCPT TO:<drain@example.org>")
	busy.say("354 ", "DATA")
	sent := message("alice@sender.example", "drain")
	wire := onWire(sent)
	if _, err := busy.w.Write(wire[:len(wire)/2]); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	idle.expect("421 4.3.2 ")
	eventually(t, "the door to be shut", func() bool {
		c, err := net.DialTimeout("tcp", p.addr(), time.Second)
		if err != nil {
			return true
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		first := make([]byte, 3)
		_, err = io.ReadFull(c, first)
		return err == nil && string(first) == "421"
	})
	if status, _ := p.get("/readyz"); status == http200 {
		t.Error("/readyz says 200 while draining")
	}
	if _, err := busy.w.Write(wire[len(wire)/2:]); err != nil {
		t.Fatal(err)
	}
	busy.expect(queued)
	select {
	case err := <-p.exited:
		p.exited <- err // for the clean-up
		if err != nil {
			t.Errorf("postern ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("postern still runs")
	}
	checkArrived(t, mta, "drain", sent, "ESMTP")
}

const http200, http503 = 200, 503

// The backend is down when Postern starts: it serves anyway, defers, says so
// on /readyz, and recovers by itself.
func TestE2EBackendDownAtStart(t *testing.T) {
	mta := newPostfix(t)
	p := startPosternAs(t, setup{backends: mta.asBackend(), down: true})
	try := attempt{source: honest, from: "alice@sender.example", to: "late@example.org", message: message("alice@sender.example", "late")}
	got := try.run(t, p.addr())
	if text, id := splitID(got); !strings.HasPrefix(text, "451 4.4.1 ") || id == "" {
		t.Errorf("got %q, want 451 4.4.1 and an id", got)
	}
	if status, body := p.get("/readyz"); status != http503 {
		t.Errorf("/readyz says %d %s", status, body)
	}
	if status, body := p.get("/healthz"); status != http200 {
		t.Errorf("/healthz says %d %s", status, body)
	}
	mta.start(t)
	eventually(t, "the message to be accepted", func() bool {
		got := try.run(t, p.addr())
		if got[0] == '5' {
			t.Fatalf("trouble of ours became %q", got)
		}
		return got[0] == '2'
	})
	mta.received(t, "late")
	eventually(t, "/readyz to say 200", func() bool { status, _ := p.get("/readyz"); return status == http200 })
}

// What a scrape shows after mail went through: every family that such mail
// touches, and no address in any label.
func TestE2EMetrics(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	for _, source := range []string{honest, forger} {
		attempt{source: source, from: "alice@sender.example", to: "raw@example.org", message: message("alice@sender.example", "m")}.run(t, p.addr())
	}
	var metrics string
	eventually(t, "both transactions to be counted", func() bool {
		_, metrics = p.get("/metrics")
		return strings.Contains(metrics, `postern_transactions_total{disposition="pass"`) &&
			strings.Contains(metrics, `postern_transactions_total{disposition="reject"`)
	})
	for _, want := range []string{
		`postern_connections_total{listener="mx",result="`, `postern_sessions_active `,
		`postern_check_results_total{check="spf",result="pass"} 1`, `postern_check_results_total{check="spf",result="fail"} 1`,
		`postern_check_duration_seconds_count{check="spf"} 2`,
		`postern_replies_total{code="550",enhanced="5.7.23"} 1`,
		`postern_dns_queries_total{outcome="miss",type="TXT"}`, `postern_dns_queries_total{outcome="hit",type="TXT"}`,
		`postern_dns_query_duration_seconds_count `, `postern_dns_cache_entries `,
		`postern_backend_up{address="127.0.0.1:`, `postern_backend_duration_seconds_count{backend="mta",phase="connect"}`,
		`postern_message_bytes_count `, `postern_time_to_final_reply_seconds_count `,
		`postern_tls_certificate_not_after_seconds{name="`, `postern_outcome_unknown_total 0`, `postern_build_info{`,
		`go_goroutines `, `process_resident_memory_bytes `,
	} {
		if !strings.Contains(metrics, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(metrics, "@") || strings.Contains(metrics, "sender.example") || strings.Contains(metrics, honest) {
		t.Error("an address or a sender's domain is in a label")
	}
	if t.Failed() {
		t.Log(metrics)
	}
}

// The guide's way of moving port 25 to Postern and back, with its own
// commands, on a private port: mail comes in before, between and after.
func TestE2EGuideMovesThePortAndBack(t *testing.T) {
	mta := newPostfix(t)
	public := smtptest.FreePort(t)
	service := fmt.Sprintf("127.0.0.1:%d", public)
	master := mta.dir + "/etc/master.cf"
	writeFile(t, master, service+" inet n - y - - smtpd\n"+string(readFile(t, master)))
	mta.start(t)
	deliver := func(mark string) {
		t.Helper()
		var got string
		eventually(t, "the server on the public port", func() bool {
			c, err := net.DialTimeout("tcp", service, time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		got = attempt{source: honest, from: "alice@sender.example", to: "raw@example.org", message: message("alice@sender.example", mark)}.run(t, service)
		if !strings.HasPrefix(got, queued) {
			t.Fatalf("%s: %q", mark, got)
		}
	}
	closed := func() bool {
		c, err := net.DialTimeout("tcp", service, time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	}
	// A line of the guide, for the private instance.
	guide := string(readFile(t, "../../deploy/README.md"))
	follow := func(line string) {
		t.Helper()
		if !strings.Contains(guide, line) {
			t.Fatalf("the guide does not say %q any more", line)
		}
		line = strings.NewReplacer("/etc/postfix", mta.dir+"/etc", "postconf ", "postconf -c "+mta.dir+"/etc ",
			"postfix reload", "postfix -c "+mta.dir+"/etc reload", "smtp/inet", service+"/inet").Replace(line)
		tool(t, nil, "sh", "-c", line)
	}

	deliver("before")
	follow("cp -p /etc/postfix/master.cf /etc/postfix/master.cf.before-postern")
	follow("postconf -M# smtp/inet")
	follow("postfix reload")
	eventually(t, "Postfix to let go of the port", closed)
	p := startPosternOn(t, public, mta.port)
	deliver("between")

	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := <-p.exited
	p.exited <- err
	if err != nil {
		t.Errorf("postern ended with %v", err)
	}
	follow("cp -p /etc/postfix/master.cf.before-postern /etc/postfix/master.cf")
	follow("postfix reload")
	deliver("after")

	eventually(t, "three messages", func() bool { return len(mta.mailbox("raw")) == 3 })
	through := 0
	for _, file := range mta.mailbox("raw") {
		if bytes.Contains(readFile(t, file), []byte("by mx.example.org")) {
			through++
		}
	}
	if through != 1 {
		t.Errorf("%d messages went through Postern, want the one between", through)
	}
	// What the guide promises of the second door: no relay, not even for ourselves.
	s, _ := dial(t, fmt.Sprintf("127.0.0.1:%d", mta.port), "127.0.0.1")
	s.say("250", "EHLO localhost")
	s.say("250 ", "MAIL FROM:<a@example.com>")
	s.say("554 5.7.1 ", "RCPT TO:<b@example.net>")
}
