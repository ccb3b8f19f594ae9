// Package list has the entries of a list that rules read: addresses, networks, domains, mail addresses.
// It reads them, finds them, and writes them into a file.
package list

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"math/bits"
	"net/netip"
	"strings"
	"time"

	"github.com/gaissmai/bart"

	"postern/configs"
	"postern/proxy/smtp"
)

// Entry is one line of a list.
type Entry struct {
	List    string
	Value   string    // as written
	Comment string    // behind the #: owner and reason, by convention
	Until   time.Time // from when on the entry no longer counts; zero: never
	configs.Position
}

// List is the content of one list. It does not change, and is safe for concurrent use.
//
// A list may have a million entries. So an entry is kept as the place of its line in the text that
// was read, a few numbers in which the collector has nothing to follow; what stands on the line
// is read again when somebody has found it.
type List struct {
	name       string
	definition configs.Position
	file       string
	text       string // the entries of the definition, and behind them the file
	lines      []line
	// places are a table of the lines that are no networks, by the hash of what they are found by: a line
	// stands at the first free place from that of its hash on. Two thirds of it are in use at most, and its size is a
	// power of two.
	places     []place
	networks   bart.Table[lineRef]
	subdomains bool // some entry means the domains below one
}

// line is an entry of a list.
type line struct {
	start, octets uint32 // in the text
	number        uint32 // in the file, from 1; 0: it is of the definition
	ends          int32  // the first day on which it no longer counts, from 1970-01-01; or forever
}

// place is where a line may stand in the table.
type place struct {
	hash uint32
	line lineRef
}

// lineRef is a line by its number among the list's, from 1; 0 is none.
type lineRef uint32

// forever is the end of an entry that has none.
const forever = math.MaxInt32

// key is what an entry is found by: a network, of which a single address is one; or a name,
// which is an address or a domain in lower case, or a domain with a dot before it, whose sub-domains
// are meant.
type key struct {
	network netip.Prefix
	name    string
}

// Read reads the list that def defines, and its file by read; the grammar is that of policy.NewLists. The
// errors are a *configs.Fault for each wrong line, and for a file that cannot be read.
func Read(def configs.List, read func(file string) ([]byte, error)) (l *List, faults []error) {
	fault := func(at configs.Position, format string, args ...any) {
		faults = append(faults, &configs.Fault{Position: at, Text: fmt.Sprintf(format, args...)})
	}
	var file []byte
	if def.File != "" {
		var err error
		if file, err = read(def.File); err != nil {
			fault(def.Position, "list %s: %v", def.Name, err)
		}
		file = bytes.TrimPrefix(file, []byte("\ufeff"))
	}
	octets := len(file)
	for _, text := range def.Entries {
		octets += len(text)
	}
	l = &List{name: def.Name, definition: def.Position, file: def.File}
	if octets > math.MaxUint32 {
		fault(def.Position, "list %s has more than 4 GiB", def.Name)
		return l, faults
	}
	var text strings.Builder
	text.Grow(octets)
	for _, entry := range def.Entries {
		text.WriteString(entry)
	}
	text.Write(file)
	l.text = text.String()
	room := len(def.Entries) + bytes.Count(file, []byte{'\n'}) + 1
	l.lines = make([]line, 0, room)
	found := make([]place, 0, room)
	start, number := 0, 0
	add := func(line string) error {
		p, err := l.add(start, len(line), number)
		if start += len(line); p.line != 0 {
			found = append(found, p)
		}
		return err
	}
	for _, entry := range def.Entries {
		if err := add(entry); err != nil {
			fault(def.Position, "list %s: %v", def.Name, err)
		}
	}
	for line := range strings.Lines(l.text[start:]) {
		number++
		if err := add(line); err != nil {
			fault(l.position(number, line), "%v", err)
		}
	}
	l.index(found)
	return l, faults
}

// add reads one line, that of the file with this number; 0: it is of the definition. It stands at start in the
// list's text. What it returns is to be indexed, if there is a line in it.
func (l *List) add(start, octets, number int) (place, error) {
	k, ends, ok, err := parseLine(l.text[start : start+octets])
	if err != nil || !ok {
		return place{}, err
	}
	l.lines = append(l.lines, line{start: uint32(start), octets: uint32(octets), number: uint32(number), ends: ends})
	added := lineRef(len(l.lines))
	if !k.network.IsValid() || k.network.IsSingleIP() {
		l.subdomains = l.subdomains || strings.HasPrefix(k.name, ".")
		return place{hash: k.hash(), line: added}, nil
	}
	if old, ok := l.networks.Get(k.network); !ok || l.line(added).outlives(l.line(old)) {
		l.networks.Insert(k.network, added)
	}
	return place{}, nil
}

// index makes the table. Of lines that are found by the same, it has the one that counts for longest.
//
// NOT: as each line is read. A place in a large table is far from the processor, which waits for many
// of them at once where it has nothing else to do between two.
func (l *List) index(all []place) {
	l.places = make([]place, 1<<bits.Len(uint(len(all)+len(all)/2)))
	for _, p := range all {
		if at := l.place(p.hash, func(e *line) bool { return l.key(e) == l.key(l.line(p.line)) }); at.line == 0 || l.line(p.line).outlives(l.line(at.line)) {
			*at = p
		}
	}
}

// Contains says whether the list has the value now: see policy.Lists.
func (l *List) Contains(value string, now func() time.Time) bool { return l.find(value, now) != nil }

// Find is Contains, and returns the entry that matched.
func (l *List) Find(value string, now func() time.Time) (Entry, bool) {
	e := l.find(value, now)
	if e == nil {
		return Entry{}, false
	}
	return l.entry(e), true
}

// Entries are those that count now, in their order.
func (l *List) Entries(now func() time.Time) iter.Seq[Entry] { return l.entries(now, true) }

// Expired are those that no longer count, in their order.
func (l *List) Expired(now func() time.Time) iter.Seq[Entry] { return l.entries(now, false) }

func (l *List) entries(now func() time.Time, counting bool) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := range l.lines {
			if e := &l.lines[i]; e.counts(now) == counting && !yield(l.entry(e)) {
				return
			}
		}
	}
}

// find returns the line that matches.
func (l *List) find(value string, now func() time.Time) *line {
	if value == "" {
		return nil
	}
	value = strings.ToLower(value)
	if _, domain, ok := smtp.CutAddress(value); ok {
		if e := l.counting(l.lookUp(key{name: value}), now); e != nil {
			return e
		}
		return l.findDomain(domain, now)
	}
	if addr, err := parseAddr(value); err == nil {
		return l.findAddr(addr.Unmap().WithZone(""), now)
	}
	return l.findDomain(strings.TrimSuffix(value, "."), now)
}

// counting returns the line, if it counts.
func (l *List) counting(r lineRef, now func() time.Time) *line {
	if r == 0 || !l.line(r).counts(now) {
		return nil
	}
	return l.line(r)
}

// findAddr looks for the address, and then for the networks around it, the narrowest first. A
// wider one may count where a narrower one has expired.
func (l *List) findAddr(addr netip.Addr, now func() time.Time) *line {
	k := addressKey(addr)
	if e := l.counting(l.lookUp(k), now); e != nil {
		return e
	}
	if r, ok := l.networks.Lookup(addr); !ok || l.line(r).counts(now) {
		return l.counting(r, now)
	}
	for _, r := range l.networks.Supernets(k.network) {
		if e := l.counting(r, now); e != nil {
			return e
		}
	}
	return nil
}

func (l *List) findDomain(domain string, now func() time.Time) *line {
	if e := l.counting(l.lookUp(key{name: domain}), now); e != nil || !l.subdomains {
		return e
	}
	for {
		dot := strings.IndexByte(domain, '.')
		if dot < 0 {
			return nil
		}
		if e := l.counting(l.lookUp(key{name: domain[dot:]}), now); e != nil {
			return e
		}
		domain = domain[dot+1:]
	}
}

// lookUp returns the line of k, which is no network but a single address.
func (l *List) lookUp(k key) lineRef {
	return l.place(k.hash(), func(e *line) bool { return l.key(e) == k }).line
}

// place returns the place of what has this hash and is the same, or a free one if there is none.
func (l *List) place(hash uint32, same func(*line) bool) *place {
	for i := hash; ; i++ {
		p := &l.places[i&uint32(len(l.places)-1)]
		if p.line == 0 || p.hash == hash && same(l.line(p.line)) {
			return p
		}
	}
}

var keySeed = maphash.MakeSeed()

// hash is not for networks.
func (k key) hash() uint32 {
	if k.name != "" {
		return uint32(maphash.String(keySeed, k.name))
	}
	addr := k.network.Addr().As16()
	return uint32(maphash.Bytes(keySeed, addr[:]))
}

func (l *List) line(r lineRef) *line { return &l.lines[r-1] }

// key is what a line of the list is found by.
func (l *List) key(e *line) key {
	value, _ := cutComment(l.textOf(e))
	k, _ := parseKey(value) // add has found it good
	return k
}

func (l *List) textOf(e *line) string { return l.text[e.start : e.start+e.octets] }

// entry returns what stands on a line.
func (l *List) entry(e *line) Entry {
	text := l.textOf(e)
	value, comment := cutComment(text)
	return Entry{List: l.name, Value: value, Comment: comment, Until: e.until(), Position: l.position(int(e.number), text)}
}

// position is where the line with this number stands.
func (l *List) position(number int, text string) configs.Position {
	if number == 0 {
		return l.definition
	}
	return configs.Position{File: l.file, Line: number, Column: 1 + len(text) - len(strings.TrimLeft(text, " \t"))}
}

func (e *line) outlives(other *line) bool { return e.ends > other.ends }

// until is the time from when on the entry no longer counts; zero: never.
func (e *line) until() time.Time {
	if e.ends == forever {
		return time.Time{}
	}
	return time.Unix(int64(e.ends)*secondsOfADay, 0).UTC()
}

const secondsOfADay = 24 * 60 * 60

func (e *line) counts(now func() time.Time) bool { return e.ends == forever || now().Before(e.until()) }

// parseLine reads a line: what its entry is found by, and its end as line.ends. Not ok: it has no entry.
func parseLine(text string) (k key, ends int32, ok bool, err error) {
	value, comment := cutComment(text)
	if value == "" {
		return key{}, 0, false, nil
	}
	if ends, err = expiry(comment); err != nil {
		return key{}, 0, false, err
	}
	k, err = parseKey(value)
	return k, ends, true, err
}

// cutComment parts a line.
func cutComment(line string) (value, comment string) {
	value, comment, _ = strings.Cut(line, "#")
	return strings.TrimSpace(value), strings.TrimSpace(comment)
}

// expiry reads "until 2027-03-01" at the end of a comment or before a comma. What it returns is line.ends.
func expiry(comment string) (int32, error) {
	if comment == "" {
		return forever, nil
	}
	until := false
	for word := range strings.FieldsFuncSeq(comment, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == ';' }) {
		if until {
			day, err := time.Parse(time.DateOnly, word)
			if err != nil {
				return 0, fmt.Errorf("until %s: a date is written 2027-03-01", word)
			}
			return int32(day.AddDate(0, 0, 1).Unix() / secondsOfADay), nil
		}
		until = strings.EqualFold(word, "until")
	}
	if until {
		return 0, errors.New("until what day? write until 2027-03-01")
	}
	return forever, nil
}

// parseKey returns what an entry is found by, or what is wrong with it.
func parseKey(value string) (key, error) {
	text := strings.ToLower(value)
	switch {
	case strings.Contains(text, "/"):
		network, err := configs.ParseNetwork(text)
		if err != nil {
			return key{}, fmt.Errorf("%q is no network: write it as 192.0.2.0/24 or 2001:db8::/32", value)
		}
		if network != network.Masked() {
			return key{}, fmt.Errorf("%q has bits behind its prefix: write %s, or %s for the one address", value, network.Masked(), network.Addr())
		}
		return key{network: network}, nil
	case strings.Contains(text, "@"):
		local, domain, _ := smtp.CutAddress(text)
		if (local == "" || local == "*") && isDomain(domain) {
			return key{}, fmt.Errorf("%q: write %s, which means the addresses in it too", value, domain)
		}
		if local == "" || !isDomain(domain) {
			return key{}, fmt.Errorf("%q is no address: write it as bob@example.org", value)
		}
		return key{name: text}, nil
	}
	if addr, err := parseAddr(text); err == nil {
		if addr.Zone() != "" {
			return key{}, fmt.Errorf("%q: an address in a list has no zone", value)
		}
		return addressKey(addr.Unmap()), nil
	}
	if strings.HasPrefix(text, "*.") {
		text = text[len("*"):]
	}
	text = strings.TrimSuffix(text, ".")
	if !isDomain(strings.TrimPrefix(text, ".")) {
		return key{}, fmt.Errorf("%q is no IP address, network, domain or address (domains are written as A-labels, xn--...)", value)
	}
	return key{name: text}, nil
}

func addressKey(addr netip.Addr) key { return key{network: netip.PrefixFrom(addr, addr.BitLen())} }

var errNoAddr = errors.New("no IP address")

// parseAddr is netip.ParseAddr, whose error for a domain costs an allocation.
func parseAddr(text string) (netip.Addr, error) {
	if strings.IndexByte(text, ':') < 0 && !isNumeric(text) {
		return netip.Addr{}, errNoAddr
	}
	return netip.ParseAddr(text)
}

// isNumeric says whether s is digits and dots alone, as an IPv4 address is.
func isNumeric(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// isDomain says whether s is letters, digits, hyphens and underscores between dots.
func isDomain(s string) bool {
	label := 0 // octets of it so far
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.' && label > 0:
			label = 0
		case ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') && label < 63:
			label++
		default:
			return false
		}
	}
	// Digits and dots alone were meant to be an IP address.
	return label > 0 && len(s) <= 253 && !isNumeric(s)
}
