package backend

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/proxy/backend/mta"
	"postern/proxy/smtp"
)

// newMaildir serves a Maildir on loopback, as `serve` without a backend does.
func newMaildir(t *testing.T, m *Maildir) *Set {
	t.Helper()
	m.Dir = filepath.Join(t.TempDir(), "maildir")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.prepare(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Serve(ln) }()
	t.Cleanup(func() {
		_ = m.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return newSet(t, Options{}, m.Backend(ln.Addr().String()))
}

// files returns what is in a sub-folder, by name.
func files(t *testing.T, m *Maildir, sub string) map[string]string {
	t.Helper()
	all := map[string]string{}
	es, err := os.ReadDir(filepath.Join(m.Dir, sub))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		p, err := os.ReadFile(filepath.Join(m.Dir, sub, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(p)
	}
	return all
}

func TestMaildirKeepsTheMessage(t *testing.T) {
	m := &Maildir{Hostname: "mx.test"}
	s := newMaildir(t, m)
	c := open(t, s, Client{Addr: alice.Addr, Name: alice.Name, Helo: "evil)name", ESMTP: true})
	if k := c.Capabilities(); !k.Pipelining || !k.Chunking || !k.SMTPUTF8 || !k.HasSize || k.DSN || k.BinaryMIME || k.TLS {
		t.Errorf("%+v", k)
	}
	c.QueueMail(sender, []smtp.Param{{Key: "SMTPUTF8"}})
	c.QueueRcpt(recipient, nil)
	c.QueueRcpt(smtp.Path{Local: "../../etc/passwd", Domain: "example.org"}, nil)
	c.QueueRcpt(smtp.Path{Local: "ü", Domain: "example.org"}, nil)
	c.QueueData()
	for range 4 {
		want(t, c, 250)
	}
	want(t, c, 354)
	_, _ = c.Write([]byte("Subject: x\r\n\r\n..dot\r\n\xff\r\n.\r\n"))
	r, err := c.FinalReply()
	if err != nil || r.Code != 250 {
		t.Fatal(r, err)
	}
	c.Release()
	got := files(t, m, "new")
	if len(got) != 1 || len(files(t, m, "tmp")) != 0 {
		t.Fatalf("%q", got)
	}
	form := regexp.MustCompile(`^Return-Path: <a@example\.com>
Delivered-To: b@example\.org
Delivered-To: "\.\./\.\./etc/passwd"@example\.org
Delivered-To: ü@example\.org
Received: from evil\?name \(\[192\.0\.2\.7\]\)
	by mx\.test with ESMTP id (\S+);
	\w+, \d+ \w+ \d{4} \d\d:\d\d:\d\d [+-]\d{4}
Subject: x

\.dot
8-bit
$`)
	for name, text := range got {
		if !form.MatchString(strings.Replace(text, "\xff", "8-bit", 1)) {
			t.Errorf("%q", text)
		}
		if !strings.Contains(r.Text, name) || !strings.Contains(text, name) {
			t.Errorf("%s is not named in %q", name, r)
		}
	}
}

func TestMaildirTakesChunksCutAnywhere(t *testing.T) {
	m := &Maildir{}
	s := newMaildir(t, m)
	const text = "A: b\r\n\r\nx\r\ry\r\n\r"
	for cut := range text {
		c := open(t, s, alice)
		c.QueueMail(sender, nil)
		c.QueueRcpt(recipient, nil)
		c.QueueBdat(int64(cut), false)
		_, _ = c.Write([]byte(text[:cut]))
		want(t, c, 250)
		want(t, c, 250)
		want(t, c, 250)
		c.QueueBdat(int64(len(text)-cut), true)
		_, _ = c.Write([]byte(text[cut:]))
		want(t, c, 250)
		c.Release()
	}
	all := files(t, m, "new")
	if len(all) != len(text) {
		t.Errorf("%d messages", len(all))
	}
	for _, got := range all {
		if !strings.HasSuffix(got, "\nA: b\n\nx\r\ry\n\r") {
			t.Errorf("%q", got)
		}
	}
}

// Trouble with the disk is ours, and passes: 452.
func TestMaildirOutOfOrder(t *testing.T) {
	m := &Maildir{}
	s := newMaildir(t, m)
	for _, sub := range []string{"new", "tmp"} {
		c := open(t, s, alice)
		dir := filepath.Join(m.Dir, sub)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		c.QueueMail(sender, nil)
		c.QueueRcpt(recipient, nil)
		c.QueueData()
		want(t, c, 250)
		want(t, c, 250)
		want(t, c, 354)
		_, _ = c.Write([]byte("x\r\n.\r\n"))
		if r, err := c.FinalReply(); err != nil || r.Code != 452 || r.Enhanced != "3.1" {
			t.Errorf("without %s: %v %v", sub, r, err)
		}
		c.Release()
		if sub == "new" && len(files(t, m, "tmp")) != 0 {
			t.Error("something is left in tmp")
		}
	}
}

func TestMaildirRefusesWhatIsTooLarge(t *testing.T) {
	m := &Maildir{MaxSize: 1000}
	s := newMaildir(t, m)
	c := open(t, s, alice)
	c.QueueMail(sender, []smtp.Param{{Key: "SIZE", Value: "1001", HasValue: true}})
	want(t, c, 552)
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueData()
	want(t, c, 250)
	want(t, c, 250)
	want(t, c, 354)
	_, _ = c.Write([]byte(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 1000) + ".\r\n"))
	if r, err := c.FinalReply(); err != nil || r.Code != 552 {
		t.Error(r, err)
	}
	c.Release()
	if len(files(t, m, "new"))+len(files(t, m, "tmp")) != 0 {
		t.Error("something is there")
	}
}

// A message that was cut leaves nothing.
func TestMaildirForgetsWhatWasCut(t *testing.T) {
	m := &Maildir{}
	s := newMaildir(t, m)
	c := open(t, s, alice)
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueData()
	want(t, c, 250)
	want(t, c, 250)
	want(t, c, 354)
	_, _ = c.Write([]byte("half"))
	_ = c.Flush()
	c.Abort()
	_ = m.Close()
	if len(files(t, m, "new"))+len(files(t, m, "tmp")) != 0 {
		t.Error("something is there")
	}
}

func TestMaildirClearsTmp(t *testing.T) {
	m := &Maildir{Dir: t.TempDir()}
	if err := m.prepare(); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 37 * time.Hour, "young": time.Hour} {
		f := filepath.Join(m.Dir, "tmp", name)
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(f, then, then); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.prepare(); err != nil {
		t.Fatal(err)
	}
	if got := files(t, m, "tmp"); len(got) != 1 {
		t.Errorf("%v", got)
	}
	in := filepath.Join(m.Dir, "tmp", "young")
	if err := (&Maildir{Dir: in}).Serve(nowhere{}); err == nil {
		t.Error("a Maildir within a file")
	}
}

// nowhere is a listener that nobody comes to.
type nowhere struct{ net.Listener }

func (nowhere) Close() error { return nil }

func TestFileNamesAreSafeAndUnique(t *testing.T) {
	m := &Maildir{Hostname: "a/b:c"}
	one, two := m.unique(), m.unique()
	if one == two || strings.ContainsAny(one, "/:") {
		t.Errorf("%s %s", one, two)
	}
	if got := trace(&mta.Envelope{Helo: "x\r\nEvil: y", XClient: map[string]string{"ADDR": "1.2.3.4\r\n"}}, "h", "i", time.Now()); strings.Contains(got, "\nEvil") || strings.Contains(got, "1.2.3.4") {
		t.Errorf("%q", got)
	}
}

// Only this machine may say that it speaks for another.
func TestXClientIsForLoopback(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "192.0.2.1:1": false} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if isLoopback(a) != want {
			t.Errorf("%s", addr)
		}
	}
}
