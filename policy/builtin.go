package policy

import (
	_ "embed"
	"fmt"

	"go.yaml.in/yaml/v3"

	"postern/configs"
)

// BuiltInYAML is the built-in policy as a configuration file would have it;
// `postern policy show` prints it.
//
//go:embed builtin.yaml
var BuiltInYAML []byte

// BuiltIn returns the policy that applies where the configuration has none. It
// reads no lists.
func BuiltIn() configs.Policy {
	p, err := readBuiltIn(BuiltInYAML)
	if err != nil {
		panic(fmt.Sprintf("policy: builtin.yaml: %v", err)) // the file is part of the program
	}
	return p
}

// readBuiltIn decodes the file, with positions of the rules and their texts, so
// that Plan and Explain can point into it.
func readBuiltIn(data []byte) (configs.Policy, error) {
	var document struct {
		Policy struct {
			Rules []yaml.Node
		}
	}
	if err := yaml.Unmarshal(data, &document); err != nil {
		return configs.Policy{}, err
	}
	p := configs.Policy{Mode: "enforce", BuiltIn: true}
	for _, node := range document.Policy.Rules {
		var r configs.Rule
		if err := node.Decode(&r); err != nil {
			return configs.Policy{}, err
		}
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
