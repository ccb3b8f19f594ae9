package journal

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/metrics"
	"postern/policy"
)

// sample is a record of the usual size.
func sample(id string) *Record {
	f := policy.Facts{}.Transaction(id)
	f.Client = policy.Client{IP: "192.0.2.1", Port: 40000, Name: "mail.good.example"}
	f.Listener = "mx"
	f.TLS = policy.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256"}
	f.Helo = policy.HeloName{Name: "mail.good.example", Domain: "mail.good.example"}
	f.Mail = policy.MailFrom{From: "ann@good.example", Domain: "good.example", Size: 4000}
	f.Submitter.Result = policy.None
	f.SPF = policy.SPF{Result: policy.Pass, Domain: "good.example", Identity: "mailfrom", Reason: "matched ip4:192.0.2.1"}
	f.SPFHelo = policy.SPFHelo{Result: policy.None, Domain: "mail.good.example"}
	f.MX.Result = policy.Pass
	f.Iprev = policy.Iprev{Result: policy.Pass, Name: "mail.good.example"}
	f.DNSBL.Result = policy.None
	f.Rcpt = policy.RcptTo{Address: "bob@local.example", Domain: "local.example"}
	f.Header = policy.HeaderSum{FromDomain: "good.example", Count: 9}
	f.PRA = policy.PRA{Result: policy.Pass, Address: "ann@good.example", Domain: "good.example"}
	f.Message.Size = 4321
	return &Record{
		Time: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), ID: id, Session: "s" + id, Facts: f,
		Reached: "message", Policy: "0123456789ab", Stage: "rcpt", Disposition: "pass", Reply: "250 2.6.0 OK",
		Recipients: []Recipient{{Address: "bob@local.example", Disposition: "pass", Reply: "250 2.1.5 OK", Undecided: true, Taken: true}},
		Outcome:    OutcomeDelivered, Backend: "mta 127.0.0.1:10025", BackendReply: "250 2.6.0 OK", Bytes: 4321,
		Took:   Took{Mail: .012, Rcpt: .001, Header: .02, Data: .03, Backend: .001, EndOfData: .004},
		Checks: []Check{{"iprev", policy.Pass, .01}, {"spf", policy.Pass, .012}, {"pra", policy.Pass, .02}},
		DNS: []dnscache.Answer{
			{Name: "good.example", Type: "TXT", Answer: []string{"v=spf1 ip4:192.0.2.1 -all"}, TTL: 3600, Source: dnscache.SourceNetwork, Took: 9 * time.Millisecond},
			{Name: "1.2.0.192.in-addr.arpa", Type: "PTR", Answer: []string{"mail.good.example."}, TTL: 3600, Source: dnscache.SourceCache},
			{Name: "mail.good.example", Type: "A", Answer: []string{"192.0.2.1"}, TTL: 300, Source: dnscache.SourceCache},
		},
	}
}

// counted returns journal_records_total by result.
func counted(t *testing.T, m *metrics.Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "postern_journal_records_total" {
			for _, metric := range f.Metric {
				counts[metric.Label[0].GetValue()] = metric.Counter.GetValue()
			}
		}
	}
	return counts
}

func start(t *testing.T, c configs.Journal, o Options) *Writer {
	t.Helper()
	if c.RotateSize == 0 {
		c.RotateSize = 256 << 20
	}
	w, err := New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeWriter(t, w) })
	return w
}

func closeWriter(t *testing.T, w *Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, dir string, q Query) (ids []string, s Stats) {
	t.Helper()
	s, err := Records(dir, q, func(r *Record) error { ids = append(ids, r.ID); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return ids, s
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "journal")
	m := metrics.New()
	c := &clock{t: day(21, 10)} // one day, one file
	w := start(t, configs.Journal{Path: dir}, Options{Metrics: m, Now: c.now})
	want := sample("one")
	w.Write(want)
	w.Write(sample("two"))
	closeWriter(t, w)
	closeWriter(t, w) // twice does no harm

	r, err := Find(t.Context(), dir, "one")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, r, cmpopts.IgnoreUnexported(Record{})); d != "" {
		t.Errorf("-written +read\n%s", d)
	}
	if ids, s := read(t, dir, Query{}); !slices.Equal(ids, []string{"one", "two"}) || s.Lines != 2 || s.Bad != 0 || s.Files != 1 {
		t.Errorf("read %q, %+v", ids, s)
	}
	if r, err := Last(t.Context(), dir, Filter{Session: "stwo"}); err != nil || r.ID != "two" {
		t.Errorf("by session: %v, %v", r, err)
	}
	if _, err := Find(t.Context(), dir, "on"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an id that is not there: %v", err)
	}
	w.Write(sample("late"))
	if c := counted(t, m); c["written"] != 2 || c["dropped"] != 1 {
		t.Errorf("counted %v", c)
	}
	info, err := os.Stat(filepath.Join(dir, names(t, dir)[0]))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		t.Errorf("others may read the journal: %v", info.Mode())
	}
}

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func day(d, hour int) time.Time { return time.Date(2026, 11, d, hour, 0, 0, 0, time.UTC) }

// written waits until so many records are on the disk.
func written(t *testing.T, m *metrics.Metrics, n float64) {
	t.Helper()
	eventually(t, func() string {
		if c := counted(t, m); c["written"] < n {
			return fmt.Sprintf("%v records of %v are written: %v", c["written"], n, c)
		}
		return ""
	})
}

// eventually asks until nothing is amiss, or for a minute; then it tells what it was.
func eventually(t *testing.T, amiss func() string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // a poll: it ends as soon as it may
		what := amiss()
		if what == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after a minute: %s", what)
		}
	}
}

// What a stranger wrote can be looked at with less or tail: a terminal finds nothing to obey in it.
func TestRecordsHideNothing(t *testing.T) {
	const text = "x\x1b[2J\x7f\u009b31m\u202eexe.\u2066"
	dir := t.TempDir()
	w := start(t, configs.Journal{Path: dir}, Options{})
	r := sample("one")
	r.Session, r.Facts.Helo.Name, r.BackendReply, r.DNS[0].Answer[0] = text, text, "550 "+text, text
	w.Write(r)
	closeWriter(t, w)
	line, err := os.ReadFile(filepath.Join(dir, names(t, dir)[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range string(bytes.TrimSuffix(line, []byte("\n"))) {
		if !unicode.IsPrint(c) {
			t.Errorf("%q stands in the journal", c)
		}
	}
	got, err := Last(t.Context(), dir, Filter{Session: text})
	if err != nil || got.Facts.Helo.Name != text || got.BackendReply != "550 "+text || got.DNS[0].Answer[0] != text {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestFilesByDayAndSize(t *testing.T) {
	dir := t.TempDir()
	m := metrics.New()
	c := &clock{t: day(20, 23)}
	// Left behind: a torn record of a run that was killed, and files of last month.
	for name, content := range map[string]string{
		"2026-11-20.jsonl":        `{"v":1,"time":"2026-11-20T01:00:00Z","id":"first"}` + "\n" + `{"v":1,"ti`,
		"2026-10-30.jsonl":        `{"v":1,"time":"2026-10-30T01:00:00Z","id":"old"}` + "\n",
		"2026-10-31.0003.jsonl":   "",
		"2026-11-18.jsonl":        `{"v":1,"time":"2026-11-18T01:00:00Z","id":"eighteenth"}` + "\n",
		"2026-11-18.jsonl.gz.tmp": "half",
		"2026-10-29.jsonl.gz.tmp": "half of a file that is gone",
		"notes.txt":               "not ours",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := start(t, configs.Journal{Path: dir, Keep: 14 * 24 * time.Hour, RotateSize: 5000}, Options{Metrics: m, Now: c.now})
	for i := range 4 {
		r := sample(fmt.Sprint("twentieth", i))
		r.Time = c.now()
		w.Write(r)
	}
	written(t, m, 4)
	c.set(day(21, 0))
	r := sample("twentyfirst")
	r.Time = day(20, 23) // it began before midnight
	w.Write(r)
	written(t, m, 5)
	want := []string{
		"2026-11-18.jsonl.gz", "2026-11-18.jsonl.gz.index", "2026-11-20.0001.jsonl.gz", "2026-11-20.0001.jsonl.gz.index",
		"2026-11-20.jsonl.gz", "2026-11-20.jsonl.gz.index", "2026-11-21.jsonl", "notes.txt",
	}
	eventually(t, func() string { return cmp.Diff(want, names(t, dir)) }) // compressing goes on beside the writing
	all := []string{"eighteenth", "first", "twentieth0", "twentieth1", "twentieth2", "twentieth3", "twentyfirst"}
	if ids, s := read(t, dir, Query{}); !slices.Equal(ids, all) || s.Bad != 1 {
		t.Errorf("read %q, %+v", ids, s)
	}
	if ids, s := read(t, dir, Query{Since: day(20, 12)}); !slices.Equal(ids, all[2:]) || s.Files != 3 {
		t.Errorf("since noon: %q, %+v", ids, s)
	}
	if ids, _ := read(t, dir, Query{Until: day(20, 12)}); !slices.Equal(ids, all[:2]) {
		t.Errorf("until noon: %q", ids)
	}
	if r, err := Find(t.Context(), dir, "twentieth0"); err != nil || r.ID != "twentieth0" {
		t.Errorf("in a compressed file: %v, %v", r, err)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	m := metrics.New()
	c := &clock{t: day(21, 9)}
	w := start(t, configs.Journal{Path: dir}, Options{Metrics: m, Now: c.now})
	w.Write(sample("one"))
	written(t, m, 1)
	if err := os.Rename(filepath.Join(dir, "2026-11-21.jsonl"), filepath.Join(dir, "taken-away")); err != nil {
		t.Fatal(err)
	}
	w.Reopen()
	w.Reopen()
	eventually(t, func() string {
		if n := len(w.reopen); n > 0 {
			return fmt.Sprintf("%d requests to reopen are waiting", n)
		}
		return ""
	})
	w.Write(sample("two"))
	written(t, m, 2)
	if ids, _ := read(t, dir, Query{}); !slices.Equal(ids, []string{"two"}) {
		t.Errorf("read %q", ids)
	}
}

// fakeDisk is a file on a disk of which the test says how it is.
type fakeDisk struct {
	mu      sync.Mutex
	content bytes.Buffer
	room    int           // octets that still fit; -1: no end
	hang    chan struct{} // writes wait for it, unless nil
	opens   int
	broken  error // of open
}

func (d *fakeDisk) open(string, string) (disk, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opens++
	return d, int64(d.content.Len()), d.broken
}

func (d *fakeDisk) Write(p []byte) (int, error) {
	d.mu.Lock()
	hang := d.hang
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.room >= 0 && len(p) > d.room {
		n, _ := d.content.Write(p[:d.room])
		d.room = 0
		return n, &os.PathError{Op: "write", Path: "journal", Err: syscall.ENOSPC}
	}
	return d.content.Write(p)
}

func (d *fakeDisk) Close() error { return nil }

// gathered waits, within a bubble, until the lines that were handed over are written, or
// the disk keeps them waiting.
func gathered() {
	time.Sleep(gatherFor)
	synctest.Wait()
}

func TestSlowDiskDropsRecordsAndNeverMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		var log bytes.Buffer
		d := &fakeDisk{room: -1, hang: make(chan struct{})}
		w := start(t, configs.Journal{Path: t.TempDir()}, Options{Metrics: m, disk: d.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		w.Write(sample("hangs"))
		gathered() // it is in the write that does not come back
		began := time.Now()
		for range queueLength + 1000 {
			w.Write(sample("waits"))
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("mail waited %s for a disk", took)
		}
		if c := counted(t, m); c["dropped"] != 1000 {
			t.Errorf("counted %v", c)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "records are dropped") {
			t.Errorf("%d lines in the log:\n%s", n, log.String())
		}
		time.Sleep(complainEvery)
		w.Write(sample("dropped"))
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines in the log a minute later", n)
		}

		// It never comes back: what ends us does not wait for ever either.
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		d.mu.Lock()
		close(d.hang)
		d.hang = nil
		d.mu.Unlock()
		synctest.Wait()
		if c := counted(t, m); c["written"] != queueLength+1 {
			t.Errorf("after it woke: %v", c)
		}
		if w.octets.Load() != 0 {
			t.Errorf("%d octets are said to wait", w.octets.Load())
		}
	})
}

func TestQueueIsBoundedByOctetsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		d := &fakeDisk{room: -1, hang: make(chan struct{})}
		w := start(t, configs.Journal{Path: t.TempDir()}, Options{Metrics: m, disk: d.open})
		w.Write(sample("hangs"))
		gathered()
		big := sample("big")
		big.DNS = append(big.DNS, dnscache.Answer{Answer: []string{strings.Repeat("x", maxLine-8<<10)}})
		for range 100 {
			w.Write(big)
		}
		if c := counted(t, m); c["dropped"] < 30 || c["dropped"] > 60 {
			t.Errorf("of 100 records of 1 MiB: %v", c)
		}
		close(d.hang)
	})
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		var log bytes.Buffer
		d := &fakeDisk{room: 100}
		w := start(t, configs.Journal{Path: t.TempDir()}, Options{Metrics: m, disk: d.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		began := time.Now()
		for range 20 {
			w.Write(sample("lost"))
			gathered()
			if time.Since(began) > patience/2 {
				t.Fatal("the disk may be tried again")
			}
		}
		if c := counted(t, m); c["error"] != 20 || c["dropped"] != 0 || c["written"] != 0 {
			t.Errorf("counted %v", c)
		}
		if d.opens != 1 {
			t.Errorf("opened %d times in one moment", d.opens)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "no space left on device") {
			t.Errorf("%d lines in the log:\n%s", n, log.String())
		}
		// Somebody makes room.
		d.mu.Lock()
		d.room = -1
		d.mu.Unlock()
		time.Sleep(patience)
		w.Write(sample("kept"))
		gathered()
		if c := counted(t, m); c["written"] != 1 || !strings.Contains(d.content.String(), `"id":"kept"`) {
			t.Errorf("counted %v", c)
		}

		d.mu.Lock()
		d.broken = errors.New("read-only file system")
		d.mu.Unlock()
		w.Reopen()
		synctest.Wait()
		time.Sleep(complainEvery)
		w.Write(sample("lost"))
		gathered()
		if c := counted(t, m); c["error"] != 21 || !strings.Contains(log.String(), "read-only file system") {
			t.Errorf("counted %v\n%s", c, log.String())
		}
	})
}

// A folder that may be written into, but in which nothing can be renamed: the file
// grows, and the disk is left in peace.
func TestFullFileThatCannotBeSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		var log bytes.Buffer
		d := &fakeDisk{room: -1}
		dir := filepath.Join(t.TempDir(), "gone") // there is nothing to list
		w := start(t, configs.Journal{Path: dir, RotateSize: 3000}, Options{Metrics: m, disk: d.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		for range 20 {
			w.Write(sample("x"))
			gathered()
		}
		if c := counted(t, m); c["written"] != 20 || d.opens != 2 || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("counted %v, opened %d times\n%s", c, d.opens, log.String())
		}
	})
}

// A disk that is really full.
func TestDevFull(t *testing.T) {
	dir := t.TempDir()
	m := metrics.New()
	c := &clock{t: day(21, 9)}
	if err := os.Symlink("/dev/full", filepath.Join(dir, "2026-11-21.jsonl")); err != nil {
		t.Fatal(err)
	}
	w := start(t, configs.Journal{Path: dir}, Options{Metrics: m, Now: c.now})
	w.Write(sample("one"))
	eventually(t, func() string {
		if c := counted(t, m); c["error"] != 1 {
			return fmt.Sprintf("counted %v", c)
		}
		return ""
	})
}

// A folder in the place of the file, for a disk that is really there.
func TestFileThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	m := metrics.New()
	c := &clock{t: day(21, 9)}
	if err := os.Mkdir(filepath.Join(dir, "2026-11-21.jsonl"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := start(t, configs.Journal{Path: dir}, Options{Metrics: m, Now: c.now})
	w.Write(sample("one"))
	eventually(t, func() string {
		if c := counted(t, m); c["error"] != 1 {
			return fmt.Sprintf("counted %v", c)
		}
		return ""
	})
}

func TestRecordThatIsTooLong(t *testing.T) {
	for name, c := range map[string]struct {
		grow       func(*Record)
		dns, rcpts int
	}{
		"answers":    {func(r *Record) { r.DNS[0].Answer = []string{strings.Repeat("x", maxLine)} }, 0, 1},
		"recipients": {func(r *Record) { r.Recipients = slices.Repeat([]Recipient{{Reply: strings.Repeat("x", 500)}}, 3000) }, 0, keptRecipients},
	} {
		r := sample(name)
		c.grow(r)
		line, err := r.Line()
		if err != nil {
			t.Fatal(err)
		}
		var s Stats
		var got Record
		if !s.Decode(line, &got) || !got.Truncated || len(got.DNS) != c.dns || len(got.Recipients) != c.rcpts || len(line) > maxLine {
			t.Errorf("%s: %d octets, %d answers, %d recipients, truncated %t", name, len(line), len(got.DNS), len(got.Recipients), got.Truncated)
		}
		if r.Truncated {
			t.Errorf("%s: the record that was handed over was changed", name)
		}
	}
	r := sample("reason")
	r.Error = strings.Repeat("x", maxLine)
	if _, err := r.Line(); !errors.Is(err, errTooLong) {
		t.Errorf("got %v", err)
	}
}

func TestLocalPartsAreHashed(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := configs.Journal{Path: filepath.Join(dir, "journal"), HashLocalParts: true, HashKey: key}
	w := start(t, c, Options{})
	r := sample("one")
	r.Facts.Submitter = policy.Submitter{Address: `"an n"@good.example`, Domain: "good.example", Result: policy.Fail, Reason: "not ann@good.example"}
	r.Facts.SPF.Explanation = "See http://good.example/why?s=Ann@good.example;ip=192.0.2.1"
	r.Facts.PRA.Address = "Ann@good.example"
	r.Reply = "550 5.1.1 <bob@local.example>: user unknown"
	r.Tags = []string{"X-From: ann@good.example"}
	r.Recipients = append(r.Recipients, Recipient{Address: "postmaster@local.example"}, Recipient{Address: "postmaster"}, Recipient{Address: "bob"})
	r.DNS = append(r.DNS, dnscache.Answer{Name: "ann._spf.good.example", Type: "A"})
	before := fmt.Sprint(r)
	w.Write(r)
	closeWriter(t, w)
	if fmt.Sprint(r) != before {
		t.Error("the record that was handed over was changed")
	}
	text, err := os.ReadFile(filepath.Join(c.Path, names(t, c.Path)[0]))
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(bytes.ToLower(text), []byte("ann")); i >= 0 {
		t.Errorf("still there: %s", text[i-20:i+20])
	}
	if i := bytes.Index(text, []byte("bob")); i >= 0 {
		t.Errorf("still there: %s", text[i-20:i+20])
	}
	got, err := Find(t.Context(), c.Path, "one")
	if err != nil {
		t.Fatal(err)
	}
	ann := got.Facts.Mail.From
	if !strings.HasPrefix(ann, "~") || !strings.HasSuffix(ann, "@good.example") || got.Facts.PRA.Address != ann || !got.Hashed {
		t.Errorf("mail.from %q, pra.address %q", ann, got.Facts.PRA.Address)
	}
	if a := got.Recipients[1].Address; a != "postmaster@local.example" || got.Recipients[2].Address != "postmaster" || !strings.HasPrefix(got.Recipients[3].Address, "~") {
		t.Errorf("recipients %+v", got.Recipients)
	}
	// What a hash stands for is not known: no replay may judge by it.
	known := got.Measured().Names()
	for _, name := range []string{"mail.from", "rcpt.address", "pra.address", "submitter.address"} {
		if slices.Contains(known, name) {
			t.Errorf("%s counts as known", name)
		}
	}
	if !slices.Contains(known, "mail.domain") {
		t.Error("mail.domain does not count as known")
	}

	for file, want := range map[string]string{key + ".no": "no such file", filepath.Join(dir, "short"): "16 to 4096 octets"} {
		if err := os.WriteFile(filepath.Join(dir, "short"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.HashKey = file
		if _, err := New(c, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
		if err := Verify(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"": "", dir: "", filepath.Join(dir, "new"): "", filepath.Join(dir, "new", "newer"): "",
		file: "is no folder", filepath.Join(file, "below"): "file",
	} {
		err := Verify(configs.Journal{Path: path})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestCompressionIsSafe: a compression that is cut short leaves the plain file.
func TestCompressionIsSafe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "2026-11-20.jsonl")
	if err := os.WriteFile(path, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := compress(ctx, path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(path)); !slices.Equal(got, []string{"2026-11-20.jsonl"}) {
		t.Errorf("files %q", got)
	}
	if err := compress(context.Background(), path); err != nil {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(path)); !slices.Equal(got, []string{"2026-11-20.jsonl.gz", "2026-11-20.jsonl.gz.index"}) {
		t.Errorf("files %q", got)
	}
}

// TestSchemaIsDocumented: every name that a record can have is in README.md.
func TestSchemaIsDocumented(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range schema(&Record{}) {
		if !bytes.Contains(readme, []byte("| `"+name+"` |")) {
			t.Errorf("README.md does not document %s", name)
		}
	}
	for line := range strings.Lines(string(readme)) {
		if name, rest, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` |"); ok && strings.HasPrefix(line, "| `") && rest != "" {
			if name != "v" && !slices.Contains(schema(&Record{}), name) {
				t.Errorf("README.md documents %s, which there is not", name)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	r := sample("0123456789ab")
	b.ReportAllocs()
	for b.Loop() {
		line, err := r.Line()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(line)))
	}
}

// BenchmarkHandOver is what a session pays: the line was made for the log anyhow.
func BenchmarkHandOver(b *testing.B) {
	w := &Writer{queue: make(chan *encoder, queueLength), hurry: make(chan struct{}, 1), metrics: metrics.New()}
	r := sample("0123456789ab")
	if err := r.Seal(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w.Write(r)
		line := <-w.queue
		w.octets.Add(-int64(len(line.line)))
		r.sealed = line
	}
}

// BenchmarkWriter is what a record costs altogether, disk included.
func BenchmarkWriter(b *testing.B) {
	m := metrics.New()
	w, err := New(configs.Journal{Path: b.TempDir(), RotateSize: 1 << 40}, Options{Metrics: m})
	if err != nil {
		b.Fatal(err)
	}
	r := sample("0123456789ab")
	b.ReportAllocs()
	for b.Loop() {
		for len(w.queue) > queueLength/2 {
			time.Sleep(100 * time.Microsecond) // let it catch up: what is dropped costs nothing
		}
		w.Write(r)
	}
	if err := w.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func gz(t testing.TB, text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func marshal(t testing.TB, r *Record) string {
	line, err := r.Line()
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(line) {
		t.Fatalf("not JSON: %s", line)
	}
	return string(line)
}

// While one process takes another's place both write to one journal. The new one
// sets full files aside and compresses them under the old one's hands; no record of
// either is lost or torn.
func TestTwoWritersShareAJournal(t *testing.T) {
	const each = 400
	dir := t.TempDir()
	c := configs.Journal{Path: dir, Keep: 24 * time.Hour, RotateSize: 64 << 10}
	older := start(t, c, Options{})
	older.Write(sample("older-0"))
	older.Share(true)
	newer := start(t, c, Options{})
	var both sync.WaitGroup
	for name, w := range map[string]*Writer{"older": older, "newer": newer} {
		both.Go(func() {
			for i := 1; i <= each; i++ {
				w.Write(sample(fmt.Sprintf("%s-%d", name, i)))
				for i%20 == 0 && len(w.queue) > 0 { // or all would be one batch
					runtime.Gosched()
				}
			}
			if err := w.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	ids, s := read(t, dir, Query{})
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 2*each+1 || len(ids) != n || s.Bad != 0 || len(s.Unreadable) != 0 {
		t.Errorf("%d records, %d of them different, want %d; %+v in %v", len(ids), n, 2*each+1, s, names(t, dir))
	}
}

// A domain may ask for the sender's local part in the names that its SPF record
// makes (RFC 7208 §7.3), in more than one spelling.
func TestNamesThatWereLookedUpTellNoLocalPart(t *testing.T) {
	h := &hasher{key: []byte("0123456789abcdef")}
	r := &Record{}
	r.Facts.Mail.From = "Ann.Smith@x.example"
	same := "_spf.y.example"
	for _, name := range []string{
		"ann.smith._spf.y.example", "Ann.Smith@x.example._spf.y.example", `ann.smith\@x.example._spf.y.example`, "smith.ann._spf.y.example",
		"1.2.0.192.ann.smith._spf.y.example", same,
	} {
		r.DNS = []dnscache.Answer{{Name: name}}
		got := h.record(r).DNS[0].Name
		if strings.Contains(strings.ToLower(got), "smith") || !strings.HasSuffix(got, same) || (name == same) == strings.Contains(got, hashMark) {
			t.Errorf("%s is kept as %s", name, got)
		}
	}
}
