package main

import (
	"errors"
	"fmt"
	"time"

	"postern/configs"
	"postern/policy"
)

// rules are a compiled policy with the lists that it reads.
type rules struct {
	chain *policy.Chain
	lists *policy.Lists
	defs  []configs.List
	// overrides are in the chain; they are here for their last day.
	overrides []configs.Override
	now       func() time.Time
}

// buildRules compiles the policy of a configuration. The error has every fault of the
// lists and of the rules.
func buildRules(cfg *configs.Config) (rules, error) { return buildRulesAt(cfg, nil) }

// buildRulesAt is buildRules with a clock of one's own; nil: time.Now.
func buildRulesAt(cfg *configs.Config, now func() time.Time) (rules, error) {
	if now == nil {
		now = time.Now
	}
	r := rules{defs: cfg.Lists, overrides: cfg.Overrides, now: now}
	var listFault, ruleFault error
	if r.lists, listFault = policy.NewLists(cfg.Lists, readList, now); listFault != nil {
		// The rules may be right all the same: a file that cannot be read is no unknown list.
		r.lists = namesOnly(cfg.Lists)
	}
	r.chain, ruleFault = policy.Compile(cfg.Policy, r.lists)
	return r, errors.Join(listFault, ruleFault)
}

// loadRules reads a file of which only the rules and lists count.
func loadRules(file string) (rules, error) {
	cfg, err := configs.Load(configs.Options{File: file, NoEnvironment: true})
	if err != nil {
		return rules{}, err
	}
	return buildRules(cfg)
}

// warnings are what is legal and hardly meant.
func (r *rules) warnings() []configs.Fault {
	warnings := append(r.chain.Warnings(), r.chain.Gaps()...)
	for _, e := range r.lists.Expired() {
		warnings = append(warnings, configs.Fault{Position: e.Position, Text: fmt.Sprintf("list %s: %s has expired", e.List, e.Value)})
	}
	for i := range r.overrides {
		if o := &r.overrides[i]; !r.now().Before(o.End()) {
			warnings = append(warnings, configs.Fault{Position: o.Position, Text: fmt.Sprintf("override %s has expired on %s and excuses nothing any more: ask %s", o.Name, o.Until, o.Owner)})
		}
	}
	return warnings
}

// files are those of the lists, to be read again when they change.
func (r *rules) files() (files []string) {
	for _, l := range r.defs {
		if l.File != "" {
			files = append(files, l.File)
		}
	}
	return files
}

// reload reads the lists again; the rules find the new content from then on.
func (r *rules) reload() error {
	fresh, err := policy.NewLists(r.defs, readList, r.now)
	if err != nil {
		return err
	}
	return r.lists.Replace(fresh)
}

// maxList bounds a list's file: a log written into the wrong place must not take
// the memory away.
const maxList = 256 << 20

func readList(file string) ([]byte, error) { return configs.ReadFile(file, maxList) }

// namesOnly has the lists without their entries.
func namesOnly(defs []configs.List) *policy.Lists {
	var names []configs.List
	for _, l := range defs {
		names = append(names, configs.List{Name: l.Name})
	}
	lists, err := policy.NewLists(names, nil, time.Now)
	if err != nil { // a name is missing or there twice, which was told
		return nil
	}
	return lists
}
