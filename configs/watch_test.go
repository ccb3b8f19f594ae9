package configs

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestWatchSeesEveryWayOfChangingAFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cert.pem")
	linked := filepath.Join(dir, "linked.pem")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write("cert.pem", "1")
	must(os.Mkdir(filepath.Join(dir, "v1"), 0o700))
	must(os.Mkdir(filepath.Join(dir, "v2"), 0o700))
	write("v1/linked.pem", "1")
	write("v2/linked.pem", "2")
	must(os.Symlink("v1", filepath.Join(dir, "data")))
	must(os.Symlink("data/linked.pem", linked))

	changes := make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	must(Watch(ctx, []string{file, linked, filepath.Join(dir, "late.pem"), filepath.Join(dir, "*.yaml")}, func() { changes <- struct{}{} }))
	wait := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s was not seen", what)
		}
	}

	write("cert.pem", "2")
	wait("a file that was written to")

	write("new", "3")
	must(os.Rename(filepath.Join(dir, "new"), file))
	wait("a file that was replaced")

	must(os.Symlink("v2", filepath.Join(dir, "data2")))
	must(os.Rename(filepath.Join(dir, "data2"), filepath.Join(dir, "data")))
	wait("a link that was turned")

	write("late.pem", "x")
	wait("a file that came later")

	write("a.yaml", "")
	wait("a file that fits a pattern")
	must(os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")))
	wait("another name that fits")

	must(os.Remove(file))
	wait("a file that went away")

	if len(changes) != 0 {
		t.Error("a change was told twice")
	}
}

// A log that grows in the same folder all the time hides nothing.
func TestWatchSeesAChangeInABusyFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cert.pem")
	if err := os.WriteFile(file, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	changes := make(chan struct{}, 10)
	if err := Watch(ctx, []string{file}, func() { changes <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel()
	busy.Go(func() {
		for ctx.Err() == nil {
			_ = os.WriteFile(filepath.Join(dir, "log"), []byte(time.Now().String()), 0o600)
			time.Sleep(settle / 10)
		}
	})
	if err := os.WriteFile(file, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changes:
	case <-time.After(20 * time.Second):
		t.Fatal("the change was not seen")
	}
}

func TestWatchTellsOfAFolderThatIsNotThere(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := Watch(ctx, []string{filepath.Join(t.TempDir(), "none", "x")}, func() {}); err == nil {
		t.Error("no error")
	}
}
