package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/checks/milter"
	"postern/configs"
)

// A milter in the simulation: it is told of each message over a cable of its own, which may
// have a fault, and may do what it likes at any of its commands. Then there is one more invariant:
// nothing arrives of which it has not said that it may.

// milterAct is what it does once instead of its answer.
type milterAct struct {
	says  string // octets
	ends  bool
	waits time.Duration
}

// milterActs are the faults of a milter, and an early verdict.
var milterActs = []milterAct{
	{ends: true},
	{waits: time.Hour},
	{waits: 20 * time.Second},
	{says: "\x00\x00\x00\x01!"},
	{says: "\x00\x00\x00\x00"},
	{says: "\xff\xff\xff\xffc"},
	{says: "\x00\x00\x00\x05c"},
	{says: "\x00\x00\x00\x01c", ends: true},
	{says: "\x00\x00\x00\x01t"},
	{says: "\x00\x00\x00\x014"},
	{says: strings.Repeat("\x00\x00\x00\x01p", 300)},
	{says: "\x00\x00\x00\x06hX\x00\ry\x00\x00\x00\x00\x01c"},
	{says: "\x00\x00\x00\x05hX\x00y\x00", ends: true},
	{says: earlyAccept},
}

const earlyAccept = "\x00\x00\x00\x01a"

// judgePolicy defers what the milter does not judge.
var judgePolicy = configs.Policy{Mode: "enforce", Milters: []string{"m"}, Rules: []configs.Rule{
	{Name: "later", When: `milter.m.action == "tempfail" or milter.m.action == "temperror"`, Do: "defer"},
	{Name: "spam", When: `milter.m.action == "reject"`, Do: "reject"},
}}

// withMilter gives a scenario a milter now and then, and a fault there. What it draws is its own,
// so that a seed that is kept stays what it was.
func (sc *scenario) withMilter() {
	rng := rand.New(rand.NewPCG(sc.seed, 3))
	if rng.IntN(5) > 0 {
		return
	}
	sc.class.hold, sc.class.milter = true, true
	switch f := &sc.fault; rng.IntN(8) {
	case 0, 1, 2, 3:
		*f = simFault{where: atMilter, verb: string("OCHMRTLNBE"[rng.IntN(10)]), nth: 1 + rng.IntN(2), milter: milterActs[rng.IntN(len(milterActs))]}
	case 4, 5:
		*f = simFault{where: usToMilter, conn: 1 + rng.IntN(sc.class.messages), kind: faultKind(1 + rng.IntN(int(faultKinds)-1)), at: rng.Int64N(700)}
	case 6:
		*f = simFault{where: milterToUs, conn: 1 + rng.IntN(sc.class.messages), kind: faultKind(1 + rng.IntN(int(faultKinds)-1)), at: rng.Int64N(90)}
	default: // that which it had
	}
}

// judged are the settings of a run with a milter.
func (s *sim) judged() *Settings {
	zone, err := dnstest.Parse(rigZone)
	if err != nil {
		s.fail("%v", err)
	}
	set := *s.env.judge
	f := milter.New(milter.Options{Name: "m", Address: "192.0.2.9:1", Timeout: 30 * time.Second, AddFields: true, Dial: s.dialMilter})
	set.Checks = checks.NewSet(checks.Deps{
		Hostname: set.Hostname, Resolver: zone, Uses: checks.AddedFields,
		Milters: []checks.Milter{{Name: "m", Timeout: f.Most(), Size: 1 << 30, AddFields: true, Ask: f.Ask}},
	}, func(n string) bool { return s.env.judge.Checks.Wants(n) || set.Chain.Needs(n) })
	return &set
}

func (s *sim) dialMilter(context.Context, string, string) (net.Conn, error) {
	w := newCable(netip.MustParseAddrPort("198.51.100.25:50001"), netip.MustParseAddrPort("192.0.2.9:1"))
	s.mu.Lock()
	s.milters = append(s.milters, &w)
	n := len(s.milters)
	s.mu.Unlock()
	if f := s.sc.fault; n == f.conn {
		switch f.where {
		case usToMilter:
			w.client.out.strike(f.kind, f.at)
		case milterToUs:
			w.client.in.strike(f.kind, f.at)
		}
	}
	s.sessions.Go(func() { s.judge(w.server) })
	return w.client, nil
}

// judge is the milter: it has nothing against any message, and adds a field.
func (s *sim) judge(c net.Conn) {
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	from := ""
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(head[:])
		if size == 0 || size > 1<<20 {
			s.fail("the milter was sent a packet of %d octets", size)
			return
		}
		data := make([]byte, size-1)
		if _, err := io.ReadFull(in, data); err != nil {
			return
		}
		says := "\x00\x00\x00\x01c"
		switch code := head[4]; code {
		case 'D':
			continue
		case 'Q':
			return
		case 'O':
			says = "\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x00\x01\x00\x00\x00\x00"
		case 'M':
			from, _, _ = strings.Cut(strings.Trim(string(data), "<"), ">")
		case 'E':
			says = "\x00\x00\x00\x0ehX-Judged\x00yes\x00" + says
		}
		act := s.milterAct(string(head[4]))
		if act.says != "" || act.ends {
			says = act.says
		}
		if act.waits > 0 {
			time.Sleep(act.waits)
		}
		if head[4] == 'E' && strings.HasSuffix(says, "\x01c") && !strings.Contains(says, "\r") || head[4] != 'O' && says == earlyAccept {
			s.mu.Lock()
			s.allowed[from] = true
			s.bare = s.bare || !strings.Contains(says, "X-Judged")
			s.mu.Unlock()
		}
		if _, err := io.WriteString(c, says); err != nil || act.ends {
			return
		}
	}
}

// milterAct says what it does at this command, if anything is wrong with it.
func (s *sim) milterAct(verb string) (a milterAct) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.sc.fault
	if f.where != atMilter || verb != f.verb || s.injected {
		return a
	}
	if s.seen["milter "+verb]++; s.seen["milter "+verb] != f.nth {
		return a
	}
	s.injected = true
	return f.milter
}

// checkJudged takes the field of the milter off what stands above a message at the MTA. It fails
// where that is not there, or where the milter did not say that the message may pass.
func (s *sim) checkJudged(m *simMessage, above []byte) []byte {
	if !s.sc.class.milter {
		return above
	}
	if !s.allowed[m.from] && !s.allowed[""] { // let before it was told of the sender
		s.fail("%s is at the MTA, and the milter has not let it", m.from)
	}
	below, ok := bytes.CutSuffix(above, []byte(judgedField))
	if !ok && !s.bare {
		s.fail("%s has not the field of the milter on top: %q", m.from, above)
	}
	return below
}

const judgedField = "X-Judged: yes\r\n"

// A Postern that takes the silence of a milter for a word is found out.
func TestSimulationOfAMilterBites(t *testing.T) {
	env := newSimEnv(t)
	lenient := configs.Policy{Mode: "enforce", Milters: []string{"m"}, Rules: []configs.Rule{{Name: "spam", When: `milter.m.action == "reject"`, Do: "reject"}}}
	env.judge = rigSettings(t, rigOptions{policy: &lenient})
	for seed := range uint64(10000) {
		sc := newScenario(seed, env)
		if !sc.class.milter || sc.fault.where != atMilter {
			continue
		}
		if s := runScenario(t, env, sc); len(s.wrong) > 0 {
			t.Logf("simulation: it was caught by %s\n\t%s", sc, strings.Join(s.wrong, "\n\t"))
			return
		}
	}
	t.Error("it was not caught")
}
