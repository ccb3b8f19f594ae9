package checks

import "strings"

// maxExplanation keeps an explanation on a few reply lines.
const maxExplanation = 400

// printable makes text that others wrote fit for logs, replies and header
// fields: printable ASCII alone, at most so many octets, and no part of a longer text, which
// would stay in memory with it.
func printable(s string, most int) string {
	if len(s) > most {
		s = strings.Clone(s[:most])
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e {
			b := []byte(s)
			for ; i < len(b); i++ {
				if b[i] < 0x20 || b[i] > 0x7e {
					b[i] = '?'
				}
			}
			return string(b)
		}
	}
	return s
}
