package index

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// line is a record as the journal writes it, as far as it matters here.
func line(i int) string {
	return fmt.Sprintf(`{"v":2,"time":%q,"id":"id%d","session":"s%d","facts":{"id":"no","client":{"ip":"192.0.2.%d"},"spf":{"reason":"}]\"x"},`+
		`"mail":{"from":"Ann%d@sub%d.Example.org","domain":"sub%d.example.org"},"rcpt":{"address":"bob@local.example"},"header":{"from_domain":"author.example"}},`+
		`"rule":"spf-fail","disposition":"reject","reply":"550 5.7.23 no","recipients":[{"address":"bob@local.example","disposition":"pass","reply":"250 OK","rule":"r\u0031"}],`+
		`"outcome":"refused","backend_reply":"250 2.0.0 Ok: queued as 4Rb%03dXyz"}`,
		time.Unix(1_700_000_000+int64(i), 0).UTC().Format(time.RFC3339), i, i/2, i%256, i, i%7, i%7, i)
}

// built is an index of text, and its octets.
func built(t testing.TB, text string, maxLine int) (*Index, []byte) {
	t.Helper()
	var out bytes.Buffer
	b := NewBuilder(&out, maxLine)
	b.Member(0)
	for rest := []byte(text); len(rest) > 0; {
		n, _ := b.Take(rest[:min(len(rest), 1+rand.IntN(100_000))])
		rest = rest[n:]
	}
	if err := b.Close(Source{int64(len(text)), 7}, false); err != nil {
		t.Fatal(err)
	}
	x, err := Open(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return x, out.Bytes()
}

// found are the lines of text that the index says may be wanted.
func found(t testing.TB, x *Index, text string, w Want) (lines []string) {
	t.Helper()
	for i := range x.Blocks() {
		place, rows, err := x.Rows(i, &w, nil)
		if err != nil {
			t.Fatal(err)
		}
		of := strings.Split(text[place.Skip:place.Skip+place.Length], "\n")
		for _, r := range rows {
			lines = append(lines, of[r])
		}
	}
	return lines
}

func TestRows(t *testing.T) {
	const n = 5000
	var b strings.Builder
	for i := range n {
		b.WriteString(line(i) + "\n")
		if i%1000 == 0 {
			b.WriteString("\nno record\n" + strings.Repeat("x", 3000) + "\n{\"v\":9,\"id\":\"of tomorrow\"}\n")
		}
	}
	text := b.String() + line(n) // without an end
	x, _ := built(t, text, 2000)
	if x.Blocks() < 3 || x.Summary.Rows != n+1+4*5 || x.Bad != 2*5 {
		t.Fatalf("%d blocks, %+v", x.Blocks(), x.Summary)
	}
	below := func(domain string) Term {
		term, ok := Below(SenderDomain, domain)
		if !ok {
			t.Fatal(domain)
		}
		return term
	}
	for name, c := range map[string]struct {
		want Want
		n    int
	}{
		"all":           {Want{}, n + 1},
		"id":            {Want{Terms: [][]Term{{Exactly(ID, "ID17")}}}, 1},
		"another kind":  {Want{Terms: [][]Term{{Exactly(Session, "id17")}}}, 0},
		"session":       {Want{Terms: [][]Term{{Exactly(Session, "s17")}}}, 2},
		"sender":        {Want{Terms: [][]Term{{Exactly(Sender, "ann5000@SUB2.example.org")}}}, 1},
		"either":        {Want{Terms: [][]Term{{Exactly(ID, "id1"), Exactly(ID, "id2")}}}, 2},
		"both":          {Want{Terms: [][]Term{{Exactly(ID, "id1")}, {Exactly(ID, "id2")}}}, 0},
		"domain":        {Want{Terms: [][]Term{{Exactly(SenderDomain, "sub3.example.org")}}}, n / 7},
		"author":        {Want{Terms: [][]Term{{Exactly(SenderDomain, "author.example")}}}, n + 1},
		"below":         {Want{Terms: [][]Term{{below("example.org")}}}, n + 1},
		"below another": {Want{Terms: [][]Term{{below("example.net")}}}, 0},
		"escaped rule":  {Want{Terms: [][]Term{{Exactly(Rule, "r1")}}}, n + 1},
		"queue":         {Want{Terms: [][]Term{{Exactly(QueueID, "4rb017XYZ")}}}, 1},
		"client":        {Want{Client: netip.MustParsePrefix("192.0.2.4/32")}, 20},
		"network":       {Want{Client: netip.MustParsePrefix("192.0.2.0/25")}, 20*128 - 120 + 1},
		"no network":    {Want{Client: netip.MustParsePrefix("2001:db8::/32")}, 0},
		"mark":          {Want{Marks: []Mark{Reject, Pass, Refused | Abandoned}}, n + 1},
		"no mark":       {Want{Marks: []Mark{Defer}}, 0},
		"since":         {Want{Since: time.Unix(1_700_000_000+n-9, 0)}, 10},
		"until":         {Want{Until: time.Unix(1_700_000_009, 0)}, 10},
	} {
		got := found(t, x, text, c.want)
		got = slices.DeleteFunc(got, func(l string) bool { return strings.Contains(l, "of tomorrow") })
		if name == "network" {
			c.n = 0
			for i := range n + 1 {
				if i%256 < 128 {
					c.n++
				}
			}
		}
		if len(got) != c.n {
			t.Errorf("%s: %d rows, not %d", name, len(got), c.n)
		}
		l := Lines{Want: c.want}
		for line := range strings.Lines(text) {
			if line := strings.TrimSuffix(line, "\n"); l.Wanted([]byte(line)) && !strings.Contains(line, "of tomorrow") {
				c.n--
			}
		}
		if c.n != 0 {
			t.Errorf("%s: line by line it is otherwise, by %d", name, c.n)
		}
	}
	// What the index does not understand is always looked at.
	if got := found(t, x, text, Want{Marks: []Mark{Defer}, Terms: [][]Term{{Exactly(ID, "nobody")}}}); len(got) != 5 {
		t.Errorf("of tomorrow: %d", len(got))
	}
}

// TestBroken: an index that is cut short, or has another octet anywhere, is none.
func TestBroken(t *testing.T) {
	_, whole := built(t, line(1)+"\n"+line(2)+"\n", 1<<20)
	for n := range whole {
		if _, err := Open(bytes.NewReader(whole[:n]), int64(n)); err == nil {
			t.Fatalf("%d of %d octets are an index", n, len(whole))
		}
		other := slices.Clone(whole)
		other[n] ^= 0x40
		if _, err := Open(bytes.NewReader(other), int64(n)); err == nil {
			t.Fatalf("octet %d may be anything", n)
		}
	}
	if _, err := Open(bytes.NewReader(append(whole, 0)), int64(len(whole)+1)); err == nil {
		t.Error("more than an index is one")
	}
}

// TestWild: a record of more recipients than can be counted is looked at.
func TestWild(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"v":2,"id":"many","recipients":[`)
	for i := range 70_000 {
		fmt.Fprintf(&b, `{"address":"%d"},`, i)
	}
	text := strings.TrimSuffix(b.String(), ",") + "]}\n"
	x, _ := built(t, text, 4<<20)
	if got := found(t, x, text, Want{Terms: [][]Term{{Exactly(Recipient, "69999")}}}); len(got) != 1 {
		t.Error("not looked at")
	}
}

func TestSource(t *testing.T) {
	of := func(text string) Source {
		s, err := SourceOf(strings.NewReader(text), int64(len(text)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	long := strings.Repeat("x", 1000)
	all := []Source{of(""), of("a"), of("b"), of(long), of(long + "x"), of("y" + long[1:]), of(long[1:] + "y")}
	for i, s := range all {
		if slices.Index(all, s) != i {
			t.Errorf("%d is as another", i)
		}
	}
	if again := of(long); again != all[3] {
		t.Error("one text has two")
	}
}

// FuzzOpen: whatever is in an index, it is opened or not, and its rows are in bounds.
func FuzzOpen(f *testing.F) {
	_, whole := built(f, line(1)+"\n"+line(2)+"\n", 1<<20)
	f.Add(whole)
	f.Add(whole[:40])
	f.Add(appendFramed(appendFramed([]byte(magic), make([]byte, blockHead)), Summary{}.append(nil)))
	f.Fuzz(func(t *testing.T, p []byte) {
		// The sums are put right, or no change would come any further.
		p = slices.Clone(p)
		for rest := p; len(rest) > len(magic)+8; {
			if bytes.HasPrefix(rest, []byte(magic)) {
				rest = rest[len(magic):]
			}
			n := min(int(rest[0])|int(rest[1])<<8, len(rest)-8)
			copy(rest, appendFramed(nil, rest[8:8+n])[:8])
			rest = rest[8+n:]
		}
		x, err := Open(bytes.NewReader(p), int64(len(p)))
		if err != nil {
			return
		}
		for i := range x.Blocks() {
			_, rows, err := x.Rows(i, &Want{Terms: [][]Term{{Exactly(ID, "id1"), Exactly(ID, "id2")}}}, nil)
			if err != nil {
				t.Fatalf("opened, and then %v", err)
			}
			if len(rows) > blockRows {
				t.Fatalf("%d rows", len(rows))
			}
		}
	})
}

// FuzzScan: whatever a line is, scanning it ends; and each line of a text has one row.
func FuzzScan(f *testing.F) {
	f.Add(line(1))
	f.Add(`{"v":2,"id":"x","facts":{"mail":[{"from":"x"}],"client":{"ip":1}},"recipients":[[],{"address":null}]}`)
	f.Add("{\"id\":\"\\ud800\",\"v\":\n\n[{\"\\")
	f.Fuzz(func(t *testing.T, text string) {
		x, _ := built(t, text, 64)
		lines := int64(strings.Count(text, "\n"))
		if text != "" && !strings.HasSuffix(text, "\n") {
			lines++
		}
		if x.Summary.Rows != lines {
			t.Fatalf("%d rows, not %d", x.Summary.Rows, lines)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	text := []byte(line(1))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var r row
	for b.Loop() {
		r.reset()
		if !r.scan(text) {
			b.Fatal("no record")
		}
	}
}
