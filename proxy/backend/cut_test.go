package backend

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"postern/proxy/smtptest"
)

// cutter is a connection that breaks when so many octets have gone one way.
type cutter struct {
	net.Conn
	mu          sync.Mutex
	read, write int // what is left; negative: no limit
}

func (c *cutter) limit(read, write int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.write = read, write
}

// take says how many of n octets may go, and counts them.
func (c *cutter) take(left *int, n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *left < 0 {
		return n
	}
	n = min(n, *left)
	*left -= n
	return n
}

func (c *cutter) Read(p []byte) (int, error) {
	n := c.take(&c.read, len(p))
	if n == 0 && len(p) > 0 {
		_ = c.Conn.Close()
		return 0, io.EOF
	}
	m, err := c.Conn.Read(p[:n])
	if c.read >= 0 {
		c.mu.Lock()
		c.read += n - m // what did not come is not gone
		c.mu.Unlock()
	}
	return m, err
}

func (c *cutter) Write(p []byte) (int, error) {
	n := c.take(&c.write, len(p))
	m, err := c.Conn.Write(p[:n])
	if err == nil && n < len(p) {
		_ = c.Conn.Close()
		err = io.ErrClosedPipe
	}
	return m, err
}

// The connection breaks at every octet of every conversation, in either
// direction. A message is there once if we were told so, never twice, and an
// error that says that the end was not sent means that it is not there.
func TestCutAtEveryOctet(t *testing.T) {
	runs, unknown := 0, 0
	for _, how := range []string{"DATA", "BDAT", "BDAT in one group"} {
		for _, pipelining := range []bool{false, true} {
			for _, identity := range []string{identityNone, identityXForward, identityXClient} {
				if !pipelining && identity == identityXForward {
					continue
				}
				for _, used := range []bool{false, true} {
					for _, writing := range []bool{false, true} {
						name := fmt.Sprintf("%s pipelining=%v identity=%v used=%v writing=%v", how, pipelining, identity, used, writing)
						step := 1
						if !writing {
							step = 3 // replies are long, and their octets alike
						}
						for n := 0; ; n += step {
							done, open := cutOnce(t, name, n, how, pipelining, identity, used, writing)
							if t.Failed() {
								return
							}
							runs++
							if open {
								unknown++
							}
							if done {
								break // the limit was not reached any more
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d cuts, %d of them with an open outcome", runs, unknown)
	if runs < 4000 || unknown == 0 {
		t.Errorf("%d runs, %d unknown", runs, unknown)
	}
}

// cutOnce lets the first connection break after n octets, counted from the
// start, or from the end of a first message. It says whether the connection
// outlived the conversation, and whether the outcome is open.
func cutOnce(t *testing.T, name string, n int, how string, pipelining bool, identity string, used, writing bool) (whole, open bool) {
	o := smtptest.SinkOptions{}
	if !pipelining {
		o.Without = []string{"PIPELINING"}
	}
	sink := smtptest.NewSink(o)
	defer sink.Close()
	var first *cutter
	cut := func() {
		if writing {
			first.limit(-1, n)
		} else {
			first.limit(n, -1)
		}
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := sink.Dial(ctx, network, address)
		if err == nil && first == nil {
			first = &cutter{Conn: nc, read: -1, write: -1}
			if !used {
				cut()
			}
			return first, nil
		}
		return nc, err
	}
	s := newSet(t, Options{Dial: dial}, backendAt(identity, "mta:25"))
	defer s.Close()
	before := 0
	if used {
		if err, _ := message(s, how); err != nil {
			t.Fatal(err)
		}
		before = 1
		cut()
	}
	err, end := message(s, how)
	s.Close()
	sink.Close()
	first.mu.Lock()
	whole = first.read != 0 && first.write != 0
	first.mu.Unlock()
	got := len(sink.Messages()) - before
	switch {
	case err == nil && got != 1:
		t.Errorf("%s, %d: told of a message, and %d are there", name, n, got)
	case err != nil && !end && got != 0:
		t.Errorf("%s, %d: %v, the end was not sent, and yet %d are there", name, n, err, got)
	case got > 1:
		t.Errorf("%s, %d: %d messages", name, n, got)
	}
	for _, m := range sink.Messages() {
		if string(m.Text) != "A: b\r\n\r\nhello\r\n" {
			t.Errorf("%s, %d: %q", name, n, m.Text)
		}
	}
	return whole, err != nil && end
}

// message sends one, and says whether its end was sent if it fails.
func message(s *Set, how string) (err error, end bool) {
	c, err := s.pools[0].Open(context.Background(), alice)
	if err != nil {
		return err, false
	}
	defer func() {
		if end = c.EndSent(); err != nil {
			c.Abort()
		}
	}()
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	early := 2 // replies that are read before the message is sent
	switch how {
	case "DATA":
		c.QueueData()
	case "BDAT in one group":
		early = 0
	}
	for range early {
		if _, err := c.Reply(); err != nil {
			return err, false
		}
	}
	if how != "DATA" {
		for i, part := range []string{"A: b\r\n\r\n", "hello\r\n"} {
			c.QueueBdat(int64(len(part)), i == 1)
			if _, err := c.Write([]byte(part)); err != nil {
				return err, false
			}
		}
		for range 4 - early {
			if _, err := c.Reply(); err != nil {
				return err, false
			}
		}
		c.Release()
		return nil, false
	}
	if _, err := c.Reply(); err != nil {
		return err, false
	}
	for _, part := range []string{"A: b\r\n\r\n", "hello\r\n.\r\n"} {
		if _, err := c.Write([]byte(part)); err != nil {
			return err, false
		}
	}
	if _, err := c.FinalReply(); err != nil {
		return err, false
	}
	c.Release()
	return nil, false
}
