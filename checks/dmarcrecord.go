package checks

import (
	"slices"
	"strings"
)

// dmarcRecord is a policy record that can be used (RFC 9989 §4.7).
type dmarcRecord struct {
	domain     string // where it was found
	p, sp, np  string // none, quarantine or reject; sp and np may be empty
	psd        byte   // y, n, or u
	test       bool   // t=y
	strictDKIM bool
	strictSPF  bool
}

// lowered is the policy one level down where the record is under test.
func (r *dmarcRecord) lowered(p string) string {
	if !r.test {
		return p
	}
	if p == "reject" {
		return "quarantine"
	}
	return "none"
}

// isDMARC says whether a TXT record is of DMARC: the version comes first, its name
// in any case, its value as it is written here (RFC 9989 §4.7, §4.8).
func isDMARC(txt string) bool {
	version, _, _ := strings.Cut(txt, ";")
	name, value, ok := strings.Cut(version, "=")
	return ok && strings.EqualFold(strings.TrimRight(name, " \t"), "v") && strings.Trim(value, " \t") == "DMARC1"
}

// parseDMARC reads a record; nil: it cannot be used. What is not understood is
// ignored, pct of RFC 7489 with it.
func parseDMARC(txt string) *dmarcRecord {
	rec := &dmarcRecord{p: "none", psd: 'u'}
	var seen []string
	bad, reports := false, false
	for tag := range strings.SplitSeq(txt, ";") {
		name, value, ok := strings.Cut(tag, "=")
		name, value = strings.ToLower(strings.Trim(name, " \t")), strings.Trim(value, " \t")
		if !ok {
			continue
		}
		if slices.Contains(seen, name) {
			return nil // which of the two is meant? (RFC 6376 §3.2)
		}
		if len(seen) < 32 {
			seen = append(seen, name)
		}
		value = strings.ToLower(value)
		switch name {
		case "p", "sp", "np":
			if value != "none" && value != "quarantine" && value != "reject" {
				bad = true
				continue
			}
			switch name {
			case "p":
				rec.p = value
			case "sp":
				rec.sp = value
			case "np":
				rec.np = value
			}
		case "psd":
			if value == "y" || value == "n" {
				rec.psd = value[0]
			}
		case "t":
			rec.test = value == "y"
		case "adkim":
			rec.strictDKIM = value == "s"
		case "aspf":
			rec.strictSPF = value == "s"
		case "rua":
			for uri := range strings.SplitSeq(value, ",") {
				scheme, rest, ok := strings.Cut(strings.Trim(uri, " \t"), ":")
				reports = reports || ok && scheme != "" && rest != ""
			}
		}
	}
	if bad {
		if !reports {
			return nil
		}
		// Somebody reads the reports and will see the mistake: until then, no
		// policy (RFC 9989 §4.10.1).
		rec.p, rec.sp, rec.np = "none", "", ""
	}
	return rec
}
