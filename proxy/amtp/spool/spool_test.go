package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/checks/logtest"
	"postern/proxy/smtp"
)

var (
	roomy = Limits{Octets: 1 << 20, OctetsPerUser: 1 << 20, Entries: 100, EntriesPerUser: 100}
	began = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
)

func ofAlice() Of {
	return Of{From: smtp.Path{Local: "alice", Domain: "example.org"}, Arrived: began, Expires: began.Add(time.Hour)}
}

func entries(numbers ...string) (list []Entry) {
	for _, n := range numbers {
		list = append(list, Entry{Number: n, To: smtp.Path{Local: "bob", Domain: n + ".example.net"}, Stage: Waiting, Next: began})
	}
	return list
}

// put keeps a message for the entries of those numbers.
func put(s *Spool, user, text string, numbers ...string) error {
	d, err := s.Begin(user)
	if err != nil {
		return err
	}
	defer d.Abort()
	for _, piece := range []string{text[:len(text)/2], text[len(text)/2:]} {
		if _, err := d.Write([]byte(piece)); err != nil {
			return err
		}
	}
	return d.Commit(ofAlice(), entries(numbers...))
}

func get(s *Spool, number string) (text string, e Entry, ok bool) {
	e, ok = s.Find(number, smtp.Path{Local: "bob", Domain: number + ".example.net"})
	if !ok {
		return "", e, false
	}
	r, err := s.Read(e)
	if err != nil {
		return err.Error(), e, true
	}
	b, err := io.ReadAll(r)
	return string(b), e, errors.Join(err, r.Close()) == nil
}

func TestKeptUntilDone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	var log logtest.Log
	s, err := Open(dir, roomy, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, roomy, slog.New(slog.NewTextHandler(&log, nil))); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second one in the same folder: %v", err)
	}
	if err := put(s, "alice", "Subject: x\r\n\r\ntext\r\n", "1", "2"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Find("1", smtp.Path{Local: "bob", Domain: "2.example.net"}); ok {
		t.Error("the number of one recipient gives what is another's")
	}
	if _, ok := s.Find("1", smtp.Path{Local: "bob", Domain: "1.EXAMPLE.net"}); !ok {
		t.Error("the case of a domain's letters counts")
	}
	if _, err := s.Update("1", func(e *Entry) { e.Attempts, e.Next = 3, began.Add(time.Minute) }); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Update("1", func(e *Entry) { e.Last = strings.Repeat("\u00e9", 40_000) }); err != nil || len(e.Last) != maxLast {
		t.Errorf("%d octets of what another server said, %v", len(e.Last), err)
	}
	if err := s.Done("2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	if s, err = Open(dir, roomy, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	text, e, ok := get(s, "1")
	if text != "Subject: x\r\n\r\ntext\r\n" || !ok || e.Attempts != 3 || e.Of().User != "alice" || e.Of().From.Local != "alice" {
		t.Errorf("%v %q %+v", ok, text, e)
	}
	if head, err := s.Head(e, 1000); err != nil || string(head) != "Subject: x\r\n" {
		t.Errorf("%q, %v", head, err)
	}
	if _, _, ok := get(s, "2"); ok {
		t.Error("what is done is back")
	}
	if octets, n := s.Used(); octets != 20 || n != 1 {
		t.Errorf("%d octets, %d entries", octets, n)
	}
	due, next := s.Due(began)
	if len(due) != 0 || !next.Equal(began.Add(time.Minute)) {
		t.Errorf("due %v, next %v", due, next)
	}
	if due, next = s.Due(next); len(due) != 1 || !next.IsZero() {
		t.Errorf("due %v, next %v", due, next)
	}
	if err := s.Done("1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Done("1"); !errors.Is(err, ErrGone) {
		t.Errorf("done twice: %v", err)
	}
	if _, err := s.Update("1", func(*Entry) {}); !errors.Is(err, ErrGone) {
		t.Errorf("changed when done: %v", err)
	}
	if octets, n := s.Used(); octets != 0 || n != 0 {
		t.Errorf("%d octets, %d entries", octets, n)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFolderIsClosedToOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, roomy, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Error(err)
	}
}

func TestRoom(t *testing.T) {
	s, err := open(newMemory(), Limits{Octets: 100, OctetsPerUser: 60, Entries: 5, EntriesPerUser: 3}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 30)
	for i, c := range []struct {
		user    string
		text    string
		numbers []string
		want    error
	}{
		{"alice", text + text + "x", []string{"1"}, ErrUserFull},
		{"alice", text, []string{"1", "2", "3", "4"}, ErrUserFull},
		{"alice", text, []string{"1", "2", "3"}, nil},
		{"alice", "x", []string{"4"}, ErrUserFull},
		{"bob", text, []string{"4"}, nil},
		{"bob", text, []string{"5", "6"}, ErrFull},
		{"carol", text + "xxxxxxxxxxx", []string{"5"}, ErrFull},
		{"carol", text + "xxxxxxxxxx", []string{"5"}, nil},
		{"dave", "x", []string{"6"}, ErrFull},
	} {
		if err := put(s, c.user, c.text, c.numbers...); !errors.Is(err, c.want) {
			t.Errorf("%d: %v, want %v", i, err, c.want)
		}
	}
	if octets, n := s.Used(); octets != 100 || n != 5 {
		t.Errorf("%d octets, %d entries", octets, n)
	}
	for _, n := range []string{"1", "2", "3", "4", "5"} {
		if err := s.Done(n); err != nil {
			t.Error(err)
		}
	}
	if len(s.used) > 0 || s.all != (use{}) {
		t.Errorf("after all: %v, %v", s.used, s.all)
	}
}

// Many use it at the same time, also for one message.
func TestManyAtOnce(t *testing.T) {
	s, err := open(newMemory(), Limits{Octets: 1 << 20, OctetsPerUser: 1 << 20, Entries: 1000, EntriesPerUser: 1000}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var numbers []string
			for k := range 10 {
				numbers = append(numbers, fmt.Sprintf("%d-%d", i, k))
			}
			if err := put(s, "alice", "text\r\n", numbers...); err != nil {
				t.Error(err)
			}
			var each sync.WaitGroup
			for _, n := range numbers {
				each.Go(func() {
					if _, err := s.Update(n, func(e *Entry) { e.Attempts++ }); err != nil {
						t.Error(err)
					}
					s.Postpone(n, began.Add(time.Hour))
					if text, e, ok := get(s, n); !ok || text != "text\r\n" || e.Attempts != 1 || !e.Next.Equal(began.Add(time.Hour)) {
						t.Errorf("%s: %v %q %+v", n, ok, text, e)
					}
					if err := s.Done(n); err != nil {
						t.Error(err)
					}
				})
			}
			each.Wait()
		})
	}
	wg.Wait()
	if octets, n := s.Used(); octets != 0 || n != 0 {
		t.Errorf("%d octets, %d entries", octets, n)
	}
}

func TestDamagedMailIsLeftForAPerson(t *testing.T) {
	for name, damage := range map[string]func(d *memory){
		"no message": func(d *memory) { delete(d.names, nameOf(d, messageSuffix)) },
		"half":       func(d *memory) { f := d.names[nameOf(d, stateSuffix)]; f.data = f.data[:20] },
		"not JSON":   func(d *memory) { d.names[nameOf(d, stateSuffix)].data = []byte("x") },
		"a later one": func(d *memory) {
			f := d.names[nameOf(d, stateSuffix)]
			f.data = bytes.Replace(f.data, []byte(`"version":1`), []byte(`"version":2`), 1)
		},
	} {
		d := newMemory()
		s, err := open(d, roomy, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := put(s, "alice", "text\r\n", "1"); err != nil {
			t.Fatal(err)
		}
		damage(d)
		var log logtest.Log
		if s, err = open(d, roomy, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := get(s, "1"); ok || !strings.Contains(log.String(), "mail is damaged") || nameOf(d, stateSuffix) == "" {
			t.Errorf("%s: %v, %s", name, ok, log.String())
		}
	}
}

func nameOf(d *memory, suffix string) string {
	for n := range d.names {
		if strings.HasSuffix(n, suffix) {
			return n
		}
	}
	return ""
}

// memory is a disk that forgets, when the machine stops, what was not synced: of a file its content, of the folder its
// names. It counts what is done with it, and can fail at one of that.
type memory struct {
	mu     sync.Mutex
	names  map[string]*memoryFile
	synced map[string]*memoryFile

	ops    int
	failAt int  // the operation that fails; 0: none does
	dead   bool // all operations from there on fail: the machine has stopped
	failed bool
}

type memoryFile struct{ data, synced []byte }

func newMemory() *memory {
	return &memory{names: map[string]*memoryFile{}, synced: map[string]*memoryFile{}}
}

var errInjected = errors.New("injected")

// op is called before anything is done.
func (d *memory) op() error {
	d.ops++
	if d.ops == d.failAt || d.dead && d.failed {
		d.failed = true
		return errInjected
	}
	return nil
}

// after is the disk that another process finds. Of the names that were changed and not synced, those of the set, as
// bits in the order of the names, are as they were changed; of content that was not synced all is there or nothing.
func (d *memory) after(set int, content bool) *memory {
	next := newMemory()
	names := maps.Clone(d.synced)
	for i, n := range d.changed() {
		if set&(1<<i) == 0 {
			continue
		}
		if delete(names, n); d.names[n] != nil {
			names[n] = d.names[n]
		}
	}
	for n, f := range names {
		data := f.synced
		if content {
			data = f.data
		}
		g := &memoryFile{slices.Clone(data), slices.Clone(data)}
		next.names[n], next.synced[n] = g, g
	}
	return next
}

// changed are the names that were changed and not synced.
func (d *memory) changed() (names []string) {
	for _, all := range []map[string]*memoryFile{d.names, d.synced} {
		for n := range all {
			if d.names[n] != d.synced[n] && !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	return names
}

// everything is the set of all names.
const everything = 1<<30 - 1

func (d *memory) create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return nil, err
	}
	if d.names[name] != nil {
		return nil, fs.ErrExist
	}
	f := &memoryFile{}
	d.names[name] = f
	return &memoryWriter{d, f}, nil
}

func (d *memory) open(name string) (io.ReadCloser, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		return nil, 0, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(f.data)), int64(len(f.data)), d.op()
}

func (d *memory) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *memory) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	if d.names[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.names, name)
	return nil
}

func (d *memory) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	d.synced = maps.Clone(d.names)
	return nil
}

func (d *memory) list() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.names)), d.op()
}

func (d *memory) close() error { return nil }

type memoryWriter struct {
	d *memory
	f *memoryFile
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	if err := w.d.op(); err != nil {
		w.f.data = append(w.f.data, p[:len(p)/2]...) // as a disk that is full does
		return len(p) / 2, err
	}
	w.f.data = append(w.f.data, p...)
	return len(p), nil
}

func (w *memoryWriter) sync() error {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	if err := w.d.op(); err != nil {
		return err
	}
	w.f.synced = slices.Clone(w.f.data)
	return nil
}

func (w *memoryWriter) close() error { return nil }

// promises is what a spool has said so far.
type promises struct {
	kept    map[string]string // number to text: what was answered for
	handed  map[string]bool   // of those: noted as given away
	maybe   map[string]bool   // somebody began to make it done, or the answer was lost
	done    map[string]bool
	refused map[string]bool
}

// history is what happens to a spool: two messages come, one is given away, and all are done in the end.
func history(s *Spool) promises {
	p := promises{map[string]string{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	keep := func(text string, numbers ...string) {
		err := put(s, "alice", text, numbers...)
		for _, n := range numbers {
			if err == nil {
				p.kept[n] = text
			} else {
				p.refused[n] = true
			}
		}
	}
	done := func(n string) {
		if p.kept[n] == "" {
			return
		}
		if s.Done(n) == nil {
			p.done[n] = true
		} else {
			p.maybe[n] = true
		}
	}
	keep("first\r\n", "1", "2")
	if _, err := s.Update("1", func(e *Entry) { e.Handed++ }); err == nil {
		p.handed["1"] = true
	}
	keep("second\r\n", "3")
	done("1")
	keep("third\r\n", "4")
	done("3")
	done("2")
	return p
}

// check says what was promised and is not so on the disk that another process finds. dead: the process before has
// stopped in the middle, and nobody heard its last answer.
func (p promises) check(t *testing.T, what string, d *memory, dead bool) {
	t.Helper()
	var log logtest.Log
	s, err := open(d, roomy, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, n := range []string{"1", "2", "3", "4"} {
		text, e, ok := get(s, n)
		switch {
		case p.done[n] && ok:
			t.Errorf("%s: %s was done, and is back", what, n)
		case p.kept[n] != "" && !p.done[n] && !p.maybe[n] && !ok:
			t.Errorf("%s: %s is lost", what, n)
		case p.refused[n] && ok && !dead:
			t.Errorf("%s: %s was refused, and is there", what, n)
		case ok && p.kept[n] != "" && text != p.kept[n]:
			t.Errorf("%s: %s has the text %q", what, n, text)
		case ok && p.handed[n] && e.Handed != 1:
			t.Errorf("%s: that %s was given away is forgotten", what, n)
		case ok && e.Handed > 0 && !strings.Contains(log.String(), "it may arrive twice"):
			t.Errorf("%s: nothing is said of %s", what, n)
		}
	}
	if strings.Contains(log.String(), "damaged") {
		t.Errorf("%s: %s", what, log.String())
	}
	names := map[string]int{}
	for n := range d.names {
		id, suffix, _ := strings.Cut(n, ".")
		names[id]++
		if "."+suffix != messageSuffix && "."+suffix != stateSuffix {
			t.Errorf("%s: %s is left", what, n)
		}
	}
	for id, n := range names {
		if n != 2 {
			t.Errorf("%s: half of %s is left", what, id)
		}
	}
}

// The machine stops at every operation, and of what was not synced any part is there or not; the next process may be
// stopped while it tidies up. Nothing that was answered for is lost, nothing that is done comes back.
func TestStoppedAtEveryOperation(t *testing.T) {
	runs := 0
	for k := 1; ; k++ {
		d := newMemory()
		d.failAt, d.dead = k, true
		var p promises
		if s, err := open(d, roomy, slog.New(slog.DiscardHandler)); err == nil {
			p = history(s)
		}
		for names := range 1 << len(d.changed()) {
			for _, content := range []bool{false, true} {
				what := fmt.Sprintf("operation %d, names %b, content %v", k, names, content)
				p.check(t, what, d.after(names, content), true)
				for j := 1; ; j++ {
					again := d.after(names, content)
					again.failAt, again.dead = j, true
					if _, err := open(again, roomy, slog.New(slog.DiscardHandler)); err == nil && !again.failed {
						break
					}
					runs++
					p.check(t, fmt.Sprintf("%s, and %d", what, j), again.after(everything, true), true)
					p.check(t, fmt.Sprintf("%s, and %d", what, j), again.after(0, false), true)
				}
			}
		}
		if !d.failed {
			if k < 40 {
				t.Fatalf("only %d operations", k)
			}
			t.Logf("%d operations, %d recoveries that were stopped", k-1, runs)
			return
		}
	}
}

// Every operation fails once, as where the disk is full for a moment, and the process goes on.
func TestEveryOperationFailsOnce(t *testing.T) {
	for k := 1; ; k++ {
		d := newMemory()
		d.failAt = k
		s, err := open(d, roomy, slog.New(slog.DiscardHandler))
		if err != nil {
			continue
		}
		p := history(s)
		if !d.failed {
			return
		}
		for n := range p.maybe {
			if _, _, ok := get(s, n); !ok {
				t.Errorf("operation %d: what could not be done is gone", k)
			}
		}
		d.failAt = 0
		p.check(t, fmt.Sprintf("operation %d failed", k), d.after(everything, true), false)
		p.check(t, fmt.Sprintf("operation %d failed, then the machine", k), d.after(0, false), false)
	}
}

// Whatever stands in a state file, reading it ends in a fault or in mail that can be worked on.
func FuzzState(f *testing.F) {
	d := newMemory()
	s, err := open(d, roomy, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	if err := put(s, "alice", "text\r\n", "1", "2"); err != nil {
		f.Fatal(err)
	}
	name := nameOf(d, stateSuffix)
	f.Add(strings.TrimSuffix(name, stateSuffix), d.names[name].data)
	f.Fuzz(func(t *testing.T, id string, text []byte) {
		m, err := parseState(id, text)
		if err != nil {
			return
		}
		for _, e := range m.Entries {
			if e.Stage == Announced && !e.Peer.IsValid() || e.To.Domain == "" || e.Number == "" {
				t.Fatalf("%+v", e)
			}
		}
	})
}
