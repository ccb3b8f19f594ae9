package journal

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"postern/configs"
)

// Ask is what somebody looks for, in the words that people write; what is empty is not asked.
type Ask struct {
	From, Rcpt           string // see Filter.Sender and Filter.Recipient
	Client               string // an address, or a network
	ASN                  string // of the client's autonomous system, 64500 or AS64500
	Country              string // of the client, two letters
	Disposition, Outcome string
	Rule, QueueID        string
	Refused              bool
	Since, Until         string // see Moment
}

// AskError is a word that cannot be meant.
type AskError struct {
	Name string // of the field, as flags and forms have it: "since"
	Text string // what is wrong, behind the name
}

func (e *AskError) Error() string { return e.Name + " " + e.Text }

// Dispositions and Outcomes are the words that can be asked for.
var (
	Dispositions = []Disposition{DispositionPass, DispositionTag, DispositionHold, DispositionDefer, DispositionReject, NotAsked}
	Outcomes     = []Outcome{OutcomeDelivered, OutcomeRefused, OutcomeBackendRefused, OutcomeFailed, OutcomeAbandoned, OutcomeUnknown}
)

// listed returns words of the journal as a sentence has them.
func listed[W ~string](words []W) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	return strings.Join(all, ", ")
}

// Filter is what is looked for in the journal that c describes, at the time now, in whose zone
// days and hours are meant. The error is an AskError, or that of the key for hashes.
func (a Ask) Filter(c configs.Journal, now time.Time) (f Filter, err error) {
	switch {
	case a.Disposition != "" && !slices.Contains(Dispositions, Disposition(a.Disposition)):
		return f, &AskError{"disposition", fmt.Sprintf("%q: it is one of %s", a.Disposition, listed(Dispositions))}
	case a.Outcome != "" && !slices.Contains(Outcomes, Outcome(a.Outcome)):
		return f, &AskError{"outcome", fmt.Sprintf("%q: it is one of %s", a.Outcome, listed(Outcomes))}
	}
	f = Filter{
		Sender: a.From, Recipient: a.Rcpt, Rule: a.Rule, Disposition: Disposition(a.Disposition),
		Outcome: Outcome(a.Outcome), Refused: a.Refused, QueueID: a.QueueID,
	}
	if a.Client != "" {
		if f.Client, err = network(a.Client); err != nil {
			return f, err
		}
	}
	if a.ASN != "" {
		digits := a.ASN
		if len(digits) > 2 && strings.EqualFold(digits[:2], "as") {
			digits = digits[2:]
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n == 0 {
			return f, &AskError{"asn", fmt.Sprintf("%q is no number of an autonomous system, such as 64500", a.ASN)}
		}
		f.ASN = int64(n)
	}
	if f.Country = a.Country; a.Country != "" && len(a.Country) != 2 {
		return f, &AskError{"country", fmt.Sprintf("%q is no country's code of two letters, such as DE", a.Country)}
	}
	if c.HashLocalParts && strings.Contains(a.From+a.Rcpt, "@") {
		if err := f.HashedBy(c); err != nil {
			return f, fmt.Errorf("the journal has hashes in place of local parts, and to find one takes the key: %w", err)
		}
	}
	f.Query, err = AskedTime(a.Since, a.Until, now)
	return f, err
}

// AskedTime is the time from since until until, either of which may be empty; a day ends with
// its last second. The error is an AskError.
func AskedTime(since, until string, now time.Time) (q Query, err error) {
	if since != "" {
		if q.Since, _, err = Moment(since, now); err != nil {
			return q, &AskError{"since", fmt.Sprintf("%q %v", since, err)}
		}
	}
	if until == "" {
		return q, nil
	}
	from, to, err := Moment(until, now)
	if err != nil {
		return q, &AskError{"until", fmt.Sprintf("%q %v", until, err)}
	}
	q.Until = to
	if !q.Since.IsZero() && !from.After(q.Since) && !to.After(q.Since) {
		return q, &AskError{"until", fmt.Sprintf("%s is before since %s: that is no time at all", until, since)}
	}
	return q, nil
}

// network reads an address or a network.
func network(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, &AskError{"client", fmt.Sprintf("%q is no address, and no network such as 192.0.2.0/24 or 2001:db8::/32", text)}
	}
	return p.Masked(), nil
}

var errMoment = errors.New("is no time: write how long ago (30m, 24h, 7d), today, yesterday, a day (2026-11-21), or a day and an hour (2026-11-21 14:30)")

// Moment reads a time: when it begins, and when it ends, which for a day is another one. Days are
// those of the time zone of now.
func Moment(text string, now time.Time) (from, to time.Time, err error) {
	word := strings.ToLower(strings.TrimSpace(text))
	wholeDay := func(t time.Time, days int) (time.Time, time.Time, error) {
		from := time.Date(t.Year(), t.Month(), t.Day()+days, 0, 0, 0, 0, now.Location())
		return from, time.Date(t.Year(), t.Month(), t.Day()+days+1, 0, 0, 0, 0, now.Location()), nil
	}
	switch word {
	case "now":
		return now, now, nil
	case "today":
		return wholeDay(now, 0)
	case "yesterday":
		return wholeDay(now, -1)
	}
	if ago, err := configs.ParseDuration(strings.TrimSuffix(word, " ago")); err == nil {
		return now.Add(-ago), now.Add(-ago), nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, word, now.Location()); err == nil {
		return wholeDay(day, 0)
	}
	if t, err := time.Parse(time.RFC3339, strings.ToUpper(word)); err == nil {
		return t, t, nil
	}
	word = strings.Replace(word, "t", " ", 1)
	for _, form := range []string{time.DateTime, "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(form, word, now.Location()); err == nil {
			return t, t, nil
		}
	}
	for _, form := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.Parse(form, word); err == nil {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			return t, t, nil
		}
	}
	return from, to, errMoment
}

// bracketed and bare are what an id looks like. They are made when somebody asks.
var (
	bracketed = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\(([0-9a-hj-km-np-tv-z]{12})\)`) })
	bare      = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\b[0-9a-hj-km-np-tv-z]{12}\b`) })
)

// IDIn finds the id in what somebody has pasted: the last one that stands in brackets,
// as a refusal has it, or the last word that looks like one. What has none is looked
// for as it is.
func IDIn(pasted string) string {
	text := strings.ToLower(pasted)
	if all := bracketed().FindAllStringSubmatch(text, -1); all != nil {
		return all[len(all)-1][1]
	}
	if all := bare().FindAllString(text, -1); all != nil {
		return all[len(all)-1]
	}
	return strings.Trim(text, "()[]<>\"'.,;: \t\r\n")
}

// Meant is the recipient of a record that the filter found it by; empty: it asked for none.
func (f *Filter) Meant(r *Record) string {
	for i := range r.Recipients {
		if f.MeansRecipient(r, i) {
			return r.Recipients[i].Address
		}
	}
	return ""
}
