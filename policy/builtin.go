package policy

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"postern/configs"
)

// BuiltInYAML is the built-in policy as a configuration file would have it.
//
//go:embed builtin.yaml
var BuiltInYAML []byte

// BuiltIn returns the built-in policy by itself.
func BuiltIn() configs.Policy {
	p, err := readBuiltIn(BuiltInYAML)
	if err != nil {
		panic(fmt.Sprintf("policy: builtin.yaml: %v", err)) // the file is part of the program
	}
	return p
}

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
		at = max(at, vocabulary[name].stage)
	}
	return at
}

// readBuiltIn decodes the file, with positions of the rules and their texts, so
// that Plan and Explain can point into it, and with the comments above them.
func readBuiltIn(data []byte) (configs.Policy, error) {
	var document struct {
		Policy struct {
			Rules []yaml.Node
		}
	}
	if err := yaml.Unmarshal(data, &document); err != nil {
		return configs.Policy{}, err
	}
	p := configs.Policy{Mode: "enforce", BuiltIn: configs.BuiltInOff}
	for _, node := range document.Policy.Rules {
		var r configs.Rule
		if err := node.Decode(&r); err != nil {
			return configs.Policy{}, err
		}
		r.BuiltIn, r.Comment = true, comment(&node)
		r.Position = builtInPosition(&node)
		for i := 0; i+1 < len(node.Content); i += 2 {
			value := node.Content[i+1]
			at := builtInPosition(value)
			if value.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
				at.Column++
			}
			switch node.Content[i].Value {
			case "when":
				r.WhenPosition = at
			case "reply":
				r.ReplyPosition = at
			case "header":
				r.HeaderPosition = at
			}
		}
		p.Rules = append(p.Rules, r)
	}
	return p, nil
}

func builtInPosition(n *yaml.Node) configs.Position {
	return configs.Position{File: "builtin.yaml", Line: n.Line, Column: n.Column}
}

// comment is what stands above a rule, without the marks.
func comment(n *yaml.Node) string {
	var lines []string
	for line := range strings.Lines(n.HeadComment) {
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")))
	}
	return strings.Join(lines, "\n")
}
