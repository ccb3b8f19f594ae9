package main

import (
	"errors"
	"testing"

	"postern/configs"
)

func TestWhoMayNotReadIsToldWhoMay(t *testing.T) {
	err := errors.New("journal: open /var/lib/postern/journal: permission denied")
	for _, c := range []struct {
		err  error
		uid  int
		want bool
	}{
		{err, 1000, true},
		{err, 0, false},
		{configs.Faults{{Text: "certificate c.pem with key k.pem: open k.pem: permission denied"}}, 1000, true},
		{errors.New("open x: no such file or directory"), 1000, false},
	} {
		if got := permissionHint(c.err, c.uid); (got != "") != c.want {
			t.Errorf("%v as %d: %q", c.err, c.uid, got)
		}
	}
}
