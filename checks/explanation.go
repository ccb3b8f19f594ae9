package checks

import "context"

// explanation fetches and expands exp= of the record that failed (RFC 7208
// §6.2): of the one that redirect= led to, never of one included. Whatever goes
// wrong leaves no explanation.
func (e *evaluation) explanation(ctx context.Context) string {
	rec := e.root
	for rec.redirected != nil {
		rec = rec.redirected
	}
	if rec.exp == "" {
		return ""
	}
	name, ok := e.targetName(ctx, rec.exp, rec.domain)
	if !ok {
		return ""
	}
	txts, err := e.resolver.LookupTXT(ctx, name)
	if err != nil || len(txts) != 1 {
		return ""
	}
	for i := range len(txts[0]) {
		if c := txts[0][i]; c < 0x20 || c > 0x7e {
			return ""
		}
	}
	if _, err := checkMacroString("", txts[0], true); err != nil {
		return ""
	}
	return printable(string(e.expandTo(ctx, nil, txts[0], rec.domain)), maxExplanation)
}

// maxExplanation keeps an explanation on a few reply lines.
const maxExplanation = 400

// printable makes text that others wrote fit for logs, replies and header
// fields: printable ASCII alone, at most so many octets.
func printable(s string, most int) string {
	s = s[:min(len(s), most)]
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
