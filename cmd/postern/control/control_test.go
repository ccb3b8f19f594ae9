package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/checks/memory"
)

var (
	one = memory.Notice{ID: "0123456789abcdef", Who: "192.0.2.0/24", From: "ann@a.example", Rcpt: "bob@example.org", Last: time.Unix(1000, 0)}
	two = memory.Notice{ID: "fedcba9876543210", Who: "b.example", From: "x@c.example", Rcpt: "Eve@example.net", Last: time.Unix(2000, 0)}
)

// desk has two notices.
type desk struct {
	mu       sync.Mutex
	released []string
	panics   bool
}

func (d *desk) Held(_ context.Context, f Filter, tell func(memory.Notice) error) error {
	if d.panics {
		panic("desk")
	}
	for _, n := range []memory.Notice{one, two} {
		if f.Match(n) {
			if err := tell(n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *desk) Release(_ context.Context, ids []string, domain string, tell func(memory.Notice) error) ([]Retrieval, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range []memory.Notice{one, two} {
		if slices.Contains(ids, n.ID) || domain != "" && OfDomain(n, domain) {
			if err := tell(n); err != nil {
				return nil, err
			}
			d.released = append(d.released, n.ID)
		}
	}
	return []Retrieval{{Domain: "example.org", Host: "h:25", Reply: "250 OK", Begun: true}}, nil
}

func (d *desk) Retrieve(_ context.Context, domain string) ([]Retrieval, error) {
	if domain != "example.org" {
		return nil, errors.New("no host is named for " + domain)
	}
	return []Retrieval{{Domain: domain, Host: "h:25", Error: "gone"}}, nil
}

// held and release are what a client is told.
func held(ctx context.Context, c Client, f Filter) (list []memory.Notice, err error) {
	err = c.Held(ctx, f, func(n memory.Notice) error { list = append(list, n); return nil })
	return list, err
}

func release(ctx context.Context, c Client, ids []string, domain string) (list []memory.Notice, got []Retrieval, err error) {
	got, err = c.Release(ctx, ids, domain, func(n memory.Notice) error { list = append(list, n); return nil })
	return list, got, err
}

func listen(t *testing.T, d Desk) (*Server, Client) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control")
	s, err := Listen(path, false, d, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Serve()
	t.Cleanup(s.Close)
	return s, Client{Path: path}
}

func TestCommands(t *testing.T) {
	d := &desk{}
	s, c := listen(t, d)
	ctx := t.Context()
	info, err := os.Stat(s.Path())
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Fatalf("%v %v", info, err)
	}
	for _, tt := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, one.ID + " " + two.ID},
		{Filter{Who: "192.0.2.0/24"}, one.ID},
		{Filter{Who: "192.0.2.77"}, one.ID},
		{Filter{Who: "192.0.3.77"}, ""},
		{Filter{Who: "B.example"}, two.ID},
		{Filter{From: "A.example"}, one.ID},
		{Filter{From: "@a.example"}, one.ID},
		{Filter{From: "example"}, ""},
		{Filter{From: "ann@a.example"}, one.ID},
		{Filter{From: "nn@a.example"}, ""},
		{Filter{Rcpt: "eve@example.net"}, two.ID},
		{Filter{Rcpt: "example.net", From: "a.example"}, ""},
		{Filter{Since: time.Unix(1001, 0)}, two.ID},
	} {
		list, err := held(ctx, c, tt.f)
		var ids []string
		for _, n := range list {
			ids = append(ids, n.ID)
		}
		if err != nil || strings.Join(ids, " ") != tt.want {
			t.Errorf("%+v: %v, %v", tt.f, ids, err)
		}
	}
	list, got, err := release(ctx, c, []string{two.ID}, "")
	if err != nil || len(list) != 1 || list[0].ID != two.ID || !list[0].Last.Equal(two.Last) || len(got) != 1 || !got[0].Begun {
		t.Errorf("release: %v %v %v", list, got, err)
	}
	for domain, want := range map[string]string{"B.example": two.ID, "c.example": two.ID, "a.example": one.ID, "example": ""} {
		list, _, err := release(ctx, c, nil, domain)
		if err != nil || len(list) == 0 != (want == "") || want != "" && list[0].ID != want {
			t.Errorf("release --domain %s: %v %v", domain, list, err)
		}
	}
	for _, tt := range []struct {
		ids    []string
		domain string
		err    string
	}{
		{nil, "", "either ids or a domain"},
		{[]string{one.ID}, "a.example", "either ids or a domain"},
		{[]string{"0123"}, "", "16 letters and digits"},
		{slices.Repeat([]string{one.ID}, maxIDs+1), "", "at most 1000"},
		{slices.Repeat([]string{strings.Repeat("0", 200)}, maxIDs), "", "too long"},
	} {
		if _, _, err := release(ctx, c, tt.ids, tt.domain); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%.40v %q: %v", tt.ids, tt.domain, err)
		}
	}
	if got, err := c.Retrieve(ctx, "example.org"); err != nil || len(got) != 1 || got[0].Error != "gone" {
		t.Errorf("retrieve: %v %v", got, err)
	}
	if _, err := c.Retrieve(ctx, "example.com"); err == nil || err.Error() != "no host is named for example.com" {
		t.Errorf("retrieve: %v", err)
	}
	if _, err := c.ask(ctx, request{Do: "dance"}, nil); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("%v", err)
	}
	d.panics = true
	if _, err := held(ctx, c, Filter{}); err == nil || !strings.Contains(err.Error(), "failed at it") {
		t.Errorf("%v", err)
	}
	d.panics = false
	if list, err := held(ctx, c, Filter{}); err != nil || len(list) != 2 {
		t.Errorf("after a panic: %v %v", list, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	ctx := t.Context()
	if _, err := held(ctx, Client{}, Filter{}); !errors.Is(err, ErrNoSocket) {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	for name, prepare := range map[string]func(path string){
		"never ran":  func(string) {},
		"was killed": func(path string) { strand(t, path) },
	} {
		path := filepath.Join(dir, name)
		prepare(path)
		if _, err := held(ctx, Client{Path: path}, Filter{}); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := held(ctx, Client{Path: filepath.Join(dir, "no", "folder")}, Filter{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
	path := filepath.Join(dir, "breaks off")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, _ := ln.Accept()
		_, _ = bufio.NewReader(c).ReadString('\n')
		_, _ = io.WriteString(c, `{"notice":{"id":"0123456789abcdef"}}`+"\n")
		_ = c.Close()
	}()
	if list, err := held(ctx, Client{Path: path}, Filter{}); !errors.Is(err, errCutOff) || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
}

// strand leaves a socket that nobody listens on, as kill -9 does.
func strand(t *testing.T, path string) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
}

func TestPlaces(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(dir, strings.Repeat("x", 108)): "octets, and the system takes",
		filepath.Join(dir, "missing", "control"):     "RuntimeDirectory=postern",
		filepath.Join(dir, "file", "control"):        "is no folder",
		filepath.Join(dir, "file"):                   "is no socket",
		filepath.Join(dir, "link"):                   "is no socket",
	} {
		if _, err := Listen(path, false, &desk{}, log); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}

	// One that was killed left its socket, and the next takes its place.
	path := filepath.Join(dir, "control")
	strand(t, path)
	first, err := Listen(path, false, &desk{}, log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, false, &desk{}, log); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("%v", err)
	}
	// One that hands over leaves the socket of the one that took over alone.
	second, err := Listen(path, true, &desk{}, log)
	if err != nil {
		t.Fatal(err)
	}
	second.Serve()
	first.Close()
	if list, err := held(t.Context(), Client{Path: path}, Filter{}); err != nil || len(list) != 2 {
		t.Errorf("%v %v", list, err)
	}
	second.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket was left: %v", err)
	}
}

// A socket that somebody else has put there is neither replaced nor talked to.
func TestOthersOwnIt(t *testing.T) {
	if os.Geteuid() != 0 {
		// Who owns what cannot be arranged, but root's own folder is one of others.
		if err := Verify("/etc/passwd"); err == nil {
			t.Error("a file of root's is good")
		}
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "control")
	strand(t, path)
	if err := os.Lchown(path, 12345, -1); err != nil {
		t.Fatal(err)
	}
	_, err := Listen(path, true, &desk{}, slog.New(slog.DiscardHandler))
	_, err2 := held(t.Context(), Client{Path: path}, Filter{})
	for _, err := range []error{err, err2} {
		if err == nil || !strings.Contains(err.Error(), "belongs to the user 12345: others own it") {
			t.Errorf("%v", err)
		}
	}
	// The folder's owner may: it is the user that the proxy runs as.
	if err := os.Lchown(dir, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if err := Verify(path); err != nil {
		t.Errorf("%v", err)
	}
	if st, err := os.Lstat(path); err != nil || st.Sys().(*syscall.Stat_t).Uid != 12345 {
		t.Errorf("the socket was touched: %v", err)
	}
}

// Those who connect and say nothing, or too much, hold nobody up for long, and no more
// than so many at once.
func TestConversationsAreBounded(t *testing.T) {
	s, c := listen(t, &desk{})
	var silent []net.Conn
	for range maxAtOnce {
		conn, err := net.Dial("unix", s.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	for len(s.room) < maxAtOnce {
		time.Sleep(time.Millisecond)
	}
	if _, err := held(t.Context(), c, Filter{}); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("%v", err)
	}
	if _, err := silent[0].Write(append(bytes.Repeat([]byte("x"), maxRequest+1), '\n')); err != nil {
		t.Logf("it was cut off: %v", err)
	}
	got, _ := io.ReadAll(silent[0])
	if !strings.Contains(string(got), "the request is too long") && len(got) > 0 {
		t.Errorf("%q", got)
	}
	for len(s.room) == maxAtOnce {
		time.Sleep(time.Millisecond)
	}
	if list, err := held(t.Context(), c, Filter{}); err != nil || len(list) != 2 {
		t.Errorf("%v %v", list, err)
	}
	s.Close() // does not wait for those who are silent
}

// Whatever is asked: the answer is lines of JSON, of which the last one ends it.
func FuzzRequest(f *testing.F) {
	for _, r := range []request{
		{Do: doHeld, Filter: &Filter{From: "a.example", Who: "192.0.2.1"}}, {Do: doRelease, IDs: []string{one.ID}},
		{Do: doRelease, Domain: "a.example"}, {Do: doRetrieve, Domain: "example.org"}, {Do: "x"},
	} {
		b, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"do":"held","filter":{"who":-1,"since":"2026"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.ContainsAny(line, "\n") {
			return
		}
		ours, theirs := net.Pipe()
		s := &Server{desk: &desk{}, log: slog.New(slog.DiscardHandler), ctx: t.Context()}
		go s.converse(theirs)
		go func() { _, _ = ours.Write(append(line, '\n')) }()
		all, err := io.ReadAll(ours)
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSuffix(all, []byte("\n")), []byte("\n"))
		for i, l := range lines {
			var a answer
			if err := json.Unmarshal(l, &a); err != nil || a.End != (i == len(lines)-1) {
				t.Fatalf("%q is answered by %q: %v", line, all, err)
			}
		}
	})
}
