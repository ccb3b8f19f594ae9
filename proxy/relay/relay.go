// Package relay is what a session has to do with the backend: the connection that it has
// on loan from one transaction to the next, the envelope of a transaction, and its
// message, in one of four framings. It says what the client has said, and makes of the
// backend's answers what the client is told. Of rules it knows nothing.
package relay

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strconv"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/smtp"
)

// Site is what all conversations have in common.
type Site struct {
	Context context.Context // of the server
	Log     *slog.Logger
	Metrics *metrics.Metrics // may be nil
}

// Transaction is what a conversation asks of the transaction that it is for.
type Transaction interface {
	// Client is what the backend shall learn about the client.
	Client() backend.Client
	// StillTrue says whether what the backend was told about the client, perhaps some
	// messages ago, is still so.
	StillTrue(told *backend.Client) bool
	// Taken are the recipients that the client was told are taken, with the parameters
	// that went to the backend.
	Taken() iter.Seq2[smtp.Path, []smtp.Param]
	// Took adds to the record what a step has taken since then.
	Took(step string, since time.Time)
}

// Mail is what the client said by MAIL.
type Mail struct {
	From   smtp.Path
	Params []smtp.Param
	Eight  bool  // BODY=8BITMIME
	Binary bool  // BODY=BINARYMIME
	Size   int64 // SIZE, as the backend is told: with our fields; octets
}

// Conversation is that of one transaction with the backend. It is the goroutine's of its
// session, and replaced with its transaction, never reset. Its exported fields are for
// reading, but for Mail.
type Conversation struct {
	Mail    Mail       // set before the first recipient, and not changed afterwards
	Backend string     // name and address
	Said    smtp.Reply // the backend's last reply
	Broken  string     // why the conversation has ended, for the log; empty: it has not

	// Immutable.
	site     *Site
	tx       Transaction
	id       string // of tx
	loan     *Loan
	timeouts *configs.Timeouts

	pool     *backend.Pool // that of the recipients so far
	takes8   bool          // the backend takes 8-bit text
	mailSent bool          // the backend has, or will have heard, MAIL
	mailDue  bool          // its reply to MAIL is still to be read
	// gaveUp is what the client is told where the conversation has ended since we let
	// go of the connection.
	gaveUp smtp.Reply
	// turnedAway is what the backend had to say on this client, told who it is.
	turnedAway smtp.Reply
}

// The replies where the backend cannot be used. None of them is for good.
var (
	errBackend = smtp.Reply{Code: 451, Enhanced: "4.1", Text: "The mail server behind us does not answer, try again later"}
	errMisfit  = smtp.Reply{Code: 451, Enhanced: "3.0", Text: "The mail server behind us does not take mail from us, try again later"}
	errUnknown = smtp.Reply{Code: 451, Enhanced: "4.2", Text: "The mail server behind us did not confirm the message, try again later"}
	// What EHLO announced was learned from another address, or before the
	// backend changed. Later it will have been learned anew.
	errChanged = smtp.Reply{Code: 451, Enhanced: "3.0", Text: "The mail server behind us has changed, try again"}
)

// Begin makes c, which is zero, the conversation for tx, whose id is id, on the
// connection that loan has or will have.
func (c *Conversation) Begin(site *Site, tx Transaction, id string, loan *Loan, timeouts *configs.Timeouts) {
	c.site, c.tx, c.id, c.loan, c.timeouts = site, tx, id, loan, timeouts
}

// Pool is the backend of the recipients so far; nil: there was none.
func (c *Conversation) Pool() *backend.Pool { return c.pool }

// To says which backend the next recipient has. Another one than before may follow only
// where nobody before is served; if that is since their backend is down, it says nothing
// of this one.
func (c *Conversation) To(pool *backend.Pool) {
	if pool != c.pool {
		c.Broken, c.gaveUp, c.turnedAway, c.mailSent = "", smtp.Reply{}, smtp.Reply{}, false
	}
	c.pool = pool
}

// Rcpt queues RCPT for the backend, which is opened when this is the first. A reply
// comes back only where the backend cannot be asked.
func (c *Conversation) Rcpt(to smtp.Path, params []smtp.Param) smtp.Reply {
	if c.Broken != "" {
		return c.Unserved()
	}
	if !c.turnedAway.IsZero() {
		return c.turnedAway
	}
	if bc := c.loan.conn; bc != nil && (bc.Pool() != c.pool || !c.tx.StillTrue(bc.Client())) {
		// From a transaction before, or from recipients that were all refused.
		c.loan.Release()
	}
	if c.loan.conn == nil {
		if r := c.open(); !r.IsZero() {
			return r
		}
	}
	bc := c.loan.conn
	c.Backend = bc.Name()
	caps := bc.Capabilities()
	if len(params) > 0 && !caps.DSN {
		return errChanged.WithID(c.id)
	}
	if !c.mailSent {
		ps, ok := c.mailParams(caps)
		if !ok {
			c.loan.Drop()
			return errChanged.WithID(c.id)
		}
		bc.QueueMail(c.Mail.From, ps)
		c.mailSent, c.mailDue = true, true
	}
	bc.QueueRcpt(to, params)
	c.takes8 = caps.EightBitMIME
	return smtp.Reply{}
}

// open takes a connection to the backend. A reply comes back where there is none.
func (c *Conversation) open() smtp.Reply {
	start := time.Now()
	bc, err := c.pool.Open(c.site.Context, c.tx.Client())
	c.tx.Took("backend", start)
	var be *backend.Error
	if errors.As(err, &be) && be.TurnsAway {
		c.Backend, c.Said = be.Backend+" "+be.Address, be.Reply
		c.turnedAway = c.asToClient(be.Reply, "7.1")
		return c.turnedAway
	}
	if err != nil {
		c.Fail(err)
		return errBackend.WithID(c.id)
	}
	c.loan.set(bc)
	return smtp.Reply{}
}

// Unserved is the answer where the backend is gone that the transaction began with.
func (c *Conversation) Unserved() smtp.Reply {
	if !c.gaveUp.IsZero() {
		return c.gaveUp.WithID(c.id)
	}
	return errBackend.WithID(c.id)
}

// mailParams is what of MAIL's parameters goes on to a backend with those
// capabilities; not ok: it lacks what the client was promised.
func (c *Conversation) mailParams(caps backend.Capabilities) (ps []smtp.Param, ok bool) {
	for _, p := range c.Mail.Params {
		switch p.Key {
		case "SIZE":
			if caps.HasSize {
				ps = append(ps, smtp.Param{Key: "SIZE", Value: strconv.FormatInt(c.Mail.Size, 10), HasValue: true})
			}
			continue
		case "SUBMITTER": // RFC 4405 §4.3: dropped where it is not known
			if !caps.Submitter {
				continue
			}
		case "BODY":
			if c.Mail.Binary && !(caps.BinaryMIME && caps.Chunking) || c.Mail.Eight && !caps.EightBitMIME {
				return nil, false
			}
			if !caps.EightBitMIME {
				continue
			}
		case "SMTPUTF8":
			if !caps.SMTPUTF8 {
				return nil, false
			}
		case "REQUIRETLS":
			if !caps.RequireTLS || !caps.Verified {
				return nil, false
			}
		case "RET", "ENVID":
			if !caps.DSN {
				return nil, false
			}
		}
		ps = append(ps, p)
	}
	return ps, true
}

// MailDue says whether the backend has still to answer MAIL.
func (c *Conversation) MailDue() bool { return c.mailDue }

// MailRefusal reads the answer to MAIL, if it is due, and returns it where it is a
// refusal. The client has had our answer to MAIL: its recipients are told (RFC 5321 §3.3
// lets a server speak late).
func (c *Conversation) MailRefusal() smtp.Reply {
	if !c.mailDue {
		return smtp.Reply{}
	}
	c.mailDue = false
	r, ok := c.reply("1.0")
	if !ok || r.Positive() {
		return smtp.Reply{}
	}
	c.mailSent = false
	return r
}

// RcptReply reads the answer to the next RCPT. mail is what MailRefusal has returned; if
// MAIL was refused, it is the answer, in place of what the backend says to a RCPT without
// MAIL: 503, mostly.
func (c *Conversation) RcptReply(mail smtp.Reply) smtp.Reply {
	r, ok := mail, false
	if mail.IsZero() {
		r, ok = c.reply("1.5")
	} else {
		ok = c.skip()
	}
	if !ok {
		return errBackend.WithID(c.id)
	}
	return r
}

// reply reads one reply; false when there is no conversation any more. A reply without
// an enhanced code gets the generic one for detail (RFC 2034 §4 wants one on all).
func (c *Conversation) reply(detail string) (smtp.Reply, bool) {
	r, ok := c.answer()
	if ok && r.Intermediate() {
		// Only DATA is answered by 354. To the client it would be an
		// invitation to send a message to nobody.
		c.outOfStep(r)
		c.loan.Drop()
		return smtp.Reply{}, false
	}
	return c.asToClient(r, detail), ok
}

// asToClient is what of a reply of the backend's the client hears: all of it,
// unless it is about how we speak. That the backend wants another command
// first, or TLS, or does not know this one, is between it and us, and no reason
// for the sender to give the message up.
func (c *Conversation) asToClient(r smtp.Reply, detail string) smtp.Reply {
	switch r.Code {
	case 502, 503, 530, 538:
		c.log(slog.LevelError, "the backend does not take our commands", slog.String("backend_reply", r.String()))
		return errMisfit.WithID(c.id)
	}
	return supplyEnhanced(r, detail)
}

func supplyEnhanced(r smtp.Reply, detail string) smtp.Reply {
	if r.Enhanced == "" && !r.Intermediate() {
		if !r.Positive() {
			detail = "0.0"
		}
		r.Enhanced = detail
	}
	return r
}

// answer is reply to DATA, where 354 means something.
func (c *Conversation) answer() (smtp.Reply, bool) {
	if c.Broken != "" || c.loan.conn == nil {
		return smtp.Reply{}, false
	}
	r, err := c.loan.conn.Reply()
	if err != nil {
		c.Fail(err)
		c.loan.Drop()
		return smtp.Reply{}, false
	}
	c.Said = r
	return r, true
}

// skip reads a reply which tells less than the one before it; false when there is no
// conversation any more.
func (c *Conversation) skip() bool {
	said := c.Said
	_, ok := c.answer()
	if ok {
		c.Said = said
	}
	return ok
}

// Fail notes that the backend cannot be used for this transaction any more.
func (c *Conversation) Fail(err error) { c.Broken = err.Error() }

// GiveUp notes that the connection is let go of in the middle of the transaction: what
// the client is told, and why, for the log. The fate is that of the message, if it has begun.
func (c *Conversation) GiveUp(r smtp.Reply, why string) Fate {
	c.Broken, c.gaveUp = why, r
	return Fate{c.Unserved(), journal.OutcomeFailed}
}

// Panicked ends the conversation after a panic of ours, and says whether the backend may
// have the message all the same.
func (c *Conversation) Panicked() (unknown bool) {
	unknown = c.mailSent && c.loan.conn != nil && c.loan.conn.EndSent()
	c.loan.Drop()
	c.Broken = "panic"
	if unknown {
		c.unknown()
	}
	return unknown
}

// outOfStep notes a reply that makes no sense where it came.
func (c *Conversation) outOfStep(r smtp.Reply) {
	c.Said = r
	c.Broken = "the backend is out of step: " + strconv.Itoa(r.Code)
}

// Fate is what became of a message: what the client is told, and what the record says.
// The zero Fate is not known yet.
type Fate struct {
	Reply   smtp.Reply
	Outcome journal.Outcome
}

// Sealed says whether the fate is known.
func (f Fate) Sealed() bool { return f.Outcome != "" }

// Refused is the fate of a message of that transaction that is refused for what it is.
func Refused(r smtp.Reply, id string) Fate { return Fate{r.WithID(id), journal.OutcomeRefused} }

// failed is the fate of a message that the backend cannot be given.
func (c *Conversation) failed() Fate {
	return Fate{errBackend.WithID(c.id), journal.OutcomeFailed}
}

// refused is the fate of a message that the backend has refused.
func (c *Conversation) refused(r smtp.Reply) Fate {
	return Fate{c.asToClient(r, "0.0"), journal.OutcomeBackendRefused}
}

// lost is the fate of a message whose conversation ended between the end of the message
// and its answer.
func (c *Conversation) lost(err error) Fate {
	c.Fail(err)
	sent := c.loan.conn.EndSent()
	c.loan.Drop()
	var be *backend.Error
	if errors.As(err, &be) && !be.Reply.IsZero() {
		// It said 421 before it went: it has not taken the message.
		return c.failed()
	}
	if !sent {
		// The connection was gone before the end could be written, as that of
		// an MTA that was tired of waiting for a slow client. It has nothing.
		return c.failed()
	}
	// The end is out, and no word came back: the backend may have the message
	// or not. 4yz makes the client send it again, and a message twice is better
	// than none (RFC 5321 §6.1, RFC 1047).
	c.unknown()
	return Fate{errUnknown.WithID(c.id), journal.OutcomeUnknown}
}

// unknown counts and logs a message that the backend may have or not.
func (c *Conversation) unknown() {
	c.site.Metrics.OutcomeUnknown()
	c.log(slog.LevelError, "outcome unknown: possible duplicate", slog.String("error", c.Broken))
}

func (c *Conversation) log(level slog.Level, what string, more ...slog.Attr) {
	c.site.Log.LogAttrs(c.site.Context, level, what,
		append([]slog.Attr{slog.String("id", c.id), slog.String("backend", c.Backend)}, more...)...)
}
