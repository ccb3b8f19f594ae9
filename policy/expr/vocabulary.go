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

	index []int               // of the fields that lead to it, from the struct
	inner []int               // from the struct's part; nil: it is in none
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
// The fields of an embedded struct are read as if they were the outer one's. It is the part
// in whose place a Scope may have another.
//
// A field of a type that expressions cannot read is a mistake of the program, and panics.
func Describe(t reflect.Type) *Vocabulary {
	v := &Vocabulary{facts: map[string]*Fact{}, groups: map[string]bool{}}
	v.describe(t, "", place{})
	if len(v.facts) > 64*len(Set{}) {
		panic("expr: Set is too small for the facts there are")
	}
	v.names = slices.Sorted(maps.Keys(v.facts))
	return v
}

// place is where a field stands.
type place struct {
	index, inner []int
	inPart       bool
	tags         []reflect.StructTag
}

// field returns the place of the i-th field of a struct that stands at p.
func (p place) field(i int, f *reflect.StructField) place {
	q := place{index: append(slices.Clone(p.index), i), inPart: p.inPart, tags: append(slices.Clone(p.tags), f.Tag)}
	if p.inPart {
		q.inner = append(slices.Clone(p.inner), i)
	}
	return q
}

func (v *Vocabulary) describe(t reflect.Type, prefix string, at place) {
	for i := range t.NumField() {
		field := t.Field(i)
		where := at.field(i, &field)
		if field.Anonymous {
			where.inPart = true
			v.describe(field.Type, prefix, where)
			continue
		}
		name := field.Tag.Get("expr")
		if name == "" || name == "-" {
			continue
		}
		if field.Type.Kind() == reflect.Struct {
			v.groups[prefix+name] = true
			v.describe(field.Type, prefix+name+".", where)
			continue
		}
		f := &Fact{Name: prefix + name, Kind: kindOf(field.Type), Form: field.Tag.Get("form"), index: where.index, inner: where.inner, bit: len(v.facts), tags: where.tags}
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
func (t *Fact) Text(s Scope) string { return t.Under(s).String() }

// Under returns the fact's place under s.
func (t *Fact) Under(s Scope) reflect.Value {
	if t.inner != nil && s.part != nil {
		return walk(reflect.ValueOf(s.part).Elem(), t.inner)
	}
	return walk(s.facts, t.index)
}

// In returns the fact's place in v, which holds the struct.
func (t *Fact) In(v reflect.Value) reflect.Value { return walk(v, t.index) }

func walk(v reflect.Value, index []int) reflect.Value {
	for _, i := range index {
		v = v.Field(i)
	}
	return v
}
