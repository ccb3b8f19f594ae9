package policy

import (
	"reflect"
	"slices"
	"strings"
)

// Text is a place in Facts where a text stands that is not of a closed set of words.
type Text struct {
	Name  string // dotted, by the JSON names; a list has one name for all that is in it
	Stage Stage  // at which it becomes known
	// Address says that it is an address, or a list of them; Private that there may
	// be addresses in it all the same.
	Address, Private bool

	path  []int
	inner []Text // of each element, where the field is a list of structs
}

// allTexts is read from the tags of Facts. What has no form tag may hold anything,
// so that it is private unless its tag says no.
var allTexts = textsIn(reflect.TypeFor[Facts](), "", Connect, nil)

func textsIn(t reflect.Type, prefix string, stage Stage, path []int) []Text {
	var all []Text
	for i := range t.NumField() {
		field := t.Field(i)
		if field.Anonymous {
			all = append(all, textsIn(field.Type, prefix, stage, append(slices.Clone(path), i))...)
			continue
		}
		json, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		at := stage
		if s, ok := field.Tag.Lookup("stage"); ok {
			at, _ = ParseStage(s)
		}
		text := Text{Name: prefix + json, Stage: at, path: append(slices.Clone(path), i)}
		list := field.Type.Kind() == reflect.Slice
		switch {
		case field.Type.Kind() == reflect.Struct:
			all = append(all, textsIn(field.Type, text.Name+".", at, text.path)...)
			continue
		case list && field.Type.Elem().Kind() == reflect.Struct:
			text.inner = textsIn(field.Type.Elem(), text.Name+".", at, nil)
		case field.Type != reflect.TypeFor[string]() && field.Type != reflect.TypeFor[[]string](), field.Tag.Get("words") != "":
			continue
		}
		form := field.Tag.Get("form")
		text.Address = form == "address"
		text.Private = form == "" && field.Tag.Get("private") != "no"
		all = append(all, text)
	}
	return all
}

// Texts returns the texts that which wants, for Rewrite. Those in a list of structs
// are asked for one by one.
func Texts(which func(*Text) bool) []Text { return pick(allTexts, which) }

func pick(from []Text, which func(*Text) bool) []Text {
	var some []Text
	for _, t := range from {
		if t.inner != nil {
			if t.inner = pick(t.inner, which); t.inner != nil {
				some = append(some, t)
			}
		} else if which(&t) {
			some = append(some, t)
		}
	}
	return some
}

// Rewrite replaces texts by what change makes of them. Lists are copied before, so
// that facts which f is a copy of stay as they are.
func (f *Facts) Rewrite(texts []Text, change func(t *Text, s string) string) {
	rewrite(reflect.ValueOf(f).Elem(), texts, change)
}

func rewrite(v reflect.Value, texts []Text, change func(t *Text, s string) string) {
	for i := range texts {
		t := &texts[i]
		field := v
		for _, k := range t.path {
			field = field.Field(k)
		}
		switch {
		case field.Kind() == reflect.String:
			if p, ok := field.Addr().Interface().(*string); ok && *p != "" {
				*p = change(t, *p)
			}
			continue
		case field.Len() == 0:
			continue
		case t.inner == nil:
			p, _ := field.Addr().Interface().(*[]string)
			*p = slices.Clone(*p)
			for k, s := range *p {
				(*p)[k] = change(t, s)
			}
			continue
		}
		own := reflect.MakeSlice(field.Type(), field.Len(), field.Len())
		reflect.Copy(own, field)
		field.Set(own)
		for k := range own.Len() {
			rewrite(own.Index(k), t.inner, change)
		}
	}
}
