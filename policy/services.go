package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"postern/configs"
	"postern/policy/expr"
	"postern/policy/journal/jsonline"
)

// Services are the answers of policy services. In JSON they are an object, by their names.
type Services []Service

// Milters are the verdicts of milters, as Services are.
type Milters []Milter

// named is an element of such a list.
type named[T any] interface {
	*T
	name() *string
}

func (s *Service) name() *string { return &s.Name }
func (m *Milter) name() *string  { return &m.Name }

// Of returns the answer of a service, which is skipped until there is one. What is returned
// before the list has them all may lie in a copy that nobody has any more.
func (s *Services) Of(name string) *Service {
	if a := find((*[]Service)(s), name); a != nil {
		return a
	}
	*s = append(*s, Service{Name: name, Action: Skipped})
	return &(*s)[len(*s)-1]
}

// Of returns the verdict of a milter, as that of Services does.
func (m *Milters) Of(name string) *Milter {
	if a := find((*[]Milter)(m), name); a != nil {
		return a
	}
	*m = append(*m, Milter{Name: name, Action: Skipped})
	return &(*m)[len(*m)-1]
}

// Tried says whether it was tried to ask the service, so that the time that it took is its own.
func (s *Service) Tried() bool { return tried(s.Action, s.Unasked) }

// Tried says whether it was tried to ask the milter, as that of Service does.
func (m *Milter) Tried() bool { return tried(m.Action, m.Unasked) }

// TriedFilter is Tried of the service or milter that the check of that name asks; true where the facts do not say.
func (f *Facts) TriedFilter(check string) bool {
	list, name, _ := strings.Cut(check, ".")
	if list == services {
		s := find((*[]Service)(&f.Service), name)
		return s == nil || s.Tried()
	}
	m := find((*[]Milter)(&f.Milter), name)
	return list != milters || m == nil || m.Tried()
}

func tried(action Result, unasked Unasked) bool {
	return action != Skipped && (unasked == "" || unasked == UnaskedUnreached)
}

// find returns the element of that name, nil where there is none.
func find[T any, P named[T]](list *[]T, name string) *T {
	for i := range *list {
		if *P(&(*list)[i]).name() == name {
			return &(*list)[i]
		}
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (s Services) MarshalJSON() ([]byte, error) { return marshal[Service](s) }

// UnmarshalJSON implements json.Unmarshaler.
func (s *Services) UnmarshalJSON(text []byte) (err error) {
	*s, err = unmarshal[Service](text)
	return err
}

// MarshalJSON implements json.Marshaler.
func (m Milters) MarshalJSON() ([]byte, error) { return marshal[Milter](m) }

// UnmarshalJSON implements json.Unmarshaler.
func (m *Milters) UnmarshalJSON(text []byte) (err error) {
	*m, err = unmarshal[Milter](text)
	return err
}

func marshal[T any, P named[T]](list []T) ([]byte, error) {
	by := make(map[string]T, len(list))
	for i := range list {
		by[*P(&list[i]).name()] = list[i]
	}
	return jsonline.Marshal(by)
}

func unmarshal[T any, P named[T]](text []byte) (list []T, err error) {
	var by map[string]T
	if err := json.Unmarshal(text, &by); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		element := by[name]
		*P(&element).name() = name
		list = append(list, element)
	}
	return list, nil
}

// ServiceActions returns the words of Service.Action.
func ServiceActions() []string { return actions(services) }

// MilterActions returns the words of Milter.Action.
func MilterActions() []string { return actions(milters) }

func actions(list string) []string {
	return slices.DeleteFunc(slices.Clone(listed[list+".action"].Words), func(word string) bool { return word == "" })
}

// FiltersIn returns the names of the policy services and of the milters that a policy reads, as
// far as a chain has room for them: of one whose configuration is somewhere else.
func FiltersIn(p configs.Policy) (asked, judging []string) {
	add := func(condition string) {
		for _, name := range expr.NamesIn(condition) {
			if words.Prototype(name) == nil {
				continue
			}
			parts := strings.Split(name, ".")
			names := &asked
			if parts[0] == milters {
				names = &judging
			}
			if !slices.Contains(*names, parts[1]) && len(*names) < configs.MaxFilters {
				*names = append(*names, parts[1])
			}
		}
	}
	for _, let := range p.Let {
		add(let.Is)
	}
	for i := range p.Rules {
		add(p.Rules[i].When)
	}
	return asked, judging
}

// Services returns the names of the policy services that the chain may read, Milters those of
// the milters.
func (c *Chain) Services() []string { return slices.Clone(c.services) }

// Milters returns the names of the milters that the chain may read.
func (c *Chain) Milters() []string { return slices.Clone(c.milters) }

// Answers says whether a rule that decides says what becomes of mail where a text fact is that word: it compares
// with the word, or it hangs on the fact and matches where that is the word, as action != "none" does for all but one.
// A rule that has too many cases to try them is taken to do so.
func (c *Chain) Answers(fact, word string) bool {
	return slices.ContainsFunc(c.rules, func(r *rule) bool {
		_, reads := r.when.Facts[fact]
		return reads && r.decides() && r.answers(fact, word)
	})
}

func (r *rule) answers(fact, word string) bool {
	all := variables(r)
	i := slices.IndexFunc(all, func(v *expr.Variable) bool { return v.Fact != nil && v.Fact.Name == fact })
	if i < 0 || expr.Combinations(all, maxCases) > maxCases {
		return true // by a list, say, of which the content may be anything
	}
	v, others := all[i], slices.Delete(slices.Clone(all), i, i+1)
	if slices.Contains(v.Texts, word) {
		return true
	}
	// The last value is what nothing compares with, as word is.
	unnamed := v.Count() - 1
	return expr.Possible(imagine(Facts{}), others, func(s expr.Scope) bool {
		if v.Set(s, unnamed); !r.when.Holds(s) {
			return false
		}
		for named := range unnamed {
			if v.Set(s, named); !r.when.Holds(s) {
				return true
			}
		}
		return false
	})
}
