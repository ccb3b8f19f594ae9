package service

import (
	"errors"
	"time"

	"postern/configs"
	"postern/policy"
)

// rules are a compiled policy with the lists that it reads.
type rules struct {
	Chain *policy.Chain
	lists *policy.Lists
	defs  []configs.List
	// overrides are in the chain; they are here for their last day.
	overrides []configs.Override
	now       func() time.Time
}

// BuildRules compiles the policy of a configuration. The error has every fault of the
// lists and of the rules.
func BuildRules(cfg *configs.Config) (rules, error) { return buildRulesAt(cfg, nil) }

// buildRulesAt is buildRules with a clock of one's own; nil: time.Now.
func buildRulesAt(cfg *configs.Config, now func() time.Time) (rules, error) {
	if now == nil {
		now = time.Now
	}
	r := rules{defs: cfg.Lists, overrides: cfg.Overrides, now: now}
	var listFault, ruleFault error
	if r.lists, listFault = policy.NewLists(cfg.Lists, ReadList, now); listFault != nil {
		// The rules may be right all the same: a file that cannot be read is no unknown list.
		r.lists = namesOnly(cfg.Lists)
	}
	r.Chain, ruleFault = policy.Compile(cfg.Policy, r.lists)
	return r, errors.Join(listFault, ruleFault)
}

// LoadRules reads a file of which only the rules and lists count.
func LoadRules(file string) (rules, error) {
	cfg, err := configs.Load(configs.Options{File: file, NoEnvironment: true})
	if err != nil {
		return rules{}, err
	}
	// Which filters there are is said in another file: a rule that reads one which is not
	// configured finds nothing measured.
	cfg.Policy.Services, cfg.Policy.Milters = policy.FiltersIn(cfg.Policy)
	return BuildRules(cfg)
}

// warnings are what is legal and hardly meant.
func (r *rules) warnings() []configs.Fault {
	warnings := append(r.Chain.Warnings(), r.Chain.Gaps()...)
	for _, e := range r.lists.Expired() {
		warnings = append(warnings, configs.Warning(e.Position, "list %s: %s has expired", e.List, e.Value))
	}
	for i := range r.overrides {
		if o := &r.overrides[i]; !r.now().Before(o.End()) {
			warnings = append(warnings, configs.Warning(o.Position, "override %s has expired on %s and excuses nothing any more: ask %s", o.Name, o.Until, o.Owner))
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
	fresh, err := policy.NewLists(r.defs, ReadList, r.now)
	if err != nil {
		return err
	}
	return r.lists.Replace(fresh)
}

// maxList bounds a list's file: a log written into the wrong place must not take
// the memory away.
const maxList = 256 << 20

// ReadList reads the file of a list, up to 256 MiB.
func ReadList(file string) ([]byte, error) { return configs.ReadFile(file, maxList) }

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

// PolicySource says in words which rules are in force.
func PolicySource(cfg *configs.Config) string {
	own := "the rules of " + cfg.At("policy.rules").File
	switch {
	case cfg.Policy.BuiltIn == configs.BuiltInOff && len(cfg.Policy.Rules) == 0:
		return "no rules at all (policy.builtin: off)"
	case cfg.Policy.BuiltIn == configs.BuiltInOff:
		return own + " alone (policy.builtin: off)"
	case len(cfg.Policy.Rules) == 0:
		return "the built-in rules"
	}
	return own + ", then the built-in ones"
}
