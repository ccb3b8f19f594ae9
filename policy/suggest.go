package policy

import (
	"slices"
	"strings"
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
		if d := editDistance(strings.ToLower(word), strings.ToLower(c), least); d <= least && (best == "" || d < least) {
			best, least = c, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b; limit+1 where they are more than limit.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return min(above[len(b)], limit+1)
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
