package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A token that everybody on the machine can read, or guess, is none.
func TestToken(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string // of the error; empty: it is good
	}{
		"good":      {"0123456789abcdef\n", 0o640, ""},
		"open":      {"0123456789abcdef\n", 0o644, "can be read by everybody on this machine"},
		"short":     {"0123456789abcde\n", 0o600, "a token has at least 16 octets, this has 15"},
		"empty":     {"\n", 0o600, "a secret is one line"},
		"two lines": {"0123456789abcdef\n0123456789abcdef\n", 0o600, "a secret is one line"},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		token, err := readToken(file)
		switch {
		case c.want == "" && (err != nil || string(token) != "0123456789abcdef"):
			t.Errorf("%s: %q, %v", name, token, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
	if token, err := readToken(""); token != nil || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	if _, err := readToken(filepath.Join(dir, "missing")); err == nil {
		t.Error("a file that is missing is no token")
	}
}
