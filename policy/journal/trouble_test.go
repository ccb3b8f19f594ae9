package journal

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/metrics"
)

// said returns the messages of a log in text, without what stands around them, and empties it.
func said(log *bytes.Buffer) string {
	var all []string
	for _, m := range regexp.MustCompile(`level=(\w+) msg="journal: ([^"]*)"`).FindAllStringSubmatch(log.String(), -1) {
		all = append(all, m[1]+" "+m[2])
	}
	log.Reset()
	return strings.Join(all, "; ")
}

// A folder that nobody may read: that old files cannot be tidied does not hide that
// records are lost, and each is said to be over when it is, once.
func TestTroubleIsToldByKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		dir := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(dir, nil, 0o600); err != nil { // no folder: it cannot be listed
			t.Fatal(err)
		}
		d := &fakeDisk{room: -1, broken: &os.PathError{Op: "open", Path: "journal", Err: syscall.EACCES}}
		w := start(t, configs.Journal{Path: dir}, Options{Metrics: metrics.New(), disk: d.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		lost := func() { w.Write(sample("lost")); synctest.Wait() }
		synctest.Wait()
		lost()
		if got := said(&log); got != "ERROR cannot compress or remove old files; ERROR cannot open a file, records are lost" {
			t.Fatal(got)
		}
		for range 30 {
			time.Sleep(patience)
			lost()
			w.tidySoon()
		}
		if got := said(&log); got != "" {
			t.Errorf("said within a minute: %s", got)
		}
		time.Sleep(complainEvery)
		lost()
		w.tidySoon()
		synctest.Wait()
		if got := said(&log); got != "ERROR cannot open a file, records are lost; ERROR cannot compress or remove old files" {
			t.Errorf("said after a minute: %s", got)
		}

		d.mu.Lock()
		d.broken = nil
		d.mu.Unlock()
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(patience)
		for range 3 {
			lost()
			w.tidySoon()
			synctest.Wait()
		}
		if got := said(&log); got != "INFO a file could be opened again; INFO old files are compressed and removed again" {
			t.Errorf("said when it was over: %s", got)
		}
	})
}

// A disk that is full for a moment each second is told of, with its end, once a minute.
func TestTroubleThatComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		d := &fakeDisk{room: -1}
		w := start(t, configs.Journal{Path: t.TempDir()}, Options{Metrics: metrics.New(), disk: d.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		for range 150 {
			for _, room := range []int{0, -1} {
				d.mu.Lock()
				d.room = room
				d.mu.Unlock()
				w.Write(sample("x"))
				gathered()
				time.Sleep(patience)
			}
		}
		const turn = "ERROR cannot write records; INFO records are written again"
		if got := said(&log); got != strings.Join([]string{turn, turn, turn, turn, turn}, "; ") {
			t.Errorf("in five minutes: %s", got)
		}
	})
}

// What was dropped is said to be over when nothing waits any more.
func TestDiskThatKeepsUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		hang := make(chan struct{})
		d := &fakeDisk{room: -1, hang: hang}
		w := start(t, configs.Journal{Path: t.TempDir()}, Options{Metrics: metrics.New(), disk: d.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		w.Write(sample("hangs"))
		gathered()
		for range queueLength + 10 {
			w.Write(sample("waits"))
		}
		if got := said(&log); got != "ERROR records are dropped: the disk does not keep up" {
			t.Error(got)
		}
		close(hang)
		gathered()
		w.Write(sample("x"))
		gathered()
		if got := said(&log); got != "INFO the disk keeps up again" {
			t.Error(got)
		}
	})
}

// One record that is bad in itself is no trouble that could end.
func TestTroubleOfOneRecord(t *testing.T) {
	var log bytes.Buffer
	c := &complaints{log: slog.New(slog.NewTextHandler(&log, nil)), now: time.Now}
	c.begun(troubleRecord, errors.New("too long"))
	c.ended(troubleWrite)
	if got := said(&log); got != "ERROR cannot write a record" {
		t.Error(got)
	}
	for kind := range troubles {
		if troubleTexts[kind].begun == "" || troubleTexts[kind].ended == "" && kind != troubleRecord {
			t.Errorf("kind %d has no text", kind)
		}
	}
}
