// Package delegation asks policy services of other people's, in the protocol by which
// Postfix delegates access policy: a request of lines "name=value" that an empty line ends, and
// an answer "action=..." of the same form.
package delegation

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/checks/filter"
	"postern/configs"
	"postern/metrics"
	"postern/proxy/share"
)

// The bounds of one service.
const (
	// maxIdle is for how long a connection is kept that nobody uses, maxAge for how long any is:
	// the times of Postfix.
	maxIdle = 300 * time.Second
	maxAge  = 1000 * time.Second
	// maxAnswer bounds an answer, in octets, its lines together.
	maxAnswer = 8 << 10
	// maxText bounds what is kept of what stands behind the action, in octets.
	maxText = 400
	// maxValue bounds an attribute of a request, in octets.
	maxValue = 1 << 10
)

// Attribute is one line of a request.
type Attribute struct{ Name, Value string }

// Answer is what a service said.
type Answer struct {
	Action string // in lower case
	Text   string // printable ASCII
}

// Options are those of a Service.
type Options struct {
	Name    string        // for the log
	Address string        // host:port, or unix:/path
	Timeout time.Duration // of one question, the connection included
	Log     *slog.Logger  // nil: nothing is said
	Metrics *metrics.Metrics
	// Dial connects; nil: to the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Service is a policy service. It is safe for concurrent use, and keeps connections.
type Service struct {
	Options

	peer *filter.Peer

	mu     sync.Mutex
	idle   []*conn // the one that was used last at the end
	closed bool
}

// conn is a connection.
type conn struct {
	net.Conn
	in           *bufio.Reader
	opened, used time.Time
}

// New returns a service, and connects to nobody.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{Options: o, peer: filter.New(filter.Options{Name: "service." + o.Name, Address: o.Address, Metrics: o.Metrics, Dial: o.Dial})}
}

// Close closes the connections that nobody uses, and keeps none from then on.
func (s *Service) Close() {
	s.mu.Lock()
	idle := s.idle
	s.idle, s.closed = nil, true
	s.mu.Unlock()
	for _, c := range idle {
		_ = c.Close() // nobody waits for it
	}
}

// Ask asks a question. An error says that there is no answer, and why, in words fit for a
// record: the service is gone, slow, or talks nonsense.
func (s *Service) Ask(ctx context.Context, request []Attribute) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	err = s.peer.Ask(ctx, clientOf(request), func(turn *filter.Turn) (err error) {
		a, err = s.ask(ctx, turn, appendRequest(nil, request))
		return err
	}, s.tell)
	return a, err
}

// tell logs what changed.
func (s *Service) tell(change filter.Change, err error) {
	switch change {
	case filter.Failed:
		s.Log.Error("a policy service gives no answer", "service", s.Name, "address", s.Address, "error", err.Error())
	case filter.Left:
		s.Log.Error("a policy service is left alone for a while", "service", s.Name, "address", s.Address, "error", err.Error())
	case filter.Back:
		s.Log.Info("the policy service answers again", "service", s.Name)
	case filter.Same:
	}
}

// clientOf is who the question is about.
func clientOf(request []Attribute) share.Client {
	for _, a := range request {
		if a.Name == "client_address" {
			address, _ := netip.ParseAddr(a.Value)
			return share.Of(address)
		}
	}
	return share.Client{}
}

// ask asks when it is its turn.
func (s *Service) ask(ctx context.Context, turn *filter.Turn, request []byte) (a Answer, err error) {
	for first := true; ; first = false {
		c, err := s.connection(ctx, first)
		if err != nil {
			return a, err
		}
		turn.Reached()
		kept := !c.used.Equal(c.opened)
		a, silent, err := c.ask(ctx, request)
		if err == nil {
			s.keep(c)
			return a, nil
		}
		_ = c.Close()
		// A service may close what was idle for too long. Nothing of an answer had come, so
		// the question can be asked again.
		if kept && silent && first && ctx.Err() == nil {
			continue
		}
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			err = filter.Late("no answer within %s", configs.FormatDuration(s.Timeout))
		}
		return a, err
	}
}

// connection returns one that was kept, or a new one.
func (s *Service) connection(ctx context.Context, kept bool) (*conn, error) {
	now := time.Now()
	var stale []*conn
	s.mu.Lock()
	s.idle = slices.DeleteFunc(s.idle, func(c *conn) bool {
		old := now.Sub(c.used) > maxIdle || now.Sub(c.opened) > maxAge
		if old || !kept {
			stale = append(stale, c) // where one was dead, the others are
		}
		return old || !kept
	})
	var c *conn
	if n := len(s.idle); n > 0 {
		c, s.idle = s.idle[n-1], s.idle[:n-1]
	}
	s.mu.Unlock()
	for _, c := range stale {
		_ = c.Close()
	}
	if c != nil {
		return c, nil
	}
	nc, err := s.peer.Connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = filter.Late("no connection within %s", configs.FormatDuration(s.Timeout))
		}
		return nil, err
	}
	return &conn{Conn: nc, in: bufio.NewReaderSize(nc, 512), opened: now, used: now}, nil
}

// keep gives a connection back.
func (s *Service) keep(c *conn) {
	c.used = time.Now()
	if c.used.Equal(c.opened) {
		c.used = c.used.Add(1) // a coarse clock: it was used
	}
	s.mu.Lock()
	keep := !s.closed && c.in.Buffered() == 0
	if keep {
		s.idle = append(s.idle, c)
	}
	s.mu.Unlock()
	if !keep {
		_ = c.Close()
	}
}

// ask sends a question and reads the answer. silent: not one octet of it came.
func (c *conn) ask(ctx context.Context, request []byte) (a Answer, silent bool, err error) {
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end) // what it does not take, the reading tells
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(request); err != nil {
		return a, true, fmt.Errorf("the question could not be sent: %w", err)
	}
	if _, err := c.in.Peek(1); err != nil {
		return a, true, fmt.Errorf("the connection ended before the answer: %w", err)
	}
	var text []byte
	for {
		line, err := c.in.ReadSlice('\n')
		text = append(text, line...)
		switch {
		case len(text) > maxAnswer:
			return a, false, fmt.Errorf("the answer is longer than %d octets", maxAnswer)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return a, false, errors.New("the connection ended within the answer")
		case err != nil:
			return a, false, fmt.Errorf("the answer broke off: %w", err)
		}
		if endsAnswer(text) {
			a, err = ParseAnswer(text)
			return a, false, err
		}
	}
}

// endsAnswer says whether the last line is the empty one.
func endsAnswer(text []byte) bool {
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	return len(text) == 0 || text[len(text)-1] == '\n'
}

// appendRequest appends a request as it is sent. A value is cut at what would begin
// another line, and bounded.
func appendRequest(b []byte, request []Attribute) []byte {
	for _, a := range request {
		value := a.Value[:min(len(a.Value), maxValue)]
		if i := strings.IndexAny(value, "\r\n\x00"); i >= 0 {
			value = value[:i]
		}
		b = append(append(append(append(b, a.Name...), '='), value...), '\n')
	}
	return append(b, '\n')
}

// words are the actions of access(5) that a service may answer with.
var words = []string{
	"ok", "dunno", "reject", "defer", "defer_if_reject", "defer_if_permit", "discard", "hold", "filter", "redirect", "prepend", "bcc", "info", "warn",
}

// ParseAnswer reads an answer, with the empty line that ends it. A reply code in place of a
// word is reject (5yz) or defer (4yz), permit and any other number are ok. Names that are not
// known are ignored; that there is one action is all that is asked.
func ParseAnswer(text []byte) (a Answer, err error) {
	found := false
	for line := range bytes.Lines(text) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, ok := strings.Cut(string(line), "=")
		switch {
		case !ok:
			return Answer{}, fmt.Errorf("a line of the answer is no name=value: %q", cut(string(line), 60))
		case !strings.EqualFold(strings.TrimSpace(name), "action"):
			continue
		case found:
			return Answer{}, errors.New("the answer has two actions")
		}
		found = true
		if a, err = parseAction(value); err != nil {
			return Answer{}, err
		}
	}
	if !found {
		return Answer{}, errors.New("the answer has no action")
	}
	return a, nil
}

// parseAction reads the value of action: a word, and what stands behind it.
func parseAction(value string) (Answer, error) {
	word, text, _ := strings.Cut(strings.TrimSpace(value), " ")
	word = strings.ToLower(word)
	digits := word != "" && strings.Trim(word, "0123456789") == ""
	switch {
	case digits && len(word) == 3 && word[0] == '4':
		word = "defer"
	case digits && len(word) == 3 && word[0] == '5':
		word = "reject"
	case digits, word == "permit":
		word = "ok"
	case !slices.Contains(words, word):
		return Answer{}, fmt.Errorf("the answer is no action: %q", cut(value, 60))
	}
	text = strings.TrimSpace(text)
	if status, rest, _ := strings.Cut(text, " "); isStatus(status) && word != "prepend" {
		text = strings.TrimSpace(rest)
	}
	return Answer{Action: word, Text: cut(text, maxText)}, nil
}

// isStatus says whether it is an enhanced status code (RFC 3463 §2), which a reply has in front
// of its text.
func isStatus(s string) bool {
	parts := strings.Split(s, ".")
	return len(parts) == 3 && len(parts[0]) == 1 && strings.Contains("245", parts[0]) &&
		parts[1] != "" && parts[2] != "" && strings.Trim(parts[1]+parts[2], "0123456789") == "" && len(parts[1]) <= 3 && len(parts[2]) <= 3
}

// cut makes a service's text printable ASCII, of a length.
func cut(text string, limit int) string {
	b := []byte(text[:min(len(text), limit)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
