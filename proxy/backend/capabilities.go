package backend

import (
	"slices"
	"strconv"
	"strings"
)

// Capabilities is what a backend offers (RFC 5321 §4.1.1.1): the EHLO keywords
// that we know. The others do not exist for us, nor for our clients.
type Capabilities struct {
	Pipelining          bool  // RFC 2920
	EightBitMIME        bool  // RFC 6152
	SMTPUTF8            bool  // RFC 6531
	DSN                 bool  // RFC 3461
	Chunking            bool  // RFC 3030
	BinaryMIME          bool  // RFC 3030
	EnhancedStatusCodes bool  // RFC 2034
	Submitter           bool  // RFC 4405
	RequireTLS          bool  // RFC 8689
	StartTLS            bool  // RFC 3207; offered, not: in use
	HasSize             bool  // RFC 1870
	Size                int64 // octets; 0 with HasSize: no fixed limit
	Limits              Limits

	XClient  []string // attributes of Postfix's XCLIENT; nil: not offered
	XForward []string // attributes of Postfix's XFORWARD; nil: not offered

	TLS      bool // the leg to the backend is encrypted
	Verified bool // and the backend's certificate was verified
}

// Limits is what the LIMITS keyword says (RFC 9422); 0: no limit told.
type Limits struct {
	MailMax       int // MAIL commands per connection
	RcptMax       int // RCPT commands per transaction
	RcptDomainMax int // recipient domains per transaction
}

// maxKeywords bounds what is read of an EHLO reply. The largest known ones
// have some thirty.
const maxKeywords = 100

// parseCapabilities reads the text of the reply to EHLO. The first line is the
// greeting, each of the others a keyword with parameters.
func parseCapabilities(text string) Capabilities {
	var c Capabilities
	_, text, _ = strings.Cut(text, "\n")
	for n := 0; text != "" && n < maxKeywords; n++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		// Old servers write "AUTH=" and "SIZE=n"; nothing that we use has
		// this form, so only the space counts.
		keyword, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(keyword) {
		case "PIPELINING":
			c.Pipelining = true
		case "8BITMIME":
			c.EightBitMIME = true
		case "SMTPUTF8":
			c.SMTPUTF8 = true
		case "DSN":
			c.DSN = true
		case "CHUNKING":
			c.Chunking = true
		case "BINARYMIME":
			c.BinaryMIME = true
		case "ENHANCEDSTATUSCODES":
			c.EnhancedStatusCodes = true
		case "SUBMITTER":
			c.Submitter = true
		case "REQUIRETLS":
			c.RequireTLS = true
		case "STARTTLS":
			c.StartTLS = true
		case "SIZE":
			c.HasSize = true
			// A size that cannot be read is no size: the backend will say so
			// itself when it gets too much.
			c.Size, _ = parseSize(params)
		case "LIMITS":
			c.Limits = parseLimits(params)
		case "XCLIENT":
			c.XClient = attributes(params)
		case "XFORWARD":
			c.XForward = attributes(params)
		}
	}
	return c
}

// parseSize reads at most 20 digits (RFC 1870 §3).
func parseSize(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	if len(s) == 0 || len(s) > 20 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, false
	}
	return n, true
}

// parseLimits reads NAME=VALUE pairs, names that are not registered and values
// that are no positive number left out (RFC 9422 §3).
func parseLimits(params string) Limits {
	var l Limits
	for pair := range strings.FieldsSeq(params) {
		name, value, _ := strings.Cut(pair, "=")
		n, err := strconv.Atoi(value)
		if err != nil || n <= 0 {
			continue
		}
		switch strings.ToUpper(name) {
		case "MAILMAX":
			l.MailMax = n
		case "RCPTMAX":
			l.RcptMax = n
		case "RCPTDOMAINMAX":
			l.RcptDomainMax = n
		}
	}
	return l
}

// attributes reads the attribute names of XCLIENT or XFORWARD, upper case. The
// result is not nil even if there are none.
func attributes(params string) []string {
	a := []string{}
	for f := range strings.FieldsSeq(params) {
		if len(a) == 20 {
			break
		}
		a = append(a, strings.ToUpper(f))
	}
	return a
}

// intersect is what both offer, with the tighter of each limit.
func (c Capabilities) intersect(d Capabilities) Capabilities {
	r := Capabilities{
		Pipelining:          c.Pipelining && d.Pipelining,
		EightBitMIME:        c.EightBitMIME && d.EightBitMIME,
		SMTPUTF8:            c.SMTPUTF8 && d.SMTPUTF8,
		DSN:                 c.DSN && d.DSN,
		Chunking:            c.Chunking && d.Chunking,
		BinaryMIME:          c.BinaryMIME && d.BinaryMIME,
		EnhancedStatusCodes: c.EnhancedStatusCodes && d.EnhancedStatusCodes,
		Submitter:           c.Submitter && d.Submitter,
		RequireTLS:          c.RequireTLS && d.RequireTLS,
		StartTLS:            c.StartTLS && d.StartTLS,
		TLS:                 c.TLS && d.TLS,
		Verified:            c.Verified && d.Verified,
		// A backend without SIZE limits nothing that we could tell.
		HasSize: c.HasSize || d.HasSize,
		Size:    tighter(c.Size, d.Size),
		Limits: Limits{
			MailMax:       tighter(c.Limits.MailMax, d.Limits.MailMax),
			RcptMax:       tighter(c.Limits.RcptMax, d.Limits.RcptMax),
			RcptDomainMax: tighter(c.Limits.RcptDomainMax, d.Limits.RcptDomainMax),
		},
	}
	if c.XClient != nil && d.XClient != nil {
		r.XClient = common(c.XClient, d.XClient)
	}
	if c.XForward != nil && d.XForward != nil {
		r.XForward = common(c.XForward, d.XForward)
	}
	return r
}

// covers says whether everything that old offered is offered by c as well, so
// that commands written for old may go to c.
func (c Capabilities) covers(old Capabilities) bool {
	both := c.intersect(old)
	both.XClient, both.XForward, old.XClient, old.XForward = nil, nil, nil, nil
	// What c limits is told by its own replies.
	both.HasSize, both.Size, both.Limits = old.HasSize, old.Size, old.Limits
	both.StartTLS = old.StartTLS
	return both.equal(old)
}

// equal compares everything but the attribute lists.
func (c Capabilities) equal(d Capabilities) bool {
	return c.Pipelining == d.Pipelining && c.EightBitMIME == d.EightBitMIME && c.SMTPUTF8 == d.SMTPUTF8 &&
		c.DSN == d.DSN && c.Chunking == d.Chunking && c.BinaryMIME == d.BinaryMIME &&
		c.EnhancedStatusCodes == d.EnhancedStatusCodes && c.Submitter == d.Submitter &&
		c.RequireTLS == d.RequireTLS && c.StartTLS == d.StartTLS &&
		c.HasSize == d.HasSize && c.Size == d.Size && c.Limits == d.Limits && c.TLS == d.TLS && c.Verified == d.Verified
}

// common returns the elements of a that are in b.
func common(a, b []string) []string {
	r := []string{}
	for _, s := range a {
		if slices.Contains(b, s) {
			r = append(r, s)
		}
	}
	return r
}

// tighter returns the smaller of two limits, of which 0 is none.
func tighter[T int | int64](a, b T) T {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
