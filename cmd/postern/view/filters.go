package view

import (
	"slices"
	"strings"

	"postern/checks"
	"postern/policy"
	"postern/policy/journal"
)

// unrecorded are the attributes of a question to a policy service that the record does not have.
var unrecorded = []string{"request", "protocol_state", "protocol_name", "server_address", "server_port", "recipient_count", "encryption_keysize"}

// WriteFilters prints what other people's filters were told of a record, and what they said;
// nothing where none was asked. How long they took stands among the checks.
func WriteFilters(b *strings.Builder, r *journal.Record) {
	f := &r.Facts
	if len(f.Milter)+len(f.Service) == 0 {
		return
	}
	b.WriteString("\nFilters\n")
	table(b, func(row func(...string)) {
		about := func(name string, lines ...[2]string) {
			for _, line := range lines {
				if line[1] != "" {
					row(name, line[0], line[1])
					name = ""
				}
			}
		}
		for i := range f.Service {
			s := &f.Service[i]
			about("service."+s.Name, [2]string{"told", told(f, s)}, [2]string{"said", string(s.Action) + named(s.Text, ": ")}, [2]string{"note", s.Reason})
		}
		for i := range f.Milter {
			m := &f.Milter[i]
			lines := [][2]string{{"told", toldOr(m.Told, m.Unasked)}, {"said", string(m.Action) + named(m.Reply, ": ")}, {"note", m.Reason}}
			for _, field := range m.Fields {
				lines = append(lines, [2]string{"added", strings.Join(strings.Fields(field), " ")})
			}
			about("milter."+m.Name, lines...)
		}
	})
}

// toldOr is what a filter was told, or that it was not asked; why, the note says.
func toldOr(told string, unasked policy.Unasked) string {
	if unasked != "" {
		return "nothing, it was not asked"
	}
	return told
}

// told are the attributes that a policy service was told, as far as the record has them.
func told(f *policy.Facts, s *policy.Service) string {
	if s.Action == policy.Skipped || s.Unasked != "" {
		return toldOr("", s.Unasked)
	}
	var all []string
	for _, a := range checks.ServiceRequest(f, &f.Recipient, checks.Session{}) {
		if a.Value != "" && !slices.Contains(unrecorded, a.Name) {
			all = append(all, a.Name+"="+a.Value)
		}
	}
	return strings.Join(all, " ")
}
