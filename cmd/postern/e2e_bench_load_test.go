//go:build e2e

package main_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The clients of the benchmark. They share the machine with what they measure, so a
// message costs them little: its text is put together once, nothing is allocated for
// it, and replies are read where they lie.

// load is what the clients do.
type load struct {
	connections   int            // open at a time
	perConnection int            // messages of one; then QUIT and the next
	messages      int            // in all
	size          int            // octets of a message, its header among them
	recipients    int            // of a message
	domains       int            // of senders; they take turns
	firstDomain   int            // its number: who starts behind those of the last load meets a cold cache
	pipelined     bool           // MAIL, RCPT and DATA in one write, and the replies after it
	standing      bool           // all connections are open before the first message, and until the last is answered
	roots         *x509.CertPool // STARTTLS, and of whom the certificate must be; nil: none
	every         time.Duration  // a message is due so often; 0: the next one as soon as the last is answered
}

// outcome is what came of a load.
type outcome struct {
	took      time.Duration
	latencies []time.Duration // sorted; of a message: from the dial, or else from MAIL, to the answer to its end
}

// senderDomain is the nth domain of the zone that benchZone makes.
func senderDomain(n int) string { return "d" + strconv.Itoa(n) + ".bulk.example" }

// benchZone answers for the clients and for every sender domain: SPF, DMARC, MX, and the
// names of the client's address.
const benchZone = `
mx.client.example.      A   127.0.0.1
mx.client.example.      TXT "v=spf1 a -all"
1.0.0.127.in-addr.arpa. PTR mx.client.example.
bulk.example.           MX  10 mx.bulk.example.
mx.bulk.example.        A   127.0.0.1
_dmarc.bulk.example.    TXT "v=DMARC1; p=reject"
*.bulk.example.         TXT "v=spf1 ip4:127.0.0.0/8 -all"
*.bulk.example.         MX  10 mx.bulk.example.
`

// begin returns the header that the message of a domain has, and an empty line.
func (l load) begin(to []byte, domain string) []byte {
	to = append(to, "Received: from desk.bulk.example by mx.client.example with ESMTP id 4711;\r\n\tSat, 21 Nov 2026 12:00:00 +0000\r\nFrom: Alice <alice@"...)
	to = append(to, domain...)
	to = append(to, ">\r\nTo: bob@example.org\r\nSubject: What the month of May has cost\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <4711.4712@"...)
	to = append(to, domain...)
	return append(to, ">\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"...)
}

// body fills a message up to its size and ends it.
func (l load) body(header int) []byte {
	line := strings.Repeat("The quick brown fox jumps over the lazy dog. ", 2)[:74] + "\r\n"
	rest := max(l.size-header, len(line))
	text := strings.Repeat(line, rest/len(line))
	if short := rest - len(text); short > 2 {
		text += strings.Repeat("x", short-2) + "\r\n"
	}
	return []byte(text + ".\r\n")
}

// run makes the clients send to addr. The first of them that hears what it does not want ends it.
// When the clock starts begin is called, and end when it has stopped.
func (l load) run(addr string, begin, end func()) (outcome, error) {
	if !l.standing {
		begin()
		o, err := l.send(addr, nil, nil)
		end()
		return o, err
	}
	ready, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var o outcome
	var err error
	go func() {
		defer close(done)
		o, err = l.send(addr, ready, goOn)
	}()
	for range l.connections {
		select {
		case <-ready:
		case <-done: // with an error
			return o, err
		}
	}
	begin()
	began := time.Now()
	close(goOn)
	<-done
	end()
	o.took = time.Since(began)
	return o, err
}

// send is run without a clock. Clients of a standing load say when they are ready, and wait until they may go on.
func (l load) send(addr string, ready, goOn chan struct{}) (outcome, error) {
	left := atomic.Int64{}
	left.Store(int64(l.messages))
	took := make([][]time.Duration, l.connections)
	faults := make([]error, l.connections)
	start := l.begin(nil, senderDomain(l.firstDomain))
	text := append(start, l.body(len(start))...)
	rest := text[len(start):]
	began := time.Now()
	var wg sync.WaitGroup
	for i := range l.connections {
		wg.Go(func() {
			s := sender{load: l, text: text, rest: rest, left: &left, took: make([]time.Duration, 0, l.messages/l.connections*2+1), began: began, ready: ready, goOn: goOn}
			faults[i] = s.work(addr)
			if faults[i] != nil {
				left.Store(0)
			}
			took[i] = s.took
		})
	}
	wg.Wait()
	o := outcome{took: time.Since(began), latencies: slices.Concat(took...)}
	slices.Sort(o.latencies)
	for _, err := range faults {
		if err != nil {
			return o, err
		}
	}
	if len(o.latencies) != l.messages {
		return o, fmt.Errorf("%d messages were answered, of %d", len(o.latencies), l.messages)
	}
	return o, nil
}

// sender is one of the clients.
type sender struct {
	load
	text, rest []byte // a whole message of the first domain; what comes behind its header
	left       *atomic.Int64
	took       []time.Duration
	began      time.Time
	ready      chan<- struct{} // nil: need not be told
	goOn       <-chan struct{}

	conn     net.Conn
	r        *bufio.Reader
	envelope []byte
	own      []byte // a message of another domain
}

var hello, startTLS, quit = []byte("EHLO mx.client.example\r\n"), []byte("STARTTLS\r\n"), []byte("QUIT\r\n")

// work sends until there is nothing left to send.
func (s *sender) work(addr string) error {
	if s.ready != nil {
		return s.session(addr, -1)
	}
	for n := s.left.Add(-1); n >= 0; n = s.left.Add(-1) {
		if err := s.session(addr, int(n)); err != nil {
			return err
		}
	}
	return nil
}

// session is one connection. Its first message is the nth of the load, and the others
// it takes off what is left; that of a standing load takes all so.
func (s *sender) session(addr string, n int) error {
	s.due(n)
	began := time.Now()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * patience)) // once, since each costs a little
	s.conn = conn
	if s.r == nil {
		s.r = bufio.NewReaderSize(nil, 1<<10)
	}
	s.r.Reset(conn)
	if err := s.expect("the greeting", '2'); err != nil {
		return err
	}
	if err := s.say("EHLO", hello, '2'); err != nil {
		return err
	}
	if s.roots != nil {
		if err := s.startTLS(); err != nil {
			return err
		}
	}
	if s.ready != nil {
		s.ready <- struct{}{}
		<-s.goOn
		if n = int(s.left.Add(-1)); n < 0 {
			return nil
		}
		began = time.Now()
	}
	for i := 1; ; i++ {
		if err := s.message(n); err != nil {
			return err
		}
		s.took = append(s.took, time.Since(began))
		if i == s.perConnection && s.ready == nil {
			break
		}
		if n = int(s.left.Add(-1)); n < 0 {
			break
		}
		s.due(n)
		began = time.Now()
	}
	if s.ready != nil {
		return nil // NOT: QUIT, which would be counted for those that are ready early, and not for the others
	}
	return s.say("QUIT", quit, '2')
}

// startTLS says EHLO behind a full handshake, of a kind that all peers know.
func (s *sender) startTLS() error {
	if err := s.say("STARTTLS", startTLS, '2'); err != nil {
		return err
	}
	tc := tls.Client(s.conn, &tls.Config{ServerName: "mx.example.org", RootCAs: s.roots, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}})
	if err := tc.Handshake(); err != nil {
		return err
	}
	s.conn = tc
	s.r.Reset(tc)
	return s.say("EHLO behind STARTTLS", hello, '2')
}

// due waits until the nth message from the end is to be sent.
func (s *sender) due(n int) {
	if s.every > 0 {
		time.Sleep(time.Until(s.began.Add(time.Duration(s.messages-n-1) * s.every)))
	}
}

// message is one transaction.
func (s *sender) message(n int) error {
	domain := s.firstDomain + n%s.domains
	e := append(s.envelope[:0], "MAIL FROM:<alice@d"...)
	e = strconv.AppendInt(e, int64(domain), 10)
	e = append(e, ".bulk.example>\r\n"...)
	for i := range s.recipients {
		if !s.pipelined {
			if err := s.say("MAIL or RCPT", e, '2'); err != nil {
				return err
			}
			e = e[:0]
		}
		e = append(e, "RCPT TO:<bob"...)
		e = strconv.AppendInt(e, int64(i), 10)
		e = append(e, "@example.org>\r\n"...)
	}
	if !s.pipelined {
		if err := s.say("RCPT", e, '2'); err != nil {
			return err
		}
		e = e[:0]
	}
	e = append(e, "DATA\r\n"...)
	s.envelope = e
	if _, err := s.conn.Write(e); err != nil {
		return err
	}
	for i := 0; s.pipelined && i <= s.recipients; i++ {
		if err := s.expect("MAIL or RCPT", '2'); err != nil {
			return err
		}
	}
	if err := s.expect("DATA", '3'); err != nil {
		return err
	}
	text := s.text
	if s.domains > 1 {
		s.own = append(s.begin(s.own[:0], senderDomain(domain)), s.rest...)
		text = s.own
	}
	return s.say("the message", text, '2')
}

func (s *sender) say(what string, octets []byte, class byte) error {
	if _, err := s.conn.Write(octets); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return s.expect(what, class)
}

// expect reads a reply.
func (s *sender) expect(to string, class byte) error {
	for {
		line, err := s.r.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("no reply to %s: %w", to, err)
		}
		if len(line) < 4 || line[0] != class {
			return &unwanted{to, string(line)}
		}
		if line[3] == ' ' {
			return nil
		}
	}
}

// processorTime is what a process has used of the processors so far. The clock of the
// process is finer than the ticks of a hundredth of a second in /proc/PID/stat.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	// clock_getcpuclockid(3): the pid inverted, and that it is the scheduler's count of the whole process (2).
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &at); err != nil {
		t.Fatalf("the processor time of %d: %v", pid, err)
	}
	return time.Duration(at.Nano())
}

// The processor time that is counted is that of /proc, and finer.
func TestE2EProcessorTime(t *testing.T) {
	began, before := time.Now(), processorTime(t, os.Getpid())
	for time.Since(began) < 50*time.Millisecond { // busy, and on one processor only
	}
	took := processorTime(t, os.Getpid()) - before
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	whole, counted := time.Duration(u.Utime.Nano()+u.Stime.Nano()), processorTime(t, os.Getpid())
	if took <= 0 || counted < whole/2 || counted > 2*whole+time.Second {
		t.Errorf("%v were counted for a busy time of 50ms, %v in all where getrusage counts %v", took, counted, whole)
	}
}
