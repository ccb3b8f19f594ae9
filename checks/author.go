package checks

import (
	"slices"

	"postern/policy"
	"postern/proxy/smtp"
)

// maxAuthors bounds how many authors' domains of one message are judged.
const maxAuthors = 8

// Authors is what a header section says of who wrote the message, by every reading
// that servers and mail programs are known to make of it.
type Authors struct {
	Word    string   // header.author: one, several, none, ambiguous
	Fields  int      // From fields, those that only some readers take for one included
	Domains []string // that any reading finds: A-labels in lower case, each once, maxAuthors at the most
	// More says that there are more domains than that. Word is ambiguous then:
	// whoever could hide his victim behind them would go unjudged.
	More bool
}

// clear says whether all the authors are known, and every reader finds the same.
func (a *Authors) clear() bool {
	return a.Word == policy.AuthorOne || a.Word == policy.AuthorSeveral
}

// add adds a domain that a reading found.
func (a *Authors) add(domain string) {
	d, ok := domainName(domain)
	switch {
	case !ok || slices.Contains(a.Domains, d):
	case len(a.Domains) == maxAuthors:
		a.More = true
	default:
		a.Domains = append(a.Domains, d)
	}
}

// ReadAuthors reads the From fields of a message's header section.
func ReadAuthors(msg Message) Authors {
	var a Authors
	var first mailboxKey // of the first field
	read := func(value string) {
		r := authorReading{authors: &a}
		r.read(value)
		word := r.word()
		switch a.Fields++; {
		case a.Fields == 1:
			a.Word, first = word, r.mailbox
		case word != policy.AuthorOne || a.Word != policy.AuthorOne || r.mailbox != first:
			a.Word = policy.AuthorAmbiguous // the fields do not agree
		}
	}
	for _, f := range msg.Header {
		if fieldIs(f.Name, "From") {
			read(f.Value)
		}
	}
	apart := false // a field's name stands apart from its colon
	for _, l := range smtp.Lookalikes(msg.Section, "From") {
		apart = true
		if !l.Parsed {
			read(l.Value)
		}
	}
	switch {
	case apart || a.More:
		a.Word = policy.AuthorAmbiguous
	case a.Fields == 0:
		a.Word = policy.AuthorNone
	}
	return a
}
