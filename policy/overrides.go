package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"postern/configs"
	"postern/policy/expr"
)

// overrides makes the overrides a part of the rules and lets, and returns lists
// that have theirs besides those given. An override that passes everything is a
// rule on top. One that excuses checks is an unless of the rules that refuse by
// them, and a rule at the end that says, where nothing else was wrong, that it was
// needed. Their entries are in lists, so that they end on their day by themselves.
func (c *compilation) overrides(p configs.Policy, lists *Lists) (configs.Policy, *Lists, []configs.Fault) {
	if len(p.Overrides) == 0 {
		return p, lists, nil
	}
	own := c.overrideLists(p.Overrides, lists)
	var warnings []configs.Fault
	var lets []configs.Let
	var top, end []configs.Rule
	excused := map[string][]string{}  // the lets by check
	unproven := map[string][]string{} // the conditions by check, or passed
	refusing := refusingRules(p)
	taken := map[string]bool{} // names of lets
	for _, let := range p.Let {
		taken[let.Name] = true
	}
	for i := range p.Overrides {
		o := &p.Overrides[i]
		rule := configs.Rule{
			Name: configs.OverrideMark + o.Name, Do: "pass",
			Position: o.Position, WhenPosition: o.Position,
		}
		if o.Do == "pass" {
			rule.When = overrideCondition(o, "mail.domain", false)
			top = append(top, rule)
			if lookedUp(o) {
				unproven[passed] = append(unproven[passed], overrideCondition(o, "mail.domain", true))
			}
			continue
		}
		var needed []string
		known := map[string]string{} // the lets of this override by condition
		for _, check := range o.Excuse {
			x := checkOf[check]
			if x == nil || x.trouble == "" {
				all := excusable()
				c.faultAt(o.ExcusePosition, "override %s: excuse: %q is none of %s%s", o.Name, check, strings.Join(all, ", "), configs.DidYouMean(check, all))
				continue
			}
			read := refusing.rules[check]
			if len(read) == 0 {
				warnings = append(warnings, configs.Warning(o.Position, "override %s excuses %s, but no rule refuses by that", o.Name, check))
				continue
			}
			condition := overrideCondition(o, x.identity, false)
			if lookedUp(o) {
				unproven[check] = append(unproven[check], overrideCondition(o, x.identity, true))
			}
			let := known[condition]
			if let == "" {
				let = "override_" + identifier(o.Name)
				if len(known) > 0 {
					let += "_" + check
				}
				let = unlike(taken, let, "_", len(let)+2)
				known[condition] = let
				lets = append(lets, configs.Let{Name: let, Is: condition, Position: o.Position, IsPosition: o.Position})
			}
			excused[check] = append(excused[check], let)
			trouble := x.trouble
			for _, also := range x.also {
				if slices.ContainsFunc(read, func(i int) bool { return readsCheck(refusing.facts[i], also.by) }) {
					trouble = "(" + trouble + " or " + also.condition + ")"
				}
			}
			// The trouble first: where there is none, as in most mail, no list is asked.
			needed = append(needed, trouble+" and "+let)
		}
		if len(needed) > 0 {
			rule.When = strings.Join(needed, " or ")
			end = append(end, rule)
		}
	}
	rules := slices.Clone(p.Rules)
	for _, check := range excusable() {
		if len(excused[check]) == 0 {
			continue
		}
		o := p.Overrides[0]
		lets = append(lets, configs.Let{Name: "excused_" + check, Is: strings.Join(excused[check], " or "), Position: o.Position, IsPosition: o.Position})
		for _, i := range refusing.rules[check] {
			rules[i].Unless = append(slices.Clip(rules[i].Unless), "excused_"+check)
		}
	}
	rules, known := unlessUnproven(rules, refusing, unproven, p.Overrides[0].Position)
	// First, so that lets and rules of the site may read what an override says.
	p.Let = slices.Concat(lets, known, p.Let)
	p.Rules = slices.Concat(top, rules, end)
	return p, own, warnings
}

// passed stands beside the checks for what an override lets pass whatever they say.
const passed = "pass"

// unlessUnproven puts above each rule that rejects one that defers where an override
// would speak against it, but what proves it could not be looked up: that is trouble
// of ours, and no reason to refuse for good.
func unlessUnproven(rules []configs.Rule, refusing refusing, unproven map[string][]string, at configs.Position) (all []configs.Rule, lets []configs.Let) {
	taken := map[string]bool{}
	for i := range rules {
		taken[rules[i].Name] = true
	}
	for i := range rules {
		name := "override_proof_known"
		var conditions []string
		for _, kind := range append(excusable(), passed) {
			if len(unproven[kind]) > 0 && (kind == passed || slices.Contains(refusing.rules[kind], i)) {
				name += "_" + kind
				conditions = append(conditions, unproven[kind]...)
			}
		}
		if rules[i].Do == "reject" && conditions != nil {
			if !slices.ContainsFunc(lets, func(l configs.Let) bool { return l.Name == name }) {
				is := "not (" + strings.Join(conditions, " or ") + ")"
				lets = append(lets, configs.Let{Name: name, Is: is, Position: at, IsPosition: at})
			}
			r := rules[i]
			r.Name = unlike(taken, "unproven-"+r.Name, "-", maxName)
			r.Do, r.Reply, r.ReplyPosition = "defer", unprovenReply, at
			r.Unless = append(slices.Clip(r.Unless), name)
			all = append(all, r)
		}
		all = append(all, rules[i])
	}
	return all, lets
}

// lookedUp says whether the DNS has a part in what proves an override.
func lookedUp(o *configs.Override) bool { return len(o.Proof.Name)+len(o.Proof.DKIM) > 0 }

const unprovenReply = "451 4.4.3 Temporary failure of the DNS, please try again later."

// unlike returns a name of at most so many octets that is not taken, and takes it: that
// one, or one with a number behind it.
func unlike(taken map[string]bool, name, before string, most int) string {
	is := name[:min(len(name), most)]
	for n := 2; taken[is]; n++ {
		number := before + strconv.Itoa(n)
		is = name[:min(len(name), most-len(number))] + number
	}
	taken[is] = true
	return is
}

// identifier is a name as a let may have it.
func identifier(name string) string {
	return strings.NewReplacer("-", "_", ".", "_").Replace(name)
}

// listOf is the name of a list of an override.
func listOf(o *configs.Override, kind string) string {
	return configs.OverrideMark + o.Name + ":" + kind
}

// overrideCondition is who the override is for and what proves that it is them, or
// might prove it if an answer of the DNS were not missing.
func overrideCondition(o *configs.Override, domain string, might bool) string {
	name, dkim := "in_list(%q, client.name)", "any(dkim.domains, in_list(%q, #))"
	if might {
		name, dkim = "("+name+` or iprev.result == "temperror")`, "("+dkim+` or any(dkim.unknown, in_list(%[1]q, #)) or dkim.result == "temperror")`
	}
	var parts []string
	for _, x := range []struct {
		kind    string
		entries []string
		format  string
	}{
		{"match-address", o.Match.Addresses, "in_list(%q, client.ip)"},
		{"match-domain", o.Match.Domains, "in_list(%q, " + domain + ")"},
		{"address", o.Proof.Address, "in_list(%q, client.ip)"},
		{"name", o.Proof.Name, name},
		{"certificate", o.Proof.Certificate, "tls.peer.verified and any(tls.peer.names, in_list(%q, #))"},
		{"dkim", o.Proof.DKIM, dkim},
	} {
		if len(x.entries) > 0 {
			parts = append(parts, fmt.Sprintf(x.format, listOf(o, x.kind)))
		}
	}
	return strings.Join(parts, " and ")
}

// overrideLists makes the lists of the overrides, each entry of which ends with
// its override.
func (c *compilation) overrideLists(overrides []configs.Override, rest *Lists) *Lists {
	now := time.Now
	if rest != nil {
		now = rest.now
	}
	var defs []configs.List
	for i := range overrides {
		o := &overrides[i]
		for _, x := range []struct {
			kind, key string
			entries   []string
			addresses bool
		}{
			{"match-address", "match.addresses", o.Match.Addresses, true},
			{"match-domain", "match.domains", o.Match.Domains, false},
			{"address", "proof.address", o.Proof.Address, true},
			{"name", "proof.name", o.Proof.Name, false},
			{"certificate", "proof.certificate", o.Proof.Certificate, false},
			{"dkim", "proof.dkim", o.Proof.DKIM, false},
		} {
			if len(x.entries) == 0 {
				continue
			}
			def := configs.List{Name: listOf(o, x.kind), Position: o.Position}
			for _, entry := range x.entries {
				if isAddress(entry) != x.addresses || strings.ContainsAny(entry, "@#") {
					what := "no domain: write it as example.org or *.example.org"
					if x.addresses {
						what = "neither an IP address nor a network"
					}
					c.faultAt(o.Position, "override %s: %s: %q is %s", o.Name, x.key, entry, what)
					continue
				}
				if strings.HasPrefix(x.key, "proof.") && !o.Unsafe && anybody(entry) {
					c.faultAt(o.Position, "override %s: %s: %q proves nothing: anybody may be there", o.Name, x.key, entry)
					continue
				}
				line := entry + " # "
				if o.Until != "" {
					line += "until " + o.Until + "; "
				}
				def.Entries = append(def.Entries, line+o.Owner+": "+o.Reason)
			}
			defs = append(defs, def)
		}
	}
	lists, err := NewLists(defs, nil, now)
	if err != nil {
		c.faults = append(c.faults, err)
		// The names are there for the rules to be checked.
		for i := range defs {
			defs[i].Entries = nil
		}
		lists, _ = NewLists(defs, nil, now)
	}
	if lists != nil {
		lists.rest = rest
	}
	return lists
}

// anybody says whether an entry is one that no one owner has: more addresses than
// were ever given to one, or all names below a domain in which names are sold.
func anybody(entry string) bool {
	if isAddress(entry) {
		p, err := configs.ParseNetwork(entry)
		return err == nil && (p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16)
	}
	domain, sub := strings.CutPrefix(strings.ToLower(entry), "*.")
	if !sub {
		domain, sub = strings.CutPrefix(domain, ".")
	}
	suffix, managed := publicsuffix.PublicSuffix(strings.TrimSuffix(domain, "."))
	return sub && suffix == strings.TrimSuffix(domain, ".") && (managed || !strings.Contains(suffix, "."))
}

// isAddress says whether an entry is one of an address or a network, right or wrong.
func isAddress(entry string) bool {
	_, err := netip.ParseAddr(entry)
	return err == nil || strings.Contains(entry, "/")
}

// refusing are the rules that reject, defer or hold, with the facts that they read,
// themselves or by a let.
type refusing struct {
	rules map[string][]int // by check
	facts []map[string]bool
}

func refusingRules(p configs.Policy) refusing {
	lets := letFacts(p.Let)
	found := refusing{rules: map[string][]int{}, facts: make([]map[string]bool, len(p.Rules))}
	for i, r := range p.Rules {
		if do, ok := ParseDisposition(r.Do); !ok || !do.Refuses() {
			continue
		}
		found.facts[i] = factsIn(r.When, lets)
		for _, check := range excusable() {
			if readsCheck(found.facts[i], check) {
				found.rules[check] = append(found.rules[check], i)
			}
		}
	}
	return found
}

// letFacts returns the facts that each let reads.
func letFacts(lets []configs.Let) map[string]map[string]bool {
	found := map[string]map[string]bool{}
	for _, let := range lets {
		found[let.Name] = factsIn(let.Is, found)
	}
	return found
}

// readsCheck says whether one of the facts is what a check has found, or looked at.
func readsCheck(facts map[string]bool, check string) bool {
	for name := range facts {
		if f := factOf(name); f.Group == check || f.by == check {
			return true
		}
	}
	return false
}

// factsIn returns the facts that a condition reads, itself or by a let.
func factsIn(condition string, lets map[string]map[string]bool) map[string]bool {
	found := map[string]bool{}
	for _, name := range expr.NamesIn(condition) {
		if factOf(name) != nil {
			found[name] = true
		}
		maps.Copy(found, lets[name])
	}
	return found
}
