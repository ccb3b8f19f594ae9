package policy

import (
	"slices"
	"strings"

	"postern/configs"
)

// didYouMean returns " (did you mean X?)" for the candidate nearest to word, or
// nothing where none is near enough to be a slip of the keyboard.
func didYouMean(word string, candidates []string) string {
	return asQuestion(configs.Nearest(word, slices.Values(candidates)))
}

// didYouMeanIn is didYouMean for the name of a fact inside a group.
func didYouMeanIn(group, name string) string {
	inside := members(group)
	for i, m := range inside {
		inside[i] = strings.TrimPrefix(m, group+".")
	}
	if best := configs.Nearest(name, slices.Values(inside)); best != "" {
		return asQuestion(group + "." + best)
	}
	return ""
}

func asQuestion(best string) string {
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// alternatives renders a list for people: "a, b or c". The empty text, which a
// closed set may hold, is shown as "".
func alternatives(words []string) string {
	shown := slices.Clone(words)
	for i, w := range shown {
		if w == "" {
			shown[i] = `""`
		}
	}
	if len(shown) < 2 {
		return strings.Join(shown, "")
	}
	return strings.Join(shown[:len(shown)-1], ", ") + " or " + shown[len(shown)-1]
}
