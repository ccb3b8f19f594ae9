package backend

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

func TestOneMessageArrivesAsSent(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	s := newSet(t, Options{}, backendAt(identityXClient, sink.Addr()))
	c := open(t, s, alice)
	c.QueueMail(smtp.Path{}, []smtp.Param{{Key: "BODY", Value: "8BITMIME", HasValue: true}, {Key: "SMTPUTF8"}})
	c.QueueRcpt(smtp.Path{Local: "a b", Domain: "example.org"}, []smtp.Param{{Key: "NOTIFY", Value: "NEVER", HasValue: true}})
	c.QueueData()
	if n := c.Outstanding(); n != 3 {
		t.Errorf("outstanding %d", n)
	}
	want(t, c, 250)
	want(t, c, 250)
	want(t, c, 354)
	const text = "A: b\r\n\r\n..dot\r\n\xff\r\n"
	for i := range text { // octet by octet
		if _, err := c.Write([]byte{text[i]}); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = c.Write([]byte(".\r\n"))
	if c.EndSent() {
		t.Error("the end was sent before anybody asked")
	}
	r, err := c.FinalReply()
	if err != nil || r.Code != 250 || !c.EndSent() {
		t.Fatal(r, err, c.EndSent())
	}
	c.Release()
	m := sink.Messages()
	if len(m) != 1 || string(m[0].Raw) != text || string(m[0].Text) != strings.Replace(text, "..", ".", 1) {
		t.Fatalf("%+v", m)
	}
	if !m[0].From.IsNull() || m[0].To[0].Path.Local != "a b" || m[0].Params[1].Key != "SMTPUTF8" || m[0].To[0].Params[0].Value != "NEVER" {
		t.Errorf("envelope %+v", m[0].Envelope)
	}
}

// What is queued leaves in one write, message included, since every write
// costs a system call here and a wake-up there.
func TestAGroupLeavesInOneWrite(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	var writes [][]byte
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, address)
		return counting{nc, &writes}, err
	}
	s := newSet(t, Options{Dial: dial}, backendAt(identityNone, sink.Addr()))
	c := open(t, s, alice)
	defer c.Release()
	writes = nil
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueBdat(6, false)
	_, _ = c.Write([]byte("A: b\r\n"))
	c.QueueBdat(7, true)
	_, _ = c.Write([]byte("\r\nhello"))
	for range 4 {
		want(t, c, 250)
	}
	if len(writes) != 1 {
		t.Errorf("%d writes: %q", len(writes), writes)
	}
	if m := sink.Messages(); len(m) != 1 || string(m[0].Text) != "A: b\r\n\r\nhello" || !m[0].Chunked {
		t.Errorf("%+v", m)
	}
	if !c.EndSent() {
		t.Error("EndSent")
	}
}

// Without PIPELINING one command at a time, though the caller queues as ever.
func TestABackendWithoutPipeliningIsAskedOneByOne(t *testing.T) {
	var c *Conn
	early := false
	sink := newSink(t, smtptest.SinkOptions{Without: []string{"PIPELINING"}})
	var writes [][]byte
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, address)
		return counting{nc, &writes}, err
	}
	s := newSet(t, Options{Dial: dial}, backendAt(identityXForward, sink.Addr()))
	c = open(t, s, alice)
	writes = nil
	big := strings.Repeat("x", 3*bufferSize)
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueBdat(int64(len(big)), false)
	if _, err := c.Write([]byte(big)); err != nil {
		t.Fatal(err)
	}
	c.QueueBdat(2, true)
	_, _ = c.Write([]byte("\r\n"))
	if c.Outstanding() != 5 {
		t.Errorf("outstanding %d", c.Outstanding())
	}
	for range 5 {
		want(t, c, 250)
	}
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueData()
	want(t, c, 250)
	want(t, c, 250)
	want(t, c, 354)
	_, _ = c.Write([]byte("\r\n.\r\n"))
	if r, err := c.FinalReply(); err != nil || r.Code != 250 {
		t.Fatal(r, err)
	}
	c.Release()
	for _, w := range writes {
		if n := strings.Count(string(w), "\r\n"); n > 1 && !strings.Contains(string(w), "BDAT") && !strings.HasSuffix(string(w), ".\r\n") {
			early = true
		}
	}
	if early {
		t.Errorf("several commands in one write: %q", writes)
	}
	m := sink.Messages()
	if len(m) != 2 || string(m[0].Text) != big+"\r\n" {
		t.Errorf("%d messages", len(m))
	}
}

func TestOctetsNobodyAnnouncedAreNotSent(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	s := newSet(t, Options{}, backendAt(identityNone, sink.Addr()))
	c := open(t, s, alice)
	defer c.Abort()
	c.QueueMail(sender, nil)
	c.QueueBdat(3, true)
	if _, err := c.Write([]byte("abcd")); err == nil {
		t.Error("four octets were taken for three")
	}
	if got := sink.Commands(); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "MAIL") }) {
		t.Errorf("heard %q", got)
	}
}

func TestRefusalsAreReplies(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		switch {
		case strings.HasPrefix(st.Line, "RCPT TO:<no@"):
			return smtptest.Action{Reply: "550-5.1.1 No\r\n550 5.1.1 such user\r\n"}
		case strings.HasPrefix(st.Line, "RCPT TO:<later@"):
			return smtptest.Action{Reply: "450 4.2.0 Later\r\n"}
		case st.Verb == ".":
			return smtptest.Action{Reply: "554 5.7.1 Spam\r\n"}
		}
		return smtptest.Action{}
	}})
	s := newSet(t, Options{}, backendAt(identityNone, sink.Addr()))
	c := open(t, s, alice)
	c.QueueMail(sender, nil)
	for _, local := range []string{"no", "later", "b"} {
		c.QueueRcpt(smtp.Path{Local: local, Domain: "example.org"}, nil)
	}
	c.QueueData()
	want(t, c, 250)
	r, err := c.Reply()
	if err != nil || r.Code != 550 || r.Enhanced != "1.1" || !strings.Contains(r.Text, "such user") {
		t.Errorf("%+v %v", r, err)
	}
	want(t, c, 450)
	want(t, c, 250)
	want(t, c, 354)
	_, _ = c.Write([]byte("x\r\n.\r\n"))
	if r, err := c.FinalReply(); err != nil || r.Code != 554 {
		t.Error(r, err)
	}
	c.Release()
	if len(sink.Messages()) != 0 {
		t.Error("refused, and yet there")
	}
}

// A backend that turns a message down in the middle and hangs up has given its
// reply, though our writes fail.
func TestTheLastWordsOfABackendAreHeard(t *testing.T) {
	for _, tc := range []struct {
		says string
		code int
		kind Kind
	}{
		{"552 5.3.4 Too large\r\n", 552, ""},
		{"421 4.3.0 Going down\r\n", 421, KindLost},
		{"", 0, KindLost},
		{"250 2.0.0 All of it\r\n", 0, KindLost}, // which it cannot have: we were not done
	} {
		t.Run(tc.says, func(t *testing.T) {
			sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
				if st.Verb == "TEXT" && st.Octets > 100000 {
					return smtptest.Action{Reply: tc.says, Close: true}
				}
				return smtptest.Action{}
			}})
			s := newSet(t, Options{}, backendAt(identityNone, sink.Addr()))
			c := open(t, s, alice)
			defer c.Abort()
			c.QueueMail(sender, nil)
			c.QueueRcpt(recipient, nil)
			c.QueueData()
			want(t, c, 250)
			want(t, c, 250)
			want(t, c, 354)
			line := []byte(strings.Repeat("x", 998) + "\r\n")
			var err error
			for range 100000 {
				if _, err = c.Write(line); err != nil {
					break
				}
			}
			if err == nil {
				t.Fatal("writing never failed")
			}
			r, err := c.Reply()
			var e *Error
			switch {
			case tc.kind == "" && (err != nil || r.Code != tc.code):
				t.Errorf("%v %v", r, err)
			case tc.kind != "" && (!errors.As(err, &e) || e.Kind != tc.kind || e.Reply.Code != tc.code):
				t.Errorf("%v %v", r, err)
			}
			if c.EndSent() || len(sink.Messages()) != 0 {
				t.Error("a message that had no end")
			}
		})
	}
}

func Test421IsTheEndWheneverItComes(t *testing.T) {
	for _, verb := range []string{"MAIL", "RCPT", "DATA", "."} {
		t.Run(verb, func(t *testing.T) {
			sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
				if st.Verb == verb {
					return smtptest.Action{Reply: "421 4.3.2 Shutting down\r\n", Close: true}
				}
				return smtptest.Action{}
			}})
			s := newSet(t, Options{}, backendAt(identityNone, sink.Addr()))
			c := open(t, s, alice)
			defer c.Abort()
			c.QueueMail(sender, nil)
			c.QueueRcpt(recipient, nil)
			c.QueueData()
			var err error
			var r smtp.Reply
			for range 3 {
				if r, err = c.Reply(); err != nil {
					break
				}
			}
			if r.Code == 354 {
				_, _ = c.Write([]byte(".\r\n"))
				_, err = c.FinalReply()
			}
			var e *Error
			if !errors.As(err, &e) || e.Kind != KindLost || e.Reply.Code != 421 {
				t.Errorf("%v", err)
			}
		})
	}
}

// A reply too many, and every later one would answer the wrong question: a
// message would be accepted by the answer to something else.
func TestRepliesThatNobodyAskedFor(t *testing.T) {
	for verb, reply := range map[string]string{
		"MAIL": "250 2.1.0 OK\r\n250 2.1.5 OK\r\n", "RCPT": "250 2.1.5 OK\r\n354 Go\r\n", "DATA": "354 Go\r\n250 2.6.0 Have it\r\n",
		"BDAT": "250 2.0.0 OK\r\n250 2.6.0 Have it\r\n",
	} {
		t.Run(verb, func(t *testing.T) {
			sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
				if st.Verb == verb && !strings.HasSuffix(st.Line, "LAST") {
					return smtptest.Action{Reply: reply, Do: true}
				}
				return smtptest.Action{}
			}})
			s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
			c := open(t, s, alice)
			defer c.Abort()
			err := func() error {
				c.QueueMail(sender, nil)
				if _, err := c.Reply(); err != nil {
					return err
				}
				c.QueueRcpt(recipient, nil)
				if _, err := c.Reply(); err != nil {
					return err
				}
				if verb == "BDAT" {
					c.QueueBdat(2, false)
					_, _ = c.Write([]byte("\r\n"))
					if _, err := c.Reply(); err != nil {
						return err
					}
					c.QueueBdat(0, true)
					_, err := c.Reply()
					return err
				}
				c.QueueData()
				if _, err := c.Reply(); err != nil {
					return err
				}
				_, _ = c.Write([]byte(".\r\n"))
				_, err := c.FinalReply()
				return err
			}()
			var e *Error
			if !errors.As(err, &e) || e.Kind != KindProtocol {
				t.Errorf("%v", err)
			}
		})
	}
	// An early refusal is one.
	sink := newSink(t, smtptest.SinkOptions{Script: script("DATA", smtptest.Action{Reply: "354 Go\r\n552 5.3.4 Too large\r\n", Do: true})})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
	c := open(t, s, alice)
	defer c.Abort()
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueData()
	want(t, c, 250)
	want(t, c, 250)
	want(t, c, 354)
	_, _ = c.Write([]byte(".\r\n"))
	if r, err := c.FinalReply(); err != nil || r.Code != 552 {
		t.Error(r, err)
	}
}

// Abort cuts a message in the middle: no dot, no QUIT, nothing delivered.
func TestAbortLeavesNoMessage(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
	c := open(t, s, alice)
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueData()
	want(t, c, 250)
	want(t, c, 250)
	want(t, c, 354)
	_, _ = c.Write([]byte("half\r\n"))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c.Abort()
	c.Abort()
	c.Release()
	sink.Close()
	if len(sink.Messages()) != 0 || sink.Discarded() != 1 {
		t.Errorf("%d messages, %d discarded", len(sink.Messages()), sink.Discarded())
	}
	if w := string(sink.Wire(1)); strings.Contains(w, "QUIT") || !strings.HasSuffix(w, "half\r\n") {
		t.Errorf("wire %q", w)
	}
}

// Release in the middle of a message must not say QUIT, which would be a line
// of it.
func TestReleaseOutOfStepIsAnAbort(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
	c := open(t, s, alice)
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueBdat(100, true)
	_, _ = c.Write([]byte("half\r\n"))
	want(t, c, 250)
	c.Release()
	sink.Close()
	if w := string(sink.Wire(1)); strings.Contains(w, "QUIT") || !strings.HasSuffix(w, "half\r\n") || len(sink.Messages()) != 0 {
		t.Errorf("wire %q", w)
	}
}

// Each wait has the limit that is its own, and Abort from another goroutine
// ends every one.
func TestASilentBackendEndsByItself(t *testing.T) {
	times := configs.Timeouts{
		BackendConnect: 10 * time.Second, BackendCommand: 5 * time.Minute, DataBlock: 3 * time.Minute, EndOfData: 8 * time.Minute,
	}
	for verb, limit := range map[string]time.Duration{
		"CONNECT": times.BackendConnect, "EHLO": times.BackendCommand, "MAIL": times.BackendCommand, "RCPT": times.BackendCommand,
		"DATA": times.BackendCommand, ".": times.EndOfData, "BDAT": times.EndOfData,
	} {
		for _, abort := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				sink := smtptest.NewSink(smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
					return smtptest.Action{Stall: st.Verb == verb}
				}})
				defer sink.Close()
				s := newSet(t, Options{Timeouts: times, Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
				start := time.Now()
				err := converse(s, verb == "BDAT", abort)
				var e *Error
				if !errors.As(err, &e) {
					t.Fatalf("%s: %v", verb, err)
				}
				took := time.Since(start)
				if abort {
					if took > time.Second && verb != "CONNECT" && verb != "EHLO" {
						t.Errorf("%s: aborted, and yet %v", verb, took)
					}
					return
				}
				if e.Kind != KindTimeout || took != limit {
					t.Errorf("%s: %v after %v, want %v", verb, err, took, limit)
				}
			})
		}
	}
}

// converse does a transaction up to the first error.
func converse(s *Set, bdat, abort bool) error {
	c, err := s.pools[0].Open(context.Background(), alice)
	if err != nil {
		return err
	}
	defer c.Abort()
	if abort {
		stop := time.AfterFunc(time.Second, c.Abort)
		defer stop.Stop()
	}
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	if bdat {
		c.QueueBdat(1, true)
		_, _ = c.Write([]byte("x"))
	} else {
		c.QueueData()
	}
	for range 3 {
		if _, err := c.Reply(); err != nil {
			return err
		}
	}
	if bdat {
		return nil
	}
	_, _ = c.Write([]byte(".\r\n"))
	_, err = c.FinalReply()
	return err
}

// A backend that reads nothing for data_block is given up; one that reads
// slowly is not.
func TestASlowReaderIsNotADeadOne(t *testing.T) {
	for _, slow := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			sink := smtptest.NewSink(smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
				switch {
				case st.Verb == "TEXT" && slow:
					return smtptest.Action{Wait: 20 * time.Second}
				case st.Verb == "TEXT":
					return smtptest.Action{Wait: time.Hour}
				}
				return smtptest.Action{}
			}})
			defer sink.Close()
			s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
			c := open(t, s, alice)
			defer c.Abort()
			c.QueueMail(sender, nil)
			c.QueueRcpt(recipient, nil)
			c.QueueData()
			want(t, c, 250)
			want(t, c, 250)
			want(t, c, 354)
			line := []byte(strings.Repeat("x", 998) + "\r\n")
			start := time.Now()
			var err error
			for range 300 {
				if _, err = c.Write(line); err != nil {
					break
				}
			}
			if slow {
				if err != nil || time.Since(start) < 8*time.Minute {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				return
			}
			var e *Error
			if took := time.Since(start); !errors.As(err, &e) || e.Kind != KindTimeout || took < 3*time.Minute || took > 7*time.Minute {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}

// A backend that takes an octet now and then makes progress, and may take no longer for
// it than one that takes none: commands and message octets alike.
func TestADrippingReaderIsADeadOne(t *testing.T) {
	for what, queue := range map[string]func(c *Conn) error{
		"commands": func(c *Conn) error {
			for range 100 {
				c.QueueRcpt(recipient, nil)
			}
			return c.Flush()
		},
		"a small message": func(c *Conn) error {
			c.QueueBdat(bufferSize/2, true)
			_, _ = c.Write(make([]byte, bufferSize/2))
			return c.Flush()
		},
		"a large one": func(c *Conn) error {
			c.QueueBdat(4*bufferSize, false)
			_, err := c.Write(make([]byte, 4*bufferSize))
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			sink := smtptest.NewSink(smtptest.SinkOptions{})
			defer sink.Close()
			s := newSet(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				nc, err := sink.Dial(ctx, network, address)
				return &dripping{Conn: nc}, err
			}}, backendAt(identityNone, "mta:25"))
			c := open(t, s, alice)
			defer c.Abort()
			c.QueueMail(sender, nil)
			want(t, c, 250)
			c.l.nc.(*dripping).now = true
			start := time.Now()
			var e *Error
			if err := queue(c); !errors.As(err, &e) || e.Kind != KindTimeout {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(start); took > c.pool.o.Timeouts.DataBlock {
				t.Errorf("%s: %v", what, took)
			}
		})
	}
}

// dripping is a connection whose far end, from now on, takes an octet every two seconds.
type dripping struct {
	net.Conn
	now   bool
	until time.Time
}

func (d *dripping) SetWriteDeadline(t time.Time) error {
	d.until = t
	return d.Conn.SetWriteDeadline(t)
}

func (d *dripping) Write(p []byte) (n int, err error) {
	if !d.now {
		return d.Conn.Write(p)
	}
	for n < len(p) && time.Now().Before(d.until) {
		time.Sleep(min(2*time.Second, time.Until(d.until)))
		n++
	}
	if n < len(p) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// A backend that takes RSET from nobody serves each client on a connection of its
// own, where there is nothing to forget.
func TestABackendThatKnowsNoRSET(t *testing.T) {
	for _, identity := range []string{identityNone, identityXForward, identityXClient} {
		sink := newSink(t, smtptest.SinkOptions{Script: script("RSET", smtptest.Action{Reply: "502 5.5.1 Not here\r\n"})})
		s := newSet(t, Options{}, backendAt(identity, sink.Addr()))
		for range 3 {
			c := open(t, s, alice)
			send(t, c, "x\r\n")
			c.Release()
		}
		if n := len(sink.Messages()); n != 3 {
			t.Errorf("%s: %d messages", identity, n)
		}
	}
}

// hasty is a backend that says 250 before it has heard the message, in a segment of
// its own: when it is there, said is closed.
func hasty(t *testing.T, at string, unasked string) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			talkHastily(conn, at, unasked)
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

func talkHastily(conn net.Conn, at, unasked string) {
	defer conn.Close()
	say := func(s string) { _, _ = io.WriteString(conn, s) }
	say("220 mta.test\r\n")
	br := bufio.NewReader(conn)
	text := int64(0)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case text < 0: // the text of DATA
			if line != ".\r\n" {
				continue
			}
			text = 0
			say("550 5.6.0 I do not want this\r\n")
			continue
		case verb == "EHLO":
			say("250-mta.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
		case verb == "DATA":
			text = -1
			say("354 Go\r\n")
		case verb == "BDAT":
			n, _, _ := strings.Cut(rest, " ")
			size, _ := strconv.ParseInt(n, 10, 64)
			if verb == at {
				say(unasked)
			}
			if _, err := io.CopyN(io.Discard, br, size); err != nil {
				return
			}
			say("550 5.6.0 I do not want this\r\n")
			continue
		default:
			say("250 2.0.0 OK\r\n")
		}
		if verb == at {
			time.Sleep(time.Millisecond) // a segment of its own
			say(unasked)
		}
	}
}

// heardUnasked waits until the backend has said something that nobody has read.
func heardUnasked(t *testing.T, c *Conn) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !c.l.speaks(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing comes")
		}
	}
}

// What a backend says between 354 and our dot, or before it has heard the whole of
// BDAT LAST, is no answer to the message; what it says unasked is none to what comes
// next, in a segment of its own or not, in the clear or inside TLS.
func TestAReplyThatComesTooEarlyIsNoAnswer(t *testing.T) {
	big := strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1+bufferSize/64)
	for _, tc := range []struct{ name, at, text string }{
		{"behind 354", "DATA", "A: b\r\n\r\nx\r\n"},
		{"behind 354, a large message", "DATA", "A: b\r\n\r\n" + big},
		{"within BDAT", "BDAT", "A: b\r\n\r\n" + big},
		{"before DATA", "RCPT", ""},
		{"before BDAT", "RCPT", "A: b\r\n\r\nx\r\n"},
		{"before a large BDAT", "RCPT", "A: b\r\n\r\n" + big},
	} {
		for _, unasked := range []string{"250 2.0.0 OK\r\n", "550 5.0.0 No\r\n"} {
			t.Run(tc.name+", "+unasked[:3], func(t *testing.T) {
				s := newSet(t, Options{}, backendAt(identityNone, hasty(t, tc.at, unasked)))
				c := open(t, s, alice)
				defer c.Abort()
				c.QueueMail(sender, nil)
				want(t, c, 250)
				c.QueueRcpt(recipient, nil)
				want(t, c, 250)
				r, err := func() (smtp.Reply, error) {
					if tc.at == "RCPT" {
						heardUnasked(t, c)
					}
					if tc.at == "DATA" || tc.text == "" {
						c.QueueData()
						if r, err := c.Reply(); err != nil || r.Code != 354 {
							return r, err
						}
						heardUnasked(t, c)
						_, _ = c.Write([]byte(tc.text))
						_, _ = c.Write([]byte(".\r\n"))
						return c.FinalReply()
					}
					half := len(tc.text) / 2
					c.QueueBdat(int64(len(tc.text)), true)
					if tc.at != "BDAT" {
						_, _ = c.Write([]byte(tc.text))
						return c.FinalReply()
					}
					_, _ = c.Write([]byte(tc.text[:half]))
					if err := c.Flush(); err != nil {
						return smtp.Reply{}, err
					}
					heardUnasked(t, c)
					_, _ = c.Write([]byte(tc.text[half:]))
					return c.FinalReply()
				}()
				if unasked[0] == '5' && tc.at != "RCPT" {
					if err != nil || r.Code != 550 || r.Enhanced != "0.0" {
						t.Errorf("an early refusal is one: %v, %v", r, err)
					}
					return
				}
				var e *Error
				if !errors.As(err, &e) || e.Kind != KindProtocol {
					t.Errorf("%v, %v", r, err)
				}
				if !e.Reply.IsZero() && c.EndSent() {
					t.Error("it may have the message, and counts as having refused it")
				}
			})
		}
	}
}
