package policy

import (
	"slices"
	"strings"

	"postern/configs"
)

// didYouMean returns " (did you mean X?)" for the candidate nearest to word, or
// nothing where none is near enough to be a slip of the keyboard.
func didYouMean(word string, candidates []string) string {
	return asQuestion(nearest(word, candidates))
}

// didYouMeanIn is didYouMean for the name of a fact inside a group.
func didYouMeanIn(group, name string) string {
	inside := members(group)
	for i, m := range inside {
		inside[i] = strings.TrimPrefix(m, group+".")
	}
	if best := nearest(name, inside); best != "" {
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

func nearest(word string, candidates []string) string {
	best, least := "", 1+len(word)/3
	for _, c := range candidates {
		if c == "" {
			continue
		}
		if d := configs.Slips(strings.ToLower(word), strings.ToLower(c)); d <= least && (best == "" || d < least) {
			best, least = c, d
		}
	}
	return best
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
