package checks

import (
	"slices"

	"postern/policy"
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
	read, mailboxes := true, 0
	for _, f := range msg.Header {
		if !fieldIs(f.Name, "From") {
			continue
		}
		a.Fields++
		if isBlank(f.Value) {
			continue
		}
		list, ok := parseMailboxes(f.Value)
		read = read && ok
		for _, m := range list {
			mailboxes++
			a.add(m.Domain)
		}
	}
	switch {
	case a.Fields > 1 || !read || a.More:
		a.Word = policy.AuthorAmbiguous
	case mailboxes == 0:
		a.Word = policy.AuthorNone
	case mailboxes == 1:
		a.Word = policy.AuthorOne
	default:
		a.Word = policy.AuthorSeveral
	}
	return a
}
