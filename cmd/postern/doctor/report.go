package doctor

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/cmd/postern/view"
	"postern/configs"
)

// Status says how a finding is to be taken.
type Status string

// Statuses.
const (
	OK    Status = "ok"
	Warn  Status = "warning"
	Fault Status = "fault"
)

// Finding is one thing that was looked at. Its JSON is for programs, and stays.
type Finding struct {
	// Check is what was looked at, a closed set: configuration, process, clock, descriptors,
	// dns.server, dns.names, dns.canaries, dnsbl, hostname, tls, certificate, domain, mta-sts, domain.records, dane, listener,
	// client.address, backend, backend.client, announced, admin, state, journal, lists, spool, maildir.
	Check   string `json:"check"`
	Subject string `json:"subject,omitempty"` // of several: a server, a file, an address
	Status  Status `json:"status"`
	Seen    string `json:"seen"`
	Advice  string `json:"advice,omitempty"` // what to do about it
	At      string `json:"at,omitempty"`     // file:line:column
}

// Report takes down what the checks find, in order. One check writes to it at a time.
type Report struct {
	Findings []Finding
}

// add takes down findings as they are.
func (r *Report) add(found ...Finding) { r.Findings = append(r.Findings, found...) }

// join takes over what was found side by side.
func (r *Report) join(others ...Report) {
	for _, o := range others {
		r.add(o.Findings...)
	}
}

// Failed says whether there is a fault.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Status == Fault })
}

// topic is what several findings are about.
type topic struct {
	report             *Report
	check, subject, at string
	lead               string // stands before all that was seen
}

// on begins a topic. subject and at may be empty.
func (r *Report) on(check, subject, at string) topic { return topic{r, check, subject, at, ""} }

// leading is the topic with a text before all that was seen.
func (t topic) leading(lead string) topic {
	t.lead = lead
	return t
}

// OK says that something is as it should be.
func (t topic) OK(format string, args ...any) { t.note(OK, "", format, args...) }

// Warn says that mail flows, but something is missing or will end, and what to do about it.
func (t topic) Warn(advice, format string, args ...any) { t.note(Warn, advice, format, args...) }

// Fault says that mail is deferred, refused, judged wrongly or lost from sight, and what to
// do about it.
func (t topic) Fault(advice, format string, args ...any) { t.note(Fault, advice, format, args...) }

func (t topic) note(s Status, advice, format string, args ...any) {
	t.report.add(Finding{Check: t.check, Subject: t.subject, Status: s, Seen: t.lead + fmt.Sprintf(format, args...), Advice: advice, At: t.at})
}

// WriteText prints the findings for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	count := map[Status]int{}
	said := map[string]bool{}
	for _, f := range r.Findings {
		if title := title(f.Check); title != "" && !said[title] {
			said[title] = true
			b.WriteString(title + "\n")
		}
		count[f.Status]++
		seen := f.Seen
		if f.Subject != "" && !strings.Contains(seen, f.Subject) {
			seen = f.Subject + ": " + seen
		}
		if f.At != "" && f.Status != OK {
			seen += " (" + f.At + ")"
		}
		fmt.Fprintf(&b, "  %-8s %s\n", f.Status, strings.ReplaceAll(seen, "\n", "; "))
		if f.Advice != "" {
			fmt.Fprintf(&b, "           -> %s\n", f.Advice)
		}
	}
	fmt.Fprintf(&b, "\n%s, %s, %d ok\n", view.Counted(count[Fault], "fault"), view.Counted(count[Warn], "warning"), count[OK])
	_, err := io.WriteString(w, painted(view.Looked(w), configs.Printable(b.String())))
	return err
}

// painted is the text with its headings and statuses painted, where somebody looks.
func painted(t view.Terminal, text string) string {
	if !t.Colour {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		word, rest := "", ""
		if len(line) > 10 && strings.HasPrefix(line, "  ") && line[2] != ' ' {
			word, rest = line[2:10], line[10:]
		}
		switch status := Status(strings.TrimSpace(word)); {
		case status == OK:
			line = "  " + t.Good(word) + rest
		case status == Warn:
			line = "  " + t.Care(word) + rest
		case status == Fault:
			line = "  " + t.Bad(word) + rest
		case line[0] != ' ' && line != "\n":
			line = t.Head(strings.TrimSuffix(line, "\n")) + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}
