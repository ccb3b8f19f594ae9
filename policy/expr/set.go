package expr

// Set is a set of facts of one vocabulary. The zero Set is empty.
type Set [2]uint64

// Add adds a fact.
func (s *Set) Add(f *Fact) { s[f.bit/64] |= 1 << (f.bit % 64) }

// Has says whether a fact is in the set.
func (s Set) Has(f *Fact) bool { return s[f.bit/64]&(1<<(f.bit%64)) != 0 }

// With returns the facts of both sets.
func (s Set) With(t Set) Set { return Set{s[0] | t[0], s[1] | t[1]} }

// Minus returns the facts of s that are not in t.
func (s Set) Minus(t Set) Set { return Set{s[0] &^ t[0], s[1] &^ t[1]} }

// Others returns the facts that are not in s.
func (s Set) Others() Set { return Set{^s[0], ^s[1]} }

// Within says whether all facts of s are in t.
func (s Set) Within(t Set) bool { return s.Minus(t) == Set{} }

// Truth is one that may not be known (Kleene's logic).
type Truth int8

// The truths.
const (
	No Truth = iota
	Yes
	Unknown
)

func truthOf(b bool) Truth {
	if b {
		return Yes
	}
	return No
}

// judge evaluates a condition where only the facts in known are.
func (v *value) judge(s Scope, known Set) Truth {
	if v.reads.Within(known) {
		return truthOf(v.truth(s))
	}
	switch v.connective {
	case "not":
		switch v.left.judge(s, known) {
		case No:
			return Yes
		case Yes:
			return No
		}
	case "and":
		a := v.left.judge(s, known)
		if a == No {
			return No
		}
		if b := v.right.judge(s, known); a == Yes || b == No {
			return b
		}
	case "or":
		a := v.left.judge(s, known)
		if a == Yes {
			return Yes
		}
		if b := v.right.judge(s, known); a == No || b == Yes {
			return b
		}
	}
	return Unknown
}
