package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"postern/configs"
	"postern/policy/expr"
)

// Services are the answers of policy services. In JSON they are an object, by their names.
type Services []Service

// Of returns the answer of a service, which is skipped until there is one. What is returned
// before the list has them all may lie in a copy that nobody has any more.
func (s *Services) Of(name string) *Service {
	if a := s.find(name); a != nil {
		return a
	}
	*s = append(*s, Service{Name: name, Action: Skipped})
	return &(*s)[len(*s)-1]
}

// find returns the answer of a service, nil where there is none.
func (s *Services) find(name string) *Service {
	for i := range *s {
		if (*s)[i].Name == name {
			return &(*s)[i]
		}
	}
	return nil
}

// ServiceActions returns the words of Service.Action.
func ServiceActions() []string {
	return slices.DeleteFunc(slices.Clone(listed[services+".action"].Words), func(word string) bool { return word == "" })
}

// ServicesIn returns the names of the policy services that a policy reads, as far as a chain has
// room for them: of one whose configuration is somewhere else.
func ServicesIn(p configs.Policy) (names []string) {
	add := func(condition string) {
		for _, name := range expr.NamesIn(condition) {
			if parts := strings.Split(name, "."); words.Prototype(name) != nil && parts[0] == services && !slices.Contains(names, parts[1]) && len(names) < configs.MaxFilters {
				names = append(names, parts[1])
			}
		}
	}
	for _, let := range p.Let {
		add(let.Is)
	}
	for i := range p.Rules {
		add(p.Rules[i].When)
	}
	return names
}

// Services returns the names of the policy services that the chain may read.
func (c *Chain) Services() []string { return slices.Clone(c.services) }

// Compares says whether a rule that decides compares a fact with that word, so that somebody has
// thought of it.
func (c *Chain) Compares(fact, word string) bool {
	for _, r := range c.rules {
		if _, reads := r.when.Facts[fact]; !reads || !r.decides() {
			continue
		}
		for _, v := range variables(r) {
			if v.Fact != nil && v.Fact.Name == fact && slices.Contains(v.Texts, word) {
				return true
			}
		}
	}
	return false
}

// answers is the order in which the answers stand in JSON: that of their names.
type answers map[string]Service

// MarshalJSON implements json.Marshaler.
func (s Services) MarshalJSON() ([]byte, error) {
	by := make(answers, len(s))
	for _, answer := range s {
		by[answer.Name] = answer
	}
	return json.Marshal(by)
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Services) UnmarshalJSON(text []byte) error {
	var by answers
	if err := json.Unmarshal(text, &by); err != nil {
		return err
	}
	*s = nil
	for _, name := range slices.Sorted(maps.Keys(by)) {
		answer := by[name]
		answer.Name = name
		*s = append(*s, answer)
	}
	return nil
}
