package smtp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
)

func TestAppendReply(t *testing.T) {
	for _, tt := range []struct {
		story string
		reply Reply
		want  string
	}{
		{"the usual", Reply{250, "1.0", "OK"}, "250 2.1.0 OK\r\n"},
		{"the class is the code's", Reply{451, "4.3", "Later."}, "451 4.4.3 Later.\r\n"},
		{"none at the greeting", Reply{220, "", "mx.example ESMTP"}, "220 mx.example ESMTP\r\n"},
		{"none with 3yz (RFC 2034 §4)", Reply{354, "0.0", "Go ahead."}, "354 Go ahead.\r\n"},
		{"EHLO", Reply{250, "", "mx.example\nPIPELINING\nSIZE 1000"}, "250-mx.example\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"},
		{"the code on each line", Reply{550, "7.1", "No.\nReally."}, "550-5.7.1 No.\r\n550 5.7.1 Really.\r\n"},
		{"a text that ends in a line end", Reply{550, "7.1", "No.\n"}, "550 5.7.1 No.\r\n"},
		{"an empty line within", Reply{250, "", "a\n\nb"}, "250-a\r\n250-\r\n250 b\r\n"},
		{"no text", Reply{250, "", ""}, "250 \r\n"},
		{"no text but a code", Reply{250, "0.0", ""}, "250 2.0.0\r\n"},
		{"no way to inject a line", Reply{550, "1.1", "no\r250 ok\x00\x7f\xff"}, "550 5.1.1 no?250 ok???\r\n"},
		{"UTF-8 is cleaned octet by octet", Reply{550, "1.1", "ü"}, "550 5.1.1 ??\r\n"},
		{"tabs", Reply{250, "", "a\tb"}, "250 a b\r\n"},
		{"no reply at all is our fault", Reply{}, "451 4.3.0 Internal error.\r\n"},
		{"so is a code that there is not", Reply{Code: 1000, Text: "x"}, "451 4.3.0 Internal error.\r\n"},
	} {
		if got := string(AppendReply(nil, tt.reply)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.story, got, tt.want)
		}
	}
}

func TestAppendReplySplitsLongLines(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("word ", 300),
		strings.Repeat("x", 2000),
		strings.Repeat("x", 498) + " y",
		strings.Repeat("x", 499) + " y",
		strings.Repeat("x", 500) + " y\nz",
		strings.Repeat("x", 501) + "\nz",
	} {
		wire := AppendReply(nil, Reply{550, "7.1", text})
		for line := range bytes.Lines(wire) {
			if len(line) > 512 {
				t.Errorf("a line of %d octets", len(line))
			}
		}
		r, err := ReadReply(bufio.NewReader(bytes.NewReader(wire)))
		squeeze := strings.NewReplacer(" ", "", "\n", "")
		if err != nil || r.Code != 550 || r.Enhanced != "7.1" || squeeze.Replace(r.Text) != squeeze.Replace(text) {
			t.Errorf("%.40q came back as %.80v, %v", text, r, err)
		}
	}
}

func TestReadReply(t *testing.T) {
	for _, tt := range []struct {
		story, in string
		want      Reply
		err       error
	}{
		{"the usual", "250 2.1.0 Ok\r\n", Reply{250, "1.0", "Ok"}, nil},
		{"no enhanced code", "250 Ok\r\n", Reply{250, "", "Ok"}, nil},
		{"EHLO", "250-mx\r\n250-SIZE 10\r\n250 HELP\r\n", Reply{250, "", "mx\nSIZE 10\nHELP"}, nil},
		{"one code on each line", "550-5.1.1 a\r\n550 5.1.1 b\r\n", Reply{550, "1.1", "a\nb"}, nil},
		{"on the first only", "550-5.1.1 a\r\n550 b\r\n", Reply{550, "1.1", "a\nb"}, nil},
		{"two that differ: nothing is lost", "550-5.1.1 a\r\n550 5.1.2 b\r\n", Reply{550, "1.1", "a\n5.1.2 b"}, nil},
		{"of another class", "550 4.1.1 a\r\n", Reply{550, "", "4.1.1 a"}, nil},
		{"an address is none", "250 2.0.0.1 is me\r\n", Reply{250, "", "2.0.0.1 is me"}, nil},
		{"a version is none", "220 2.1.x\r\n", Reply{220, "", "2.1.x"}, nil},
		{"with nothing behind", "250 2.0.0\r\n", Reply{250, "0.0", ""}, nil},
		{"354 has none", "354 3.0.0 go\r\n", Reply{354, "", "3.0.0 go"}, nil},
		{"a bare code", "250\r\n", Reply{250, "", ""}, nil},
		{"a bare code to end a long reply", "250-a\r\n250\r\n", Reply{250, "", "a\n"}, nil},
		{"what may not stand in a log", "550 a\tb\x1b[2J\xff\r\n", Reply{550, "", "a b?[2J?"}, nil},
		{"UTF-8", "550 für\r\n", Reply{550, "", "für"}, nil},
		{"codes we do not know, by their first digit", "299 x\r\n", Reply{299, "", "x"}, nil},

		{"nothing", "", Reply{}, io.EOF},
		{"broken off", "250 O", Reply{}, io.ErrUnexpectedEOF},
		{"broken off between lines", "250-a\r\n", Reply{}, io.ErrUnexpectedEOF},
		{"a bare LF", "250 Ok\n", Reply{}, ErrReplyLineEnd},
		{"1yz", "150 x\r\n", Reply{}, ErrReplySyntax},
		{"6yz", "650 x\r\n", Reply{}, ErrReplySyntax},
		{"no code", "hello\r\n", Reply{}, ErrReplySyntax},
		{"an empty line", "\r\n", Reply{}, ErrReplySyntax},
		{"four digits", "2500 x\r\n", Reply{}, ErrReplySyntax},
		{"two codes in one reply", "250-a\r\n550 b\r\n", Reply{}, ErrReplySyntax},
		{"a line above 2048 octets", "250 " + strings.Repeat("x", 2048) + "\r\n", Reply{}, ErrReplyTooLong},
		{"one above our buffer", "250 " + strings.Repeat("x", 1<<20) + "\r\n", Reply{}, ErrReplyTooLong},
		{"a reply that does not end", strings.Repeat("250-x\r\n", 1000), Reply{}, ErrReplyTooLong},
		{"lines that are long and many", strings.Repeat("250-"+strings.Repeat("x", 2000)+"\r\n", 100), Reply{}, ErrReplyTooLong},
	} {
		for _, step := range []int{1, 1 << 20} {
			got, err := ReadReply(reader([]byte(tt.in), 4096, step))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%s: %+v, %v; want %+v, %v", tt.story, got, err, tt.want, tt.err)
			}
		}
	}
}

// TestReadReplyOfOddServers: whatever a server sends, reading ends, and
// what was read goes on as a good reply. The samples have LF for line ends, which
// alone would end most of them, so they run with CRLF as well.
func TestReadReplyOfOddServers(t *testing.T) {
	samples := readSamples(t, "backend-replies-fuzz.jsonl")
	if len(samples) < 227 {
		t.Fatalf("only %d samples", len(samples))
	}
	good := 0
	for _, s := range samples {
		for _, b := range [][]byte{s.B64, bytes.ReplaceAll(s.B64, []byte("\n"), []byte("\r\n"))} {
			good += checkReplies(t, b)
		}
	}
	if good == 0 {
		t.Error("not one reply was read")
	}
}

// What a server says again and again is one text; what it says once is not mistaken for it.
func TestReplyReaderKeepsTexts(t *testing.T) {
	const usual = "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
	var rr ReplyReader
	in := bytes.NewReader(nil)
	br := bufio.NewReaderSize(in, 4096)
	group := func() {
		in.Reset([]byte(usual))
		br.Reset(in)
		for _, want := range []Reply{{250, "1.0", "Ok"}, {250, "1.5", "Ok"}, {354, "", "End data with <CR><LF>.<CR><LF>"}} {
			if r, err := rr.Read(br); err != nil || r != want {
				t.Fatalf("%+v, %v; want %+v", r, err, want)
			}
		}
	}
	if n := testing.AllocsPerRun(100, group); n > 2 { // the reader's octets
		t.Errorf("%.0f allocations for replies that were heard before", n)
	}
	for i := range 1000 {
		text := "2.0.0 Ok: queued as " + strconv.Itoa(i)
		if r, err := rr.Read(bufio.NewReader(strings.NewReader("250 " + text + "\r\n"))); err != nil || r.Text != text[len("2.0.0 "):] {
			t.Fatalf("%+v, %v", r, err)
		}
		group()
	}
}

// checkReplies reads all replies in b and sends them on.
func checkReplies(t *testing.T, b []byte) (good int) {
	br, each := reader(b, 4096, 1+len(b)/3), reader(b, 4096, 1+len(b)/3)
	var rr ReplyReader
	for {
		r, err := rr.Read(br)
		if single, serr := ReadReply(each); single != r || serr != err {
			t.Fatalf("%q: %+v, %v by who has read replies before, %+v, %v by who has not", b, r, err, single, serr)
		}
		if err != nil {
			switch err {
			case io.EOF, io.ErrUnexpectedEOF, ErrReplyLineEnd, ErrReplySyntax, ErrReplyTooLong:
			default:
				t.Fatalf("%q: %v", b, err)
			}
			if !r.IsZero() {
				t.Fatalf("%q: a reply and an error", b)
			}
			return good
		}
		good++
		wire := AppendReply(nil, r)
		for line := range bytes.Lines(wire) {
			text, ok := bytes.CutSuffix(line, []byte("\r\n"))
			if !ok || len(line) > 512 || bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("%q went on as %q", b, wire)
			}
		}
		again, err := ReadReply(bufio.NewReader(bytes.NewReader(wire)))
		if err != nil && err != ErrReplyTooLong { // splitting may exceed 128 lines
			t.Fatalf("%q went on as %q: %v", b, wire, err)
		}
		if err == nil && (again.Code != r.Code || r.Enhanced != "" && again.Enhanced != r.Enhanced) {
			t.Fatalf("%q went on as %+v, came back as %+v", b, r, again)
		}
	}
}

func TestReplyString(t *testing.T) {
	for want, r := range map[string]Reply{
		"":                       {},
		"550 5.7.1 Not allowed.": {550, "7.1", "Not allowed."},
		"250 a / b":              {250, "", "a\nb"},
	} {
		if got := r.String(); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}

func TestReplyClasses(t *testing.T) {
	for code, class := range map[int]string{250: "+", 354: "~", 451: "t", 550: "p", 0: ""} {
		r, got := Reply{Code: code}, ""
		for s, in := range map[string]bool{"+": r.Positive(), "~": r.Intermediate(), "t": r.Transient(), "p": r.Permanent()} {
			if in {
				got += s
			}
		}
		if got != class || r.IsZero() != (code == 0) {
			t.Errorf("%d is %q", code, got)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("250-2.1.0 a\r\n250 2.1.0 b\r\n354 go\r\n"))
	f.Add([]byte("550 " + strings.Repeat("x", 600) + "\r\n"))
	for _, s := range readSamples(f, "backend-replies-fuzz.jsonl") {
		f.Add(bytes.ReplaceAll(s.B64, []byte("\n"), []byte("\r\n")))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkReplies(t, b) })
}
