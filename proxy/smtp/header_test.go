package smtp

import (
	"bytes"
	"net/mail"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

func TestFirstLineContinues(t *testing.T) {
	for in, want := range map[string]bool{
		"":              false,
		"From: a":       false,
		" x":            true,
		"\tx":           true,
		"\r\n x":        false, // the empty header; what is behind it is body
		". x":           false, // of a chunk
		".. x":          false,
		".\r\n":         false,
		"From x Mon...": false,
	} {
		if got := FirstLineContinues([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
	// After DATA, the dot is gone on the other side (RFC 5321 §4.5.2).
	for in, want := range map[string]bool{". x": true, ".\tx": true, ".. x": false, "... x": false, ".\r\n": false} {
		if got := FirstLineContinues(Restuff([]byte(in))); got != want {
			t.Errorf("%q after DATA: %v", in, got)
		}
	}
}

func TestParseHeader(t *testing.T) {
	for _, tt := range []struct {
		story, in string
		want      Header
		bad       int
	}{
		{"fields in their order, also twice", "To: a\r\nFrom: b\r\nTo: c\r\n\r\n", Header{{"To", " a"}, {"From", " b"}, {"To", " c"}}, 0},
		{"folding stays as it stood", "Subject: a\r\n b\r\n\tc\r\nTo:d\r\n\r\n", Header{{"Subject", " a\r\n b\r\n\tc"}, {"To", "d"}}, 0},
		{"a folded line of white space", "A: b\r\n \r\n c\r\n\r\n", Header{{"A", " b\r\n \r\n c"}}, 0},
		{"white space before the colon (RFC 5322 §4.5.8)", "From \t: a\r\n\r\n", Header{{"From", " a"}}, 0},
		{"an empty value", "Bcc:\r\n\r\n", Header{{"Bcc", ""}}, 0},
		{"more colons", "A: b: c\r\n\r\n", Header{{"A", " b: c"}}, 0},
		{"the body is not looked at", "A: b\r\n\r\nFrom: x\r\n", Header{{"A", " b"}}, 0},
		{"no empty line", "A: b\r\nFrom: x", Header{{"A", " b"}, {"From", " x"}}, 0},
		{"no header", "\r\nFrom: x\r\n", nil, 0},
		{"bare LF line ends", "A: b\n c\nFrom: x\n\nbody", Header{{"A", " b\n c"}, {"From", " x"}}, 0},
		{"an mbox line is no field", "From a@b Mon Jan 1\r\nFrom: x\r\n\r\n", Header{{"From", " x"}}, 1},
		{"a first line that continues nothing", " From: x\r\nTo: y\r\n\r\n", Header{{"To", " y"}}, 1},
		{"a line without a colon hides no field", "A: b\r\nrubbish\r\nFrom: x\r\n\r\n", Header{{"A", " b"}, {"From", " x"}}, 1},
		{"what continues rubbish is rubbish", "rubbish\r\n From: x\r\n y\r\nTo: z\r\n\r\n", Header{{"To", " z"}}, 3},
		{"a name with 8-bit", "Fr\xf6m: x\r\nTo: y\r\n\r\n", Header{{"To", " y"}}, 1},
		{"a name with a NUL", "From\x00: x\r\nTo: y\r\n\r\n", Header{{"To", " y"}}, 1},
		{"no name", ": x\r\nTo: y\r\n\r\n", Header{{"To", " y"}}, 1},
		{"two words before the colon", "A b: c\r\n\r\n", nil, 1},
		{"a CR that is no line end", "\rA: b\r\n\r\n", nil, 1},
	} {
		h, bad := ParseHeader([]byte(tt.in))
		if !slices.Equal(h, tt.want) || bad != tt.bad {
			t.Errorf("%s: ParseHeader(%q) = %q, %d; want %q, %d", tt.story, tt.in, h, bad, tt.want, tt.bad)
		}
		checkHeader(t, []byte(tt.in))
	}
}

// TestDotsHideNoField: what the proxy reads in a header section off the wire is
// what the MTA behind it reads after it has undone the stuffing.
func TestDotsHideNoField(t *testing.T) {
	wire := []byte("From: a\r\n. , b\r\n.Sender: c\r\n..Dot: d\r\n\r\n")
	var u Unstuffer
	want, _ := ParseHeader(u.Append(nil, wire))
	got, _ := ParseHeader(Restuff(wire))
	for i := range got {
		got[i].Name = strings.Replace(got[i].Name, "..", ".", 1) // the one thing that is left of the stuffing
	}
	if !slices.Equal(got, want) || len(want) != 3 || want[0].Value != " a\r\n , b" || want[1].Name != "Sender" {
		t.Errorf("%q, the MTA has %q", got, want)
	}
}

// TestHeaderEnd: wherever the octets are cut, the header section ends at one place.
func TestHeaderEnd(t *testing.T) {
	for in, want := range map[string][2]int{
		"":                        {-1, -1},
		"A: b":                    {-1, -1},
		"A: b\r\n":                {-1, -1},
		"A: b\r\n\r":              {-1, -1},
		"A: b\r\n\r\n":            {6, 8},
		"A: b\r\n\r\nx\r\n\r\n":   {6, 8},
		"\r\nx":                   {0, 2},
		"\nx":                     {0, 1},
		"A: b\n\nFrom: x\r\n\r\n": {5, 6},
		"A: b\r\n\nFrom: x\r\n":   {6, 7},
		"A: b\n\r\nx":             {5, 7},
		"A: b\r\n \r\nx":          {-1, -1},
		"A: b\r\r\nx":             {-1, -1},
		"\r":                      {-1, -1},
		"A: b\r\n\r\r\n":          {-1, -1},
	} {
		end, body := HeaderEnd([]byte(in))
		if end != want[0] || body != want[1] {
			t.Errorf("%q: %d, %d; want %v", in, end, body, want)
		}
		for cut := range in {
			if _, early := HeaderEnd([]byte(in[:cut])); early >= 0 {
				continue
			}
			if e, b := HeaderEndFrom([]byte(in), cut); e != end || b != body {
				t.Errorf("%q cut at %d: %d, %d; whole: %d, %d", in, cut, e, b, end, body)
			}
		}
	}
}

func TestNameMailboxLines(t *testing.T) {
	for in, want := range map[string]string{
		"From: a\r\n\r\n":                     "From: a\r\n\r\n",
		"":                                    "",
		"From a@b Mon Jan 1\r\nTo: x\r\n\r\n": "X-Mailbox-Line: From a@b Mon Jan 1\r\n|To: x\r\n\r\n",
		">From a 00:00:00\r\nTo: x\r\n":       "X-Mailbox-Line: >From a 00:00:00\r\n|To: x\r\n",
		">>From a\r\nFrom b\r\n\r\n":          "X-Mailbox-Line: >>From a\r\nX-Mailbox-Line: From b\r\n|\r\n",
		"From a":                              "X-Mailbox-Line: From a|",
		"From a\r\n x: y\r\n":                 "X-Mailbox-Line: From a\r\n| x: y\r\n",
		"From : a@b.example\r\n\r\n":          "From : a@b.example\r\n\r\n",
		">From: a\r\n":                        ">From: a\r\n",
		"From\ta\r\n":                         "From\ta\r\n",
		"from a\r\n":                          "from a\r\n",
		"To: x\r\nFrom a\r\n\r\n":             "To: x\r\nFrom a\r\n\r\n",
	} {
		named, rest := NameMailboxLines([]byte(in))
		got := string(named)
		if rest > 0 {
			got = got[:rest] + "|" + got[rest:]
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestLookalikes(t *testing.T) {
	for in, want := range map[string][]Lookalike{
		"From: a\r\n\r\nFrom : b\r\n":                 nil,
		"From : a\r\n\r\n":                            {{" a", Extent{0, 10}, true}},
		"FROM\t:a\r\n b\r\nTo: x\r\n":                 {{"a\r\n b", Extent{0, 13}, true}},
		"To: x\r\nFrom\r\n : a\r\n\r\n":               {{" a", Extent{7, 19}, false}},
		"From\r\n \r\n\t:a\r\n":                       {{"a", Extent{0, 14}, false}},
		"\ufeffFrom: a\r\n":                           {{" a", Extent{0, 12}, false}},
		"From\u00a0: a\r\n":                           {{" a", Extent{0, 11}, false}},
		"Fr\u200bom: a\r\n":                           {{" a", Extent{0, 12}, false}},
		"From\x00: a\r\n":                             {{" a", Extent{0, 10}, false}},
		"\x0bFrom: a\r\n":                             {{" a", Extent{0, 10}, false}},
		"From\r\n\r\n: a":                             nil,
		"rubbish\r\n From: a\r\n":                     nil,
		"Fromm : a\r\nFro : b\r\nX-From : c\r\n":      nil,
		"From a@b Mon 00:00\r\nFrom\r\nFr om : x\r\n": {{" x", Extent{26, 37}, false}},
	} {
		if got := Lookalikes([]byte(in), "From"); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

func TestHeaderGet(t *testing.T) {
	h := Header{{"To", "a"}, {"FROM", "b"}, {"From", "c"}}
	if f, ok := h.Get("from"); !ok || f.Value != "b" {
		t.Errorf("the first From is %q, %v", f, ok)
	}
	if _, ok := h.Get("Sender"); ok {
		t.Error("there is no Sender")
	}
}

// checkHeader checks what holds of every header section: the extents lie in
// order, begin with the name and do not overlap; only bad lines are between
// them; and cutting a field out leaves the others.
func checkHeader(t *testing.T, b []byte) {
	t.Helper()
	h, at, bad := ParseHeaderExtents(b)
	if h2, bad2 := ParseHeader(b); !slices.Equal(h, h2) || bad != bad2 {
		t.Fatalf("%q: with extents %q, %d, without %q, %d", b, h, bad, h2, bad2)
	}
	if len(at) != len(h) {
		t.Fatalf("%q: %d fields, %d extents", b, len(h), len(at))
	}
	pos := 0
	for i, e := range at {
		if e.Start < pos || e.End <= e.Start || e.End > len(b) {
			t.Fatalf("%q: extents %v", b, at)
		}
		if gap := b[pos:e.Start]; bad == 0 && len(gap) > 0 {
			t.Fatalf("%q: %q was left out and not counted", b, gap)
		}
		pos = e.End
		text := string(b[e.Start:e.End])
		name, value, _ := strings.Cut(text, ":")
		if v, ok := strings.CutSuffix(value, "\r\n"); ok {
			value = v
		} else {
			value = strings.TrimSuffix(value, "\n")
		}
		if strings.TrimRight(name, " \t") != h[i].Name || value != h[i].Value {
			t.Fatalf("%q: field %q in %q", b, h[i], text)
		}
	}
	if len(h) == 0 {
		return
	}
	i := len(h) / 2
	rest := slices.Concat(b[:at[i].Start], b[at[i].End:])
	if got, _ := ParseHeader(rest); !slices.Equal(got, slices.Concat(h[:i], h[i+1:])) {
		t.Fatalf("%q without %q is %q", b, h[i], got)
	}
}

// TestHeadersOfOddMailers: wherever net/mail can read a header section, we see
// the same fields.
func TestHeadersOfOddMailers(t *testing.T) {
	samples := readSamples(t, "header-fuzz.jsonl")
	if len(samples) < 644 {
		t.Fatalf("only %d samples", len(samples))
	}
	compared := 0
	for _, s := range samples {
		checkHeader(t, s.B64)
		b := bytes.ReplaceAll(bytes.ReplaceAll(s.B64, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		checkHeader(t, b)
		m, err := mail.ReadMessage(bytes.NewReader(b))
		h, bad := ParseHeader(b)
		if err != nil || bad > 0 {
			continue
		}
		compared++
		count := 0
		for _, f := range h {
			key := textproto.CanonicalMIMEHeaderKey(f.Name)
			if _, ok := m.Header[key]; !ok {
				t.Errorf("%q: net/mail has no %q", b, f.Name)
			}
			count++
		}
		want := 0
		for _, v := range m.Header {
			want += len(v)
		}
		if count != want {
			t.Errorf("%q: %d fields, net/mail has %d", b, count, want)
		}
	}
	if compared < 100 {
		t.Errorf("only %d header sections could be compared", compared)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("A: b\r\n c\r\nrubbish\r\n x\r\nFrom : y\r\n\r\nbody"))
	f.Add([]byte("From x\n\tA:b\n:\n\n"))
	for i, s := range readSamples(f, "header-fuzz.jsonl") {
		if i%8 == 0 {
			f.Add(s.B64)
		}
	}
	f.Add([]byte(">From x\r\nFrom y\n\nTo: z"))
	f.Fuzz(func(t *testing.T, b []byte) {
		checkHeader(t, b)
		named, rest := NameMailboxLines(b)
		if _, again := NameMailboxLines(named); again > 0 {
			t.Fatalf("%q on top of %q", named, b)
		}
		if !bytes.HasSuffix(b, named[rest:]) || strings.ReplaceAll(string(named[:rest]), mailboxLine, "") != string(b[:len(b)-len(named)+rest]) {
			t.Fatalf("%q became %q", b, named)
		}
		for _, l := range Lookalikes(b, "From") {
			if text := string(b[l.Extent.Start:l.Extent.End]); !strings.Contains(text, l.Value) || !strings.Contains(text, ":") {
				t.Fatalf("%q in %q", text, b)
			}
		}
	})
}

// CountFields is a bound on what ParseHeader finds, and mostly the same.
func TestCountFields(t *testing.T) {
	for in, want := range map[string]int{
		"":                0,
		"\r\nbody: x\r\n": 0,
		"From: a\r\n":     1,
		"From: a\r\n b\r\n\tc: d\r\nTo: e\r\n\r\nx: y\r\n": 2,
		"From a\r\nTo: e\r\n":                              2, // a line that is no field counts
		"x:\nx:\nx:":                                       3,
	} {
		h, bad := ParseHeader([]byte(in))
		if got := CountFields([]byte(in)); got != want || got < len(h) || got > len(h)+bad {
			t.Errorf("%q: got %d, want %d; %d fields, %d bad", in, got, want, len(h), bad)
		}
	}
}
