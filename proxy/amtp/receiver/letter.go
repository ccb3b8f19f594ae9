package receiver

import (
	"bufio"
	"context"
	"io"
	"net"

	"postern/proxy/amtp"
	"postern/proxy/smtp"
)

// errInside is said where the session within the process does not answer as it should.
var errInside = smtp.Reply{Code: 451, Enhanced: "3.0", Text: "Local trouble, try again later"}

// letter is a session of SMTP within the process, from its client's side, for one message after the other.
type letter struct {
	conn    net.Conn // nil: there is none, and failed says why
	w       *bufio.Writer
	replies chan smtp.Reply // what the session says; closed at its end
	failed  smtp.Reply      // the session has ended with that
	eight   bool            // it takes 8-bit text
	begun   bool            // MAIL was taken
	stop    func() bool
}

// open begins a session for mail of an origin, in which the client's name is helo.
func (r *Receiver) open(o amtp.Origin, helo string) *letter {
	l := &letter{}
	conn, err := r.Inside(o)
	if err != nil {
		l.failed = smtp.Reply{Code: 421, Enhanced: "3.2", Text: "Service shutting down, try again later"}
		return l
	}
	// What is waited for knows no context; a pipe that is closed ends all of it.
	l.stop = context.AfterFunc(r.ctx, func() { _ = conn.Close() })
	l.conn, l.w, l.replies = conn, bufio.NewWriterSize(conn, 32<<10), make(chan smtp.Reply, 1)
	// Read while we write: a session that ends within a message says so, and must not wait for us.
	go func() {
		defer close(l.replies)
		br := bufio.NewReader(conn)
		for {
			r, err := smtp.ReadReply(br)
			if err != nil {
				return
			}
			l.replies <- r
		}
	}()
	if greeting := l.reply(); !greeting.Positive() {
		l.fail(greeting)
	} else if hello := l.say("EHLO " + helo); !hello.Positive() {
		l.fail(hello)
	} else {
		l.eight = hello.Offers("8BITMIME")
	}
	return l
}

// fail ends the letter with what the client is to hear. NOT: 421, which is about the session within; the client's own
// connection goes on.
func (l *letter) fail(r smtp.Reply) {
	if r.Code == 421 {
		r.Code = 451
	}
	if l.failed.IsZero() {
		l.failed = r
	}
	l.close()
}

// close ends the session. A message that has begun and not ended is none.
func (l *letter) close() {
	if l.conn == nil {
		return
	}
	l.stop()
	_ = l.conn.Close()
	for range l.replies { // what is on its way goes nowhere, and who reads it ends
	}
	l.conn = nil
}

// reply reads the next reply: errInside where there is none.
func (l *letter) reply() smtp.Reply {
	if r, ok := <-l.replies; ok {
		return r
	}
	return errInside
}

// say says a line and reads the reply to it.
func (l *letter) say(line string) smtp.Reply {
	if l.conn == nil {
		return l.failed
	}
	_, _ = l.w.WriteString(line + "\r\n")
	_ = l.w.Flush() // an error shows in the reply
	return l.ending(l.reply())
}

// ending is a reply, which may be the last one of the session.
func (l *letter) ending(r smtp.Reply) smtp.Reply {
	if r == errInside || r.Code == 421 {
		l.fail(r)
		return l.failed
	}
	return r
}

// mail begins a message, where none has begun. It returns the refusal, or nothing.
func (l *letter) mail(from smtp.Path) smtp.Reply {
	if l.begun {
		return smtp.Reply{}
	}
	line := "MAIL FROM:" + from.Angle()
	if l.eight {
		line += " BODY=8BITMIME"
	}
	r := l.say(line)
	if l.begun = r.Positive(); l.begun {
		return smtp.Reply{}
	}
	return r
}

func (l *letter) rcpt(to smtp.Path) smtp.Reply { return l.say("RCPT TO:" + to.Angle()) }

// reset ends the message that was begun. False: the session has ended.
func (l *letter) reset() bool {
	if l.begun && l.conn != nil {
		l.say("RSET")
	}
	l.begun = false
	return l.conn != nil
}

// data says a message and returns the last word on it. Where body fails there is no message.
func (l *letter) data(head []byte, body io.Reader) smtp.Reply {
	r := l.say("DATA")
	if !r.Intermediate() {
		return r
	}
	l.begun = false
	w := smtp.NewDotWriter(l.w)
	_, err := w.Write(head)
	if err == nil {
		_, err = io.Copy(w, body)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = l.w.Flush()
	}
	if err != nil {
		// NOT: the lone dot. Without it the session, and the backend behind it, have no message.
		said := errInside
		select {
		case r, ok := <-l.replies:
			if ok {
				said = r // it has ended by itself, and said why
			}
		default:
		}
		l.fail(said)
		return l.failed
	}
	return l.ending(l.reply())
}
