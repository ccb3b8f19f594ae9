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
	named  map[string][]*Fact // facts of lists whose elements have names, by the list's
}

// Fact is one name that expressions may read, with where it stands in the struct.
type Fact struct {
	Name   string // dotted, as it is written
	Group  string // its first part
	Kind   Kind
	Words  []string // the closed set of its values; nil where it is open
	Result bool     // Words are those of a result
	Form   string   // what its texts look like: "ip", "domain", "address", "hex", "country", or ""

	index []int // of the fields that lead to it, from the struct
	inner []int // from the struct's part; nil: it is in none
	bit   int   // in a Set
	// element is the name of the list's element that the fact is of; empty: it is of no list.
	element string
	absent  reflect.Value       // what the fact is where the list has no such element
	tags    []reflect.StructTag // of the fields around it, its own last
}

// Describe reads the vocabulary from the tags of a struct's fields and of those in
// it, so that a new field needs no second entry:
//
//	expr     the name; - or none: the field is not read
//	results  the result words that it may have
//	words    the words that it may have besides the empty one
//	form     what its texts look like
//
// A list of structs is a group for each name that its elements may have, which is what
// their first field holds: see With. A field of an element whose list does not have it is
// zero, or what its tag absent says.
//
// The fields of an embedded struct are read as if they were the outer one's. It is the part
// in whose place a Scope may have another.
//
// A field of a type that expressions cannot read is a mistake of the program, and panics.
func Describe(t reflect.Type) *Vocabulary {
	v := &Vocabulary{facts: map[string]*Fact{}, groups: map[string]bool{}, named: map[string][]*Fact{}}
	v.describe(t, "", place{})
	if len(v.facts) > 64*len(Set{}) {
		panic("expr: Set is too small for the facts there are")
	}
	v.names = slices.Sorted(maps.Keys(v.facts))
	return v
}

// With returns a vocabulary that has the facts of these elements besides, each
// by the name of its list and its own: With("service", "grey") has service.grey.action. A Set
// has room for Room more facts.
func (v *Vocabulary) With(list string, elements ...string) *Vocabulary {
	if len(elements) == 0 {
		return v
	}
	w := &Vocabulary{facts: maps.Clone(v.facts), groups: maps.Clone(v.groups), named: v.named}
	for _, element := range elements {
		w.groups[list+"."+element] = true
		for _, f := range v.named[list] {
			own := *f
			own.Name, own.element, own.bit = list+"."+element+strings.TrimPrefix(f.Name, list), element, len(w.facts)
			w.facts[own.Name] = &own
		}
	}
	if len(w.facts) > 64*len(Set{}) {
		panic("expr: Set is too small for the facts there are")
	}
	w.names = slices.Sorted(maps.Keys(w.facts))
	return w
}

// Room is how many facts a Set could have besides those of the vocabulary.
func (v *Vocabulary) Room() int { return 64*len(Set{}) - len(v.facts) }

// Prototype returns the fact of a list as any element of it has it, by the name that one has
// ("service.grey.action"); nil where there is none such.
func (v *Vocabulary) Prototype(name string) *Fact {
	list, rest, _ := strings.Cut(name, ".")
	_, field, found := strings.Cut(rest, ".")
	if !found {
		return nil
	}
	for _, f := range v.named[list] {
		if f.Name == list+"."+field {
			return f
		}
	}
	return nil
}

// Prototypes returns the facts that elements of a list have, by the names "service.action".
func (v *Vocabulary) Prototypes(list string) []*Fact { return v.named[list] }

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
		if field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct {
			v.groups[prefix+name] = true
			elements := &Vocabulary{facts: map[string]*Fact{}, groups: v.groups}
			elements.describe(field.Type.Elem(), prefix+name+".", where)
			for _, name := range slices.Sorted(maps.Keys(elements.facts)) {
				f := elements.facts[name]
				of := field.Type.Elem().Field(f.index[len(f.index)-1])
				f.absent = reflect.ValueOf(of.Tag.Get("absent")).Convert(of.Type)
				v.named[prefix+f.Group] = append(v.named[prefix+f.Group], f)
			}
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

// Under returns the fact's place under s. Where a list does not have the element it is no
// place, but what the fact is then.
func (t *Fact) Under(s Scope) reflect.Value {
	if t.inner != nil && s.part != nil {
		return t.walk(reflect.ValueOf(s.part).Elem(), t.inner)
	}
	return t.walk(s.facts, t.index)
}

// In returns the fact's place in v, which holds the struct, as Under does.
func (t *Fact) In(v reflect.Value) reflect.Value { return t.walk(v, t.index) }

func (t *Fact) walk(v reflect.Value, index []int) reflect.Value {
	if t.element == "" {
		for _, i := range index {
			v = v.Field(i)
		}
		return v
	}
	list, i := t.find(v, index)
	if i < 0 {
		return t.absent
	}
	return list.Index(i).Field(index[len(index)-1])
}

// find returns the list that a path leads through at its end, and where in it the element is; -1:
// it is not there.
func (t *Fact) find(v reflect.Value, index []int) (list reflect.Value, at int) {
	for _, i := range index[:len(index)-1] {
		v = v.Field(i)
	}
	for i := range v.Len() {
		if v.Index(i).Field(0).String() == t.element {
			return v, i
		}
	}
	return v, -1
}

// settable is Under, with the element where there was none.
func (t *Fact) settable(s Scope) reflect.Value {
	if t.element != "" {
		v, index := s.facts, t.index
		if t.inner != nil && s.part != nil {
			v, index = reflect.ValueOf(s.part).Elem(), t.inner
		}
		if list, at := t.find(v, index); at < 0 {
			element := reflect.New(list.Type().Elem()).Elem()
			element.Field(0).SetString(t.element)
			list.Set(reflect.Append(list, element))
		}
	}
	return t.Under(s)
}
