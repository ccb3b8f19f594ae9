package expr

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Vocabulary is what expressions may read: the fields of a struct, by their names.
type Vocabulary struct {
	facts map[string]*Fact
	names []string // of facts, sorted
	// groups are the names that hold facts and are none: "spf", "tls.peer".
	groups map[string]bool
}

// Fact is one name that expressions may read, with where it stands in the struct.
type Fact struct {
	Name   string // dotted, as it is written
	Group  string // its first part
	Kind   Kind
	Words  []string // the closed set of its values; nil where it is open
	Result bool     // Words are those of a result
	Form   string   // what its texts look like: "ip", "domain", "address", "hex", "country", or ""

	index []int               // for reflect.Value.FieldByIndex
	bit   int                 // in a Set
	tags  []reflect.StructTag // of the fields around it, its own last
}

// Describe reads the vocabulary from the tags of a struct's fields and of those in
// it, so that a new field needs no second entry:
//
//	expr     the name; - or none: the field is not read
//	results  the result words that it may have
//	words    the words that it may have besides the empty one
//	form     what its texts look like
//
// A field of a type that expressions cannot read is a mistake of the program, and panics.
func Describe(t reflect.Type) *Vocabulary {
	v := &Vocabulary{facts: map[string]*Fact{}, groups: map[string]bool{}}
	v.describe(t, "", nil, nil)
	if len(v.facts) > 64*len(Set{}) {
		panic("expr: Set is too small for the facts there are")
	}
	v.names = slices.Sorted(maps.Keys(v.facts))
	return v
}

func (v *Vocabulary) describe(t reflect.Type, prefix string, index []int, tags []reflect.StructTag) {
	for i := range t.NumField() {
		field := t.Field(i)
		name := field.Tag.Get("expr")
		if name == "" || name == "-" {
			continue
		}
		where, tagged := append(slices.Clone(index), i), append(slices.Clone(tags), field.Tag)
		if field.Type.Kind() == reflect.Struct {
			v.groups[prefix+name] = true
			v.describe(field.Type, prefix+name+".", where, tagged)
			continue
		}
		f := &Fact{Name: prefix + name, Kind: kindOf(field.Type), Form: field.Tag.Get("form"), index: where, bit: len(v.facts), tags: tagged}
		f.Group, _, _ = strings.Cut(f.Name, ".")
		if words, ok := field.Tag.Lookup("results"); ok {
			f.Words, f.Result = strings.Fields(words), true
		} else if words, ok := field.Tag.Lookup("words"); ok {
			f.Words = append(strings.Fields(words), "")
		}
		v.facts[f.Name] = f
	}
}

// kindOf returns the kind that expressions see in a field of type t.
func kindOf(t reflect.Type) Kind {
	switch t.Kind() {
	case reflect.Bool:
		return Bool
	case reflect.String:
		return Text
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return Number
	case reflect.Slice:
		if t == reflect.TypeFor[[]string]() {
			return Texts
		}
	}
	panic("expr: expressions cannot read a " + t.String() + "; tag it expr:\"-\"")
}

// Names returns the names of all facts, sorted. The caller must not change them.
func (v *Vocabulary) Names() []string { return v.names }

// Fact returns the fact of that name, nil where there is none.
func (v *Vocabulary) Fact(name string) *Fact { return v.facts[name] }

// Has says whether a fact or a group of facts has that name.
func (v *Vocabulary) Has(name string) bool { return v.facts[name] != nil || v.groups[name] }

// members returns the facts inside a group, sorted.
func (v *Vocabulary) members(group string) []string {
	var names []string
	for _, name := range v.names {
		if strings.HasPrefix(name, group+".") {
			names = append(names, name)
		}
	}
	return names
}

// Tag returns the tags of the fact's own field.
func (t *Fact) Tag() reflect.StructTag { return t.tags[len(t.tags)-1] }

// Inherited returns the value of a tag of the fact's own field, or else of the
// innermost one around it that has the tag.
func (t *Fact) Inherited(key string) string {
	for _, tag := range slices.Backward(t.tags) {
		if value, ok := tag.Lookup(key); ok {
			return value
		}
	}
	return ""
}

// Text returns the fact under s; its kind is Text.
func (t *Fact) Text(s Scope) string { return t.In(s.facts).String() }

// In returns the fact's place in v, which holds the struct.
func (t *Fact) In(v reflect.Value) reflect.Value {
	for _, i := range t.index {
		v = v.Field(i)
	}
	return v
}
