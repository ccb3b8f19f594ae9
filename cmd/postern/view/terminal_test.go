package view

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"postern/policy/journal"
)

// TestNobodyLooks: a pipe and a buffer are no terminals.
func TestNobodyLooks(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	for _, to := range []io.Writer{w, new(bytes.Buffer)} {
		if got := Looked(to); got != (Terminal{}) {
			t.Errorf("%T: %+v", to, got)
		}
	}
}

func TestFit(t *testing.T) {
	seen := Terminal{Width: 6}
	for text, want := range map[string]string{"short": "short", "sixsix": "sixsix", "longer than": "longe…", "日本語日本": "日本…", "e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301": "e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301"} {
		if got := seen.fit(text, 6); got != want {
			t.Errorf("%q becomes %q, not %q", text, got, want)
		}
		if got := (Terminal{}).fit(text, 6); got != text {
			t.Errorf("where nobody looks, %q becomes %q", text, got)
		}
	}
}

func TestBar(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	pass := func(d time.Duration) { now = now.Add(d) }
	b := newBar(&out, Terminal{Width: 60}, func() time.Time { return now })
	b.Show(1, 10, "soon over")
	b.Clear()
	pass(barPatience)
	b.Show(5, 10, "a file\x1b[31m")
	b.Show(6, 10, "too often")
	pass(barEvery)
	b.Show(20, 10, strings.Repeat("long ", 20))
	b.Clear()
	b.Clear()
	want := "\r\x1b[K[##########..........]  50 %  a file\\x1b[31m" +
		"\r\x1b[K[####################] 100 %  long long long long long lon…" + "\r\x1b[K"
	if got := out.String(); got != want {
		t.Errorf("shown:\n%q, not\n%q", got, want)
	}
	out.Reset()
	b = newBar(&out, Terminal{}, func() time.Time { return now })
	pass(time.Hour)
	b.Show(1, 2, "x")
	if b.Clear(); out.Len() > 0 {
		t.Errorf("where nobody looks: %q", out.String())
	}
}

func TestFoundLine(t *testing.T) {
	var r journal.Record
	r.Time, r.ID, r.Outcome, r.Disposition, r.Rule = time.Date(2026, 11, 21, 10, 0, 0, 0, time.Local), "7k2m9d0x4qzr", journal.OutcomeRefused, "reject", "spf-fail"
	r.Facts.Client.IP, r.Facts.Mail.From, r.Reached = "192.0.2.1", "ann\x1b]0;\n@a.example", "rcpt"
	r.Recipients, r.Reply = []journal.Recipient{{Address: "b@example.org"}, {Address: "c@example.org"}}, "550 5.7.23 no"
	when := Moment(r.Time)
	for _, x := range []struct {
		t    Terminal
		want string
	}{
		{Terminal{}, when + "\t7k2m9d0x4qzr\trefused\treject:spf-fail\t192.0.2.1\t<ann\\x1b]0; / @a.example> > b@example.org and 1 other\t550 5.7.23 no\n"},
		{Terminal{Width: 300}, when + "  7k2m9d0x4qzr  refused          reject:spf-fail   192.0.2.1        <ann\\x1b]0; / @a.example> > b@example.org and 1 other  550 5.7.23 no\n"},
		{Terminal{Width: 80, Colour: true}, when + "  7k2m9d0x4qzr  \x1b[31mrefused        \x1b[0m  reject:spf-fail\n    192.0.2.1        <ann\\x1b]0; / @a.example> > b@example.org and 1 other  550 5.7.23 no\n"},
	} {
		var out bytes.Buffer
		if err := FoundLine(&out, x.t, &r); err != nil || out.String() != x.want {
			t.Errorf("%+v: %v\n%q, not\n%q", x.t, err, out.String(), x.want)
		}
	}
}

// An explanation has its colours beside words that say the same, and only where somebody looks.
func TestExplanationIsPainted(t *testing.T) {
	text := "Transaction x of now: refused by policy\n  session s\n\nVerdict\n  reject by rule spf-fail\n  added X: y\n\nRules\n  no match  a\n  decided   spf-fail\n"
	r := &journal.Record{Outcome: journal.OutcomeRefused, Disposition: journal.DispositionReject}
	if got := (Terminal{Width: 80}).explanation(text, r); got != text {
		t.Errorf("without colours: %q", got)
	}
	got := Terminal{Width: 80, Colour: true}.explanation(text, r)
	want := "\x1b[1mTransaction x of now:\x1b[0m \x1b[31mrefused by policy\x1b[0m\n  session s\n\n\x1b[1mVerdict\x1b[0m\n\x1b[31m  reject by rule spf-fail\x1b[0m\n  added X: y\n\n\x1b[1mRules\x1b[0m\n  no match  a\n\x1b[31m  decided   spf-fail\x1b[0m\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
