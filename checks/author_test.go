package checks

import (
	"bufio"
	"os"
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
