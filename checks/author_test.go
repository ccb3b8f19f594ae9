package checks

import (
	"bufio"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"postern/proxy/smtp"
)

// TestAuthors reads the From values of testdata/headers/from.txt, each with what the
// header section then says of its author.
func TestAuthors(t *testing.T) {
	file, err := os.Open("testdata/headers/from.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		n++
		want, quoted, ok := strings.Cut(line, "\t")
		value, err := strconv.Unquote(quoted)
		if !ok || err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !strings.HasPrefix(value, "Fr") {
			value = "From: " + value
		}
		a := readAuthors(value + "\r\n\r\n")
		got := strings.Join(append([]string{a.Word}, a.Domains...), " ")
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", quoted, got, want)
		}
	}
	if n < 50 {
		t.Errorf("only %d values", n)
	}
}

func readAuthors(section string) Authors {
	h, _ := smtp.ParseHeader([]byte(section))
	return ReadAuthors(Message{Header: h, Section: []byte(section)})
}

var updateAuthors = flag.Bool("update", false, "rewrite testdata/headers/authors.txt")

// strictAuthor is the author's domain as a parser finds it that takes one From of one
// mailbox by the letter, and nothing else.
func strictAuthor(h smtp.Header) string {
	values := []string{}
	for _, f := range h {
		if fieldIs(f.Name, "From") {
			values = append(values, f.Value)
		}
	}
	if len(values) != 1 {
		return ""
	}
	m, _ := parseMailbox(values[0])
	d, _ := domainName(m.Domain)
	return d
}

// TestAuthorsOfTheCorpus compares what is read of each message with what a strict
// parser reads of it. testdata/headers/authors.txt has those where that differs, or
// where there is not one author: the message, the strict author, what is read.
func TestAuthorsOfTheCorpus(t *testing.T) {
	var b strings.Builder
	n := 0
	root := filepath.Join("..", "proxy", "testdata", "mail")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "INDEX.tsv" {
			return err
		}
		raw, err := os.ReadFile(path)
		text := strings.ReplaceAll(strings.ReplaceAll(string(raw), "\r\n", "\n"), "\n", "\r\n")
		section, _ := smtp.NameMailboxLines([]byte(text))
		if end, _ := smtp.HeaderEnd(section); end >= 0 {
			section = section[:end]
		}
		n++
		h, _ := smtp.ParseHeader(section)
		a, strict := readAuthors(string(section)), strictAuthor(h)
		if got := strings.Join(a.Domains, " "); a.Word != "one" || got != strict {
			name, _ := filepath.Rel(root, path)
			fmt.Fprintf(&b, "%s\t%s\t%s\n", filepath.ToSlash(name), strict, strings.TrimSpace(a.Word+" "+got))
		}
		return err
	})
	if err != nil || n < 300 {
		t.Fatal(n, err)
	}
	const file = "testdata/headers/authors.txt"
	if *updateAuthors {
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// FuzzAuthors: what a strict parser finds is found, one author has one domain at the
// most, and the domains are bounded.
func FuzzAuthors(f *testing.F) {
	for _, s := range []string{
		"Bank, Inc. <a@bank.example>", "Us: <a@b.example>;", "<@a.example:b@c.example>", "=?utf-8?b?YUBiLmV4YW1wbGU=?= <x@y.example>",
		"\"a@b.example\"@c.example\r\nFrom\r\n : (x) d@e.example", "a\\,b@c.example <d@e.example> (f@g.example)",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		section := append([]byte("From: "), value...)
		h, _ := smtp.ParseHeader(section)
		a := ReadAuthors(Message{Header: h, Section: section})
		if len(a.Domains) > maxAuthors || a.Word == "one" && len(a.Domains) > 1 || a.More && a.Word != "ambiguous" {
			t.Fatalf("%q: %+v", value, a)
		}
		for _, field := range h {
			if !fieldIs(field.Name, "From") {
				continue
			}
			m, ok := parseMailbox(field.Value)
			if d, good := domainName(m.Domain); ok && good && !a.More && !slices.Contains(a.Domains, d) {
				t.Fatalf("%q: %+v, a strict parser finds %q", value, a, d)
			}
		}
	})
}
