package milter

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"postern/checks/filter"
	"postern/configs"
	"postern/metrics"
	"postern/proxy/share"
)

const (
	// renewals is how many times its time-out a filter may have for one message, if it says
	// that it is at work.
	renewals = 4
	// MaxFields bounds how many fields a filter adds.
	MaxFields = 50
	// MaxFieldsSize bounds them all together, in octets.
	MaxFieldsSize = 16 << 10
	// maxMacros bounds the macros that a filter may ask for at one stage, and the stages.
	maxMacros = 64
	maxReason = 400
)

// Words of Verdict.Action.
const (
	ActionNone       = "none" // it has nothing against the message
	ActionAccept     = "accept"
	ActionReject     = "reject"
	ActionTempfail   = "tempfail"
	ActionDiscard    = "discard"
	ActionQuarantine = "quarantine"
)

// Field is a header field; its value is without line end, lines of it end in LF.
type Field struct{ Name, Value string }

// Recipient is one RCPT.
type Recipient struct {
	Address string
	Args    []string
}

// Message is what a filter is told.
type Message struct {
	Hostname, Daemon string // {j}, {daemon_name}
	ID               string // {i}
	Server           string // {daemon_addr}: the address that the client connected to; empty: unknown
	Client           net.IP // nil: unknown
	Port             uint16
	Name, Reverse    string // of the client: confirmed, and as it is published; empty: none
	Helo             string
	TLSVersion       string // as "TLSv1.3"; empty: in the clear
	Cipher           string
	CertSubject      string
	From             string
	FromArgs         []string
	Recipients       []Recipient
	Header           []Field // values as they stand, from behind the colon
	Body             io.Reader
	Size             int64
}

// Verdict is what a filter said.
type Verdict struct {
	Action string
	Reply  string  // the reply that it asks for, "550 5.7.1 text"; empty: none of its own
	Reason string  // of a quarantine, and what was asked for and not done
	Fields []Field // to be put on top, in this order
	// Told is what it had been told by then, in words for a record; there where there is no
	// verdict, too.
	Told string
}

// Options are those of a Filter.
type Options struct {
	Name, Address string
	Timeout       time.Duration // of one answer
	AddFields     bool          // it may add fields
	Log           *slog.Logger
	Metrics       *metrics.Metrics
	Dial          func(ctx context.Context, network, address string) (net.Conn, error)
}

// Filter is one milter. It is safe for concurrent use. Each message has a connection of its own.
//
// NOT: connections that are kept and used again by QUIT_NC of version 6. Nothing in the negotiation
// says whether a filter knows it: what is linked with libmilter (8.17; opendkim 2.11 and clamav-milter
// 1.4 were tried) takes it, and answers nothing from there on, neither to a negotiation nor to
// CONNECT. rspamd 3.4 does go on, and half a millisecond is saved of the six that a small message
// takes there with the rules that come with it.
type Filter struct {
	Options

	peer *filter.Peer
}

// conn is a connection that has negotiated.
type conn struct {
	net.Conn
	packets reader
	version uint32
	actions uint32
	steps   uint32
	macros  map[uint32][]string // that the filter asked for, by stage
}

// New returns a filter, and connects to nobody.
func New(o Options) *Filter {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Filter{Options: o, peer: filter.New(filter.Options{Name: "milter." + o.Name, Address: o.Address, Metrics: o.Metrics, Dial: o.Dial})}
}

// Most is how long a conversation about one message may take.
func (f *Filter) Most() time.Duration { return renewals * f.Timeout }

// Ask has a message judged. An error says in words why there is no verdict.
func (f *Filter) Ask(ctx context.Context, m *Message) (v Verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.Most())
	defer cancel()
	err = f.peer.Ask(ctx, m.client(), func(turn *filter.Turn) (err error) {
		v, err = f.ask(ctx, turn, m)
		return err
	}, f.tell)
	return v, err
}

// tell logs what changed.
func (f *Filter) tell(change filter.Change, err error) {
	switch change {
	case filter.Failed:
		f.Log.Error("a milter gives no verdict", "milter", f.Name, "address", f.Address, "error", err.Error())
	case filter.Left:
		f.Log.Error("a milter is left alone for a while", "milter", f.Name, "address", f.Address, "error", err.Error())
	case filter.Back:
		f.Log.Info("the milter answers again", "milter", f.Name)
	case filter.Same:
	}
}

// client is who the message is from.
func (m *Message) client() share.Client {
	address, _ := netip.AddrFromSlice(m.Client)
	return share.Of(address)
}

// ask has a message judged when it is its turn.
func (f *Filter) ask(ctx context.Context, turn *filter.Turn, m *Message) (v Verdict, err error) {
	c, err := f.connection(ctx)
	if err != nil {
		return v, f.late(ctx, err)
	}
	turn.Reached()
	defer hangUp(c)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	end, _ := ctx.Deadline()
	t := talk{conn: c, filter: f, turn: turn, message: m, end: end}
	if v, err = t.judge(); err != nil {
		return Verdict{Told: t.told()}, f.late(ctx, err)
	}
	v.Told = t.told()
	return v, nil
}

// late names the time-out where that was the fault.
func (f *Filter) late(ctx context.Context, err error) error {
	if end, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(end) {
		return filter.Late("no verdict within %s", configs.FormatDuration(f.Most()))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return filter.Late("no answer within %s", configs.FormatDuration(f.Timeout))
	}
	return err
}

// connection returns one that has negotiated.
func (f *Filter) connection(ctx context.Context) (c *conn, err error) {
	dialling, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	nc, err := f.peer.Connect(dialling)
	if err != nil {
		if dialling.Err() != nil {
			err = fmt.Errorf("no connection: %w", os.ErrDeadlineExceeded)
		}
		return nil, err
	}
	c = &conn{Conn: nc, packets: reader{in: bufio.NewReader(nc), left: maxAnswers}}
	_ = c.SetDeadline(time.Now().Add(f.Timeout))
	stop := context.AfterFunc(dialling, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop() // before the end of dialling, which is none of the connection's
	if err := c.negotiate(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// negotiate agrees on version, actions and steps.
func (c *conn) negotiate() error {
	b := binary.BigEndian.AppendUint32(nil, version)
	b = binary.BigEndian.AppendUint32(b, actions)
	b = binary.BigEndian.AppendUint32(b, offered)
	if _, err := c.Write(appendPacket(nil, cmdNegotiate, b)); err != nil {
		return fmt.Errorf("the negotiation could not begin: %w", err)
	}
	p, err := c.packets.read()
	switch {
	case err != nil:
		return fmt.Errorf("it does not negotiate: %w", err)
	case p.code != cmdNegotiate || len(p.data) < 12:
		return fmt.Errorf("it answers the negotiation with %q", p.code)
	}
	c.version, c.actions, c.steps = binary.BigEndian.Uint32(p.data), binary.BigEndian.Uint32(p.data[4:]), binary.BigEndian.Uint32(p.data[8:])
	c.steps &^= sizes
	switch {
	case c.version < minVersion || c.version > version:
		return fmt.Errorf("it speaks version %d of the protocol, and 2 to 6 are known", c.version)
	case c.steps&^offered != 0:
		return fmt.Errorf("it asks for steps that were not offered (%#x)", c.steps&^offered)
	}
	if c.version < 3 {
		c.steps |= noUnknown
	}
	if c.version < 4 {
		c.steps |= noData
	}
	c.macros, err = readMacros(p.data[12:])
	return err
}

// readMacros reads the lists of macros that a filter asks for, by stage; nil: it asks for none.
func readMacros(data []byte) (map[uint32][]string, error) {
	var all map[uint32][]string
	for len(data) > 0 {
		if len(data) < 5 {
			return nil, errors.New("its list of macros is broken off")
		}
		stage := binary.BigEndian.Uint32(data)
		names, rest, ok := cutText(data[4:])
		if !ok {
			return nil, errors.New("its list of macros is broken off")
		}
		if all == nil {
			all = map[uint32][]string{}
		}
		all[stage], data = strings.FieldsFunc(names, func(r rune) bool { return r == ' ' || r == ',' }), rest
		if len(all[stage]) > maxMacros || len(all) > maxMacros {
			return nil, fmt.Errorf("it asks for more than %d macros", maxMacros)
		}
	}
	return all, nil
}

// talk is the conversation about one message.
type talk struct {
	*conn
	filter  *Filter
	turn    *filter.Turn
	message *Message
	end     time.Time // of it all

	out     []byte
	said    []said
	skipped bool // the rest of what is at hand is not wanted
	added   []added
	ignored []string // what it asked for and was not offered
	size    int      // octets of added
}

// said is a command that the filter was told, so many times in a row, and the octets of it.
type said struct {
	code   byte
	times  int
	octets int64
}

// note notes that a command was told.
func (t *talk) note(code byte, octets int) {
	if n := len(t.said); n == 0 || t.said[n-1].code != code {
		t.said = append(t.said, said{code: code})
	}
	last := &t.said[len(t.said)-1]
	last.times++
	last.octets += int64(octets)
}

// told is what the filter was told, in words.
func (t *talk) told() string {
	words := make([]string, 0, len(t.said))
	for _, s := range t.said {
		switch s.code {
		case cmdConnect:
			words = append(words, "CONNECT")
		case cmdHelo:
			words = append(words, "HELO")
		case cmdMail:
			words = append(words, "MAIL")
		case cmdRcpt:
			words = append(words, fmt.Sprintf("%d RCPT", s.times))
		case cmdData:
			words = append(words, "DATA")
		case cmdHeader:
			words = append(words, fmt.Sprintf("%d header fields", s.times))
		case cmdBody:
			words = append(words, fmt.Sprintf("%d octets of the body", s.octets))
		case cmdEnd:
			words = append(words, "end of message")
		}
	}
	return strings.Join(words, ", ")
}

// added is a field to be put on top.
type added struct {
	Field
	at int // its place among the fields, 0 on top; -1: at the end
}

// arm gives the filter its time anew.
func (t *talk) arm() {
	end := time.Now().Add(t.filter.Timeout)
	if t.end.Before(end) {
		end = t.end
	}
	_ = t.SetDeadline(end)
}

// send sends what is gathered.
func (t *talk) send() error {
	t.arm()
	_, err := t.Write(t.out)
	t.out = t.out[:0]
	if err != nil {
		return fmt.Errorf("it takes nothing any more: %w", err)
	}
	return nil
}

// answer reads the next answer that is no progress.
func (t *talk) answer() (p packet, err error) {
	for {
		t.arm()
		p, err = t.packets.read()
		switch {
		case err == nil && p.code == ansProgress:
			continue
		case err == nil:
			return p, nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return p, errors.New("it hung up in the middle")
		}
		return p, err
	}
}

// step sends a command, unless the filter does without it, and says what it answers; nil: go on.
func (t *talk) step(code byte, leaveOut, silent uint32, maySkipRest bool, parts ...[]byte) (v *Verdict, err error) {
	if t.steps&leaveOut != 0 || t.skipped && maySkipRest {
		return nil, nil
	}
	t.out = appendPacket(t.out, code, parts...)
	octets := 0
	for _, p := range parts {
		octets += len(p)
	}
	t.note(code, octets)
	if t.steps&silent != 0 {
		if len(t.out) < 64<<10 {
			return nil, nil // it travels with what comes next
		}
		return nil, t.send()
	}
	if err := t.send(); err != nil {
		return nil, err
	}
	p, err := t.answer()
	if err != nil {
		return nil, err
	}
	if p.code == ansSkip && maySkipRest && t.steps&maySkip != 0 {
		t.skipped = true
		return nil, nil
	}
	return t.verdict(p)
}

// verdict reads an answer; nil: go on.
func (t *talk) verdict(p packet) (*Verdict, error) {
	switch p.code {
	case ansContinue:
		return nil, nil
	case ansAccept:
		return &Verdict{Action: ActionAccept}, nil
	case ansDiscard:
		return &Verdict{Action: ActionDiscard}, nil
	case ansReject:
		return &Verdict{Action: ActionReject}, nil
	case ansTempfail:
		return &Verdict{Action: ActionTempfail}, nil
	case ansFail, ansShutdown:
		return nil, errors.New("it gives up the connection")
	case ansReply:
		return replyVerdict(p.data)
	}
	return nil, fmt.Errorf("it answers with %q, which is no answer here", p.code)
}

// replyVerdict reads a reply of the filter's own, "550 5.7.1 text", of several lines perhaps.
func replyVerdict(data []byte) (*Verdict, error) {
	text, _, ok := cutText(data)
	if !ok || len(text) < 3 {
		return nil, errors.New("its reply is broken off")
	}
	code, err := strconv.Atoi(text[:3])
	v := &Verdict{Action: ActionTempfail, Reply: oneLine(text)}
	switch {
	case err != nil || code < 400 || code > 599 || len(text) > 3 && text[3] != ' ' && text[3] != '-':
		return nil, fmt.Errorf("its reply is none: %q", printable(text, 60))
	case code >= 500:
		v.Action = ActionReject
	}
	return v, nil
}

// oneLine makes a line of a reply of several.
func oneLine(reply string) string {
	code := reply[:3]
	var words []string
	for i, line := range strings.FieldsFunc(reply, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if i > 0 && strings.HasPrefix(line, code) {
			line = strings.TrimLeft(line[3:], "- ")
		}
		words = append(words, line)
	}
	text := strings.Join(words, " ")
	if len(text) > 3 && text[3] == '-' {
		text = code + " " + text[4:]
	}
	return printable(text, maxReason)
}

// printable makes a filter's text printable ASCII, of a length.
func printable(text string, limit int) string {
	b := []byte(text[:min(len(text), limit)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
