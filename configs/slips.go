package configs

import (
	"iter"
	"slices"
	"strings"
)

// Nearest returns the known name that a misspelled one was probably meant to be:
// one or two slips away, but not most of a short word. Empty if there is none.
func Nearest(name string, known iter.Seq[string]) string {
	best, bestDistance := "", min(2, len(name)/3)+1
	for _, k := range slices.Sorted(known) {
		if d := slips(strings.ToLower(name), strings.ToLower(k)); k != "" && d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// slips counts the slips of the keyboard between two words: a letter more, less,
// other, or two neighbours exchanged. Words of more than 64 octets are not
// compared, and are as far apart as can be.
func slips(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b)
	}
	two, one, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range one {
		one[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(one[j]+1, cur[j-1]+1, one[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], two[j-2]+1)
			}
		}
		two, one, cur = one, cur, two
	}
	return one[len(b)]
}

// DidYouMean returns " (did you mean X?)" for the candidate nearest to word, or
// nothing where none is near enough to be a slip of the keyboard.
func DidYouMean(word string, candidates []string) string {
	best := Nearest(word, slices.Values(candidates))
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// Alternatives renders a list for people: "a, b or c". The empty text, which a
// closed set may hold, is shown as "".
func Alternatives(words []string) string {
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
