package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"postern/configs"
)

// clock is the time in tests of expiry; a test moves it.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return t
}

// readFile is a folder with one list in it.
func readFile(content string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if name != "forwarders.txt" {
			return nil, fs.ErrNotExist
		}
		return []byte(content), nil
	}
}

var listDef = []configs.List{{Name: "l", File: "forwarders.txt", Position: configs.Position{File: "p.yaml", Line: 7, Column: 3}}}

// TestListsMatch is what is in a list and what is not.
func TestListsMatch(t *testing.T) {
	lists, err := NewLists(listDef, readFile(strings.Join([]string{
		"\ufeff# forwarders we know\r",
		"",
		"203.0.113.0/24  # mail team, campus",
		"192.0.2.7",
		"2001:DB8:1::/48",
		"::ffff:198.51.100.9",
		"::ffff:198.18.0.0/111",
		"Example.org",
		"*.sub.example",
		".dot.example",
		"Bob@Example.NET",
		`odd@name@quoted.example`,
	}, "\n")), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]bool{
		"203.0.113.200": true, "203.0.114.1": false, "192.0.2.7": true, "192.0.2.8": false,
		"::ffff:192.0.2.7": true, "198.51.100.9": true, "198.19.255.255": true, "198.20.0.0": false, "2001:db8:1:2::3": true, "2001:db8:2::3": false,
		"example.org": true, "EXAMPLE.org": true, "example.org.": true, "mx.example.org": false,
		"a.sub.example": true, "a.b.sub.example": true, "sub.example": false, "xsub.example": false,
		"a.dot.example": true, "dot.example": false,
		"bob@example.net": true, "BOB@example.net": true, "alice@example.net": false,
		"alice@example.org": true, "alice@a.sub.example": true, "alice@sub.example": false,
		"odd@name@quoted.example": true,
		"":                        false, "@": false, "bob": false, "org": false, "[192.0.2.7]": false, "1.2.3": false,
	} {
		if got := lists.Contains("l", value); got != want {
			t.Errorf("%q: got %t", value, got)
		}
	}
	if lists.Contains("other", "192.0.2.7") || lists.Has("other") || !slices.Equal(lists.Names(), []string{"l"}) {
		t.Error("a list that there is not")
	}
	if e, ok := lists.Find("l", "203.0.113.200"); !ok || e.Value != "203.0.113.0/24" || e.Comment != "mail team, campus" || e.Position.String() != "forwarders.txt:3:1" {
		t.Errorf("found %+v", e)
	}
	var none *Lists
	if none.Has("l") || none.Contains("l", "x") || none.Names() != nil {
		t.Error("no lists at all")
	}
}

// TestListsExpire: an entry counts to the end of the day that it names.
func TestListsExpire(t *testing.T) {
	c := &clock{day("2027-02-28")}
	lists, err := NewLists([]configs.List{{Name: "l", Entries: []string{
		"203.0.113.0/24   # narrow: mail team, until 2027-03-01",
		"203.0.0.0/16     # wide: mail team, until 2027-06-30, see ticket",
		"example.org      # Until 2027-03-01",
		"*.example.org    # for ever",
		"bob@example.net  # until 2027-03-01; then he leaves",
		"example.com      # until 2026-01-01",
		"example.com      # renewed until 2028-01-01",
		"192.0.2.1        # until 2026-01-01",
	}}}, nil, c.now)
	if err != nil {
		t.Fatal(err)
	}
	find := func(value string) string {
		if e, ok := lists.Find("l", value); ok {
			return e.Value
		}
		return ""
	}
	for _, step := range []struct {
		now                          time.Time
		ip, domain, address, renewed string
		expired                      int
	}{
		{day("2027-02-28"), "203.0.113.0/24", "example.org", "bob@example.net", "example.com", 2},
		{day("2027-03-02").Add(-time.Nanosecond), "203.0.113.0/24", "example.org", "bob@example.net", "example.com", 2},
		{day("2027-03-02"), "203.0.0.0/16", "", "", "example.com", 5},
		{day("2027-07-01"), "", "", "", "example.com", 6},
		{day("2030-01-01"), "", "", "", "", 7},
	} {
		c.Time = step.now
		if got := find("203.0.113.9"); got != step.ip {
			t.Errorf("%s: address in %q, want %q", step.now, got, step.ip)
		}
		if got := find("example.org"); got != step.domain {
			t.Errorf("%s: domain in %q", step.now, got)
		}
		if got := find("bob@example.net"); got != step.address {
			t.Errorf("%s: mailbox in %q", step.now, got)
		}
		if got := find("example.com"); got != step.renewed {
			t.Errorf("%s: renewed domain in %q", step.now, got)
		}
		if find("mx.example.org") != "*.example.org" || find("192.0.2.1") != "" {
			t.Errorf("%s: for ever, or never", step.now)
		}
		if got := lists.Expired(); len(got) != step.expired {
			t.Errorf("%s: %d expired: %v", step.now, len(got), got)
		}
	}
	if e := lists.Expired()[0]; e.List != "l" || e.Value != "203.0.113.0/24" || !strings.HasPrefix(e.Comment, "narrow") {
		t.Errorf("expired: %+v", e)
	}
}

// TestReplaceReachesTheChain: new content counts without compiling anew, and a
// list that rules may read does not go away.
func TestReplaceReachesTheChain(t *testing.T) {
	lists, err := NewLists([]configs.List{{Name: "l", Entries: []string{"192.0.2.1"}}}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := Compile(rules(`a: in_list("l", client.ip) -> reject`), lists)
	if err != nil {
		t.Fatal(err)
	}
	f := known(nil)
	if chain.Decide(Connect, f).Refuses() {
		t.Error("listed already")
	}
	fresh, err := NewLists([]configs.List{{Name: "l", Entries: []string{"198.51.100.0/24"}}}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := lists.Replace(fresh); err != nil {
		t.Fatal(err)
	}
	if !chain.Decide(Connect, f).Refuses() {
		t.Error("not listed after the change")
	}
	other, err := NewLists([]configs.List{{Name: "m"}}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := lists.Replace(other); err == nil || err.Error() != `policy: the list "l" is gone, and rules may read it` {
		t.Errorf("got %v", err)
	}
	if !chain.Decide(Connect, f).Refuses() {
		t.Error("a refused change changed something")
	}
}

// TestWrongLists is what an operator is told.
func TestWrongLists(t *testing.T) {
	_, err := NewLists(append([]configs.List{
		{Name: "", Position: configs.Position{File: "p.yaml", Line: 5, Column: 3}},
		{Name: "l", Entries: []string{"ok.example", "300.1.2.3"}, Position: configs.Position{File: "p.yaml", Line: 6, Column: 3}},
		{Name: "gone", File: "gone.txt", Position: configs.Position{File: "p.yaml", Line: 8, Column: 3}},
		{Name: "m", File: "forwarders.txt"},
	}, listDef...), readFile(strings.Join([]string{
		"192.0.2.0/33",
		"192.0.2.1/24",
		"  exa mple.org",
		"@example.org",
		"bob@",
		"bücher.example",
		"example.org # until tomorrow",
		"example.org # until",
		"fe80::1%eth0",
		"*",
		"good.example # trailing",
	}, "\n")), time.Now)
	var got []string
	for _, f := range faults(t, err) {
		got = append(got, f.Error())
	}
	want := []string{
		"p.yaml:5:3: the list has no name",
		`p.yaml:6:3: list l: "300.1.2.3" is no IP address, network, domain or address (domains are written as A-labels, xn--...)`,
		"p.yaml:8:3: list gone: file does not exist",
		`forwarders.txt:1:1: "192.0.2.0/33" is no network: write it as 192.0.2.0/24 or 2001:db8::/32`,
		`forwarders.txt:2:1: "192.0.2.1/24" has bits behind its prefix: write 192.0.2.0/24, or 192.0.2.1 for the one address`,
		`forwarders.txt:3:3: "exa mple.org" is no IP address, network, domain or address (domains are written as A-labels, xn--...)`,
		`forwarders.txt:4:1: "@example.org": write example.org, which means the addresses in it too`,
		`forwarders.txt:5:1: "bob@" is no address: write it as bob@example.org`,
		`forwarders.txt:6:1: "bücher.example" is no IP address, network, domain or address (domains are written as A-labels, xn--...)`,
		"forwarders.txt:7:1: until tomorrow: a date is written 2027-03-01",
		"forwarders.txt:8:1: until what day? write until 2027-03-01",
		`forwarders.txt:9:1: "fe80::1%eth0": an address in a list has no zone`,
		`forwarders.txt:10:1: "*" is no IP address, network, domain or address (domains are written as A-labels, xn--...)`,
		`p.yaml:7:3: there is already a list "l"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := NewLists([]configs.List{{Name: "x", File: "y"}}, func(string) ([]byte, error) { return nil, errors.New("a torn disk") }, time.Now); err == nil {
		t.Error("no error")
	}
}

// TestNetworksAgainstNaiveSearch holds the look-up in a list of networks,
// expired ones among them, against a search from end to end.
func TestNetworksAgainstNaiveSearch(t *testing.T) {
	now := day("2027-01-01")
	rapid.Check(t, func(t *rapid.T) {
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 3).Draw(t, "c")), byte(rapid.IntRange(0, 255).Draw(t, "d"))})
		})
		var entries []string
		var live []netip.Prefix
		for range rapid.IntRange(0, 12).Draw(t, "entries") {
			p := netip.PrefixFrom(addr.Draw(t, "network"), rapid.IntRange(20, 32).Draw(t, "bits")).Masked()
			if rapid.Bool().Draw(t, "expired") {
				entries = append(entries, p.String()+" # until 2026-12-31")
			} else {
				entries = append(entries, p.String())
				live = append(live, p)
			}
		}
		lists, err := NewLists([]configs.List{{Name: "l", Entries: entries}}, nil, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			a := addr.Draw(t, "address")
			want := slices.ContainsFunc(live, func(p netip.Prefix) bool { return p.Contains(a) })
			if got := lists.Contains("l", a.String()); got != want {
				t.Fatalf("%s in %q: got %t", a, entries, got)
			}
		}
	})
}

// TestNamesAgainstNaiveSearch holds the look-up of domains and addresses, some of which are
// there more than once or have expired, against a search from end to end.
func TestNamesAgainstNaiveSearch(t *testing.T) {
	now := day("2027-01-01")
	rapid.Check(t, func(t *rapid.T) {
		domain := rapid.SampledFrom([]string{"example", "a.example", "b.a.example", "a.b.a.example", "A.example", "b.example"})
		local := rapid.SampledFrom([]string{"a", "A", "b"})
		var entries, live []string
		for range rapid.IntRange(0, 12).Draw(t, "entries") {
			entry := domain.Draw(t, "domain")
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 1:
				entry = "*." + entry
			case 2:
				entry = local.Draw(t, "local") + "@" + entry
			}
			if rapid.Bool().Draw(t, "expired") {
				entries = append(entries, entry+" # until 2026-12-31")
			} else {
				entries = append(entries, entry)
				live = append(live, strings.ToLower(entry))
			}
		}
		lists, err := NewLists([]configs.List{{Name: "l", Entries: entries}}, nil, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			d, l := domain.Draw(t, "of"), local.Draw(t, "at")
			inList := func(domain string) bool {
				return slices.ContainsFunc(live, func(e string) bool {
					parent, sub := strings.CutPrefix(e, "*")
					return e == strings.ToLower(domain) || sub && strings.HasSuffix(strings.ToLower(domain), parent)
				})
			}
			if got := lists.Contains("l", d); got != inList(d) {
				t.Fatalf("%s in %q: got %t", d, entries, got)
			}
			if got, want := lists.Contains("l", l+"@"+d), inList(d) || slices.Contains(live, strings.ToLower(l+"@"+d)); got != want {
				t.Fatalf("%s@%s in %q: got %t", l, d, entries, got)
			}
		}
	})
}

// A long list has all of its entries, of whatever kinds and however often it has them.
func TestLongList(t *testing.T) {
	var file strings.Builder
	value := func(i int) (entry, listed, not string) {
		switch i % 6 {
		case 0:
			return fmt.Sprintf("192.0.%d.%d", i/250, i%250), fmt.Sprintf("192.0.%d.%d", i/250, i%250), "192.0.255.9"
		case 1:
			return fmt.Sprintf("d%d.example", i), fmt.Sprintf("u@d%d.example", i), fmt.Sprintf("x.d%d.example", i)
		case 2:
			return fmt.Sprintf("*.d%d.example.", i), fmt.Sprintf("a.b.d%d.example", i), fmt.Sprintf("d%d.example", i)
		case 3:
			return fmt.Sprintf("2001:DB8:%x::/48", i), fmt.Sprintf("2001:db8:%x::1", i), "2001:db8:ffff::1"
		case 4:
			return fmt.Sprintf("2001:0DB8::%x/128", i), fmt.Sprintf("2001:db8::%x", i), "2001:db8::ffff"
		}
		return fmt.Sprintf("Bob@d%d.example", i), fmt.Sprintf("bob@D%d.example", i), fmt.Sprintf("alice@d%d.example", i)
	}
	const lines = 6001
	for i := range lines {
		entry, _, _ := value(i)
		file.WriteString(entry + " # first\r\n")
	}
	for i := range lines {
		entry, _, _ := value(i)
		file.WriteString(strings.ToUpper(entry) + " # again, until 2027-03-01\r\n") // is outlived
	}
	lists, err := NewLists([]configs.List{{Name: "l", File: "forwarders.txt", Entries: []string{"other.example", "192.0.2.1 # x"}}}, readFile(file.String()), func() time.Time { return day("2027-01-01") })
	if err != nil {
		t.Fatal(err)
	}
	for i := range lines {
		entry, listed, not := value(i)
		if e, ok := lists.Find("l", listed); !ok || e.Value != entry || e.Line != i+1 || e.Comment != "first" {
			t.Fatalf("%s, for %s in line %d: %+v", listed, entry, i+1, e)
		}
		if e, ok := lists.Find("l", not); ok {
			t.Fatalf("%s is in the list: %+v", not, e)
		}
	}
}

// What a list keeps of an entry: its line, and some numbers. A site may have a million of them.
func TestAnEntryIsSmall(t *testing.T) {
	const entries = 50000
	var file strings.Builder
	for i := range entries {
		if i%2 == 0 {
			fmt.Fprintf(&file, "user%d@partner-%d.example\n", i, i%1000)
		} else {
			fmt.Fprintf(&file, "10.%d.%d.%d\n", i>>16, i>>8&255, i&255)
		}
	}
	text := []byte(file.String())
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	before := heap()
	lists, err := NewLists(listDef, func(string) ([]byte, error) { return text, nil }, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if each := (heap() - before - float64(len(text))) / entries; each > 40 {
		t.Errorf("an entry has %.0f octets besides its line", each)
	}
	if !lists.Contains("l", "user0@partner-0.example") {
		t.Error("it is not even there")
	}
	if n := testing.AllocsPerRun(100, func() { lists.Contains("l", "user0@partner-0.example"); lists.Contains("l", "10.0.0.1") }); n != 0 {
		t.Errorf("%.0f allocations for two look-ups", n)
	}
}
