package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/policy/journal/index"
)

// university is records of a made-up site, at one a second, the oldest first.
func university(n int, r *rand.Rand) []*Record {
	pick := func(format string, n int) string { return fmt.Sprintf(format, r.IntN(n)) }
	var all []*Record
	for i := range n {
		x := sample(fmt.Sprintf("%012d", i))
		x.Time = time.Date(2026, 11, 19, 23, 0, i, 0, time.UTC)
		x.Session = fmt.Sprintf("s%011d", i/3)
		domain := pick("d%d.example", 9)
		x.Facts.Mail.From, x.Facts.Mail.Domain = pick("Ann%d", 5)+"@"+domain, domain
		x.Facts.PRA.Address, x.Facts.PRA.Domain, x.Facts.Header.FromDomain = "", "", pick("sub%d.author.example", 4)
		x.Facts.Client.IP = []string{pick("192.0.2.%d", 200), pick("2001:db8::%x", 200)}[r.IntN(2)]
		x.Outcome, x.BackendReply = OutcomeDelivered, fmt.Sprintf("250 2.0.0 Ok: queued as Q%05d", i)
		x.Recipients = nil
		for range 1 + r.IntN(3) {
			x.Recipients = append(x.Recipients, Recipient{Address: pick("bob%d@local.example", 7), Disposition: "pass", Undecided: true, Taken: true, Reply: "250 OK"})
		}
		switch r.IntN(8) {
		case 0: // refused whole
			x.Disposition, x.Rule, x.Outcome, x.Reply, x.BackendReply = "reject", pick("rule-%d", 3), OutcomeRefused, "550 5.7.1 no", ""
		case 1: // one recipient apart
			x.Recipients[0] = Recipient{Address: x.Recipients[0].Address, Disposition: "defer", Rule: "grey", Reply: "451 4.7.1 later"}
		case 2:
			x.Facts.Mail.From, x.Facts.Mail.Domain = "", ""
		case 3: // on HELO
			x.Recipients, x.Facts.Rcpt.Address, x.Facts.Rcpt.Domain, x.Facts.Mail.From, x.Facts.Mail.Domain = nil, "", "", "", ""
			x.Reached, x.Outcome, x.Disposition, x.Reply = "helo", OutcomeRefused, NotAsked, "550 5.7.1 no"
		}
		all = append(all, x)
	}
	return all
}

// laidDown writes records as files of each kind that there is, and returns the folder.
func laidDown(t testing.TB, all []*Record) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	take := func(n int) string {
		b.Reset()
		for _, r := range all[:n] {
			b.WriteString(marshal(t, r))
		}
		all = all[n:]
		return b.String()
	}
	n := len(all) / 5
	put("2026-11-20.0001.jsonl.gz", gz(t, take(n)))                                               // as old versions have it, no index
	put("2026-11-20.0002.jsonl", []byte(take(n)+"no record\n\n"+strings.Repeat("x", 3<<20)+"\n")) // compressed, see below
	if err := compress(t.Context(), filepath.Join(dir, "2026-11-20.0002.jsonl")); err != nil {
		t.Fatal(err)
	}
	put("2026-11-20.0003.jsonl", []byte(take(n))) // set aside
	two := append(gz(t, take(n/2)), gz(t, "\n"+take(n/2))...)
	put("2026-11-20.jsonl.gz", two)
	put("2026-11-20.jsonl.gz.index", []byte("of another file"))
	put("2026-11-21.jsonl", []byte(take(n/2)+strings.Repeat("y", 5<<20)+"\n\nno record\n"+take(len(all))+`{"v":2,"id":"torn`))
	return dir
}

// ids of what a search finds, in its order.
func searched(t testing.TB, dir string, f Filter) []string {
	t.Helper()
	var ids []string
	found, err := Search(t.Context(), dir, f, func(r *Record) error {
		ids = append(ids, r.ID)
		return nil
	})
	if err != nil || len(found.Unreadable) > 0 {
		t.Fatalf("%+v: %v, %+v", f, err, found)
	}
	return ids
}

// TestSearch holds each way to search against all records, looked through one by one.
func TestSearch(t *testing.T) {
	all := university(2000, rand.New(rand.NewPCG(1, 2)))
	dir := laidDown(t, all)
	any := func(r *Record, good func(*Recipient) bool) bool {
		for i := range r.Recipients {
			if good(&r.Recipients[i]) {
				return true
			}
		}
		return false
	}
	noon := all[1500].Time
	for name, c := range map[string]struct {
		f    Filter
		want func(*Record) bool
	}{
		"all":           {Filter{}, func(*Record) bool { return true }},
		"id":            {Filter{ID: all[77].ID}, func(r *Record) bool { return r.ID == all[77].ID }},
		"session":       {Filter{Session: all[1977].Session}, func(r *Record) bool { return r.Session == all[1977].Session }},
		"sender":        {Filter{Sender: "ann3@D4.example"}, func(r *Record) bool { return r.Facts.Mail.From == "Ann3@d4.example" }},
		"in brackets":   {Filter{Sender: "<ann3@D4.example>"}, func(r *Record) bool { return r.Facts.Mail.From == "Ann3@d4.example" }},
		"sender domain": {Filter{Sender: "d4.example"}, func(r *Record) bool { return r.Facts.Mail.Domain == "d4.example" }},
		"at a domain":   {Filter{Sender: "@d4.example"}, func(r *Record) bool { return r.Facts.Mail.Domain == "d4.example" }},
		"author":        {Filter{Sender: "sub1.author.example"}, func(r *Record) bool { return r.Facts.Header.FromDomain == "sub1.author.example" }},
		"below":         {Filter{Sender: "*.author.example"}, func(*Record) bool { return true }},
		"below a word":  {Filter{Sender: "*.example"}, func(*Record) bool { return true }},
		"below nothing": {Filter{Sender: "*.d4.example"}, func(*Record) bool { return false }},
		"null":          {Filter{Sender: "<>"}, func(r *Record) bool { return r.Facts.Mail.From == "" && r.Reached == "message" }},
		"recipient": {Filter{Recipient: "BOB2@local.example"}, func(r *Record) bool {
			return any(r, func(x *Recipient) bool { return x.Address == "bob2@local.example" })
		}},
		"rcpt domain": {Filter{Recipient: "local.example"}, func(r *Record) bool { return r.Recipients != nil }},
		"client":      {Filter{Client: netip.MustParsePrefix("192.0.2.9/32")}, func(r *Record) bool { return r.Facts.Client.IP == "192.0.2.9" }},
		"network": {Filter{Client: netip.MustParsePrefix("2001:db8::/124")}, func(r *Record) bool {
			return len(r.Facts.Client.IP) == len("2001:db8::1") && strings.HasPrefix(r.Facts.Client.IP, "2001:")
		}},
		"IPv6 host":     {Filter{Client: netip.MustParsePrefix("2001:db8::1f/128")}, func(r *Record) bool { return r.Facts.Client.IP == "2001:db8::1f" }},
		"rule":          {Filter{Rule: "rule-1"}, func(r *Record) bool { return r.Rule == "rule-1" }},
		"rule apart":    {Filter{Rule: "grey"}, func(r *Record) bool { return any(r, func(x *Recipient) bool { return x.Rule == "grey" }) }},
		"rejected":      {Filter{Disposition: "reject"}, func(r *Record) bool { return r.Disposition == "reject" }},
		"not asked":     {Filter{Disposition: "none"}, func(r *Record) bool { return r.Disposition == "none" }},
		"refused by us": {Filter{Outcome: OutcomeRefused}, func(r *Record) bool { return r.Outcome == OutcomeRefused }},
		"abandoned":     {Filter{Outcome: OutcomeAbandoned}, func(*Record) bool { return false }},
		"queued":        {Filter{QueueID: "q00042"}, func(r *Record) bool { return strings.HasSuffix(r.BackendReply, " Q00042") }},
		"any refusal": {Filter{Refused: true}, func(r *Record) bool {
			return r.Reply[0] == '5' || any(r, func(x *Recipient) bool { return x.Reply[0] == '4' })
		}},
		"since":          {Filter{Query: Query{Since: noon}}, func(r *Record) bool { return !r.Time.Before(noon) }},
		"until":          {Filter{Query: Query{Until: noon}}, func(r *Record) bool { return r.Time.Before(noon) }},
		"until long ago": {Filter{Query: Query{Until: noon.AddDate(0, 0, -3)}}, func(*Record) bool { return false }},
		// The recipient's own verdict counts, not that of another one.
		"deferred for one": {Filter{Recipient: "bob2@local.example", Disposition: "defer"}, func(r *Record) bool {
			return any(r, func(x *Recipient) bool { return x.Address == "bob2@local.example" && x.Disposition == "defer" })
		}},
		"refusal of one": {Filter{Recipient: "bob2@local.example", Refused: true}, func(r *Record) bool {
			return any(r, func(x *Recipient) bool {
				return x.Address == "bob2@local.example" && (x.Reply[0] == '4' || r.Reply[0] == '5')
			})
		}},
		"much at once": {Filter{Sender: "d4.example", Recipient: "bob2@local.example", Outcome: OutcomeDelivered, Client: netip.MustParsePrefix("192.0.2.0/24"), Query: Query{Since: noon}}, func(r *Record) bool {
			return r.Facts.Mail.Domain == "d4.example" && r.Outcome == OutcomeDelivered && strings.HasPrefix(r.Facts.Client.IP, "192.") && !r.Time.Before(noon) &&
				any(r, func(x *Recipient) bool { return x.Address == "bob2@local.example" })
		}},
	} {
		var want []string
		for _, r := range slices.Backward(all) {
			if c.want(r) {
				want = append(want, r.ID)
			}
		}
		if got := searched(t, dir, c.f); !slices.Equal(got, want) {
			t.Errorf("%s: %d records, not %d", name, len(got), len(want))
		}
	}
}

// TestIndexes: they are made where there is none that is whole and of this file, once, and kept
// where that may be; those of files that are gone go.
func TestIndexes(t *testing.T) {
	all := university(1000, rand.New(rand.NewPCG(1, 2)))
	dir := laidDown(t, all)
	one := Filter{ID: all[10].ID}
	search := func() Found {
		t.Helper()
		n := 0
		found, err := Search(t.Context(), dir, one, func(*Record) error { n++; return nil })
		if err != nil || n != 1 {
			t.Fatalf("%d found, %v", n, err)
		}
		return found
	}
	if f := search(); f.Indexed != 2 || f.Kept != 2 {
		t.Errorf("first: %+v", f)
	}
	if f := search(); f.Indexed != 0 || f.Lines != 1 {
		t.Errorf("second: %+v", f)
	}
	path := filepath.Join(dir, "2026-11-20.0002.jsonl.gz.index")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	if f := search(); f.Indexed != 1 {
		t.Errorf("torn: %+v", f)
	}
	if again, err := os.ReadFile(path); err != nil || len(again) != len(whole) {
		t.Errorf("made again: %d octets, not %d, %v", len(again), len(whole), err)
	}
	// Another file by that name.
	if err := os.WriteFile(strings.TrimSuffix(path, ".index"), gz(t, marshal(t, sample("other"))), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := search(); f.Indexed != 1 {
		t.Errorf("another file: %+v", f)
	}
	if got := searched(t, dir, Filter{ID: "other"}); len(got) != 1 {
		t.Error("the other one is not found")
	}
	// What the proxy does by itself, from time to time.
	for _, name := range []string{"2026-11-20.0001.jsonl.gz", "2026-11-20.jsonl.gz.index"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	half := filepath.Join(dir, "2026-11-20.0001.jsonl.gz.index.123.tmp")
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(half, time.Time{}, time.Now().Add(-2*staleHalf)); err != nil {
		t.Fatal(err)
	}
	if err := tidy(t.Context(), dir, 0, day(22, 0), func(f file) bool { return f.day == "2026-11-20" }); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"2026-11-20.0002.jsonl.gz", "2026-11-20.0002.jsonl.gz.index", "2026-11-20.0003.jsonl.gz", "2026-11-20.0003.jsonl.gz.index",
		"2026-11-20.jsonl.gz", "2026-11-20.jsonl.gz.index", "2026-11-21.jsonl",
	}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("files %q", got)
	}
	if err := tidy(t.Context(), dir, time.Hour, day(22, 0), func(file) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, want[6:]) {
		t.Errorf("files %q", got)
	}
}

// TestIndexThatCannotBeKept: who may only read the journal searches it all the same.
func TestIndexThatCannotBeKept(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root may write anywhere but where there is no place.
		t.Setenv("TMPDIR", t.TempDir())
	}
	all := university(100, rand.New(rand.NewPCG(1, 2)))
	dir := laidDown(t, all)
	packed, err := os.Open(filepath.Join(dir, "2026-11-20.0001.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packed.Close() }()
	// The folder goes while the file is open.
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir + ".moved") }()
	s := &searching{search: newSearch(&Filter{}), ctx: t.Context(), fn: func(*Record) error { return nil }}
	if err := s.indexed(packed); err != nil || s.found.Lines != 20 || s.found.Indexed != 1 || s.found.Kept != 0 {
		t.Errorf("%+v, %v", s.found, err)
	}
}

// TestSearchEnds: with its context, with the first error of who listens, and with progress told.
func TestSearchEnds(t *testing.T) {
	dir := laidDown(t, university(1000, rand.New(rand.NewPCG(1, 2))))
	enough := errors.New("enough")
	if _, err := Search(t.Context(), dir, Filter{}, func(*Record) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Search(ctx, dir, Filter{}, func(*Record) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var last Progress
	_, err := Search(t.Context(), dir, Filter{Query: Query{Progress: func(p Progress) {
		if p.Done < last.Done && !last.Indexing || p.Done > p.Total {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
	}}}, func(*Record) error { return nil })
	if err != nil || last.Done != last.Total || last.Total == 0 || last.Indexing {
		t.Errorf("%+v, %v", last, err)
	}
}

// TestTornFilesAreToldOf: each time, and without being read through each time.
func TestTornFilesAreToldOf(t *testing.T) {
	dir := t.TempDir()
	whole := gz(t, marshal(t, sample("a"))+marshal(t, sample("b")))
	for name, text := range map[string][]byte{"2026-11-19.jsonl.gz": []byte("no gzip"), "2026-11-20.jsonl.gz": whole[:len(whole)-9]} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, made := range []int{2, 0} {
		found, err := Search(t.Context(), dir, Filter{}, func(*Record) error { return nil })
		if err != nil || len(found.Unreadable) < 2 || found.Indexed != made {
			t.Errorf("%+v, %v", found, err)
		}
	}
}

func TestSearchOfHashes(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := configs.Journal{Path: filepath.Join(t.TempDir(), "j"), HashLocalParts: true, HashKey: key}
	w := start(t, c, Options{})
	w.Write(sample("hashed"))
	closeWriter(t, w)
	f := Filter{Sender: "Ann@good.example"}
	if got := searched(t, c.Path, f); len(got) != 0 {
		t.Errorf("found without the key: %q", got)
	}
	if err := f.HashedBy(c); err != nil {
		t.Fatal(err)
	}
	if got := searched(t, c.Path, f); len(got) != 1 {
		t.Errorf("found with the key: %q", got)
	}
	if err := f.HashedBy(configs.Journal{HashKey: key + "s"}); err == nil {
		t.Error("no key, and no error")
	}
}

// FuzzSearch: what the index passes over is nothing that is wanted, whatever the record says.
func FuzzSearch(f *testing.F) {
	f.Add([]byte(marshal(f, sample("a"))))
	f.Add([]byte(`{"v":1,"id":"x","disposition":"pass","outcome":"refused","reached":"helo","recipients":[{"address":"a@b","rule":"\u00e4"}]}`))
	f.Add([]byte(`{"v":2,"id":"x","facts":{"mail":{"from":"\u212a@Stra\u00dfe.example"},"client":{"ip":"::ffff:192.0.2.1"}},"time":"2500-01-01T00:00:00+14:00"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var s Stats
		var r Record
		if !s.Decode(line, &r) {
			return
		}
		text, err := r.Line()
		if err != nil || !s.Decode(text, &r) {
			return
		}
		filters := []Filter{{}, {ID: r.ID}, {Session: r.Session}, {Rule: r.Rule}, {Disposition: r.Disposition}, {Outcome: r.Outcome}, {Refused: true},
			{Sender: r.Facts.Mail.From}, {Sender: r.Facts.Mail.Domain}, {Sender: r.Facts.PRA.Address}, {Sender: "<>"}, {Query: Query{Since: r.Time}}, {Query: Query{Until: r.Time.Add(1)}}}
		for i := range r.Recipients {
			rc := &r.Recipients[i]
			filters = append(filters, Filter{Recipient: rc.Address}, Filter{Recipient: rc.Address, Rule: rc.Rule, Disposition: rc.Disposition})
		}
		if a, err := netip.ParseAddr(r.Facts.Client.IP); err == nil {
			filters = append(filters, Filter{Client: netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())})
		}
		for i := range filters {
			s := newSearch(&filters[i])
			l := index.Lines{Want: s.want}
			if s.matches(&r) && !l.Wanted(text[:len(text)-1]) {
				t.Fatalf("%+v passes over %s", filters[i], text)
			}
		}
	})
}
