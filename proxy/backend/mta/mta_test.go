package mta

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/leaktest"
	"postern/proxy/smtp"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// shelf is a Store that keeps messages, and may be out of order.
type shelf struct {
	kept      []string
	discarded int
	refuse    smtp.Reply
	full      error
}

type item struct {
	s *shelf
	bytes.Buffer
}

func (s *shelf) Begin(*Envelope) (Message, smtp.Reply) {
	if !s.refuse.IsZero() {
		return nil, s.refuse
	}
	return &item{s: s}, smtp.Reply{}
}

func (i *item) Write(p []byte) (int, error) {
	if i.s.full != nil {
		return 0, i.s.full
	}
	return i.Buffer.Write(p)
}

func (i *item) Commit() smtp.Reply {
	i.s.kept = append(i.s.kept, i.String())
	return smtp.Reply{Code: 250, Enhanced: "6.0", Text: "kept"}
}

func (i *item) Discard() { i.s.discarded++ }

// play sends input in one piece, then what follows, and returns the codes of
// all replies.
func play(t testing.TB, s *Server, input string) []string {
	t.Helper()
	if s.Store == nil {
		s.Store = &shelf{}
	}
	if s.Hostname == "" {
		s.Hostname = "mta.test"
	}
	c, peer := net.Pipe()
	done := make(chan struct{})
	go func() { s.Handle(peer); close(done) }()
	go func() {
		_, _ = io.WriteString(c, input)
	}()
	var codes []string
	br := bufio.NewReader(c)
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		r, err := smtp.ReadReply(br)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("reply: %v", err)
			}
			break
		}
		codes = append(codes, fmt.Sprint(r.Code))
		if r.Code == 221 || r.Code == 421 {
			break
		}
	}
	_ = c.Close()
	<-done
	return codes
}

var all = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING"}

const hello = "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"

func TestDialogues(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, tc := range []struct {
		name, input, codes string
		kept               []string
	}{
		{"one message", hello + "DATA\r\nx\r\n..y\r\n.\r\nQUIT\r\n", "220 250 250 250 354 250 221", []string{"x\r\n.y\r\n"}},
		{"two messages", hello + "DATA\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nDATA\r\ny\r\n.\r\nQUIT\r\n", "220 250 250 250 354 250 250 250 354 250 221", []string{"", "y\r\n"}},
		{"order", "MAIL FROM:<a@b>\r\nHELO x\r\nRCPT TO:<c@d>\r\nDATA\r\nBDAT 3\r\nabcMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nDATA\r\nBDAT 2 LAST\r\nxxRSET\r\nDATA\r\nQUIT\r\n", "220 503 250 503 503 503 250 503 554 554 250 503 221", nil},
		{"HELO has no parameters", "HELO x\r\nMAIL FROM:<a@b> SIZE=5\r\nEHLO x\r\nMAIL FROM:<a@b> SIZE=5\r\nQUIT\r\n", "220 250 555 250 250 221", nil},
		{"parameters", "EHLO x\r\nMAIL FROM:<a@b> REQUIRETLS\r\nMAIL FROM:<a@b> SIZE=99999999999999999999\r\nMAIL FROM:<a@b> SIZE=100000000\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nMAIL FROM:<ü@b>\r\nMAIL FROM:<ü@b> SMTPUTF8 RET=HDRS\r\nRCPT TO:<ü@b> NOTIFY=NEVER\r\nRCPT TO:<c@d> MAGIC\r\nQUIT\r\n", "220 250 555 501 552 555 550 250 250 555 221", nil},
		{"small ones", "EHLO\r\nNOOP\r\nVRFY x\r\nFROB\r\nSTARTTLS\r\nXCLIENT ADDR=1.2.3.4\r\nXFORWARD ADDR=1.2.3.4\r\nQUIT\r\n", "220 501 250 252 500 502 550 550 221", nil},
		{"lines", long + "\r\nNO\x00OP\r\nNOOP\r\nQUIT\r\n", "220 500 500 250 221", nil},
		{"bare LF", "NOOP\r\nNOOP\nQUIT\r\n", "220 250 500", nil},
		{"DATA with an argument", hello + "DATA x\r\nQUIT\r\n", "220 250 250 250 501 221", nil},
		{"chunks", hello + "BDAT 2\r\nx\rBDAT 1\r\n\nBDAT 0 LAST\r\nQUIT\r\n", "220 250 250 250 250 250 250 221", []string{"x\r\n"}},
		{"within chunks", hello + "BDAT 1\r\nxMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nRSET\r\nQUIT\r\n", "220 250 250 250 250 503 503 503 250 221", nil},
		{"no chunk", hello + "BDAT x\r\nQUIT\r\n", "220 250 250 250 501", nil},
		{"no last chunk", hello + "BDAT 5 FIRST\r\nQUIT\r\n", "220 250 250 250 501", nil},
		{"too many errors", strings.Repeat("X\r\n", 50), "220" + strings.Repeat(" 500", 21) + " 421", nil},
		{"smuggling: LF.LF", hello + "DATA\r\nx\n.\nMAIL FROM:<e@f>\r\n.\r\nQUIT\r\n", "220 250 250 250 354 550 221", nil},
		{"smuggling: LF.CRLF", hello + "DATA\r\nx\n.\r\nMAIL FROM:<e@f>\r\n.\r\nQUIT\r\n", "220 250 250 250 354 550 221", nil},
		{"smuggling: CRLF.CR", hello + "DATA\r\nx\r\n.\rMAIL FROM:<e@f>\r\n.\r\nQUIT\r\n", "220 250 250 250 354 550 221", nil},
		{"NUL", hello + "DATA\r\nx\x00\r\n.\r\nQUIT\r\n", "220 250 250 250 354 550 221", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := &shelf{}
			got := play(t, &Server{Keywords: all, Store: st}, tc.input)
			if strings.Join(got, " ") != tc.codes {
				t.Errorf("got  %v\nwant %v", got, tc.codes)
			}
			if !slices.Equal(st.kept, tc.kept) {
				t.Errorf("kept %q", st.kept)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	text := hello + "DATA\r\n" + strings.Repeat("0123456789abcde\r\n", 100) + ".\r\nQUIT\r\n"
	for _, tc := range []struct {
		name, input, codes string
		server             *Server
		store              shelf
	}{
		{"message size", text, "220 250 250 250 354 552 221", &Server{MaxSize: 1000}, shelf{}},
		{"message size in chunks", hello + "BDAT 20\r\n" + strings.Repeat("x", 20) + "BDAT 1\r\nxBDAT 0 LAST\r\nQUIT\r\n", "220 250 250 250 552 552 552 221", &Server{MaxSize: 10}, shelf{}},
		{"recipients", "EHLO x\r\nMAIL FROM:<a@b>\r\n" + strings.Repeat("RCPT TO:<c@d>\r\n", 3) + "QUIT\r\n", "220 250 250 250 250 452 221", &Server{MaxRecipients: 2}, shelf{}},
		{"store refuses", text, "220 250 250 250 354 452 221", &Server{}, shelf{refuse: smtp.Reply{Code: 452, Enhanced: "3.1", Text: "Full"}}},
		{"store fills up", text, "220 250 250 250 354 452 221", &Server{}, shelf{full: errors.New("no space left")}},
		{"no chunking", hello + "BDAT 3 LAST\r\nabcQUIT\r\n", "220 250 250 250 502 221", &Server{Keywords: []string{"PIPELINING"}}, shelf{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tc.server
			s.Store = &tc.store
			if s.Keywords == nil {
				s.Keywords = all
			}
			if got := strings.Join(play(t, s, tc.input), " "); got != tc.codes {
				t.Errorf("got  %v\nwant %v", got, tc.codes)
			}
			if len(tc.store.kept) != 0 {
				t.Errorf("kept %d", len(tc.store.kept))
			}
		})
	}
}

func TestTrustedPeers(t *testing.T) {
	s := &Server{Keywords: all, Trusted: func(net.Addr) bool { return true }}
	got := strings.Join(play(t, s, "XCLIENT ADDR=1.2.3.4 NAME=[UNAVAILABLE]\r\nMAIL FROM:<a@b>\r\nEHLO x\r\nXFORWARD ADDR=1.2.3.4\r\nXFORWARD PORT=1\r\n"+
		"XCLIENT MAGIC=1\r\nXCLIENT ADDR\r\nXFORWARD ADDR=+zz\r\nMAIL FROM:<a@b>\r\nXCLIENT ADDR=1.2.3.4\r\nXFORWARD ADDR=1.2.3.4\r\nQUIT\r\n"), " ")
	if want := "220 220 503 250 250 250 501 501 501 250 503 503 221"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Every wait ends: within a command, within a message, with a client that
// never reads.
func TestASilentClientEndsByItself(t *testing.T) {
	for _, input := range []string{"", "EHLO x", hello + "DATA\r\nx\r\n", hello + "BDAT 10\r\nx"} {
		synctest.Test(t, func(t *testing.T) {
			st := &shelf{}
			s := &Server{Hostname: "mta.test", Keywords: all, Store: st, Timeout: time.Minute}
			c, peer := net.Pipe()
			start := time.Now()
			go func() {
				_, _ = io.WriteString(c, input)
			}()
			if input != "" {
				go func() { _, _ = io.Copy(io.Discard, c) }()
			}
			s.Handle(peer)
			if took := time.Since(start); took != time.Minute {
				t.Errorf("%q: %v", input, took)
			}
			if len(st.kept) != 0 {
				t.Errorf("%q: kept %q", input, st.kept)
			}
			_ = c.Close()
		})
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	s := &Server{Hostname: "mta.test", Store: &shelf{}, MaxConnections: 1}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	var codes []int
	var conns []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		r, err := smtp.ReadReply(bufio.NewReader(c))
		if err != nil {
			t.Fatal(err)
		}
		codes = append(codes, r.Code)
	}
	if !slices.Equal(codes, []int{220, 421}) {
		t.Error(codes)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	// A closed server takes nobody.
	ln, _ = net.Listen("tcp", "127.0.0.1:0")
	if err := s.Serve(ln); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	c, peer := net.Pipe()
	s.Handle(peer)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("heard")
	}
}

// Any octets in: no panic, an end, and nothing kept that was not committed.
func FuzzSession(f *testing.F) {
	f.Add([]byte(hello + "DATA\r\nx\r\n.\r\nQUIT\r\n"))
	f.Add([]byte(hello + "BDAT 3 LAST\r\nabcXCLIENT ADDR=IPV6:::1\r\nBDAT 99999999999999999999\r\n"))
	f.Add([]byte(hello + "DATA\r\n\n.\n\r.\r\r\n.\r\nXFORWARD NAME=a+41\r\nSTARTTLS\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		st := &shelf{}
		s := &Server{Hostname: "mta.test", Keywords: all, Store: st, MaxSize: 1 << 20, Trusted: func(net.Addr) bool { return true }}
		rec := &replies{r: bytes.NewReader(in)}
		s.Handle(rec)
		br := bufio.NewReader(&rec.out)
		kept := 0
		for {
			r, err := smtp.ReadReply(br)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatalf("%v in %q", err, rec.out.String())
				}
				break
			}
			if r.Text == "kept" {
				kept++
			}
		}
		if kept != len(st.kept) {
			t.Fatalf("%d kept, %d said so", len(st.kept), kept)
		}
	})
}

// replies is a connection whose client has sent everything at once.
type replies struct {
	net.Conn
	r   io.Reader
	out bytes.Buffer
}

func (c *replies) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *replies) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *replies) Close() error                     { return nil }
func (c *replies) SetDeadline(time.Time) error      { return nil }
func (c *replies) SetReadDeadline(time.Time) error  { return nil }
func (c *replies) SetWriteDeadline(time.Time) error { return nil }
func (c *replies) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
