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
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
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
	inline     int    // how many entries the definition has
	lines      []line // those that have an entry
	// places are a table of the lines that are no wide networks, by the hash of what they are found by: a line
	// stands at the first free place from that of its hash on. Two thirds of it are in use at most, and its size is a
	// power of two.
	places     []place
	networks   bart.Table[lineRef]
	subdomains bool // some name begins with a dot, as those do that mean the domains below one
}

// line is where an entry stands.
type line struct {
	start, octets uint32 // in the text
	number        uint32 // from 0, of the definition's entries and then the lines of the file
	ends          int32  // the first day on which it no longer counts, from 1970-01-01; or forever
}

// place is where a line may stand in the table.
type place struct {
	hash uint32
	line lineRef
}

// lineRef is a line by its place among the list's, from 1; 0 is none.
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
// errors are a *configs.Fault for each wrong line, and for a file that cannot be read; of a file of which
// nearly nothing is right, only the first ones. There is no list where there are errors.
func Read(def configs.List, read func(file string) ([]byte, error)) (l *List, faults []error) {
	var file []byte
	if def.File != "" {
		var err error
		if file, err = read(def.File); err != nil {
			faults = append(faults, &configs.Fault{Position: def.Position, Text: fmt.Sprintf("list %s: %v", def.Name, err)})
			file = nil // a part of it says nothing
		}
		file = bytes.TrimPrefix(file, []byte("\ufeff"))
	}
	octets := len(file)
	for _, text := range def.Entries {
		octets += len(text)
	}
	if octets > math.MaxUint32 {
		return nil, []error{&configs.Fault{Position: def.Position, Text: fmt.Sprintf("list %s has more than 4 GiB", def.Name)}}
	}
	var text strings.Builder
	text.Grow(octets)
	for _, entry := range def.Entries {
		text.WriteString(entry)
	}
	text.Write(file)
	l = &List{name: def.Name, definition: def.Position, file: def.File, text: text.String(), inline: len(def.Entries)}
	parts := partsOf(def.Entries, l.text[octets-len(file):], octets-len(file))
	l.read(parts)
	for i := range parts {
		faults = append(faults, parts[i].faults...)
	}
	if faults != nil {
		return nil, faults
	}
	l.join(parts)
	return l, nil
}

// part is what one goroutine reads of a list: long ones are read by as many as there are processors.
type part struct {
	text         iter.Seq[string]
	start, first int // in the text and among the lines of the list

	lines  []line
	names  []place   // of those that are no wide networks, by their place among these lines
	wide   []lineRef // the others
	faults []error
	// subdomains is as that of a List.
	subdomains bool
}

const (
	// partSize is how much of a file is worth a goroutine, in octets.
	partSize = 64 << 10
	// usualLine is how long the lines of a list are that has room for all of them from the beginning,
	// in octets. NOT: room for each line. There are files of blank ones.
	usualLine = 16
	// maxFaults is how many faults of a part are told. A log in the wrong place has millions.
	maxFaults = 100
)

// partsOf makes parts of a list: the entries of its definition, and its file, which has that start in its text.
func partsOf(inline []string, file string, start int) []part {
	parts := []part{{text: slices.Values(inline)}}
	number := len(inline)
	for n := min(runtime.GOMAXPROCS(0), 1+len(file)/partSize); len(file) > 0; n-- {
		end := len(file)
		if n > 1 {
			if i := strings.IndexByte(file[end/n:], '\n'); i >= 0 {
				end = end/n + i + 1
			}
		}
		lines := strings.Count(file[:end], "\n")
		room := min(lines+1, end/usualLine+1) // the last one may have no end
		parts = append(parts, part{text: strings.Lines(file[:end]), start: start, first: number, lines: make([]line, 0, room), names: make([]place, 0, room)})
		number += lines
		start, file = start+end, file[end:]
	}
	return parts
}

// read reads all parts of l.
func (l *List) read(parts []part) {
	var wg sync.WaitGroup
	panics := make(chan string, len(parts))
	for i := range parts {
		wg.Go(func() {
			// A panic in a goroutine would end the process, not the reload.
			defer func() {
				if v := recover(); v != nil {
					panics <- fmt.Sprintf("%v\n%s", v, debug.Stack())
				}
			}()
			parts[i].read(l)
		})
	}
	wg.Wait()
	select {
	case v := <-panics:
		panic(v) // for the caller, as if there were no goroutines
	default:
	}
}

// read reads a part of l.
func (p *part) read(l *List) {
	start, number := p.start, p.first
	for text := range p.text {
		k, ends, ok, err := parseLine(text)
		switch {
		case err != nil && len(p.faults) == maxFaults:
			p.faults = append(p.faults, l.fault(number, text, errors.New("there are many more faults: is this the right file?")))
			return
		case err != nil:
			p.faults = append(p.faults, l.fault(number, text, err))
		case ok:
			p.lines = append(p.lines, line{start: uint32(start), octets: uint32(len(text)), number: uint32(number), ends: ends})
			if added := lineRef(len(p.lines)); k.isWide() {
				p.wide = append(p.wide, added)
			} else {
				p.names = append(p.names, place{hash: k.hash(), line: added})
			}
			p.subdomains = p.subdomains || strings.HasPrefix(k.name, ".")
		}
		start, number = start+len(text), number+1
	}
}

// join makes l of its parts.
func (l *List) join(parts []part) {
	lines, names := 0, 0
	for i := range parts {
		lines, names = lines+len(parts[i].lines), names+len(parts[i].names)
	}
	l.lines = make([]line, 0, lines)
	l.places = make([]place, 1<<bits.Len(uint(names+names/2)))
	for i := range parts {
		p := &parts[i]
		before := lineRef(len(l.lines))
		l.lines = append(l.lines, p.lines...)
		l.index(p.names, before)
		for _, r := range p.wide {
			l.insert(before + r)
		}
		l.subdomains = l.subdomains || p.subdomains
		*p = part{} // its memory can be had for the next one
	}
}

// fault says what is wrong with the line of this number.
func (l *List) fault(number int, text string, err error) error {
	if number < l.inline {
		return &configs.Fault{Position: l.definition, Text: fmt.Sprintf("list %s: %v", l.name, err)}
	}
	return &configs.Fault{Position: l.position(number, text), Text: err.Error()}
}

// insert puts a network among the others. Of two that are the same, the one stays that counts for longest.
func (l *List) insert(added lineRef) {
	network := l.key(l.line(added)).network
	if old, ok := l.networks.Get(network); !ok || l.line(added).outlives(l.line(old)) {
		l.networks.Insert(network, added)
	}
}

// index puts lines of a part into the table, which has so many lines before it. Of lines that are found by the
// same, the table has the one that counts for longest.
//
// NOT: each line as it is read. A place in a large table is far from the processor, which waits for many
// of them at once where it has nothing else to do between two.
func (l *List) index(names []place, before lineRef) {
	for _, n := range names {
		n.line += before
		at := l.place(n.hash, func(e *line) bool { return l.key(e) == l.key(l.line(n.line)) })
		if at.line == 0 || l.line(n.line).outlives(l.line(at.line)) {
			*at = n
		}
	}
}

// Contains says whether the list has the value now: see policy.Lists.Contains.
func (l *List) Contains(value string, now func() time.Time) bool { return l.find(value, now) != 0 }

// Find is Contains, and returns the entry that matched.
func (l *List) Find(value string, now func() time.Time) (Entry, bool) {
	r := l.find(value, now)
	if r == 0 {
		return Entry{}, false
	}
	return l.entry(r), true
}

// Entries are those that count now, in their order.
func (l *List) Entries(now func() time.Time) iter.Seq[Entry] { return l.entries(now, true) }

// Expired are those that no longer count, in their order.
func (l *List) Expired(now func() time.Time) iter.Seq[Entry] { return l.entries(now, false) }

func (l *List) entries(now func() time.Time, counting bool) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := range l.lines {
			e := &l.lines[i]
			if e.counts(now) == counting && !yield(l.entry(lineRef(i+1))) {
				return
			}
		}
	}
}

// find returns the line that matches.
func (l *List) find(value string, now func() time.Time) lineRef {
	if value == "" {
		return 0
	}
	value = strings.ToLower(value)
	if _, domain, ok := smtp.CutAddress(value); ok {
		if r := l.counting(l.lookUp(key{name: value}), now); r != 0 {
			return r
		}
		return l.findDomain(domain, now)
	}
	if addr, err := parseAddr(value); err == nil {
		return l.findAddr(addr.Unmap().WithZone(""), now)
	}
	return l.findDomain(strings.TrimSuffix(value, "."), now)
}

// counting returns the line, if it counts.
func (l *List) counting(r lineRef, now func() time.Time) lineRef {
	if r == 0 || !l.line(r).counts(now) {
		return 0
	}
	return r
}

// findAddr looks for the address, and then for the networks around it, the narrowest first. A
// wider one may count where a narrower one has expired.
func (l *List) findAddr(addr netip.Addr, now func() time.Time) lineRef {
	k := addressKey(addr)
	if r := l.counting(l.lookUp(k), now); r != 0 {
		return r
	}
	if r, ok := l.networks.Lookup(addr); !ok || l.line(r).counts(now) {
		return l.counting(r, now)
	}
	for _, r := range l.networks.Supernets(k.network) {
		if r = l.counting(r, now); r != 0 {
			return r
		}
	}
	return 0
}

func (l *List) findDomain(domain string, now func() time.Time) lineRef {
	if r := l.counting(l.lookUp(key{name: domain}), now); r != 0 || !l.subdomains {
		return r
	}
	for {
		dot := strings.IndexByte(domain, '.')
		if dot < 0 {
			return 0
		}
		if r := l.counting(l.lookUp(key{name: domain[dot:]}), now); r != 0 {
			return r
		}
		domain = domain[dot+1:]
	}
}

// lookUp returns the line of k, which is no wide network.
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

// hash is not for wide networks.
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
	k, _ := parseKey(value) // the part has found it good
	return k
}

func (l *List) textOf(e *line) string { return l.text[e.start : e.start+e.octets] }

// entry returns what stands on a line.
func (l *List) entry(r lineRef) Entry {
	e := l.line(r)
	text := l.textOf(e)
	value, comment := cutComment(text)
	return Entry{List: l.name, Value: value, Comment: comment, Until: e.until(), Position: l.position(int(e.number), text)}
}

// position is where the line of this number stands.
func (l *List) position(number int, text string) configs.Position {
	if number < l.inline {
		return l.definition
	}
	return configs.Position{File: l.file, Line: 1 + number - l.inline, Column: 1 + len(text) - len(strings.TrimLeft(text, " \t"))}
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

// isWide says whether k is a network of more than one address.
func (k key) isWide() bool { return k.network.IsValid() && !k.network.IsSingleIP() }

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
