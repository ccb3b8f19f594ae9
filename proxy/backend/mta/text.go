package mta

import (
	"strconv"
	"strings"

	"postern/proxy/smtp"
)

// incoming is a message while it comes in.
type incoming struct {
	m      Message    // nil once it is refused
	refuse smtp.Reply // why
	octets int64
	limit  int64
}

// begin opens a message in the store.
func (c *session) begin(chunked bool) *incoming {
	c.mail.Chunked = chunked
	in := &incoming{limit: or(c.s.MaxSize, defaultSize)}
	in.m, in.refuse = c.s.Store.Begin(c.mail)
	return in
}

func (in *incoming) fail(r smtp.Reply) {
	in.discard()
	if in.refuse.IsZero() {
		in.refuse = r
	}
}

func (in *incoming) discard() {
	if in.m != nil {
		in.m.Discard()
		in.m = nil
	}
}

// write takes text; what follows a refusal is dropped.
func (in *incoming) write(p []byte) {
	in.octets += int64(len(p))
	if in.octets > in.limit {
		in.fail(smtp.Reply{Code: 552, Enhanced: "3.4", Text: "Too large."})
	}
	if in.m == nil {
		return
	}
	if _, err := in.m.Write(p); err != nil {
		in.fail(smtp.Reply{Code: 452, Enhanced: "3.1", Text: "Insufficient system storage."})
	}
}

func (in *incoming) commit() result {
	if in.m == nil {
		return result{reply: in.refuse}
	}
	m := in.m
	in.m = nil
	return result{reply: m.Commit()}
}

// data is DATA (RFC 5321 §4.1.1.4).
func (c *session) data(arg string) result {
	switch {
	case arg != "":
		return say(501, "5.4", "No parameters, please.")
	case c.mail == nil || c.text != nil:
		return say(503, "5.1", "Not now.")
	case len(c.mail.To) == 0:
		return say(554, "5.1", "No valid recipients.")
	}
	r := say(354, "", "Go ahead")
	r.then = c.readData
	return r
}

// readData reads the text to its end mark. Only CRLF "." CRLF is one; a
// message that has bare CR, bare LF or NUL is read on to its true end, and
// refused.
func (c *session) readData() bool {
	in := c.begin(false)
	defer in.discard()
	var (
		scan  smtp.DataScanner
		plain smtp.Unstuffer
		buf   []byte
		need  = 1
	)
	raw, _ := in.m.(RawWriter)
	for faulty := false; ; {
		c.deadline()
		if _, err := c.br.Peek(need); err != nil {
			return false
		}
		b, _ := c.br.Peek(c.br.Buffered())
		var n int
		var end bool
		var err error
		if !faulty {
			if n, end, err = scan.Scan(b); err != nil {
				faulty = true
				in.fail(smtp.Reply{Code: 550, Enhanced: "6.0", Text: "Bare CR, bare LF or NUL."})
			}
			buf = plain.Append(buf[:0], b[:n])
			in.write(buf)
			if raw != nil {
				raw.WriteRaw(b[:n])
			}
		} else {
			n, end = scan.Skip(b)
		}
		need = len(b) - n + 1
		if err != nil {
			need = 1 // there is something to skip already
		}
		_, _ = c.br.Discard(n)
		if !c.within(in, b[:n]) {
			return false
		}
		if end {
			_, _ = c.br.Discard(len(".\r\n"))
			return c.finish(c.conclude(in))
		}
	}
}

// within lets the script look at a message that is still coming in.
func (c *session) within(in *incoming, p []byte) bool {
	if c.s.Script == nil || len(p) == 0 {
		return true
	}
	r := c.ask(Step{Verb: "TEXT", Octets: in.octets}, func() result { return result{} })
	return r.raw == "" && !r.close || c.finish(r)
}

// conclude ends message and transaction.
func (c *session) conclude(in *incoming) result {
	r := c.ask(Step{Verb: ".", Octets: in.octets}, in.commit)
	in.discard() // a script may have answered in the store's place
	c.reset()
	if r.reply.Positive() {
		c.bad = 0
	}
	return r
}

// bdat is BDAT (RFC 3030 §2). Whatever is wrong, exactly as many octets are
// read as were announced; where their number cannot be read, the connection
// ends, since nobody knows where the next command begins.
func (c *session) bdat(arg string) result {
	size, last, _ := strings.Cut(arg, " ")
	n, err := strconv.ParseUint(size, 10, 62)
	if err != nil || last != "" && !strings.EqualFold(last, "LAST") {
		r := say(501, "5.4", "That is no chunk.")
		r.close = true
		return r
	}
	bad := smtp.Reply{}
	switch {
	case !c.offers("CHUNKING"):
		bad = smtp.Reply{Code: 502, Enhanced: "5.1", Text: "Not offered."}
	case c.mail == nil:
		bad = smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Not now."}
	case len(c.mail.To) == 0:
		bad = smtp.Reply{Code: 554, Enhanced: "5.1", Text: "No valid recipients."}
	case c.text == nil:
		c.text = c.begin(true)
	}
	in := c.text
	if !bad.IsZero() {
		in = &incoming{refuse: bad, limit: int64(n)}
	}
	for left := int64(n); left > 0; {
		if c.br.Buffered() == 0 && !c.flush() {
			return result{close: true}
		}
		c.deadline()
		if _, err := c.br.Peek(1); err != nil {
			return result{close: true}
		}
		b, _ := c.br.Peek(int(min(left, int64(c.br.Buffered()))))
		in.write(b)
		left -= int64(len(b))
		_, _ = c.br.Discard(len(b))
		if !c.within(in, b) {
			return result{close: true}
		}
	}
	switch {
	case !bad.IsZero():
		return result{reply: bad}
	case last != "":
		return c.conclude(in)
	case in.m == nil:
		return result{reply: in.refuse}
	}
	return say(250, "0.0", "OK, "+size+" octets")
}
