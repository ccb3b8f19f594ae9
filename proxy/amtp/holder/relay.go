package holder

import (
	"bufio"
	"context"
	"errors"
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
	// From here on nobody may fetch it.
	e, err := h.o.Spool.Update(e.Number, func(e *spool.Entry) {
		e.Stage, e.Peer = spool.Waiting, netip.Addr{}
		e.Absent++
		e.Attempts++
		e.Next = h.again(e.Attempts, e.Of().Expires)
	})
	if err != nil {
		return err
	}
	text, err := h.o.Spool.Read(e)
	if err != nil {
		return err
	}
	defer func() { _ = text.Close() }() // nothing was written
	given := false
	received := fmt.Sprintf("Received: by %s with AMTP id %s\r\n\tfor %s; %s\r\n", h.o.Hostname, e.Of().ID, e.To.Angle(), time.Now().Format(time.RFC1123Z))
	r, err := h.send(ctx, e.Of().From, e.To, io.MultiReader(strings.NewReader(received), text), func() error {
		_, err := h.o.Spool.Update(e.Number, func(e *spool.Entry) { e.Handed++ })
		given = err == nil
		return err
	})
	switch {
	case err == nil && r.Positive():
		if err := h.o.Spool.Done(e.Number); err != nil {
			return err
		}
		h.log(e).Info("given to the smarthost", "reply", r.String(), "twice_possible", e.Handed > 0)
		return nil
	case err == nil && r.Permanent():
		return h.fail(e, status(r, "5.0.0"), "the smarthost said: "+r.String())
	}
	said := r.String()
	if err != nil {
		said = err.Error()
	}
	log := h.log(e).With("attempt", e.Attempts, "next", e.Next.UTC().Format(time.RFC3339), "result", said)
	if given && err != nil {
		log.Warn("it was given away, and what became of it is not known: it may arrive twice")
	} else {
		log.Warn("not given to the smarthost")
	}
	_, err = h.o.Spool.Update(e.Number, func(e *spool.Entry) {
		if given && !r.IsZero() {
			e.Handed--
		}
		e.Last = "smarthost: " + said
	})
	return err
}

// send gives a message to the smarthost and returns its word on it. before is called before the end of the message is
// sent, behind which it may have been taken.
func (h *Holder) send(ctx context.Context, from, to smtp.Path, message io.Reader, before func() error) (smtp.Reply, error) {
	c, err := h.o.Smarthost.Open(ctx, backend.Client{Helo: h.o.Hostname, ESMTP: true})
	if err != nil {
		return smtp.Reply{}, err
	}
	stop := context.AfterFunc(ctx, c.Abort)
	defer stop()
	var params []smtp.Param
	if c.Capabilities().EightBitMIME {
		params = []smtp.Param{{Key: "BODY", Value: "8BITMIME", HasValue: true}}
	}
	c.QueueMail(from, params)
	c.QueueRcpt(to, nil)
	for range 2 {
		// A refused MAIL has RCPT refused too, and what it said is what counts.
		r, err := c.Reply()
		if err != nil {
			c.Abort()
			return smtp.Reply{}, err
		}
		if !r.Positive() {
			if c.Outstanding() > 0 {
				_, _ = c.Reply()
			}
			c.Release()
			return r, nil
		}
	}
	c.QueueData()
	r, err := c.Reply()
	if err != nil || !r.Intermediate() {
		if err != nil {
			c.Abort()
		} else {
			c.Release()
		}
		return r, err
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
		// NOT: a dot, behind what is not the message.
		c.Abort()
		return smtp.Reply{}, err
	}
	r, err = c.FinalReply()
	if err != nil {
		c.Abort()
		return smtp.Reply{}, err
	}
	c.Release()
	if r.Intermediate() {
		return smtp.Reply{}, errors.New("the smarthost answered the message by " + r.String())
	}
	return r, nil
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
