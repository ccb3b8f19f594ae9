package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/configs"
)

// Bounds of for.
const (
	minHold = time.Second
	// maxHold is less than what senders wait until they give up, four to five days
	// (RFC 5321 §4.5.4.1): what is held longer never comes.
	maxHold = 4 * 24 * time.Hour
)

// notHeld is what ends a hold, or keeps it from beginning, besides the clock: an
// operator, and a store that cannot be relied on: a sender who was told to come again
// and is forgotten would be told so for ever. Bounces are never held, for who sends
// them may not come again, nor what is for those who can help (RFC 5321 §4.5.1,
// RFC 2142).
const notHeld = `hold.released or not state.healthy or hold.result == "temperror" or mail.from == "" or rcpt.address matches "(?i)^(postmaster|abuse)(@|$)"`

// holds gives each hold rule its end: a let, and that it does not hold besides. It is
// a condition like others, so that whatever judges, explains or shows a chain knows
// it.
func (c *compilation) holds(p configs.Policy) configs.Policy {
	rules, lets := slices.Clone(p.Rules), slices.Clone(p.Let)
	for i := range rules {
		r := &rules[i]
		at := textPosition(r.ForPosition, r.Position, fmt.Sprintf("rule %q", r.Name))
		// The place of the rule stands in for one that is not said.
		said := r.For != 0 || r.ForPosition.Line != 0 && r.ForPosition != r.Position
		switch {
		case r.Do != DispositionHold.String():
			if said {
				c.faultAt(at, "for says how long do: hold holds, and this rule's do is %s", r.Do)
			}
			continue
		case said && r.For < minHold:
			c.faultAt(at, "for: %s is too short: the least is %s; leave it out to hold until postern release", configs.FormatDuration(r.For), configs.FormatDuration(minHold))
		case r.For > maxHold:
			c.faultAt(at, "for: %s is too long: the most is %s, since senders give up after four to five days (RFC 5321 §4.5.4.1)", configs.FormatDuration(r.For), configs.FormatDuration(maxHold))
		}
		end := notHeld
		if said {
			seconds := (r.For + time.Second - 1) / time.Second
			end = fmt.Sprintf("hold.age >= %d or %s", seconds, notHeld)
		}
		let := letFor("hold_over_"+r.Name, lets)
		lets = append(lets, configs.Let{Name: let, Is: end, Position: at, IsPosition: at})
		r.Unless = append(slices.Clip(r.Unless), let)
	}
	p.Rules, p.Let = rules, lets
	return p
}

// letFor makes a name for a let of a text that may not be one, and that no let has.
func letFor(text string, lets []configs.Let) string {
	name := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, text)
	for unique := name; ; unique += "_" {
		if !slices.ContainsFunc(lets, func(l configs.Let) bool { return l.Name == unique }) {
			return unique
		}
	}
}

// heldInTime checks that a hold rule is decided for each recipient: later one reply
// answers for all of them.
func (c *compilation) heldInTime(r *rule) {
	if r.do != DispositionHold || r.stage <= Rcpt {
		return
	}
	if r.after != nil {
		c.faultAt(r.Position, "do: hold is decided at rcpt at the latest, and this rule at %s, %s: move it above that rule", r.stage, r.whyNotEarlier())
		return
	}
	at := r.Position
	for name, p := range r.when.Facts {
		if f := factOf(name); f.stage == r.own && f.stage > Rcpt {
			at = p
		}
	}
	c.faultAt(at, "do: hold is decided at rcpt at the latest, and this rule at %s, %s: read what is known before", r.stage, r.whyNotEarlier())
}
