package dkim

import (
	"strings"

	"postern/proxy/smtp"
)

const fieldDKIM = "dkim-signature"

// section is a header section: its fields, and the lines that are none.
type section struct {
	fields  []field
	byName  map[string][]int // fields of a name in lower case, top to bottom
	strange []string         // lines that are neither a field nor a part of one
}

// field is one field of a header section. Its name has no white space, its value
// is folded as it was and has no line end.
type field struct {
	name, value string
	raw         string // with the line end, if it has one
	relaxed     []byte // made when it is first asked for
}

// canonical returns the field in canonical form, CRLF included.
func (f *field) canonical(form form) []byte {
	if form == simple {
		return []byte(f.raw)
	}
	if f.relaxed == nil {
		f.relaxed = appendRelaxed(make([]byte, 0, len(f.raw)+2), f.name, f.value)
	}
	return f.relaxed
}

// readSection parts a header section. What is a field is what it is for all of
// Postern (smtp.ParseHeader), so that the field that was signed is the one that
// other checks and rules read.
func readSection(header []byte) *section {
	h, at, bad := smtp.ParseHeaderExtents(header)
	s := &section{fields: make([]field, len(h)), byName: make(map[string][]int, len(h))}
	end := 0
	text := string(header)
	for i, f := range h {
		if bad > 0 && at[i].Start > end {
			s.strange = append(s.strange, strings.Split(text[end:at[i].Start], "\n")...)
		}
		end = at[i].End
		s.fields[i] = field{name: f.Name, value: f.Value, raw: text[at[i].Start:end]}
		name := strings.ToLower(f.Name)
		s.byName[name] = append(s.byName[name], i)
	}
	if bad > 0 && end < len(text) {
		s.strange = append(s.strange, strings.Split(text[end:], "\n")...)
	}
	return s
}

// signatures reads the first signatures of the section, top to bottom.
func (s *section) signatures(most int) []*signature {
	at := s.byName[fieldDKIM]
	at = at[:min(len(at), most)]
	sigs := make([]*signature, len(at))
	for i, n := range at {
		sigs[i] = readSignature(s.fields[n].value)
		sigs[i].field = n
	}
	return sigs
}

// picker hands out the fields of a section as a signature names them: those of a
// name from the bottom up, each once (RFC 6376 §5.4.2).
type picker struct {
	section *section
	own     int            // the field of the signature itself, which is never one of those
	left    map[string]int // how many fields of a name were not looked at yet
}

// pick returns the next field of a name in lower case; nil: there is none left,
// and it was signed that there is none.
func (p *picker) pick(name string) *field {
	at := p.section.byName[name]
	left, asked := p.left[name]
	if !asked {
		left = len(at)
	}
	for left > 0 {
		left--
		p.left[name] = left
		if at[left] != p.own {
			return &p.section.fields[at[left]]
		}
	}
	return nil
}

// disguised says whether a line that is no field for us could be read as one of
// those that a signature signs: it has such a name but for white space of other
// kinds (a vertical tab, a space of Unicode), or for letters whose upper case is
// that of others. Software that is generous with them might have signed what
// stands there, and another field of the name be shown in its place.
func (s *section) disguised(sigs []*signature) bool {
	if len(s.strange) == 0 {
		return false
	}
	signed := map[string]bool{fieldDKIM: true}
	for _, sig := range sigs {
		for _, name := range sig.names {
			signed[name] = true
		}
	}
	for _, line := range s.strange {
		name, _, colon := strings.Cut(line, ":")
		if !colon || name == "" {
			continue
		}
		name = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "\u017f", "s") // the long s
		if signed[name] {
			return true
		}
	}
	return false
}
