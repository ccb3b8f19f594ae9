package memory

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var oneMessage = []Event{{Keys: Keys{Who: DomainKey("sender.example")}, Delivered: 1}}

// A file of which another process has let go is there for the next one, and for the
// first again if nothing came of that.
func TestAFileThatIsHandedOver(t *testing.T) {
	folder := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	first := New(NewFile(folder, time.Now, log), Options{Timeout: time.Minute, Log: log})
	if err := first.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.Count(oneMessage[0])
	if err := first.LetGo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recall(t.Context(), oneMessage[0].Keys); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("who let go was told %v", err)
	}
	second := New(NewFile(folder, time.Now, log), Options{Timeout: time.Minute, Log: log})
	if err := second.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := second.Recall(t.Context(), oneMessage[0].Keys); err != nil || r.Past.Delivered != 1 {
		t.Errorf("the next one remembers %+v, %v", r, err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	first.TakeBack()
	if r, err := first.Recall(t.Context(), oneMessage[0].Keys); err != nil || r.Past.Delivered != 1 {
		t.Errorf("the first one remembers %+v, %v", r, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recall(t.Context(), oneMessage[0].Keys); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("who asks behind the end was told %v", err)
	}
}

// A folder that cannot be used when the process begins is used as soon as it can.
func TestAFileThatComesLater(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := NewFile(folder, time.Now, slog.New(slog.DiscardHandler))
	defer func() { _ = s.Close() }()
	if err := s.Ping(t.Context()); err == nil {
		t.Fatal("a file was taken for a folder")
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A disk that is full when the file is opened has not torn it.
func TestAFileOnAFullDisk(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, fileName)
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	s := NewFile(folder, time.Now, slog.New(slog.NewTextHandler(&log, nil)))
	defer func() { _ = s.Close() }()
	for range 3 {
		if err := s.Ping(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	if list, err := os.ReadDir(folder); err != nil || len(list) != 1 || list[0].Name() != fileName || log.String() != "" {
		t.Errorf("%v %v %s", list, err, log.String())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

// A file that is torn while it is in use is moved aside and begun anew.
func TestAFileThatIsTornInUse(t *testing.T) {
	folder := t.TempDir()
	var log strings.Builder
	s := NewFile(folder, time.Now, slog.New(slog.NewTextHandler(&log, nil)))
	defer func() { _ = s.Close() }()
	ctx := context.Background()
	if err := s.Add(ctx, keep, oneMessage); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(folder, fileName), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recall(ctx, oneMessage[0].Keys); err == nil {
		t.Fatal("nothing was found wrong")
	}
	if err := s.Add(ctx, keep, oneMessage); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recall(ctx, oneMessage[0].Keys); err != nil || r.Past.Delivered != 1 {
		t.Errorf("remembered: %+v, %v", r, err)
	}
}

// Whether a file is of a newer version can be told without opening it for long.
func TestCheckFile(t *testing.T) {
	folder := t.TempDir()
	if err := CheckFile(folder); err != nil {
		t.Errorf("no file: %v", err)
	}
	s, err := OpenFile(folder, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckFile(folder); err != nil {
		t.Errorf("a file in use: %v", err)
	}
	if err := putSchema(s.(*local).on.(*file).db, schema+1); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := CheckFile(folder); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer file: %v", err)
	}
}
