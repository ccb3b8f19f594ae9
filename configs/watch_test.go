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
	// put makes a file that is whole from the first moment on: one that is written may
	// be looked at while it is empty, on a busy machine, and so be told of twice.
	put := func(name, text string) {
		t.Helper()
		other := filepath.Join(t.TempDir(), "new")
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(other, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put("cert.pem", "1")
	must(os.Mkdir(filepath.Join(dir, "v1"), 0o700))
	must(os.Mkdir(filepath.Join(dir, "v2"), 0o700))
	put("v1/linked.pem", "1")
	put("v2/linked.pem", "2")
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
		case <-time.After(time.Minute):
			t.Fatalf("%s was not seen", what)
		}
	}

	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	must(err)
	_, err = f.WriteString("2") // over the 1
	must(err)
	must(f.Close())
	wait("a file that was written to")

	put("cert.pem", "3")
	wait("a file that was replaced")

	must(os.Symlink("v2", filepath.Join(dir, "data2")))
	must(os.Rename(filepath.Join(dir, "data2"), filepath.Join(dir, "data")))
	wait("a link that was turned")

	put("late.pem", "x")
	wait("a file that came later")

	put("a.yaml", "")
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
	case <-time.After(time.Minute):
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
