package policy

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"postern/configs"
)

// BuiltInYAML is the built-in policy as a configuration file would have it.
//
//go:embed builtin.yaml
var BuiltInYAML []byte

// BuiltIn returns the built-in policy by itself. Its rules are the caller's own.
func BuiltIn() configs.Policy {
	p := builtIn()
	p.Rules = slices.Clone(p.Rules)
	return p
}

// builtIn is the built-in policy, which is read once.
var builtIn = sync.OnceValue(func() configs.Policy {
	p, err := readBuiltIn(BuiltInYAML)
	if err != nil {
		panic(fmt.Sprintf("policy: builtin.yaml: %v", err)) // the file is part of the program
	}
	return p
})

// Whole returns the policy as it is judged by: the site's own rules and, where
// p.BuiltIn says after, the built-in ones below them. An own rule that bears the
// name of a built-in one stands in its place, wherever the site wrote it.
//
// One thing comes before an own rule: what lets postmaster through reads
// rcpt.address, which nobody can read once one reply answers for all recipients.
// It stands above the first own rule that is decided later than RCPT and would keep
// it waiting for longer than that; below it, it would be a fault that the site has
// not written.
func Whole(p configs.Policy) configs.Policy {
	if p.BuiltIn != configs.BuiltInAfter {
		return p
	}
	own := p.Rules
	lets := letFacts(p.Let)
	late := len(own)
	for i := range own {
		if own[i].Do != "tag" && stageOf(&own[i], lets) > Rcpt {
			late = i
			break
		}
	}
	var early, rest []configs.Rule
	for _, r := range BuiltIn().Rules {
		switch {
		case slices.ContainsFunc(own, func(o configs.Rule) bool { return o.Name == r.Name }):
		case late < len(own) && factsIn(r.When, lets)["rcpt.address"]:
			early = append(early, r)
		default:
			rest = append(rest, r)
		}
	}
	p.Rules = slices.Concat(own[:late], early, own[late:], rest)
	p.BuiltIn = configs.BuiltInOff
	return p
}

// stageOf is the stage at which a rule that stands alone is decided, as far as its
// text can be read: what cannot is a fault, which is told by who compiles it.
func stageOf(r *configs.Rule, lets map[string]map[string]bool) Stage {
	at, _ := ParseStage(r.At)
	for name := range factsIn(r.When, lets) {
		at = max(at, factOf(name).stage)
	}
	return at
}

// readBuiltIn decodes the file as any other, with positions for Plan and Explain.
func readBuiltIn(data []byte) (configs.Policy, error) {
	var file struct {
		Policy struct {
			Rules []configs.Rule `yaml:"rules"`
		} `yaml:"policy"`
	}
	if err := configs.Decode("builtin.yaml", data, &file); err != nil {
		return configs.Policy{}, err
	}
	rules := file.Policy.Rules
	for i := range rules {
		rules[i].BuiltIn = true
	}
	return configs.Policy{Mode: "enforce", BuiltIn: configs.BuiltInOff, Rules: rules}, nil
}

// BuiltInComments returns what stands above the built-in rules, without the marks, by their
// names. Who judges by the rules has no use for it.
func BuiltInComments() map[string]string {
	var file struct{ Policy struct{ Rules []yaml.Node } }
	if err := yaml.Unmarshal(BuiltInYAML, &file); err != nil {
		panic(fmt.Sprintf("policy: builtin.yaml: %v", err)) // the file is part of the program
	}
	comments := map[string]string{}
	for i := range file.Policy.Rules {
		n := &file.Policy.Rules[i]
		var rule struct{ Name string }
		if err := n.Decode(&rule); err != nil {
			panic(fmt.Sprintf("policy: builtin.yaml: %v", err))
		}
		var lines []string
		for line := range strings.Lines(n.HeadComment) {
			lines = append(lines, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")))
		}
		comments[rule.Name] = strings.Join(lines, "\n")
	}
	return comments
}
