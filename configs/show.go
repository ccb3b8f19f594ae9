package configs

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// YAML renders what differs from the defaults, or everything in effect, in the
// form Load reads. Nothing to say is an empty text.
func (c *Config) YAML(all bool) ([]byte, error) {
	var def reflect.Value
	if !all {
		def = reflect.ValueOf(Default()).Elem()
	}
	return encode(toNode(reflect.ValueOf(c).Elem(), def, false))
}

// YAMLOf is YAML, without what is as by default, of some sections alone.
func (c *Config) YAMLOf(sections ...string) ([]byte, error) {
	n := toNode(reflect.ValueOf(c).Elem(), reflect.ValueOf(Default()).Elem(), false)
	if n == nil {
		return nil, nil
	}
	some := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if slices.Contains(sections, n.Content[i].Value) {
			some.Content = append(some.Content, n.Content[i], n.Content[i+1])
		}
	}
	return encode(some)
}

func encode(n *yaml.Node) ([]byte, error) {
	if n == nil || len(n.Content) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return nil, fmt.Errorf("configs: %w", err)
	}
	return b.Bytes(), nil
}

// Equal says whether two configurations say the same, wherever they say it.
func (c *Config) Equal(other *Config) bool {
	a, err := c.YAML(true)
	b, err2 := other.YAML(true)
	return err == nil && err2 == nil && bytes.Equal(a, b)
}

// toNode renders v; where def is a value, only what differs from it, and nil where
// nothing does. In an element of a list, what is empty was not said.
func toNode(v, def reflect.Value, element bool) *yaml.Node {
	switch {
	case isSection(v.Type()):
		return sectionNode(v, def, element)
	case def.IsValid() && same(v, def):
		return nil
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return toNode(v.Elem(), reflect.Value{}, element)
	case v.Kind() == reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Len() == 0 || v.Type().Elem().Kind() == reflect.String {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			e := toNode(v.Index(i), reflect.Value{}, true)
			if r, ok := v.Index(i).Interface().(Rule); ok {
				e.HeadComment = r.Comment
			}
			n.Content = append(n.Content, e)
		}
		return n
	}
	n := &yaml.Node{}
	if err := n.Encode(plain(v)); err != nil {
		// The kinds of a Config encode; a new one that does not must be seen in the tests.
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", LineComment: err.Error()}
	}
	return n
}

func sectionNode(v, def reflect.Value, element bool) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		key := keyOf(sf)
		if key == "" {
			continue
		}
		f, fdef := v.Field(i), reflect.Value{}
		if def.IsValid() {
			fdef = def.Field(i)
		}
		// What the included files say is shown as if it stood here.
		if _, ok := v.Interface().(Policy); ok && key == "include" {
			continue
		}
		unsaid := f.IsZero() || f.Kind() == reflect.Slice && f.Len() == 0
		if f.Kind() == reflect.Int && sf.Tag.Get("default") != "" {
			unsaid = false // a zero is another number than the default
		}
		if element && unsaid {
			continue
		}
		if e := toNode(f, fdef, element); e != nil && (e.Kind != yaml.MappingNode || len(e.Content) > 0) {
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, e)
		}
	}
	return n
}

// same compares two values; no list and an empty one say the same.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func plain(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return FormatDuration(x)
	case Size:
		return x.String()
	default:
		return x
	}
}
