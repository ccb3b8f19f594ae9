package users

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"postern/proxy/share"
	"postern/proxy/smtp"
)

// hashed has a hash that is made once: each is some 60 ms.
var hashed = sync.OnceValue(func() string {
	h, err := bcrypt.GenerateFromPassword([]byte("correct horse"), MinCost)
	if err != nil {
		panic(err)
	}
	return string(h)
})

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestWhoMayLogIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, "# the users\n\n  alice\tAlice@Example.org  "+hashed()+"\r\n", 0o640)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	who := share.Of(netip.MustParseAddr("192.0.2.1"))
	u, err := f.Check(t.Context(), who, "alice", "correct horse")
	if err != nil || u.Name != "alice" || u.Address != (smtp.Path{Local: "Alice", Domain: "Example.org"}) {
		t.Errorf("%+v, %v", u, err)
	}
	for _, c := range [][2]string{
		{"alice", "correct  horse"}, {"alice", ""}, {"Alice", "correct horse"}, {"bob", "correct horse"}, {"", ""},
		{"alice", "correct horse" + strings.Repeat("\x00", 100)},
	} {
		if _, err := f.Check(t.Context(), who, c[0], c[1]); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", c, err)
		}
	}
	if a := (smtp.Path{Local: "aLICE", Domain: "EXAMPLE.ORG"}); !f.Knows(a) {
		t.Error("the address is known in whatever case")
	}
	if got := f.Domains(); len(got) != 1 || got[0] != "example.org" {
		t.Errorf("domains %v", got)
	}
	if f.Knows(smtp.Path{Local: "alice", Domain: "example.net"}) {
		t.Error("another address is known")
	}

	// What is wrong afterwards changes nothing, and what is right does.
	write(t, path, "bob bob@example.org\n", 0o640)
	if err := f.Reload(); err == nil || f.Len() != 1 {
		t.Errorf("%v, %d users", err, f.Len())
	}
	write(t, path, "bob bob@example.org "+hashed()+"\n", 0o640)
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Check(t.Context(), who, "alice", "correct horse"); !errors.Is(err, ErrUnknown) {
		t.Errorf("alice is gone: %v", err)
	}
	if u, err := f.Check(t.Context(), who, "bob", "correct horse"); err != nil || u.Name != "bob" {
		t.Errorf("%+v, %v", u, err)
	}
}

// A longer password that begins with the right 72 octets is another one.
func TestPasswordsOfMoreThanBcryptReads(t *testing.T) {
	long := strings.Repeat("x", MaxPassword)
	h, err := bcrypt.GenerateFromPassword([]byte(long), MinCost)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, "alice alice@example.org "+string(h)+"\n", 0o600)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Check(t.Context(), share.Client{}, "alice", long); err != nil {
		t.Error(err)
	}
	if _, err := f.Check(t.Context(), share.Client{}, "alice", long+"y"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// A name that is unknown, and a wrong password of anybody, cost the same work: that of the dearest hash.
func TestNoOracleByTime(t *testing.T) {
	for most := MinCost; most <= MaxCost; most++ {
		for cost := MinCost; cost <= most; cost++ {
			steps := 1 << cost
			for _, c := range missing(cost, most) {
				steps += 1 << c
			}
			if steps != 1<<most {
				t.Errorf("from %d to %d: %d steps, want %d", cost, most, steps, 1<<most)
			}
		}
	}
	for _, cost := range []int{MinCost, MinCost + 1} {
		if got, err := bcrypt.Cost(nobody(cost)); err != nil || got != cost {
			t.Errorf("the hash of nobody has cost %d (%v), not %d", got, err, cost)
		}
		// Any other error would come before the work is done.
		if err := bcrypt.CompareHashAndPassword(nobody(cost), []byte("x")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			t.Error(err)
		}
	}
}

// One client cannot keep all others from being asked for their password, and who does not want to wait
// any more does not.
func TestChecksAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, "alice alice@example.org "+hashed()+"\n", 0o600)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for range cap(f.slots) {
		f.slots <- struct{}{} // every processor is busy
	}
	ctx, cancel := context.WithCancel(t.Context())
	greedy := share.Of(netip.MustParseAddr("192.0.2.1"))
	var wg sync.WaitGroup
	for range waitingPerClient {
		wg.Go(func() {
			if _, err := f.Check(ctx, greedy, "alice", "wrong password"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for f.waiting.By(greedy) < waitingPerClient {
		runtime.Gosched() // they are on their way
	}
	if _, err := f.Check(ctx, greedy, "alice", "correct horse"); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	wg.Wait()
	for range cap(f.slots) {
		<-f.slots
	}
	if _, err := f.Check(t.Context(), share.Of(netip.MustParseAddr("192.0.2.2")), "alice", "correct horse"); err != nil {
		t.Error(err)
	}
	if f.waiting.Used() != 0 {
		t.Errorf("%d are waiting still", f.waiting.Used())
	}
}

func TestFaultsOfTheFile(t *testing.T) {
	h := hashed()
	for text, want := range map[string]string{
		"alice alice@example.org":                                                "users:1: a line is: name, mail address, bcrypt hash; this one has 2 words",
		"# x\nalice alice@example.org secret":                                    "users:2: user alice: the third word is no bcrypt hash",
		"alice@example.org Alice@example.org " + h:                               "users:1: the user alice@example.org has the mail address for a name",
		"alice al " + h:                                                          `users:1: user alice: "al" is no mail address`,
		"alice alice@[192.0.2.1] " + h:                                           `is no mail address`,
		"alice <alice@example.org> " + h:                                         `is no mail address`,
		"alice postmaster " + h:                                                  `is no mail address`,
		"a\u00a0b a@example.org " + h:                                            "a line is: name", // a space too
		"a\u200eb\x7f a@example.org " + h:                                        "is no user name",
		strings.Repeat("a", 65) + " a@example.org " + h:                          "is no user name",
		"alice a@example.org " + h + "\nalice b@example.org " + h:                "users:2: the user alice is on line 1 already",
		"alice a@example.org " + h + "\nbob a@EXAMPLE.org " + h:                  "users:2: a@example.org is the address of a user on line 1 already",
		"alice a@example.org $2a$04$" + h[7:]:                                    "the cost of a hash is from 10 to 14",
		"alice a@example.org $2a$31$" + h[7:]:                                    "the cost of a hash is from 10 to 14",
		"alice a@example.org $1$abcdefgh$abcdefghijklmnopqrstuv":                 "is no bcrypt hash",
		"alice a@example.org " + h + "\n#" + strings.Repeat("x", 2000) + "\nbob": "users:2: the line is longer than 1024 octets",
	} {
		_, err := parse("users", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), h[10:]) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: the fault shows the third word: %v", text, err)
		}
	}
}

func TestModeOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	for mode, good := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o400: true, 0o644: false, 0o660: false, 0o604: false} {
		write(t, path, "", mode)
		_, err := Open(path)
		if (err == nil) != good {
			t.Errorf("mode %#o: %v", mode, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod") {
			t.Errorf("mode %#o: %v does not say what to do", mode, err)
		}
	}
}

// An edit changes the line of one user, and nothing else.
func TestEdited(t *testing.T) {
	h := hashed()
	line := func(u User) (string, error) { return lineOf(u, []byte(h)), nil }
	text := "# first\nalice a@example.org " + h + "\n# between\n\n  bob\tb@example.org " + h
	for _, c := range []struct{ name, address, want, wrong string }{
		{name: "alice", want: "# first\nalice  a@example.org  " + h + "\n# between\n\n  bob\tb@example.org " + h},
		{name: "bob", address: "robert@example.org", want: "# first\nalice a@example.org " + h + "\n# between\n\nbob  robert@example.org  " + h + "\n"},
		{name: "carol", address: "c@example.org", want: text + "\ncarol  c@example.org  " + h + "\n"},
		{name: "carol", wrong: "a new one needs a mail address"},
		{name: "carol", address: "a@example.org", wrong: "is the address of a user on line"},
		{name: "car ol", address: "c@example.org", wrong: "is no user name"},
	} {
		next, _, err := Edited("users", []byte(text), c.name, c.address, line)
		switch {
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: %v, want %s", c.name, err, c.wrong)
			}
		case err != nil || string(next) != c.want:
			t.Errorf("%s: %v\n got %q\nwant %q", c.name, err, next, c.want)
		}
	}
	next, err := Removed("users", []byte(text), "alice")
	if want := "# first\n# between\n\n  bob\tb@example.org " + h; err != nil || string(next) != want {
		t.Errorf("%v %q, want %q", err, next, want)
	}
	if _, err := Removed("users", []byte(text), "carol"); err == nil {
		t.Error("carol was never there")
	}
}

func TestPasswords(t *testing.T) {
	for p, good := range map[string]bool{
		"12345678": true, "1234567": false, strings.Repeat("x", 72): true, strings.Repeat("x", 73): false,
		"two words": true, " leading1": false, "trailing ": false, "tab\tinside": false, "n\x00l12345": false, "grüße123": true,
	} {
		if err := CheckPassword(p); (err == nil) != good {
			t.Errorf("%q: %v", p, err)
		}
	}
}

// Whatever stands in the file, reading it ends in users that can log in or in faults that have a line,
// and a user whom an edit adds to a good file is in it.
func FuzzUsers(f *testing.F) {
	h := hashed()
	f.Add("alice alice@example.org "+h+"\n# x\n", "bob", "bob@example.org")
	f.Add("\r\n\r", "a#", "\"a b\"@example.org")
	f.Fuzz(func(t *testing.T, text, name, address string) {
		known, err := parse("users", []byte(text))
		if err != nil {
			return
		}
		for n, e := range known {
			if u, err := NewUser(n, e.user.Address.String()); err != nil || u != e.user {
				t.Fatalf("%q: %+v, %v", n, u, err)
			}
		}
		next, was, err := Edited("users", []byte(text), name, address, func(u User) (string, error) { return lineOf(u, []byte(h)), nil })
		if err != nil {
			return
		}
		after, err := parse("users", next)
		if err != nil {
			t.Fatalf("%q: %v", next, err)
		}
		want := len(known) + 1
		if was {
			want--
		}
		if len(after) != want || string(after[name].hash) != h {
			t.Fatalf("%q: %d users, want %d", next, len(after), want)
		}
	})
}
