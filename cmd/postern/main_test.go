package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"postern/configs"
)

func TestWhoMayNotReadIsToldWhoMay(t *testing.T) {
	err := errors.New("journal: open /var/lib/postern/journal: permission denied")
	for _, c := range []struct {
		err  error
		uid  int
		name string
		want string
	}{
		{err, 1000, "helpdesk", "runuser -u postern"},
		{err, 998, "postern", "this is the user that the proxy runs as"}, // NOT: to try as who it is
		{err, 0, "root", ""},
		{configs.Faults{{Text: "certificate c.pem with key k.pem: open k.pem: permission denied"}}, 1000, "", "runuser -u postern"},
		{errors.New("open x: no such file or directory"), 1000, "", ""},
	} {
		if got := permissionHint(c.err, c.uid, c.name); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%v as %d: %q", c.err, c.uid, got)
		}
	}
}

// What root may read says nothing of what the proxy may.
func TestFilesThatTheProxyMayNotRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const uid, gid = 54321, 54322
	for i, c := range []struct {
		mode     os.FileMode
		folder   os.FileMode
		uid, gid int
		may      bool
	}{
		{0o600, 0o755, 0, 0, false},
		{0o644, 0o755, 0, 0, true},
		{0o640, 0o755, 0, gid, true},
		{0o600, 0o755, uid, 0, true},
		{0o040, 0o755, uid, gid, false}, // the owner's rights count, not the group's
		{0o644, 0o700, 0, 0, false},     // nobody comes as far as the file
	} {
		folder := filepath.Join(dir, strconv.Itoa(i))
		path := filepath.Join(folder, "key.pem")
		if os.Geteuid() != 0 && (c.uid != 0 || c.gid != 0) {
			continue // only root gives files away
		}
		for _, err := range []error{os.Mkdir(folder, 0o755), os.WriteFile(path, nil, 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(path, c.uid, c.gid); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Chmod(path, c.mode), os.Chmod(folder, c.folder)); err != nil {
			t.Fatal(err)
		}
		a := account{uid: uid, groups: []uint32{gid}, below: dir}
		if may := a.mayRead(path) == nil; may != c.may {
			t.Errorf("%+v: %v", c, may)
		}
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
