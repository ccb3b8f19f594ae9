package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"postern/checks/memory"
	"postern/cmd/postern/service"
	"postern/configs"
)

func TestDoctorJudgesServersOfTheState(t *testing.T) {
	const timeout = 50 * time.Millisecond
	good := memory.Server{Version: "7.0.15", Eviction: "noeviction", Persistence: "aof", Latency: time.Millisecond}
	with := func(change func(*memory.Server)) memory.Server {
		s := good
		change(&s)
		return s
	}
	for _, x := range []struct {
		is   memory.Server
		want string // the status and words of one finding
	}{
		{good, "ok version 7.0.15 answers within 1ms"},
		{with(func(s *memory.Server) { s.Latency = 40 * time.Millisecond }), "warning it answers after 40ms, and mail waits for 50ms"},
		{with(func(s *memory.Server) { s.Eviction = "allkeys-lru" }), "warning it throws keys away when its memory is full (maxmemory-policy allkeys-lru)"},
		{with(func(s *memory.Server) { s.Persistence = "none" }), "warning it writes nothing to a disk"},
		{with(func(s *memory.Server) { s.Skew = -90 * time.Second }), "warning its clock is 1m30s behind ours"},
		{with(func(s *memory.Server) { s.Skew = 3 * time.Second }), "warning its clock is 3s ahead of ours"},
		{with(func(s *memory.Server) { s.Skew, s.Persistence, s.Eviction = time.Second, "", "" }), "ok "},
	} {
		var r Report
		judgeServer(r.on("state", "valkey.example:6379", ""), x.is, timeout)
		got := said(r.Findings)
		if !strings.Contains(got, x.want) || strings.Contains(got, "warning") != strings.HasPrefix(x.want, "warning") {
			t.Errorf("%+v: %s, not %q", x.is, got, x.want)
		}
	}
}

func TestDoctorLooksAtTheState(t *testing.T) {
	m := miniredis.RunT(t)
	gone := miniredis.RunT(t)
	address := gone.Addr()
	gone.Close()
	folder := t.TempDir()
	for state, want := range map[*configs.State]string{
		{Servers: []string{m.Addr()}, Prefix: "p:", Timeout: time.Minute}: "ok version",
		{Servers: []string{address}, Prefix: "p:", Timeout: time.Second}:  "fault dial tcp " + address,
		{Path: folder}: "warning 1 file could not be read, and what was remembered began anew",
		{}:             "warning rules read what is remembered, and it is gone whenever the process ends",
	} {
		if err := os.WriteFile(filepath.Join(folder, "state.db.torn-20261130T010203"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		kept := memory.New(memory.NewProcess(time.Now), memory.Options{})
		d := &patient{Parts: &service.Parts{Config: &configs.Config{State: *state}, Memory: kept}}
		var r Report
		d.memory(context.Background(), &r)
		if got := said(r.Findings); !strings.Contains(got, want) {
			t.Errorf("%+v: %q, not %q", state, got, want)
		}
		_ = kept.Close()
	}
	var r Report
	(&patient{Parts: &service.Parts{Config: &configs.Config{}}}).memory(context.Background(), &r)
	if len(r.Findings) != 0 {
		t.Errorf("nothing is remembered, and nobody asks: %q", said(r.Findings))
	}
}
