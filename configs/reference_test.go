package configs

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The reference knows every key, its defaults are those of the code, and its
// examples are of the right type.
func TestReference(t *testing.T) {
	src, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| `([^`]*)` \\| .+ \\|$")
	documented := map[string]bool{}
	want := map[string]string{}
	types := map[string]reflect.Type{}
	reference(reflect.ValueOf(Default()).Elem(), "", want, types)
	for _, m := range row.FindAllStringSubmatch(string(src), -1) {
		key, def, example := m[1], m[2], m[3]
		if documented[key] {
			t.Errorf("%s is documented twice", key)
		}
		documented[key] = true
		if _, ok := want[key]; !ok {
			t.Errorf("%s is documented and does not exist", key)
			continue
		}
		if def != want[key] {
			t.Errorf("the default of %s is %s, not %s", key, want[key], def)
		}
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(example), &doc); err != nil {
			t.Errorf("example of %s: %v", key, err)
			continue
		}
		l := newLoader()
		l.convert(&source{lines: []string{example}}, doc.Content[0], types[key], key)
		if len(l.faults) > 0 {
			t.Errorf("example of %s: %v", key, l.faults)
		}
	}
	for key := range maps.Keys(want) {
		if !documented[key] {
			t.Errorf("%s is not documented", key)
		}
	}
}

// reference lists every key with its default as the table writes it, those of list elements too.
func reference(v reflect.Value, path string, defaults map[string]string, types map[string]reflect.Type) {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		key := keyOf(sf)
		if key == "" {
			continue
		}
		p, f := join(path, key), v.Field(i)
		switch {
		case isSection(sf.Type):
			reference(f, p, defaults, types)
			continue
		case sf.Type.Kind() == reflect.Slice && isSection(sf.Type.Elem()):
			reference(reflect.New(sf.Type.Elem()).Elem(), p+"[]", defaults, types)
			continue
		}
		types[p] = sf.Type
		def := sf.Tag.Get("default")
		if def == "" && !f.IsZero() {
			def = toNode(f, reflect.Value{}, false).Value
		}
		if def == "" {
			def = "-"
		}
		defaults[p] = def
	}
}
