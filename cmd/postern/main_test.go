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

func TestAnIDIsFoundInWhatSomebodyPasted(t *testing.T) {
	const id = "7k2m9d0x4qzr"
	for _, pasted := range []string{
		id, "7K2M9D0X4QZR", "(" + id + ")", "(" + id + ").", " " + id + "\r\n", "<" + id + ">", `"` + id + `"`,
		"550 5.7.23 SPF validation failed. (" + id + ")",
		"host mx.example.org[192.0.2.1] said: 550 5.7.23 SPF validation failed. (7K2M9D0X4QZR) (in reply to RCPT TO command)",
		"(0123456789ab) 451 4.4.3 (" + id + ")",
		"id=" + id + ",",
	} {
		if got := idIn(pasted); got != id {
			t.Errorf("%q: %q", pasted, got)
		}
	}
	if got := idIn("(nosuchid)."); got != "nosuchid" {
		t.Error(got)
	}
}
