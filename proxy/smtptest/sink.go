// Package smtptest has what tests of an SMTP proxy need: a recording MTA that
// can be told to misbehave, and a player of dialogues.
package smtptest

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync"

	"postern/proxy/backend/mta"
	"postern/proxy/smtp"
)

// SinkOptions says what kind of MTA a Sink plays. The zero value is a good one
// that offers all that Postern knows, and trusts its peer with XCLIENT and
// XFORWARD.
type SinkOptions struct {
	Hostname string   // default: mta.test
	Keywords []string // EHLO keywords with their parameters; nil: AllKeywords
	Without  []string // of these, not offered: "PIPELINING"; also "XCLIENT" (and with it XFORWARD)
	MaxSize  int64    // octets; 0: 64 MiB
	TLS      *tls.Config
	Proxy    bool // every connection must begin with a PROXY header
	// Script is asked before each step, and can make the Sink misbehave. It is
	// called by the goroutine of the connection.
	Script func(mta.Step) mta.Action
}

// Step is what a script is asked.
type Step = mta.Step

// Action is what a script answers.
type Action = mta.Action

// AllKeywords is what a Sink offers if it is not told otherwise, besides SIZE,
// STARTTLS, XCLIENT and XFORWARD.
var AllKeywords = []string{
	"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME", "SUBMITTER", "REQUIRETLS",
}

// Message is a message that a Sink has accepted: one that it answered by 250
// after the final dot or the last BDAT.
type Message struct {
	mta.Envelope
	Text []byte // without dot-stuffing
	Raw  []byte // as it came behind DATA, stuffed, without the end mark; the chunks of BDAT one behind the other
}

// Sink is a recording MTA. It plays one on a port of loopback (Addr), on
// in-memory pipes (Dial) or on any connection (Handle).
type Sink struct {
	server *mta.Server

	mu       sync.Mutex
	ln       net.Listener
	messages []Message
	refused  int
	commands []string
	wire     map[int]*bytes.Buffer
	closed   bool
	wg       sync.WaitGroup
}

// NewSink returns a Sink. It listens once Addr is called. Close it.
func NewSink(o SinkOptions) *Sink {
	s := &Sink{wire: map[int]*bytes.Buffer{}}
	if o.Hostname == "" {
		o.Hostname = "mta.test"
	}
	if o.Keywords == nil {
		o.Keywords = AllKeywords
	}
	without := func(k string) bool {
		k, _, _ = strings.Cut(k, " ")
		return slices.Contains(o.Without, k)
	}
	s.server = &mta.Server{
		Hostname: o.Hostname, Store: store{s}, MaxSize: o.MaxSize, TLS: o.TLS, Proxy: o.Proxy,
		Keywords: slices.DeleteFunc(slices.Clone(o.Keywords), without),
		Trusted:  func(net.Addr) bool { return !without("XCLIENT") },
		Tap:      s.tap, MaxConnections: 100000,
		Script: func(st Step) Action {
			s.heard(st)
			if o.Script == nil {
				return Action{}
			}
			return o.Script(st)
		},
	}
	return s
}

// Addr returns the address of the Sink on loopback.
func (s *Sink) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln == nil {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic("smtptest: " + err.Error())
		}
		s.ln = ln
		if !s.closed {
			s.wg.Go(func() { _ = s.server.Serve(ln) })
		}
	}
	return s.ln.Addr().String()
}

// Dial returns one end of a pipe at whose other end the Sink serves. It has the
// form of the dialer of the backend's Options, and works within a synctest
// bubble.
func (s *Sink) Dial(context.Context, string, string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	c, peer := net.Pipe()
	s.wg.Go(func() { s.server.Handle(peer) })
	return c, nil
}

// Handle serves one connection to its end.
func (s *Sink) Handle(nc net.Conn) { s.server.Handle(nc) }

// Close ends all connections and waits for them.
func (s *Sink) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.server.Close()
	s.wg.Wait()
}

// Messages returns the messages accepted so far, in the order of their replies.
func (s *Sink) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Discarded returns how many messages were begun and not accepted.
func (s *Sink) Discarded() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// Commands returns the command lines of all connections, in the order in which
// they came.
func (s *Sink) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Connections returns how many connections have been made.
func (s *Sink) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.wire)
}

// Wire returns every octet that came on the nth connection, counted from 1,
// behind the PROXY header and decrypted.
func (s *Sink) Wire(n int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.wire[n]; b != nil {
		return bytes.Clone(b.Bytes())
	}
	return nil
}

func (s *Sink) heard(st Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch st.Verb {
	case "CONNECT":
		s.wire[st.Connection] = new(bytes.Buffer)
	case "TEXT", ".":
	default:
		s.commands = append(s.commands, st.Line)
	}
}

func (s *Sink) tap(n int, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire[n] == nil {
		s.wire[n] = new(bytes.Buffer)
	}
	s.wire[n].Write(p)
}

// store keeps messages in memory.
type store struct{ s *Sink }

func (st store) Begin(e *mta.Envelope) (mta.Message, smtp.Reply) {
	return &recording{s: st.s, m: Message{Envelope: *e}}, smtp.Reply{}
}

type recording struct {
	s *Sink
	m Message
}

func (r *recording) Write(p []byte) (int, error) {
	r.m.Text = append(r.m.Text, p...)
	if r.m.Chunked {
		r.m.Raw = append(r.m.Raw, p...)
	}
	return len(p), nil
}

// WriteRaw implements mta.RawWriter.
func (r *recording) WriteRaw(p []byte) { r.m.Raw = append(r.m.Raw, p...) }

// Commit implements mta.Message.
func (r *recording) Commit() smtp.Reply {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.messages = append(r.s.messages, r.m)
	return smtp.Reply{Code: 250, Enhanced: "6.0", Text: "OK, recorded"}
}

// Discard implements mta.Message.
func (r *recording) Discard() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.refused++
}

// Nowhere is the store of a mta.Server that accepts every message and keeps none.
type Nowhere struct{}

// Begin implements mta.Store.
func (Nowhere) Begin(*mta.Envelope) (mta.Message, smtp.Reply) { return Nowhere{}, smtp.Reply{} }

// Write implements mta.Message.
func (Nowhere) Write(p []byte) (int, error) { return len(p), nil }

// Commit implements mta.Message.
func (Nowhere) Commit() smtp.Reply { return smtp.Reply{Code: 250, Enhanced: "6.0", Text: "OK"} }

// Discard implements mta.Message.
func (Nowhere) Discard() {}
