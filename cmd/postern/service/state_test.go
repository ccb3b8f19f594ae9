package service

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"postern/checks/leaktest"
	"postern/checks/logtest"
	"postern/checks/memory"
	"postern/configs"
)

// The store follows the configuration through reloads, and what is not changed by
// them is not opened again.
func TestStateFollowsTheConfiguration(t *testing.T) {
	defer leaktest.None(t)
	file := filepath.Join(t.TempDir(), "postern.yaml")
	say := func(state string) { write(t, file, quiet+state) }
	say("state: {path: one}\n")
	s := started(t, file)
	defer s.Stop(nil)
	reload := func(state string) *memory.Memory {
		t.Helper()
		say(state)
		if err := s.tryReload(); err != nil {
			t.Fatal(err)
		}
		return s.parts.Load().Memory
	}
	first := s.parts.Load().Memory
	who := memory.Keys{Who: memory.DomainKey("sender.example")}
	first.Count(memory.Event{Keys: who, Delivered: 1})
	if err := first.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	delivered := func(m *memory.Memory, want int64) {
		t.Helper()
		// The guard's own patience is for mail: a busy machine may need more.
		r, err := m.Store().Recall(context.Background(), who)
		if err != nil || r.Past.Delivered != want {
			t.Errorf("remembered: %d, %v; want %d", r.Past.Delivered, err, want)
		}
	}
	if m := reload("state: {path: one, timeout: 20s, keep: 2d}\n"); m != first {
		t.Error("the file was opened again")
	}
	delivered(first, 1)
	second := reload("state: {path: two}\n")
	if second == first {
		t.Fatal("the other file was not opened")
	}
	delivered(second, 0)
	if _, err := first.Recall(context.Background(), who); !errors.Is(err, memory.ErrUnhealthy) {
		t.Errorf("the old one was not closed: %v", err)
	}
	delivered(reload("state: {path: one}\n"), 1)
	if m := reload(""); m != nil {
		t.Error("there is a memory that nobody asks")
	}
}

// A store that cannot be used when the proxy starts is said loudly, and mail is served.
func TestStateThatIsAwayAtTheStart(t *testing.T) {
	defer leaktest.None(t)
	folder := t.TempDir()
	write(t, filepath.Join(folder, "no-folder"), "")
	for name, state := range map[string]string{
		"a folder that is a file":      "state: {path: no-folder}\n",
		"a server that does not stand": "state: {servers: [\"127.0.0.1:9\"]}\n",
	} {
		file := filepath.Join(folder, "postern.yaml")
		write(t, file, quiet+state)
		opt := configs.Options{File: file, NoEnvironment: true}
		cfg, err := configs.Load(opt)
		if err != nil {
			t.Fatal(err)
		}
		var log logtest.Log
		s := New(Options{Config: opt, Log: slog.New(slog.NewTextHandler(&log, nil)), Maildir: filepath.Join(t.TempDir(), "Maildir")})
		if err := s.Start(cfg, nil, nil); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.WaitUp(context.Background(), patience); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s.parts.Load().Memory.Healthy() {
			t.Errorf("%s is healthy", name)
		}
		s.Stop(nil)
		if n := strings.Count(log.String(), "the state store cannot be used"); n != 1 {
			t.Errorf("%s: said %d times\n%s", name, n, log.String())
		}
	}
}

// What is wrong with the files of the state section is a fault that says where.
func TestStateFiles(t *testing.T) {
	folder := t.TempDir()
	newer := filepath.Join(folder, "newer")
	s, err := memory.OpenFile(newer, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(newer, "state.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), binary.BigEndian.AppendUint64(nil, 99))
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"open": 0o644, "shut": 0o640} {
		write(t, filepath.Join(folder, name), "secret\n")
		if err := os.Chmod(filepath.Join(folder, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(folder, "empty"), "\n")
	const servers = `servers: ["valkey.example:6379"], `
	for state, want := range map[string]string{
		"path: newer":                                   "7:15: state.path: " + newer + ": the state was written by a newer version",
		servers + "password_file: open":                 "7:58: state.password_file: " + filepath.Join(folder, "open") + " can be read by everybody on this machine",
		servers + "password_file: missing":              "7:58: state.password_file: stat ",
		servers + "password_file: empty":                "7:58: state.password_file: " + filepath.Join(folder, "empty") + ": a secret is one line",
		servers + "tls: verify, ca: shut":               "7:60: state.ca: " + filepath.Join(folder, "shut") + " holds no certificate",
		servers + "user: postern, password_file: shut":  "",
		`servers: ["[::1]:6379", "localhost:6379"]`:     "",
		"path: not-there-yet, timeout: 20ms, keep: 40d": "",
	} {
		file := filepath.Join(folder, "postern.yaml")
		write(t, file, "# a\n"+quiet+"\nstate: {"+state+"}\n")
		p, err := Load(configs.Options{File: file, NoEnvironment: true})
		if err == nil {
			p.Close(nil)
			clear := strings.HasPrefix(state, servers) && !strings.Contains(state, "tls: verify")
			if warned := len(stateWarnings(p.Config)) == 1; warned != clear {
				t.Errorf("%s: in the clear over a network: %v, warned: %v", state, clear, warned)
			}
		}
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", state, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, not %q", state, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "not-there-yet")); !os.IsNotExist(err) {
		t.Errorf("who looks makes a folder: %v", err)
	}
}
