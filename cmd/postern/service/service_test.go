package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/checks/leaktest"
	"postern/checks/logtest"
	"postern/configs"
	"postern/proxy/smtp"
)

// patience is how long a test waits for what it expects.
const patience = 30 * time.Second

// started loads a configuration and starts a service with it.
func started(t *testing.T, file string) *Service {
	t.Helper()
	opt := configs.Options{File: file, NoEnvironment: true}
	cfg, err := configs.Load(opt)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Config: opt, Log: slog.New(slog.DiscardHandler), Maildir: filepath.Join(t.TempDir(), "Maildir")})
	if err := s.Start(cfg, nil, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const quiet = `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
dns: {servers: ["127.0.0.1:9"]}
`

// Starting, reloading everything that can be reloaded, and stopping leaves no
// goroutine behind.
func TestServiceLeavesNothingBehind(t *testing.T) {
	defer leaktest.None(t)
	file := filepath.Join(t.TempDir(), "postern.yaml")
	list := filepath.Join(filepath.Dir(file), "list.txt")
	write(t, list, "192.0.2.1\n")
	write(t, file, quiet)
	s := started(t, file)
	if err := s.WaitUp(context.Background(), patience); err != nil {
		t.Fatal(err)
	}
	if reasons := s.ready(); len(reasons) != 0 {
		t.Errorf("not ready: %q", reasons)
	}
	for _, text := range []string{
		`
listeners: [{name: mx, address: "127.0.0.1:0", tls: "off"}, {name: b, address: "127.0.0.1:0"}]
dns: {servers: ["127.0.0.1:8"]}
backends: [{name: mta, addresses: ["unix:/nowhere"]}]
lists: [{name: l, file: list.txt}]
tls: {min_version: "1.3"}
policy: {mode: observe}
`,
		quiet,
	} {
		write(t, file, text)
		if err := s.tryReload(); err != nil {
			t.Fatal(err)
		}
	}
	s.Stop(nil)
}

// What a reload leaves as it is, it says; the reference has the same keys.
func TestKeysForTheNextStart(t *testing.T) {
	page, err := os.ReadFile("../../../deploy/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## Which keys need a restart\n")
	section, _, _ = strings.Cut(section, "\n## ")
	file := filepath.Join(t.TempDir(), "postern.yaml")
	write(t, file, quiet)
	log := &logtest.Log{}
	s := started(t, file)
	s.Log = slog.New(slog.NewTextHandler(log, nil))
	defer s.Stop(nil)
	for _, k := range atStart {
		if !strings.Contains(section, "| `"+k.key+"` |") {
			t.Errorf("the reference does not say that %s waits for the next start", k.key)
		}
	}
	if n := strings.Count(section, "\n| `"); n != len(atStart) {
		t.Errorf("the reference has %d keys that wait for the next start, not %d", n, len(atStart))
	}
	write(t, file, strings.Replace(quiet, `admin: {address: "127.0.0.1:0"}`, `admin: {address: "127.0.0.2:0"}`, 1)+"log: {level: warn}\njournal: {keep: 3d}\n")
	if err := s.tryReload(); err != nil {
		t.Fatal(err)
	}
	for _, k := range atStart {
		if !strings.Contains(log.String(), "key="+k.key) {
			t.Errorf("a reload that leaves %s as it was does not say so:\n%s", k.key, log.String())
		}
	}
}

// A start that fails gives back what it had taken already.
func TestStartThatFailsLeavesNothingBehind(t *testing.T) {
	defer leaktest.None(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	// An address that nobody else here uses: on 127.0.0.1 the port might be another's
	// by the time that it is asked for again.
	free, err := net.Listen("tcp", "127.0.0.41:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()

	cfg := configs.Default()
	cfg.DNS.Servers = []string{"127.0.0.1:9"}
	cfg.Listeners = []configs.Listener{{Name: "mx", Address: address, TLS: "starttls"}}
	cfg.Admin.Address = taken.Addr().String()
	s := New(Options{Log: slog.New(slog.DiscardHandler)})
	var fault *configs.Fault
	if err := s.Start(cfg, nil, nil); !errors.As(err, &fault) {
		t.Fatalf("%v", err)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Errorf("the listener is still open: %v", err)
	} else {
		again.Close()
	}
}

// A configuration over which we panic is not taken, and the running one stays in force.
func TestAReloadThatPanicsChangesNothing(t *testing.T) {
	defer leaktest.None(t)
	file := filepath.Join(t.TempDir(), "postern.yaml")
	write(t, file, quiet)
	s := started(t, file)
	defer s.Stop(nil)
	parts := s.parts.Load()
	s.Now = func() time.Time { panic("out of luck") }
	write(t, file, quiet+`
lists: [{name: friends, entries: ["a.example # until 2027-01-01"]}]
policy: {rules: [{name: a, when: 'in_list("friends", mail.domain)', do: reject}]}
`)
	if err := s.tryReload(); err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Fatal(err)
	}
	if s.parts.Load() != parts {
		t.Error("something has changed")
	}
}

// Files that are read again by themselves end no session either, whatever our mistake is.
func TestFilesWhoseReloadPanicsStayInUse(t *testing.T) {
	for what, reload := range map[string]func(*Service){
		"lists":        func(s *Service) { s.reloadLists(&rules{now: time.Now}) }, // there are no lists that could be replaced
		"certificates": func(s *Service) { s.reloadCertificates(&Parts{}) },       // nor any certificates
	} {
		log := &logtest.Log{}
		reload(New(Options{Log: slog.New(slog.NewTextHandler(log, nil))}))
		if got := log.String(); !strings.Contains(got, "panic over a configuration") || !strings.Contains(got, what+" not reloaded, the old ones stay in use") {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// A reload that cannot open one of its listeners opens none, and keeps the others.
func TestReloadThatCannotListenChangesNothing(t *testing.T) {
	defer leaktest.None(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "postern.yaml")
	write(t, file, quiet)
	s := started(t, file)
	defer s.Stop(nil)
	before, parts := s.running["mx"], s.parts.Load()
	write(t, file, `
listeners: [{name: mx, address: "127.0.0.1:0", tls: "off"}, {name: b, address: "`+taken.Addr().String()+`"}]
dns: {servers: ["127.0.0.1:9"]}
`)
	if err := s.tryReload(); err == nil {
		t.Fatal("reloaded")
	}
	if s.running["mx"] != before || s.parts.Load() != parts || len(s.running) != 1 {
		t.Error("something has changed")
	}
	c, err := net.Dial("tcp", before.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := smtp.ReadReply(bufio.NewReader(c)); err != nil || r.Code != 220 {
		t.Errorf("the listener answers %v %v", r, err)
	}
}

// A listener moves from all addresses to one and back by a reload, and nobody is refused.
func TestListenerMovesToOneOfItsAddresses(t *testing.T) {
	defer leaktest.None(t)
	file := filepath.Join(t.TempDir(), "postern.yaml")
	at := func(addresses ...string) {
		text := "dns: {servers: [\"127.0.0.1:9\"]}\nadmin: {address: \"\"}\nlisteners:\n"
		for i, a := range addresses {
			text += fmt.Sprintf("  - {name: l%d, address: %q, tls: \"off\"}\n", i, a)
		}
		write(t, file, text)
	}
	at(":0")
	s := started(t, file)
	defer s.Stop(nil)
	port := strconv.Itoa(s.running["l0"].ln.Addr().(*net.TCPAddr).Port)
	greets := func(host string) error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		r, err := smtp.ReadReply(bufio.NewReader(c))
		if err == nil && r.Code != 220 {
			err = fmt.Errorf("%d %s", r.Code, r.Text)
		}
		return err
	}
	at(":" + port) // what ":0" came to is another text, and so another listener
	if err := s.tryReload(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ to, answer, refuse []string }{
		{[]string{"127.0.0.1:" + port}, []string{"127.0.0.1"}, []string{"127.0.0.2"}},
		{[]string{"127.0.0.1:" + port, "127.0.0.2:" + port}, []string{"127.0.0.1", "127.0.0.2"}, []string{"127.0.0.3"}},
		{[]string{":" + port}, []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}, nil},
		{[]string{"127.0.0.3:" + port, "127.0.0.1:" + port}, []string{"127.0.0.1", "127.0.0.3"}, []string{"127.0.0.2"}},
		{[]string{"0.0.0.0:" + port}, []string{"127.0.0.1", "127.0.0.2"}, nil},
	} {
		at(c.to...)
		if err := s.tryReload(); err != nil {
			t.Fatalf("to %v: %v", c.to, err)
		}
		for _, host := range c.answer {
			if err := greets(host); err != nil {
				t.Errorf("at %v, %s: %v", c.to, host, err)
			}
		}
		for _, host := range c.refuse {
			if err := greets(host); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("at %v, %s: %v", c.to, host, err)
			}
		}
	}

	at("0.0.0.0:"+port, "127.0.0.1:"+port)
	want := "listener l1: 127.0.0.1:" + port + " is in use by our own listener l0 on 0.0.0.0:" + port
	if err := s.tryReload(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, not %q", err, want)
	}
	if err := greets("127.0.0.1"); err != nil {
		t.Error(err)
	}
}

// Connections that cross in the inner listener: each side may write first, and much.
func TestInnerListener(t *testing.T) {
	l := NewInnerListener()
	theirs := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			theirs <- c
		}
	}()
	a, err := l.Dial(context.Background(), "unix", innerAddress)
	if err != nil {
		t.Fatal(err)
	}
	b := <-theirs
	defer a.Close()
	defer b.Close()
	chunk := make([]byte, 16<<10) // both fit into the buffers of the kernel
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	if _, err := l.Dial(context.Background(), "unix", innerAddress); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener is dialled: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener accepts: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewInnerListener().Dial(ctx, "unix", innerAddress); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody accepts, and still: %v", err)
	}
}
