package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"postern/configs"
	"postern/policy/list"
)

// Lists are the named lists that rules read with in_list. A Chain keeps the
// Lists it was compiled with, whose content Replace changes in one step under
// its feet. The nil Lists has no list. Safe for concurrent use.
type Lists struct {
	now     func() time.Time
	content atomic.Pointer[map[string]*list.List]
	// rest has the lists that are not among the content: a Chain that has
	// overrides looks for theirs first. May be nil.
	rest *Lists
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
	content := make(map[string]*list.List, len(defs))
	fault := func(at configs.Position, format string, args ...any) {
		faults = append(faults, &configs.Fault{Position: at, Text: fmt.Sprintf(format, args...)})
	}
	for _, def := range defs {
		_, twice := content[def.Name]
		switch {
		case def.Name == "":
			fault(def.Position, "the list has no name")
			continue
		case twice:
			fault(def.Position, "there is already a list %q", def.Name)
			continue
		}
		l, wrong := list.Read(def, read)
		content[def.Name] = l // nil where something is wrong
		faults = append(faults, wrong...)
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	lists := &Lists{now: now}
	lists.content.Store(&content)
	return lists, nil
}

// Has says whether rules may read a list of that name.
func (ls *Lists) Has(name string) bool { return name == TrustedForwarders || ls.of(name) != nil }

// of returns the list of that name, in which to look; nil: there is none.
func (ls *Lists) of(name string) *list.List {
	for ; ls != nil; ls = ls.rest {
		if l := (*ls.content.Load())[name]; l != nil {
			return l
		}
	}
	return nil
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
	l := ls.of(name)
	return l != nil && l.Contains(value, ls.now)
}

// Find is Contains, and returns the entry that matched.
func (ls *Lists) Find(name, value string) (list.Entry, bool) {
	l := ls.of(name)
	if l == nil {
		return list.Entry{}, false
	}
	return l.Find(value, ls.now)
}

// Expired returns the entries that no longer count, by list and in their order.
func (ls *Lists) Expired() []list.Entry {
	var expired []list.Entry
	for _, name := range ls.Names() {
		expired = slices.AppendSeq(expired, ls.of(name).Expired(ls.now))
	}
	return expired
}

// Replace gives ls the content of another Lists, all lists in one step. It
// refuses, and changes nothing, if a list is missing there: a rule may read it.
func (ls *Lists) Replace(with *Lists) error {
	for _, name := range ls.Names() {
		if with.of(name) == nil {
			return fmt.Errorf("policy: the list %q is gone, and rules may read it", name)
		}
	}
	ls.content.Store(with.content.Load())
	return nil
}
