package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

// The simulation: a client, Postern and an MTA on wires in memory, and one
// fault, at any octet of either connection or at any command of the MTA. After
// each run it is asked whether a message was lost, doubled, changed, or refused
// for good because of a trouble of ours, and whether somebody knows of it. The
// time is that of a synctest bubble, which also finds every goroutine that does
// not end.
//
//	go test -run Simulation ./proxy -sim.runs 1000000 -sim.seed 7
var (
	simRuns = flag.Int("sim.runs", 16000, "runs of the simulation")
	simSeed = flag.Uint64("sim.seed", 0, "seed of the first run; 0: a new one each time")
)

// simClass is a way for mail to go.
type simClass struct {
	by         string // DATA, BDAT: in one chunk, chunks: in many
	pipelined  bool   // the client waits for no answer that it need not wait for
	hold       bool   // the message is held until its last fact is known
	milter     bool   // and a milter judges it
	tls        bool   // on the client's side
	chunking   bool   // the MTA has CHUNKING
	pipelining bool   // and PIPELINING
	pooled     bool   // connections to the MTA are kept for the next transaction
	xclient    bool   // the MTA is told who the client is
	size       int    // octets of a message, about
	recipients int
	messages   int // in the session that meets the fault
}

// simFault is what goes wrong in a run.
type simFault struct {
	where place
	conn  int // to the MTA: on which connection, from 1 (the first is the one that learns what it offers)
	kind  faultKind
	at    int64 // octets of that direction

	verb   string // where is atCommand: at which command of the MTA,
	nth    int    // at which of that name in the run
	action smtptest.Action
	milter milterAct // where is atMilter: at which command of the milter
}

// place is where a fault strikes.
type place int

const (
	noPlace place = iota
	clientToUs
	usToClient
	usToBackend
	backendToUs
	atCommand
	usToMilter
	milterToUs
	atMilter
)

func (p place) String() string {
	return [...]string{"nowhere", "client to us", "us to client", "us to MTA", "MTA to us", "at a command of the MTA", "us to milter", "milter to us", "at a command of the milter"}[p]
}

// scenario is one run.
type scenario struct {
	seed  uint64
	class simClass
	fault simFault
	// broken makes of a correct Postern one that sends the final dot when it
	// gives a message up. The invariants must notice.
	broken bool
}

func (sc scenario) String() string {
	f := sc.fault
	what := fmt.Sprintf("%s on connection %d after %d octets", f.kind, f.conn, f.at)
	if f.where == atCommand {
		what = fmt.Sprintf("%s number %d: %+v", f.verb, f.nth, f.action)
	}
	if f.where == atMilter {
		what = fmt.Sprintf("%s number %d: %+v", f.verb, f.nth, f.milter)
	}
	return fmt.Sprintf("seed %d: %+v, fault %s: %s", sc.seed, sc.class, f.where, what)
}

// newScenario derives a run from its seed.
func newScenario(seed uint64, env *simEnv) (sc scenario) {
	rng := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	coin := func() bool { return rng.IntN(2) == 0 }
	c := simClass{
		by: []string{"DATA", "BDAT", "chunks"}[rng.IntN(3)], pipelined: coin(), hold: rng.IntN(3) == 0, tls: rng.IntN(16) == 0,
		chunking: coin(), pipelining: rng.IntN(4) > 0, pooled: coin(), xclient: rng.IntN(3) == 0,
		size: []int{150, 150, 150, 3000}[rng.IntN(4)], recipients: 1 + rng.IntN(2), messages: 1 + rng.IntN(2),
	}
	if rng.IntN(400) == 0 {
		c.size = 300_000 // more than is held in memory, more than a socket buffer
	}
	sc = scenario{seed: seed, class: c}
	defer sc.withMilter()
	f := &sc.fault
	f.where = place(1 + rng.IntN(5))
	if f.where == atCommand {
		f.verb, f.nth, f.action = commandFault(rng)
		return sc
	}
	f.kind = faultKind(1 + rng.IntN(int(faultKinds)-1))
	// What the MTA offers is learned on its first connection, which is kept.
	if f.conn = 1; !c.pooled {
		f.conn += rng.IntN(1 + c.messages)
	}
	total := env.octets(c)[f.where]
	if f.where == usToBackend || f.where == backendToUs {
		total = env.octets(c)[place(int(f.where)+2*f.conn)]
	}
	f.at = rng.Int64N(total + 2)
	return sc
}

// commandFault is what an MTA may do at a command.
func commandFault(rng *rand.Rand) (verb string, nth int, a smtptest.Action) {
	verbs := []string{"CONNECT", "EHLO", "XCLIENT", "MAIL", "RCPT", "DATA", "BDAT", "TEXT", ".", ".", "RSET", "NOOP"}
	verb, nth = verbs[rng.IntN(len(verbs))], 1+rng.IntN(3)
	temporary := []string{"421 4.3.2 going down\r\n", "421 4.3.2 going down\r\n", "451 4.3.0 not now\r\n", "452-4.3.1 no\r\n452 4.3.1 room\r\n"}
	permanent := []string{"550 5.7.1 no\r\n", "552 5.3.4 too much\r\n", "554 5.6.0 no\r\n", "503 5.5.1 what\r\n"}
	strange := []string{"what?\r\n", "999 5.5.5 x\r\n", "25", "354 go on\r\n", "250-and\r\n", "\r\n", "\x00\x01\r\n", strings.Repeat("250-x\r\n", 3000)}
	switch verb {
	case "DATA", "TEXT":
		// NOT: 250 or 354 to what was not done. Against an MTA that lies nobody
		// can do anything.
		strange = strange[:3]
	case ".", "BDAT":
		strange = strange[:4]
	}
	switch rng.IntN(8) {
	case 0, 1:
		a.Reply = temporary[rng.IntN(len(temporary))]
	case 2:
		a.Reply = permanent[rng.IntN(len(permanent))]
	case 3:
		a.Reply = strange[rng.IntN(len(strange))]
	case 4:
		a.Close = true
	case 5:
		a.Do, a.Close = true, true
	case 6:
		a.Stall = true
	case 7:
		a.Wait = []time.Duration{time.Second, 4 * time.Minute, 7 * time.Minute, 20 * time.Minute}[rng.IntN(4)]
	}
	if a.Reply != "" {
		// Who speaks in the middle of a message hangs up: two answers to one
		// command are a lie as well, and so is to read octets as commands.
		a.Close = strings.HasPrefix(a.Reply, "421") || rng.IntN(3) == 0 || verb == "TEXT" || verb == "BDAT"
	}
	if a.Do && verb != "." {
		a.Do = false // it closes; whether it had obeyed makes no difference
	}
	return verb, nth, a
}

// simEnv is what runs share: settings that do not change.
type simEnv struct {
	stream, hold, judge *Settings
	metrics             *metrics.Metrics
	unknown             atomic.Int64 // records of unknown outcome

	mu     sync.Mutex
	totals map[simClass]map[place]int64
	t      *testing.T

	faults, runs atomic.Int64
}

// streamPolicy asks for nothing that is known only when the whole message is
// there.
var streamPolicy = configs.Policy{Mode: "enforce", Rules: []configs.Rule{
	{Name: "spf-fail", When: `spf.result == "fail"`, Do: "reject"},
	{Name: "mismatch", When: `submitter.address != "" and not pra.matches_submitter`, Do: "reject"},
}}

func newSimEnv(t *testing.T) *simEnv {
	return &simEnv{
		stream: rigSettings(t, rigOptions{policy: &streamPolicy}), hold: rigSettings(t, rigOptions{policy: &holdPolicy}),
		judge:   rigSettings(t, rigOptions{policy: &judgePolicy}),
		metrics: metrics.New(), totals: make(map[simClass]map[place]int64), t: t,
	}
}

// octets is about how many octets go in each direction when nothing goes wrong.
// What makes little difference is left out, or this would be most of the runs.
func (env *simEnv) octets(c simClass) map[place]int64 {
	c.pipelined, c.hold, c.milter, c.chunking, c.pipelining, c.xclient = false, false, false, true, true, false
	env.mu.Lock()
	defer env.mu.Unlock()
	if n, ok := env.totals[c]; ok {
		return n
	}
	sim := runScenario(env.t, env, scenario{class: c})
	if len(sim.wrong) > 0 {
		env.t.Fatalf("%+v without a fault: %s", c, strings.Join(sim.wrong, "\n"))
	}
	env.totals[c] = sim.totals
	return sim.totals
}

// simMessage is one message that the client sends, and what it knows of it.
type simMessage struct {
	from, text string
	mailHeard  bool   // MAIL was answered by 250
	heard      string // the first refusal, or the reply to the end of the message
	whole      bool   // the client's side sent it to its last octet
	waited     time.Duration
}

// sim is one run in progress.
type sim struct {
	env  *simEnv
	sc   scenario
	srv  *Server
	sink *smtptest.Sink

	mu       sync.Mutex
	records  []*journal.Record
	seen     map[string]int // verbs heard by the MTA
	injected bool           // the fault has happened
	refused  bool           // and was a 5yz of the MTA
	backends []*cable
	clients  []*cable
	milters  []*cable
	allowed  map[string]bool // what the milter has let, by reverse-path
	bare     bool            // without its field, once
	sessions sync.WaitGroup
	messages []*simMessage
	panics   panicCount

	wrong  []string
	totals map[place]int64
}

func (s *sim) fail(format string, a ...any) { s.wrong = append(s.wrong, fmt.Sprintf(format, a...)) }

// runScenario runs one scenario in a bubble of its own.
func runScenario(t *testing.T, env *simEnv, sc scenario) *sim {
	s := &sim{env: env, sc: sc, seen: make(map[string]int), allowed: make(map[string]bool)}
	defer func() {
		if p := recover(); p != nil {
			t.Logf("PANIC in %s", sc) // or a bubble whose goroutines do not end
			panic(p)
		}
	}()
	synctest.Test(t, func(*testing.T) { s.run() })
	env.runs.Add(1)
	if s.struck() {
		env.faults.Add(1)
	}
	return s
}

// run is the whole story.
func (s *sim) run() {
	c := s.sc.class
	o := smtptest.SinkOptions{Script: s.script}
	if !c.chunking {
		o.Without = append(o.Without, "CHUNKING", "BINARYMIME")
	}
	if !c.pipelining {
		o.Without = append(o.Without, "PIPELINING")
	}
	s.sink = smtptest.NewSink(o)
	set := *s.env.stream
	if c.hold {
		set = *s.env.hold
	}
	if c.milter {
		set = *s.judged()
	}
	mta := configs.Backend{Name: "mta", Addresses: []string{"127.0.0.1:10025"}, TLS: "off", Identity: "none"}
	if c.xclient {
		mta.Identity = "xclient"
	}
	bo := backend.Options{Hostname: set.Hostname, Timeouts: set.Timeouts, Dial: s.dial}
	if !c.pooled {
		bo.IdlePerAddress = -1
	}
	backends, err := backend.New([]configs.Backend{mta}, nil, bo)
	if err != nil {
		s.fail("%v", err)
		return
	}
	set.Backends = backends
	s.srv = New(Options{Log: slog.New(&s.panics), Metrics: s.env.metrics, Record: func(r *journal.Record) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.records = append(s.records, r.Clone())
	}}, &set)
	// What the MTA offers is learned once, as the server does when it starts.
	if conn, err := backends.Route(smtp.Path{}).Open(context.Background(), backend.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}); err == nil {
		conn.Release()
	}

	var story []*simMessage
	for i := range c.messages {
		story = append(story, s.message(i))
	}
	s.session(story, true)
	if s.sc.seed%2 == 0 {
		// Whatever it was: two minutes later mail flows again.
		time.Sleep(2 * time.Minute)
		struck := s.struck()
		last := s.message(c.messages)
		s.session([]*simMessage{last}, false)
		if !strings.HasPrefix(last.heard, "250 ") && (struck || s.clientSideFault() || s.sc.fault.where == noPlace) {
			s.fail("two minutes later a message was answered by %q", last.heard)
		}
	}
	s.sessions.Wait()
	backends.Close()
	time.Sleep(time.Hour) // what is still on a cable arrives; an MTA that waits gives up
	s.sink.Close()
	s.sessions.Wait()
	s.check()
	s.count()
}

// struck says whether the fault has happened.
func (s *sim) struck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	yes := s.injected
	for _, w := range slices.Concat(s.clients, s.backends, s.milters) {
		for _, h := range []*half{w.client.out, w.server.out} {
			h.mu.Lock()
			yes = yes || h.fired
			h.mu.Unlock()
		}
	}
	return yes
}

// script makes the MTA misbehave once.
func (s *sim) script(st smtptest.Step) smtptest.Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.sc.fault
	if f.where != atCommand || st.Verb != f.verb || s.injected {
		return smtptest.Action{}
	}
	if s.seen[st.Verb]++; s.seen[st.Verb] != f.nth {
		return smtptest.Action{}
	}
	s.injected = true
	if strings.HasPrefix(f.action.Reply, "5") {
		switch f.verb {
		case "MAIL", "RCPT", "DATA", "BDAT", ".", "TEXT":
			s.refused = true
		case "XCLIENT":
			// This client is not let in; 550 and 50z are about us.
			s.refused = f.action.Reply[1:2] != "0" && !strings.HasPrefix(f.action.Reply, "550")
		}
	}
	return f.action
}

func (s *sim) dial(context.Context, string, string) (net.Conn, error) {
	w := newCable(netip.MustParseAddrPort("198.51.100.25:50000"), netip.MustParseAddrPort("127.0.0.1:10025"))
	s.mu.Lock()
	s.backends = append(s.backends, &w)
	n := len(s.backends)
	s.mu.Unlock()
	if f := s.sc.fault; n == f.conn {
		switch f.where {
		case usToBackend:
			w.client.out.strike(f.kind, f.at)
		case backendToUs:
			w.client.in.strike(f.kind, f.at)
		}
	}
	if s.sc.broken {
		w.client.onClose = func() { _, _ = w.client.Write([]byte("\r\n.\r\n")) }
	}
	s.sessions.Go(func() { s.sink.Handle(w.server) })
	return w.client, nil
}

// message makes the nth message.
func (s *sim) message(n int) *simMessage {
	m := &simMessage{from: fmt.Sprintf("m%d@good.example", n)}
	var b strings.Builder
	fmt.Fprintf(&b, "From: Alice <%s>\r\nMessage-ID: <%d@good.example>\r\n\r\n", m.from, n)
	for i := 0; b.Len() < s.sc.class.size; i++ {
		switch i % 4 {
		case 0:
			b.WriteString("A line of text, as they come.\r\n")
		case 1:
			b.WriteString(".a line with a dot\r\n")
		case 2:
			b.WriteString(".\r\n")
		case 3:
			b.WriteString("\r\n")
		}
	}
	m.text = b.String()
	return m
}

// simClient is the client's end of one session.
type simClient struct {
	s    *sim
	wire *cable
	conn net.Conn
	br   *bufio.Reader
	gone bool // nothing more can be heard or said
	body string
}

// session sends messages in one session.
func (s *sim) session(story []*simMessage, faulty bool) {
	w := newCable(netip.MustParseAddrPort("192.0.2.1:40000"), rigAddr)
	s.mu.Lock()
	s.clients = append(s.clients, &w)
	s.messages = append(s.messages, story...)
	s.mu.Unlock()
	if f := s.sc.fault; faulty {
		switch f.where {
		case clientToUs:
			w.client.out.strike(f.kind, f.at)
		case usToClient:
			w.client.in.strike(f.kind, f.at)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.srv.Handle(w.server, Listener{Name: "mx", TLS: "starttls"})
	}()
	c := &simClient{s: s, wire: &w, conn: w.client, br: bufio.NewReader(w.client)}
	c.talk(story)
	_ = w.client.Close()
	<-done // a session ends by itself when its client is gone
}

func (c *simClient) talk(story []*simMessage) {
	if r := c.hear(); !strings.HasPrefix(r, "220 ") {
		return
	}
	c.hello()
	if c.s.sc.class.tls {
		if r := c.command("STARTTLS"); !strings.HasPrefix(r, "220 ") {
			return
		}
		_ = c.conn.SetDeadline(time.Now().Add(time.Hour))
		tc := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
		if tc.Handshake() != nil {
			return
		}
		c.conn, c.br = tc, bufio.NewReader(tc)
		c.hello()
	}
	for _, m := range story {
		if c.gone {
			return
		}
		c.send(m)
	}
	c.command("QUIT")
}

func (c *simClient) hello() {
	if strings.Contains(c.command("EHLO client.example"), "8BITMIME") {
		c.body = " BODY=8BITMIME"
	}
}

// patience is how long the client waits for a reply. RFC 5321 §4.5.3.2 has ten
// minutes for the longest, the one to the final dot.
const patience = 30 * time.Minute

func (c *simClient) hear() string {
	if c.gone {
		return ""
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	var reply string
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			if os.IsTimeout(err) && !c.s.clientSideFault() {
				c.s.fail("no reply for %v", patience)
			}
			c.gone = true
			return ""
		}
		reply += line
		if len(line) < 4 || line[3] != '-' {
			break
		}
	}
	if strings.HasPrefix(reply, "421") {
		c.gone = true
	}
	return strings.TrimSuffix(reply, "\r\n")
}

func (s *sim) clientSideFault() bool {
	return s.sc.fault.where == clientToUs || s.sc.fault.where == usToClient
}

func (c *simClient) say(text string) {
	if c.gone {
		return
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(2 * time.Hour))
	_, _ = c.conn.Write([]byte(text)) // should it fail, there is perhaps a reply that says why
}

func (c *simClient) command(line string) string {
	c.say(line + "\r\n")
	return c.hear()
}

// answer notes a reply that belongs to m, and says whether it was positive.
func (m *simMessage) answer(r string) bool {
	ok := r != "" && r[0] <= '3'
	if !ok && m.heard == "" {
		m.heard = r
	}
	return ok
}

// send sends one message.
func (c *simClient) send(m *simMessage) {
	class := c.s.sc.class
	mail := "MAIL FROM:<" + m.from + ">" + c.body + "\r\n"
	var rcpts []string
	for i := range class.recipients {
		rcpts = append(rcpts, fmt.Sprintf("RCPT TO:<rcpt%d@local.example>\r\n", i))
	}
	var ends string // what follows the recipients and needs no answer
	chunks := 0
	switch class.by {
	case "DATA":
		ends = "DATA\r\n"
	case "BDAT":
		ends, chunks = "BDAT "+strconv.Itoa(len(m.text))+" LAST\r\n"+m.text, 1
	case "chunks":
		var b strings.Builder
		size := max(61, len(m.text)/7)
		for rest := m.text; rest != ""; chunks++ {
			k := min(size, len(rest))
			fmt.Fprintf(&b, "BDAT %d\r\n%s", k, rest[:k])
			rest = rest[k:]
		}
		ends = b.String() + "BDAT 0 LAST\r\n"
		chunks++
	}
	taken := 0
	if class.pipelined {
		c.say(mail + strings.Join(rcpts, "") + ends)
		m.whole = chunks > 0 && c.wire.client.whole()
		m.mailHeard = m.answer(c.hear())
		for range rcpts {
			if m.answer(c.hear()) {
				taken++
			}
		}
	} else {
		if m.mailHeard = m.answer(c.command(strings.TrimSuffix(mail, "\r\n"))); !m.mailHeard {
			return
		}
		for _, r := range rcpts {
			if m.answer(c.command(strings.TrimSuffix(r, "\r\n"))) {
				taken++
			}
		}
		if taken == 0 {
			c.command("RSET")
			return
		}
		c.say(ends)
		m.whole = chunks > 0 && c.wire.client.whole()
	}
	start := time.Now()
	if chunks == 0 {
		if r := c.hear(); !strings.HasPrefix(r, "354 ") {
			m.answer(r)
			c.command("RSET")
			return
		}
		c.say(stuff(m.text) + ".\r\n")
		m.whole = c.wire.client.whole()
		start = time.Now()
		chunks = 1
	}
	last := ""
	for range chunks {
		if last = c.hear(); !m.answer(last) {
			continue
		}
	}
	m.waited = time.Since(start)
	if taken > 0 && (last == "" || last[0] == '2' || m.heard == "") {
		m.heard = last
	}
	if m.heard != "" && m.heard[0] != '2' {
		c.command("RSET")
	}
}

// check is the invariants.
func (s *sim) check() {
	committed := make(map[string][]smtptest.Message)
	for _, m := range s.sink.Messages() {
		from := m.From.String()
		committed[from] = append(committed[from], m)
	}
	records := make(map[string][]*journal.Record)
	for _, r := range s.records {
		records[r.Facts.Mail.From] = append(records[r.Facts.Mail.From], r)
	}
	for _, m := range s.messages {
		at := committed[m.from]
		recs := records[m.from]
		delete(committed, m.from)
		heard := m.heard + " "
		outcome := journal.Outcome("")
		if len(recs) > 0 {
			outcome = recs[0].Outcome
		}

		// 1. 250 means that the MTA has it, once and octet by octet.
		if heard[0] == '2' && len(at) != 1 {
			s.fail("%s heard %q, and the MTA has it %d times", m.from, m.heard, len(at))
		}
		// 2. Never half of a message, never twice, never more than is known.
		if len(at) > 1 {
			s.fail("%s is %d times at the MTA", m.from, len(at))
		}
		if len(at) > 0 && !m.whole {
			s.fail("%s is at the MTA, and was never sent to its end", m.from)
		}
		if len(at) > 0 && outcome != journal.OutcomeDelivered && outcome != journal.OutcomeUnknown {
			s.fail("%s is at the MTA, and the record says %q", m.from, outcome)
		}
		if len(at) == 0 && outcome == journal.OutcomeDelivered {
			s.fail("%s is not at the MTA, and the record says delivered", m.from)
		}
		if outcome == journal.OutcomeUnknown && (heard[0] == '2' || s.sc.fault.where < usToBackend) {
			s.fail("%s: unknown outcome, and heard %q", m.from, m.heard)
		}
		// 3. What was sent is what arrives, below our fields.
		for _, got := range at {
			s.checkText(m, got)
		}
		// 4. A trouble of ours is never for good.
		if heard[0] == '5' && !s.refused {
			s.fail("%s was refused for good: %q", m.from, m.heard)
		}
		// 5. There is a record of it, one.
		if len(recs) > 1 || m.mailHeard && len(recs) == 0 {
			s.fail("%s has %d records", m.from, len(recs))
		}
		for _, r := range recs {
			switch r.Outcome {
			case journal.OutcomeDelivered, journal.OutcomeAbandoned:
			case journal.OutcomeBackendRefused:
				if r.BackendReply == "" {
					s.fail("%s: refused by the backend, and no reply in the record", m.from)
				}
			default:
				if r.Error == "" && r.Rule == "" || r.Reply == "" {
					s.fail("%s: %s, and the record says reply %q, error %q", m.from, r.Outcome, r.Reply, r.Error)
				}
			}
			if heard[0] == '2' && r.Outcome != journal.OutcomeDelivered {
				s.fail("%s heard %q, and the record says %s", m.from, m.heard, r.Outcome)
			}
			if r.Outcome == journal.OutcomeUnknown {
				s.env.unknown.Add(1)
			}
		}
		// The answer comes before the client gives up, and sends it again.
		if m.heard != "" && m.waited > 10*time.Minute && s.sc.class.by == "DATA" && !s.clientSideFault() {
			s.fail("%s waited %v for %q", m.from, m.waited, m.heard)
		}
	}
	if what := s.panics.first(); what != "" {
		s.fail("%s", what)
	}
	for from := range committed {
		s.fail("the MTA has a message of %s, whom nobody knows", from)
	}
}

// checkText compares a message at the MTA with what was sent.
func (s *sim) checkText(m *simMessage, got smtptest.Message) {
	above, ok := bytes.CutSuffix(got.Text, []byte(m.text))
	if !ok {
		s.fail("%s was changed: %q", m.from, first(got.Text, 600))
		return
	}
	fields, rest := topFields(string(s.checkJudged(m, above)))
	if rest != "" || len(fields) < 3 {
		s.fail("%s: above it stands %q", m.from, rest)
	}
	if len(got.To) == 0 || len(got.To) > s.sc.class.recipients {
		s.fail("%s went to %d recipients", m.from, len(got.To))
	}
	if s.sc.class.xclient && got.XClient["ADDR"] != "192.0.2.1" {
		s.fail("%s came from %q", m.from, got.XClient)
	}
}

// count notes how many octets went where.
func (s *sim) count() {
	s.totals = make(map[place]int64)
	s.totals[clientToUs], s.totals[usToClient] = s.clients[0].client.out.passed(), s.clients[0].server.out.passed()
	for i, w := range s.backends {
		// Those of the nth connection are kept behind the places.
		s.totals[place(int(usToBackend)+2*(i+1))] = w.client.out.passed()
		s.totals[place(int(backendToUs)+2*(i+1))] = w.server.out.passed()
	}
}

// simSeeds are those that ever failed.
func simSeeds(t *testing.T) (seeds []uint64) {
	b, err := os.ReadFile("testdata/sim/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		n, err := strconv.ParseUint(line, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, n)
	}
	return seeds
}

// shards is how many bubbles run side by side.
const shards = 4

func TestSimulation(t *testing.T) {
	seed := *simSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	runs := *simRuns
	if testing.Short() {
		runs /= 20
	}
	env := newSimEnv(t)
	files := openFiles(t)
	broken := atomic.Int64{}
	one := func(t *testing.T, sc scenario) {
		if s := runScenario(t, env, sc); len(s.wrong) > 0 {
			broken.Add(1)
			t.Errorf("%s\n\t%s\nrun it again with -sim.runs 1 -sim.seed %d, and keep the seed in testdata/sim/seeds.txt",
				sc, strings.Join(s.wrong, "\n\t"), sc.seed)
		}
	}
	t.Run("seeds", func(t *testing.T) {
		for _, seed := range simSeeds(t) {
			one(t, newScenario(seed, env))
		}
	})
	t.Run("random", func(t *testing.T) {
		for shard := range shards {
			t.Run(strconv.Itoa(shard), func(t *testing.T) {
				t.Parallel()
				for i := shard; i < runs && broken.Load() < 10; i += shards {
					one(t, newScenario(seed+uint64(i), env))
				}
			})
		}
	})
	if n := openFiles(t); n > files {
		t.Errorf("%d files were open before, %d are now", files, n)
	}
	if n := counterValue(t, env.metrics, "postern_outcome_unknown_total"); n != float64(env.unknown.Load()) {
		t.Errorf("outcome_unknown_total is %v, the records say %d", n, env.unknown.Load())
	}
	t.Logf("simulation: seed=%d runs=%d faults=%d unknown=%d broken=%d seeds_kept=%d",
		seed, env.runs.Load(), env.faults.Load(), env.unknown.Load(), broken.Load(), len(simSeeds(t)))
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal("the simulation counts descriptors in /proc: ", err)
	}
	return len(d)
}

func counterValue(t *testing.T, m *metrics.Metrics, name string) (sum float64) {
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, x := range f.GetMetric() {
				sum += x.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestSimulationEveryOctet ends each connection at each of its octets, for DATA
// and for BDAT.
func TestSimulationEveryOctet(t *testing.T) {
	env := newSimEnv(t)
	for _, c := range []simClass{
		{by: "DATA", pipelining: true, pooled: true, size: 150, recipients: 1, messages: 1},
		{by: "chunks", chunking: true, pipelined: true, pipelining: true, size: 150, recipients: 1, messages: 1},
	} {
		t.Run(c.by, func(t *testing.T) {
			t.Parallel()
			step := int64(1)
			if testing.Short() {
				step = 11
			}
			totals := runScenario(t, env, scenario{class: c}).totals
			runs := 0
			for where := clientToUs; where <= backendToUs; where++ {
				total, conn := totals[where], 0
				if where >= usToBackend {
					conn = 1
					if !c.pooled {
						conn = 2
					}
					total = totals[place(int(where)+2*conn)]
				}
				for at := int64(0); at <= total; at += step {
					sc := scenario{class: c, fault: simFault{where: where, conn: conn, kind: faultCut, at: at}}
					if s := runScenario(t, env, sc); len(s.wrong) > 0 {
						t.Fatalf("%s\n\t%s", sc, strings.Join(s.wrong, "\n\t"))
					}
					runs++
				}
			}
			t.Logf("simulation: every octet of %s: runs=%d", c.by, runs)
		})
	}
}

// TestSimulationBites: a Postern that sends a final dot when it gives a message
// up does not go unnoticed. Only runs whose fault is on the client's side are
// made, since it is they that show it.
func TestSimulationBites(t *testing.T) {
	env := newSimEnv(t)
	runs := 0
	for seed := range uint64(10000) {
		sc := newScenario(seed, env)
		if sc.fault.where != clientToUs {
			continue
		}
		sc.broken = true
		runs++
		if s := runScenario(t, env, sc); len(s.wrong) > 0 {
			t.Logf("simulation: the broken one was caught after %d runs: %s\n\t%s", runs, sc, strings.Join(s.wrong, "\n\t"))
			return
		}
	}
	t.Errorf("the broken one was not caught in %d runs", runs)
}
