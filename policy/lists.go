package policy

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"postern/configs"
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
		l, wrong := readList(def, read)
		content[def.Name] = l
		faults = append(faults, wrong...)
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	lists := &Lists{now: now}
	lists.content.Store(&content)
	return lists, nil
}

// readList reads one list. The errors are a *configs.Fault for each wrong line, and for a
// file that cannot be read.
func readList(def configs.List, read func(file string) ([]byte, error)) (l *list, faults []error) {
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
	l = &list{name: def.Name, definition: def.Position, file: def.File}
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
	_, found := ls.find(name, value)
	return found != nil
}

// Find is Contains, and returns the entry that matched.
func (ls *Lists) Find(name, value string) (Entry, bool) {
	l, found := ls.find(name, value)
	if found == nil {
		return Entry{}, false
	}
	return l.entry(found), true
}

// find returns the list of that name and the line in it that matched; nil: none did.
func (ls *Lists) find(name, value string) (*list, *line) {
	if ls == nil || value == "" {
		return nil, nil
	}
	l := (*ls.content.Load())[name]
	if l == nil {
		return ls.rest.find(name, value)
	}
	value = strings.ToLower(value)
	if _, domain, ok := smtp.CutAddress(value); ok {
		if e := ls.counting(l, l.find(key{name: value})); e != nil {
			return l, e
		}
		return l, ls.findDomain(l, domain)
	}
	if addr, err := parseAddr(value); err == nil {
		return l, ls.findAddr(l, addr.Unmap().WithZone(""))
	}
	return l, ls.findDomain(l, strings.TrimSuffix(value, "."))
}

// counting returns the line, if it counts.
func (ls *Lists) counting(l *list, r lineRef) *line {
	if r == 0 || !l.line(r).counts(ls.now) {
		return nil
	}
	return l.line(r)
}

// findAddr looks for the address, and then for the networks around it, the narrowest first. A
// wider one may count where a narrower one has expired.
func (ls *Lists) findAddr(l *list, addr netip.Addr) *line {
	k := addressKey(addr)
	if e := ls.counting(l, l.find(k)); e != nil {
		return e
	}
	if r, ok := l.networks.Lookup(addr); !ok || l.line(r).counts(ls.now) {
		return ls.counting(l, r)
	}
	for _, r := range l.networks.Supernets(k.network) {
		if e := ls.counting(l, r); e != nil {
			return e
		}
	}
	return nil
}

func (ls *Lists) findDomain(l *list, domain string) *line {
	if e := ls.counting(l, l.find(key{name: domain})); e != nil || !l.subdomains {
		return e
	}
	for {
		dot := strings.IndexByte(domain, '.')
		if dot < 0 {
			return nil
		}
		if e := ls.counting(l, l.find(key{name: domain[dot:]})); e != nil {
			return e
		}
		domain = domain[dot+1:]
	}
}

// Expired returns the entries that no longer count, by list and in their order.
func (ls *Lists) Expired() []Entry {
	var expired []Entry
	for _, name := range ls.Names() {
		l := (*ls.content.Load())[name]
		for i := range l.lines {
			if e := &l.lines[i]; !e.counts(ls.now) {
				expired = append(expired, l.entry(e))
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
