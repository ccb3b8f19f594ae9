package policy

import (
	"reflect"
	"sort"
	"strings"
)

// fact is one name that rules may read, with where it stands in Facts.
type fact struct {
	name   string // dotted, as rules write it
	top    string // its first part
	by     string // the check that finds it; empty: none does
	stage  Stage
	kind   kind
	words  []string // the closed set of its values; nil where it is open
	result bool     // words are result words (RFC 8601 §2.7)
	form   string   // "ip", "domain", "hex" or "": what its texts look like
	index  []int    // for reflect.Value.FieldByIndex
	bit    int      // in a FactSet
	tag    reflect.StructTag
}

// read returns the fact's place in the facts that v holds.
func (t *fact) read(v reflect.Value) reflect.Value {
	for _, i := range t.index {
		v = v.Field(i)
	}
	return v
}

// vocabulary holds every fact by its name; factNames its names, sorted. Both are
// read from the tags of Facts, so that a new field needs no second entry.
var (
	vocabulary = describe()
	factNames  = sortedNames(vocabulary)
	// groups are the names that hold facts and are none: "spf", "tls.peer".
	groups = groupNames(vocabulary)
)

func describe() map[string]*fact {
	facts := map[string]*fact{}
	describeStruct(reflect.TypeFor[Facts](), "", Connect, nil, facts)
	checks := map[string]bool{}
	for _, f := range facts {
		checks[f.top] = checks[f.top] || f.result
	}
	for _, f := range facts {
		by, ok := f.tag.Lookup("by")
		if !ok {
			by = f.top
		}
		if checks[by] {
			f.by = by
		}
	}
	return facts
}

func describeStruct(t reflect.Type, prefix string, stage Stage, index []int, into map[string]*fact) {
	for i := range t.NumField() {
		field := t.Field(i)
		name := field.Tag.Get("expr")
		if name == "" || name == "-" {
			continue
		}
		at := stage
		if s, ok := field.Tag.Lookup("stage"); ok {
			at, _ = ParseStage(s)
		}
		where := append(append([]int(nil), index...), i)
		if field.Type.Kind() == reflect.Struct {
			describeStruct(field.Type, prefix+name+".", at, where, into)
			continue
		}
		f := &fact{name: prefix + name, stage: at, kind: kindOf(field.Type), form: field.Tag.Get("form"), index: where, bit: len(into), tag: field.Tag}
		f.top, _, _ = strings.Cut(f.name, ".")
		if words, ok := field.Tag.Lookup("results"); ok {
			f.words, f.result = strings.Fields(words), true
		} else if words, ok := field.Tag.Lookup("words"); ok {
			f.words = append(strings.Fields(words), "")
		}
		into[f.name] = f
	}
}

// kindOf returns the kind that rules see in a field of type t. A field of a type
// that rules cannot read must be tagged expr:"-".
func kindOf(t reflect.Type) kind {
	switch t.Kind() {
	case reflect.Bool:
		return kindBool
	case reflect.String:
		return kindText
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return kindNumber
	case reflect.Slice:
		if t == reflect.TypeFor[[]string]() {
			return kindTexts
		}
	}
	panic("policy: rules cannot read a " + t.String() + "; tag it expr:\"-\"")
}

func sortedNames(facts map[string]*fact) []string {
	names := make([]string, 0, len(facts))
	for name := range facts {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func groupNames(facts map[string]*fact) map[string]bool {
	names := map[string]bool{}
	for name := range facts {
		for i := strings.LastIndexByte(name, '.'); i > 0; i = strings.LastIndexByte(name[:i], '.') {
			names[name[:i]] = true
		}
	}
	return names
}

// members returns the facts right inside a group, sorted.
func members(group string) []string {
	var names []string
	for _, name := range factNames {
		if strings.HasPrefix(name, group+".") {
			names = append(names, name)
		}
	}
	return names
}

// ParseStage returns the stage of that name.
func ParseStage(name string) (Stage, bool) {
	for i, s := range stageNames {
		if s == name {
			return Stage(i), true
		}
	}
	return 0, false
}
