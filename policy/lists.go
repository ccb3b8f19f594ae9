package policy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"

	"postern/configs"
	"postern/policy/expr"
	"postern/proxy/smtp"
)

// Lists are the named lists that rules read with in_list. A Chain keeps the
// Lists it was compiled with, whose content Replace changes in one step under
// its feet. The nil Lists has no list. Safe for concurrent use.
type Lists struct {
	now     func() time.Time
	content atomic.Pointer[map[string]*list]
	// rest has the lists that are not among the content: a Chain that has
	// overrides looks for theirs first. May be nil.
	rest *Lists
}

// Entry is one line of a list.
type Entry struct {
	List    string
	Value   string    // as written
	Comment string    // behind the #: owner and reason, by convention
	Until   time.Time // from when on the entry no longer counts; zero: never
	configs.Position
}

// list is the content of one list, by kind of entry.
type list struct {
	networks bart.Table[*Entry]
	// names has the entries that are no networks, in lower case: an address, a domain, or
	// a domain with a dot before it, whose sub-domains are meant. No two kinds look alike.
	names      map[string]*Entry
	subdomains bool // names has some
	entries    []*Entry
	room       []Entry // for the next ones, which are made many at a time
}

func newList() *list { return &list{names: map[string]*Entry{}} }

// keepEntry returns e where it stays.
func (l *list) keepEntry(e Entry) *Entry {
	if len(l.room) == cap(l.room) {
		l.room = make([]Entry, 0, min(256, 1+len(l.entries)))
	}
	l.room = append(l.room, e)
	return &l.room[len(l.room)-1]
}

// TrustedForwarders is the list that the built-in policy reads.
const TrustedForwarders = "trusted_forwarders"

// NewLists reads the lists that defs define. A file's content comes from read,
// one entry a line; blank lines are skipped, and what follows a # is a comment:
//
//	203.0.113.0/24    # mail team, moved campus, until 2027-03-01
//	192.0.2.7
//	example.org       # this domain, and addresses in it
//	*.example.org     # its sub-domains; .example.org means the same
//	bob@example.org
//
// An entry whose comment says until with a date counts to the end of that day,
// UTC. The error joins a *configs.Fault for each wrong line and each file that
// cannot be read.
//
// The list TrustedForwarders is empty where it is not defined.
func NewLists(defs []configs.List, read func(file string) ([]byte, error), now func() time.Time) (*Lists, error) {
	var faults []error
	content := make(map[string]*list, len(defs))
	fault := func(at configs.Position, format string, args ...any) {
		faults = append(faults, &configs.Fault{Position: at, Text: fmt.Sprintf(format, args...)})
	}
	for _, def := range defs {
		switch {
		case def.Name == "":
			fault(def.Position, "the list has no name")
			continue
		case content[def.Name] != nil:
			fault(def.Position, "there is already a list %q", def.Name)
			continue
		}
		l := newList()
		content[def.Name] = l
		for _, text := range def.Entries {
			if err := l.add(def.Name, text, def.Position); err != nil {
				fault(def.Position, "list %s: %v", def.Name, err)
			}
		}
		if def.File == "" {
			continue
		}
		data, err := read(def.File)
		if err != nil {
			fault(def.Position, "list %s: %v", def.Name, err)
			continue
		}
		number, before := 0, len(l.names)
		for line := range strings.Lines(string(data)) {
			if number++; number == sampled {
				l.makeRoom(len(l.names)-before, bytes.Count(data, []byte{'\n'}))
			}
			at := configs.Position{File: def.File, Line: number, Column: 1 + len(line) - len(strings.TrimLeft(line, " \t"))}
			if number == 1 {
				line = strings.TrimPrefix(line, "\ufeff")
			}
			if err := l.add(def.Name, line, at); err != nil {
				fault(at, "%v", err)
			}
		}
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	lists := &Lists{now: now}
	lists.content.Store(&content)
	return lists, nil
}

// sampled is after how many lines of a file its list knows what the others may be.
const sampled = 1000

// makeRoom makes room for the names in a file of so many lines, if they go on as they began,
// found of them in the first ones: a map that grows costs as much again as one that has the
// room.
func (l *list) makeRoom(found, lines int) {
	more := found * (lines/sampled - 1)
	if more <= 0 {
		return
	}
	names := make(map[string]*Entry, len(l.names)+more)
	maps.Copy(names, l.names)
	l.names = names
}

// add reads one line.
func (l *list) add(name, line string, at configs.Position) error {
	text, comment, _ := strings.Cut(line, "#")
	text, comment = strings.TrimSpace(text), strings.TrimSpace(comment)
	if text == "" {
		return nil
	}
	until, err := expiry(comment)
	if err != nil {
		return err
	}
	e := l.keepEntry(Entry{List: name, Value: text, Comment: comment, Until: until, Position: at})
	if err := l.insert(e); err != nil {
		return err
	}
	l.entries = append(l.entries, e)
	return nil
}

// expiry reads "until 2027-03-01" at the end of a comment or before a comma.
func expiry(comment string) (time.Time, error) {
	words := strings.FieldsFunc(comment, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == ';' })
	i := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, "until") })
	if i < 0 {
		return time.Time{}, nil
	}
	if i+1 == len(words) {
		return time.Time{}, errors.New("until what day? write until 2027-03-01")
	}
	day, err := time.Parse(time.DateOnly, words[i+1])
	if err != nil {
		return time.Time{}, fmt.Errorf("until %s: a date is written 2027-03-01", words[i+1])
	}
	return day.AddDate(0, 0, 1), nil
}

func (l *list) insert(e *Entry) error {
	text := strings.ToLower(e.Value)
	switch {
	case strings.Contains(text, "/"):
		network, err := expr.ParseNetwork(text)
		if err != nil {
			return fmt.Errorf("%q is no network: write it as 192.0.2.0/24 or 2001:db8::/32", e.Value)
		}
		if network != network.Masked() {
			return fmt.Errorf("%q has bits behind its prefix: write %s, or %s for the one address", e.Value, network.Masked(), network.Addr())
		}
		l.insertNetwork(network, e)
	case strings.Contains(text, "@"):
		local, domain, _ := smtp.CutAddress(text)
		if (local == "" || local == "*") && isDomain(domain) {
			return fmt.Errorf("%q: write %s, which means the addresses in it too", e.Value, domain)
		}
		if local == "" || !isDomain(domain) {
			return fmt.Errorf("%q is no address: write it as bob@example.org", e.Value)
		}
		l.keep(text, e)
	default:
		if addr, err := parseAddr(text); err == nil {
			if addr.Zone() != "" {
				return fmt.Errorf("%q: an address in a list has no zone", e.Value)
			}
			addr = addr.Unmap()
			l.insertNetwork(netip.PrefixFrom(addr, addr.BitLen()), e)
			return nil
		}
		if strings.HasPrefix(text, "*.") {
			text = text[len("*"):]
		}
		text = strings.TrimSuffix(text, ".")
		domain, sub := strings.CutPrefix(text, ".")
		if !isDomain(domain) {
			return fmt.Errorf("%q is no IP address, network, domain or address (domains are written as A-labels, xn--...)", e.Value)
		}
		l.subdomains = l.subdomains || sub
		l.keep(text, e)
	}
	return nil
}

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

func (l *list) insertNetwork(p netip.Prefix, e *Entry) {
	if old, ok := l.networks.Get(p); !ok || e.outlives(old) {
		l.networks.Insert(p, e)
	}
}

func (l *list) keep(name string, e *Entry) {
	if old, ok := l.names[name]; !ok || e.outlives(old) {
		l.names[name] = e
	}
}

func (e *Entry) outlives(other *Entry) bool {
	return !other.Until.IsZero() && (e.Until.IsZero() || e.Until.After(other.Until))
}

// Has says whether rules may read a list of that name.
func (ls *Lists) Has(name string) bool { return name == TrustedForwarders || ls.defines(name) }

func (ls *Lists) defines(name string) bool {
	for ; ls != nil; ls = ls.rest {
		if (*ls.content.Load())[name] != nil {
			return true
		}
	}
	return false
}

// Names returns the names of the lists, sorted, without those that overrides are made of.
func (ls *Lists) Names() []string {
	if ls == nil {
		return nil
	}
	var names []string
	for name := range *ls.content.Load() {
		if !strings.HasPrefix(name, configs.OverrideMark) {
			names = append(names, name)
		}
	}
	names = append(names, ls.rest.Names()...)
	slices.Sort(names)
	return names
}

// Contains says whether the value is in the list now. An IP address is if the
// list has it or a network around it; a domain if the list has it or, as
// *.parent, a domain above it; an address if the list has it or, by the same
// rules, its domain. Case is ignored. The empty value is in no list.
func (ls *Lists) Contains(name, value string) bool {
	_, ok := ls.Find(name, value)
	return ok
}

// Find is Contains, and returns the entry that matched.
func (ls *Lists) Find(name, value string) (*Entry, bool) {
	if ls == nil || value == "" {
		return nil, false
	}
	l := (*ls.content.Load())[name]
	if l == nil {
		return ls.rest.Find(name, value)
	}
	value = strings.ToLower(value)
	if _, domain, ok := smtp.CutAddress(value); ok {
		if e, ok := l.names[value]; ok && ls.counts(e) {
			return e, true
		}
		return ls.findDomain(l, domain)
	}
	if addr, err := parseAddr(value); err == nil {
		return ls.findAddr(l, addr.Unmap().WithZone(""))
	}
	return ls.findDomain(l, strings.TrimSuffix(value, "."))
}

func (ls *Lists) findAddr(l *list, addr netip.Addr) (*Entry, bool) {
	e, ok := l.networks.Lookup(addr)
	if !ok || ls.counts(e) {
		return e, ok
	}
	// The narrowest network has expired; a wider one may not have.
	for _, e := range l.networks.Supernets(netip.PrefixFrom(addr, addr.BitLen())) {
		if ls.counts(e) {
			return e, true
		}
	}
	return nil, false
}

func (ls *Lists) findDomain(l *list, domain string) (*Entry, bool) {
	if e, ok := l.names[domain]; ok && ls.counts(e) {
		return e, true
	}
	if !l.subdomains {
		return nil, false
	}
	for {
		dot := strings.IndexByte(domain, '.')
		if dot < 0 {
			return nil, false
		}
		if e, ok := l.names[domain[dot:]]; ok && ls.counts(e) {
			return e, true
		}
		domain = domain[dot+1:]
	}
}

func (ls *Lists) counts(e *Entry) bool {
	return e.Until.IsZero() || ls.now().Before(e.Until)
}

// Expired returns the entries that no longer count, by list and in their order.
func (ls *Lists) Expired() []Entry {
	var expired []Entry
	for _, name := range ls.Names() {
		for _, e := range (*ls.content.Load())[name].entries {
			if !ls.counts(e) {
				expired = append(expired, *e)
			}
		}
	}
	return expired
}

// Replace gives ls the content of another Lists, all lists in one step. It
// refuses, and changes nothing, if a list is missing there: a rule may read it.
func (ls *Lists) Replace(with *Lists) error {
	for _, name := range ls.Names() {
		if !with.defines(name) {
			return fmt.Errorf("policy: the list %q is gone, and rules may read it", name)
		}
	}
	ls.content.Store(with.content.Load())
	return nil
}
