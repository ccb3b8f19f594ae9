package holder

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"postern/proxy/amtp/spool"
	"postern/proxy/backend"
	"postern/proxy/smtp"
)

func (h *Holder) log(e spool.Entry) *slog.Logger {
	return h.o.Log.With("message", e.Of().ID, "from", e.Of().From.String(), "rcpt", e.To.String())
}

// readReply reads one reply of a server that is asked nothing else.
func readReply(conn net.Conn) (smtp.Reply, error) {
	return smtp.ReadReply(bufio.NewReaderSize(conn, 2048))
}

// relay gives an entry to the smarthost, since no server of AMTP is there for it.
func (h *Holder) relay(ctx context.Context, e spool.Entry) error {
	if !h.take(h.given, e.Number) {
		return nil
	}
	defer h.release(h.given, e.Number)
	failed := false
	// From here on nobody may fetch it.
	e, err := h.o.Spool.Update(e.Number, func(e *spool.Entry) {
		if failed = e.Stage == spool.Failed; failed {
			return
		}
		e.Stage, e.Peer = spool.Waiting, netip.Addr{}
		e.Absent++
		e.Attempts++
		e.Next = h.again(e.Attempts, e.Of().Expires)
	})
	if err != nil || failed {
		return err
	}
	text, err := h.o.Spool.Read(e)
	if err != nil {
		h.log(e).Error("mail is damaged: its text cannot be read, and its sender is told in the end", "error", err.Error())
		return nil // it is tried again: the disk may be back
	}
	defer func() { _ = text.Close() }() // nothing was written
	given := false
	received := fmt.Sprintf("Received: by %s with AMTP id %s\r\n\tfor %s; %s\r\n", h.o.Hostname, e.Of().ID, e.To.Angle(), time.Now().Format(time.RFC1123Z))
	word, err := h.send(ctx, e.Of().From, e.To, io.MultiReader(strings.NewReader(received), text), func() error {
		_, err := h.o.Spool.Update(e.Number, func(e *spool.Entry) { e.Handed++ })
		given = err == nil
		return err
	})
	switch {
	case err == nil && word.taken:
		if err := h.o.Spool.Done(e.Number); err != nil {
			return err
		}
		h.log(e).Info("given to the smarthost", "reply", word.reply.String(), "twice_possible", e.Handed > 0)
		return nil
	case err == nil && word.final():
		return h.fail(e, status(word.reply, "5.0.0"), "the smarthost said: "+word.reply.String(), given)
	}
	said := word.reply.String()
	if err != nil {
		said = err.Error()
	}
	log := h.log(e).With("attempt", e.Attempts, "next", e.Next.UTC().Format(time.RFC3339), "result", said)
	if given && err != nil {
		log.Warn("it was given away, and what became of it is not known: it may arrive twice")
	} else {
		log.Warn("not given to the smarthost")
	}
	_, err = h.o.Spool.Update(e.Number, func(now *spool.Entry) {
		if given && !word.reply.IsZero() {
			now.Handed--
		}
		now.Last = "smarthost: " + said
	})
	return err
}

// word is what the smarthost has said to a message.
type word struct {
	reply smtp.Reply
	stage string // what it was said to: MAIL, RCPT, DATA, or the end of the message
	taken bool   // the message is its own now
}

// The stages of a word.
const (
	toMail = "MAIL"
	toRcpt = "RCPT"
	toData = "DATA"
	toEnd  = "."
)

// final says whether a word means that it never takes this message for this recipient. What it says of the sender, of
// who we are, or that it relays for nobody (5.7.z), is wrong between it and us, and a person may mend it.
func (w word) final() bool {
	switch {
	case !w.reply.Permanent():
		return false
	case w.stage == toEnd:
		return true
	case w.reply.Code == 530 || w.reply.Code == 535 || w.reply.Code == 538 || strings.HasPrefix(w.reply.Enhanced, "7."):
		return false
	}
	return w.stage == toRcpt
}

// send gives a message to the smarthost and returns its word on it. before is called before the end of the message is
// sent, behind which it may have been taken.
func (h *Holder) send(ctx context.Context, from, to smtp.Path, message io.Reader, before func() error) (word, error) {
	c, err := h.o.Smarthost.Open(ctx, backend.Client{Helo: h.o.Hostname, ESMTP: true})
	if err != nil {
		return word{}, err
	}
	defer c.Abort() // which does nothing behind Release. NOT: a dot, behind what is not the message
	defer context.AfterFunc(ctx, c.Abort)()
	var params []smtp.Param
	if c.Capabilities().EightBitMIME {
		params = []smtp.Param{{Key: "BODY", Value: "8BITMIME", HasValue: true}}
	}
	c.QueueMail(from, params)
	c.QueueRcpt(to, nil)
	for _, stage := range []string{toMail, toRcpt} {
		// A refused MAIL has RCPT refused too, and what it said is what counts.
		r, err := c.Reply()
		switch {
		case err != nil:
			return word{}, err
		case r.Positive():
			continue
		case r.Intermediate():
			return word{}, unexpected(stage, r)
		case c.Outstanding() > 0:
			if _, err := c.Reply(); err != nil {
				return word{}, err
			}
		}
		c.Release()
		return word{reply: r, stage: stage}, nil
	}
	c.QueueData()
	r, err := c.Reply()
	switch {
	case err != nil:
		return word{}, err
	case r.Transient() || r.Permanent():
		c.Release()
		return word{reply: r, stage: toData}, nil
	case r.Code != 354:
		return word{}, unexpected(toData, r)
	}
	end := held{to: c}
	dots := smtp.NewDotWriter(&end)
	if _, err = io.Copy(dots, message); err == nil {
		end.hold = true
		err = dots.Close()
	}
	if err == nil {
		err = before()
	}
	if err == nil {
		_, err = c.Write(end.kept)
	}
	if err != nil {
		return word{}, err
	}
	if r, err = c.FinalReply(); err != nil {
		return word{}, err
	}
	if r.Intermediate() {
		return word{}, unexpected("the message", r)
	}
	c.Release()
	return word{reply: r, stage: toEnd, taken: r.Positive()}, nil
}

func unexpected(to string, r smtp.Reply) error {
	return fmt.Errorf("the smarthost answered %s by %s, which is no answer to that", to, r)
}

// held is a writer that keeps the end of a message back.
type held struct {
	to   io.Writer
	hold bool
	kept []byte
}

func (w *held) Write(p []byte) (int, error) {
	if w.hold {
		w.kept = append(w.kept, p...)
		return len(p), nil
	}
	return w.to.Write(p)
}
