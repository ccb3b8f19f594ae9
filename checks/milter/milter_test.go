package milter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// fake is a milter: what it agrees to, and what it answers to each command.
type fake struct {
	version, actions, steps uint32
	macros                  []byte
	answer                  func(code byte, data []byte) []byte // nil: nothing
	heard                   []string
	closed                  bool
}

// fakesMu guards heard and closed of all fakes: the connections of one follow each other,
// each on a goroutine of its own.
var fakesMu sync.Mutex

// hangUpNow in place of an answer ends the connection.
var hangUpNow = []byte("hang up")

func packetOf(code byte, parts ...[]byte) []byte { return appendPacket(nil, code, parts...) }

func (k *fake) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer func() {
			_ = theirs.Close()
			fakesMu.Lock()
			defer fakesMu.Unlock()
			k.closed = true
		}()
		r := reader{in: bufio.NewReader(theirs), left: 1 << 30}
		for {
			p, err := r.read()
			if err != nil {
				return
			}
			shown := p.data
			if p.code == cmdBody {
				shown = nil
			}
			fakesMu.Lock()
			k.heard = append(k.heard, string(p.code)+strings.ReplaceAll(string(shown), "\x00", "|"))
			fakesMu.Unlock()
			var out []byte
			switch {
			case p.code == cmdQuit:
				return
			case p.code == cmdNegotiate && k.version != 0:
				b := binary.BigEndian.AppendUint32(nil, k.version)
				b = binary.BigEndian.AppendUint32(b, k.actions)
				out = packetOf(cmdNegotiate, binary.BigEndian.AppendUint32(b, k.steps), k.macros)
			default:
				out = k.answer(p.code, p.data)
			}
			if bytes.Equal(out, hangUpNow) {
				return
			}
			if _, err := theirs.Write(out); err != nil {
				return
			}
		}
	}()
	return ours, nil
}

func (k *fake) filter(log io.Writer) *Filter {
	o := Options{Name: "fake", Address: "127.0.0.1:1", Timeout: 10 * time.Second, AddFields: true, Dial: k.dial}
	if log != nil {
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	return New(o)
}

// proceeds answers continue to all but macros.
func proceeds(code byte, _ []byte) []byte {
	if code == cmdMacros {
		return nil
	}
	return packetOf(ansContinue)
}

func mail(body string) *Message {
	return &Message{
		Hostname: "mx.example.org", Daemon: "mx", Server: "192.0.2.25", ID: "abc", Client: net.ParseIP("192.0.2.1"), Port: 25000, Name: "c.example", Helo: "c.example", TLSVersion: "TLSv1.3", Cipher: "TLS_CHACHA20_POLY1305_SHA256",
		From: "a@c.example", FromArgs: []string{"SIZE=5"}, Recipients: []Recipient{{Address: "b@example.org"}, {Address: "d@example.org", Args: []string{"NOTIFY=NEVER"}}},
		Header: []Field{{"From", " a@c.example"}, {"Subject", " x\n\ty"}}, Body: strings.NewReader(body),
	}
}

// What a filter is told, in which order, is what Postfix tells it.
func TestConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fake{version: 6, answer: proceeds}
		v, err := k.filter(nil).Ask(t.Context(), mail(strings.Repeat("x", chunk+1)))
		if err != nil || v.Action != ActionNone {
			t.Fatal(v, err)
		}
		synctest.Wait()
		want := []string{
			"DCj|mx.example.org|{daemon_name}|mx|{daemon_addr}|192.0.2.25|v|Postern|_|c.example [192.0.2.1]|{client_addr}|192.0.2.1|{client_name}|c.example|{client_port}|25000|{client_ptr}|unknown|",
			"Cc.example|4\x61\xa8192.0.2.1|", "DH{tls_version}|TLSv1.3|{cipher}|TLS_CHACHA20_POLY1305_SHA256|{cipher_bits}|256|", "Hc.example|", "DMi|abc|{mail_addr}|a@c.example|", "M<a@c.example>|SIZE=5|",
			"DRi|abc|{rcpt_addr}|b@example.org|", "R<b@example.org>|", "DRi|abc|{rcpt_addr}|d@example.org|", "R<d@example.org>|NOTIFY=NEVER|", "DTi|abc|", "T",
			"LFrom|a@c.example|", "LSubject|x\n\ty|", "N", "B", "B", "DEi|abc|", "E", "Q",
		}
		if got := k.heard[1:]; !slices.Equal(got, want) {
			t.Errorf("heard %q\nwant  %q", got, want)
		}
		if want := "CONNECT, HELO, MAIL, 2 RCPT, DATA, 2 header fields, 65536 octets of the body, end of message"; v.Told != want {
			t.Errorf("told %q\nwant %q", v.Told, want)
		}
	})
}

// What a filter does not want it is not told, what it does not answer nobody waits for, and after a
// verdict nothing more is said.
func TestStepsThatAreLeftOut(t *testing.T) {
	for name, c := range map[string]struct {
		fake    fake
		want    string // commands
		verdict string
	}{
		"nothing wanted": {fake{version: 6, steps: steps2 | noData | noUnknown, answer: proceeds}, "DEQ", ActionNone},
		"nothing answered": {fake{version: 6, steps: offered &^ (steps2 | noData | noUnknown | maySkip), answer: func(code byte, data []byte) []byte {
			if code == cmdEnd {
				return packetOf(ansAccept)
			}
			return nil
		}}, "DCDHDMDRDRDTLLNBDEQ", ActionAccept},
		"version 2": {fake{version: 2, answer: proceeds}, "DCDHDMDRDRLLNBDEQ", ActionNone},
		"skips": {fake{version: 6, steps: maySkip | noData, answer: func(code byte, data []byte) []byte {
			if code == cmdBody || code == cmdHeader {
				return packetOf(ansSkip)
			}
			return proceeds(code, data)
		}}, "DCDHDMDRDRLNBDEQ", ActionNone},
		"refuses at MAIL": {fake{version: 6, answer: func(code byte, data []byte) []byte {
			if code == cmdMail {
				return packetOf(ansReply, texts("550 5.7.1 No such mail"))
			}
			return proceeds(code, data)
		}}, "DCDHDMQ", ActionReject},
		"accepts at CONNECT": {fake{version: 6, answer: func(code byte, data []byte) []byte {
			if code == cmdConnect {
				return packetOf(ansAccept)
			}
			return proceeds(code, data)
		}}, "DCQ", ActionAccept},
		"asks for macros": {fake{version: 6, macros: append([]byte{0, 0, 0, 3}, "i {auth_authen}, j\x00"...), steps: steps2&^noRcpt | noData, answer: proceeds}, "DRDREQ", ActionNone},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, err := c.fake.filter(nil).Ask(t.Context(), mail("x"))
				if err != nil || v.Action != c.verdict {
					t.Error(v, err)
				}
				synctest.Wait()
				var got strings.Builder
				for _, h := range c.fake.heard[1:] {
					if h[0] == 'D' {
						got.WriteByte('D')
						if name == "asks for macros" && h != "DRi|abc|j|mx.example.org|" {
							t.Errorf("macros %q", h)
						}
					} else {
						got.WriteByte(h[0])
					}
				}
				if got.String() != c.want {
					t.Errorf("heard %s, want %s", got.String(), c.want)
				}
			})
		})
	}
}

// A verdict that comes early is kept, at every command, and not an octet of the body is read
// for it. What was said of one recipient says so.
func TestEarlyVerdicts(t *testing.T) {
	for at, commands := range map[byte]string{
		cmdConnect: "C", cmdHelo: "CH", cmdMail: "CHM", cmdRcpt: "CHMR", cmdData: "CHMRRT", cmdHeader: "CHMRRTL", cmdEndHeader: "CHMRRTLLN",
	} {
		for answer, want := range map[string]Verdict{
			string(packetOf(ansAccept)):                                        {Action: ActionAccept},
			string(packetOf(ansDiscard)):                                       {Action: ActionDiscard},
			string(packetOf(ansReject)):                                        {Action: ActionReject},
			string(packetOf(ansTempfail)):                                      {Action: ActionTempfail},
			string(packetOf(ansReply, texts("550 5.7.1 No"))):                  {Action: ActionReject, Reply: "550 5.7.1 No"},
			string(packetOf(ansReply, texts("450 4.7.1 Later"))):               {Action: ActionTempfail, Reply: "450 4.7.1 Later"},
			string(slices.Concat(packetOf(ansProgress), packetOf(ansDiscard))): {Action: ActionDiscard},
		} {
			synctest.Test(t, func(t *testing.T) {
				k := &fake{version: 6, answer: func(code byte, data []byte) []byte {
					if code == at {
						return []byte(answer)
					}
					return proceeds(code, data)
				}}
				if at == cmdRcpt {
					want.Reason = "said of the recipient b@example.org"
				}
				m := mail("")
				m.Body = iotest.ErrReader(errors.New("the body was read"))
				v, err := k.filter(nil).Ask(t.Context(), m)
				if err != nil || v.Action != want.Action || v.Reply != want.Reply || v.Reason != want.Reason {
					t.Errorf("at %c %q: %+v %v", at, answer, v, err)
				}
				synctest.Wait()
				heard := ""
				for _, h := range k.heard[1:] {
					if h[0] != cmdMacros {
						heard += h[:1]
					}
				}
				if heard != commands+"Q" {
					t.Errorf("at %c %q: heard %s", at, answer, heard)
				}
			})
		}
	}
}

// aByte is a body without end of one octet, which takes no memory.
type aByte struct{}

func (aByte) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A large body goes through a piece of memory of one size, whether each of its pieces is answered
// or none.
func TestALargeBodyIsStreamed(t *testing.T) {
	const size = 45 << 20
	for name, steps := range map[string]uint32{"answered": 0, "not answered": silentBody} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			told := int64(0)
			go func() {
				defer func() { _ = theirs.Close() }()
				var head [5]byte
				for {
					if _, err := io.ReadFull(theirs, head[:]); err != nil {
						return
					}
					n, _ := io.CopyN(io.Discard, theirs, int64(binary.BigEndian.Uint32(head[:])-1))
					says := packetOf(ansContinue)
					switch head[4] {
					case cmdMacros:
						continue
					case cmdNegotiate:
						says = packetOf(cmdNegotiate, []byte{0, 0, 0, 6, 0, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, steps))
					case cmdBody:
						if told += n; steps != 0 {
							continue
						}
					}
					if _, err := theirs.Write(says); err != nil {
						return
					}
				}
			}()
			f := New(Options{Timeout: time.Minute, Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
			m := mail("")
			m.Body = io.LimitReader(aByte{}, size)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			v, err := f.Ask(t.Context(), m)
			runtime.ReadMemStats(&after)
			if err != nil || v.Action != ActionNone || told != size {
				t.Errorf("%+v %v, and it was told %d octets", v, err, told)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > size/8 {
				t.Errorf("it took %d octets of memory", took)
			}
		})
	}
}

// A body that cannot be read is our own trouble, and nobody leaves the filter alone for it.
func TestABodyThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := (&fake{version: 6, answer: proceeds}).filter(&log)
		for i := range 20 {
			m := mail("")
			m.Client, m.Body = net.IPv4(192, 0, 2, byte(i)), iotest.ErrReader(errors.New("no disk"))
			if v, err := f.Ask(t.Context(), m); err == nil || err.Error() != "the message cannot be read: no disk" {
				t.Errorf("%+v %v", v, err)
			}
		}
		if log.Len() > 0 {
			t.Errorf("said %s", &log)
		}
	})
}

// What a filter wants done at the end.
func TestWhatIsWanted(t *testing.T) {
	insert := func(at uint32, name, value string) []byte {
		return packetOf(modInsert, binary.BigEndian.AppendUint32(nil, at), texts(name, value))
	}
	for name, c := range map[string]struct {
		says [][]byte
		want Verdict
		err  string
	}{
		"fields":             {[][]byte{packetOf(modAdd, texts("X-Last", "3")), insert(0, "X-First", " 1"), insert(1, "X-Second", "2\n\tfolded"), packetOf(ansContinue)}, Verdict{Action: ActionNone, Fields: []Field{{"X-First", "1"}, {"X-Second", "2\n\tfolded"}, {"X-Last", "3"}}}, ""},
		"progress":           {[][]byte{packetOf(ansProgress), packetOf(ansProgress), packetOf(ansAccept)}, Verdict{Action: ActionAccept}, ""},
		"quarantine":         {[][]byte{packetOf(modQuarantine, texts("a virus\r\n")), packetOf(ansContinue)}, Verdict{Action: ActionQuarantine, Reason: "a virus??"}, ""},
		"quarantine refused": {[][]byte{packetOf(modQuarantine, texts("a virus")), packetOf(ansReject)}, Verdict{Action: ActionReject}, ""},
		"changes":            {[][]byte{packetOf(modChange, []byte("\x00\x00\x00\x01"), texts("Subject", "[SPAM]")), packetOf(modBody, []byte("other")), packetOf(modAddRcpt, texts("<x@y>")), packetOf(ansAccept)}, Verdict{Action: ActionAccept, Reason: "not done, since it was not offered: change a field, replace the body, add a recipient"}, ""},
		"a reply":            {[][]byte{packetOf(ansReply, texts("451 4.7.1 Come again"))}, Verdict{Action: ActionTempfail, Reply: "451 4.7.1 Come again"}, ""},
		"a reply of lines":   {[][]byte{packetOf(ansReply, texts("550-5.7.1 No\r\n550 5.7.1 really not"))}, Verdict{Action: ActionReject, Reply: "550 5.7.1 No 5.7.1 really not"}, ""},
		"discard":            {[][]byte{packetOf(ansDiscard)}, Verdict{Action: ActionDiscard}, ""},
		"tempfail":           {[][]byte{packetOf(ansTempfail)}, Verdict{Action: ActionTempfail}, ""},

		// A field may repeat what the sender wrote: it undoes no refusal.
		"a reject with a bad field": {[][]byte{packetOf(modAdd, texts("X", "a\rb")), packetOf(modAdd, texts("Y", "c")), packetOf(ansReply, texts("550 5.7.1 no"))}, Verdict{Action: ActionReject, Reply: "550 5.7.1 no"}, ""},
		"octets of eight bits":      {[][]byte{packetOf(modAdd, texts("X", "gr\u00fc\u00dfe \xff\x1b[2J")), packetOf(ansAccept)}, Verdict{Action: ActionAccept, Fields: []Field{{"X", "gr??e ??[2J"}}}, ""},

		"it shuts down":           {[][]byte{packetOf('4')}, Verdict{}, "gives up the connection"},
		"it fails":                {[][]byte{packetOf('f')}, Verdict{}, "gives up the connection"},
		"a reply of success":      {[][]byte{packetOf(ansReply, texts("250 OK"))}, Verdict{}, "its reply is none"},
		"a reply without end":     {[][]byte{packetOf(ansReply, []byte("550 no"))}, Verdict{}, "broken off"},
		"nonsense":                {[][]byte{packetOf('?')}, Verdict{}, `it answers with '?'`},
		"skip at the end":         {[][]byte{packetOf(ansSkip)}, Verdict{}, `it answers with 's'`},
		"an empty packet":         {[][]byte{{0, 0, 0, 0}}, Verdict{}, "empty packet"},
		"a packet too large":      {[][]byte{{0x20, 0, 0, 0, 'c'}}, Verdict{}, "a packet of 536870912 octets"},
		"a field with CR":         {[][]byte{packetOf(modAdd, texts("X", "a\rb")), packetOf(ansAccept)}, Verdict{}, "has a line that is none"},
		"a field that breaks out": {[][]byte{packetOf(modAdd, texts("X", "a\r\nFrom: b")), packetOf(ansAccept)}, Verdict{}, "not folded"},
		"a body after a field":    {[][]byte{packetOf(modAdd, texts("X", "a\n\nbody")), packetOf(ansAccept)}, Verdict{}, "not folded"},
		"a name that is none":     {[][]byte{packetOf(modAdd, texts("X: y\r\nZ", "a")), packetOf(ansAccept)}, Verdict{}, "no name of a field"},
		"a field broken off":      {[][]byte{packetOf(modInsert, []byte{0}), packetOf(ansAccept)}, Verdict{}, "broken off"},
		"a thousand fields":       {append(slices.Repeat([][]byte{packetOf(modAdd, texts("X", "a"))}, 1000), packetOf(ansAccept)), Verdict{}, "more than 50 fields"},
		"large fields":            {append(slices.Repeat([][]byte{packetOf(modAdd, texts("X", strings.Repeat("a", 800)))}, 30), packetOf(ansAccept)), Verdict{}, "16384 octets"},
		"body without end":        {slices.Repeat([][]byte{packetOf(modBody, bytes.Repeat([]byte("x"), 60000))}, 100), Verdict{}, "it says too much"},
		"hangs up":                {[][]byte{packetOf(modAdd, texts("X", "a")), hangUpNow}, Verdict{}, "it hung up in the middle"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &fake{version: 6, actions: actions, answer: func(code byte, data []byte) []byte {
					if code != cmdEnd {
						return proceeds(code, data)
					}
					return bytes.Join(c.says, nil)
				}}
				if bytes.Equal(c.says[len(c.says)-1], hangUpNow) {
					k.answer = func(code byte, data []byte) []byte {
						if code == cmdEnd {
							return hangUpNow
						}
						return proceeds(code, data)
					}
				}
				v, err := k.filter(nil).Ask(t.Context(), mail("x"))
				switch {
				case c.err == "" && (err != nil || v.Action != c.want.Action || v.Reply != c.want.Reply || v.Reason != c.want.Reason || !slices.Equal(v.Fields, c.want.Fields)):
					t.Errorf("%+v %v, want %+v", v, err, c.want)
				case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || v.Action != "" || v.Fields != nil):
					t.Errorf("%+v %v, want %q", v, err, c.err)
				}
				synctest.Wait()
				if !k.closed {
					t.Error("the connection was left open")
				}
			})
		})
	}
}

// A filter that hangs, dies or talks nonsense at any of its answers is in trouble within its time;
// that is said once, and once that it is over.
func TestTroubleAtEachAnswer(t *testing.T) {
	for _, at := range []byte{cmdNegotiate, cmdConnect, cmdHelo, cmdMail, cmdRcpt, cmdData, cmdHeader, cmdEndHeader, cmdBody, cmdEnd} {
		for how, c := range map[string]struct {
			says []byte
			want string
			most time.Duration
		}{
			"hangs":    {nil, "no answer within 10s", 10 * time.Second},
			"dies":     {hangUpNow, "", 0},
			"nonsense": {packetOf('!'), `with '!'`, 0},
			"half":     {[]byte{0, 0, 0, 9, 'c'}, "no answer within 10s", 10 * time.Second},
		} {
			t.Run(string(at)+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					good := &fake{version: 6, answer: proceeds}
					k := &fake{version: 6, answer: func(code byte, data []byte) []byte {
						if code == at {
							return c.says
						}
						return proceeds(code, data)
					}}
					if at == cmdNegotiate {
						k.version = 0
					}
					var log bytes.Buffer
					f := k.filter(&log)
					start := time.Now()
					v, err := f.Ask(t.Context(), mail("x"))
					if err == nil || !strings.Contains(err.Error(), c.want) || v.Action != "" {
						t.Errorf("%+v %v, want %q", v, err, c.want)
					}
					if bodyless := !strings.Contains(v.Told, "octets"); bodyless != (at != cmdBody && at != cmdEnd) {
						t.Errorf("told %q", v.Told)
					}
					if took := time.Since(start); took != c.most {
						t.Errorf("after %s", took)
					}
					_, _ = f.Ask(t.Context(), mail("x"))
					f.peer.Dial = good.dial
					if v, err := f.Ask(t.Context(), mail("x")); err != nil || v.Action != ActionNone {
						t.Errorf("in the end %+v %v", v, err)
					}
					if said := log.String(); strings.Count(said, "gives no verdict") != 1 || strings.Count(said, "answers again") != 1 {
						t.Errorf("said %s", said)
					}
				})
			})
		}
	}
}

// Progress without end has an end.
func TestProgressWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		k := &fake{version: 6, answer: proceeds}
		f := k.filter(nil)
		f.peer.Dial = func(context.Context, string, string) (net.Conn, error) { return ours, nil }
		go func() {
			r := reader{in: bufio.NewReader(theirs), left: 1 << 30}
			_, _ = r.read()
			_, _ = theirs.Write(packetOf(cmdNegotiate, binary.BigEndian.AppendUint32(nil, 6), make([]byte, 8)))
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			for {
				if _, err := theirs.Write(packetOf(ansProgress)); err != nil {
					return
				}
				time.Sleep(5 * time.Second)
			}
		}()
		start := time.Now()
		if _, err := f.Ask(t.Context(), mail("x")); err == nil || !strings.Contains(err.Error(), "no verdict within 40s") {
			t.Error(err)
		}
		if took := time.Since(start); took != 40*time.Second {
			t.Errorf("after %s", took)
		}
		_ = theirs.Close()
		time.Sleep(6 * time.Second) // in the bubble: until the fake has seen it
	})
}

func TestNegotiationThatFails(t *testing.T) {
	for want, k := range map[string]*fake{
		"version 1":                           {version: 1, answer: proceeds},
		"version 7":                           {version: 7, answer: proceeds},
		"steps that were not offered (0x800)": {version: 6, steps: 0x800, answer: proceeds},
		"macros is broken off":                {version: 6, macros: []byte{0, 0, 0, 1, 'j'}, answer: proceeds},
	} {
		synctest.Test(t, func(t *testing.T) {
			if _, err := k.filter(nil).Ask(t.Context(), mail("x")); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			synctest.Wait()
			if !k.closed {
				t.Errorf("%s: the connection was left open", want)
			}
		})
	}
}

// Whatever a filter answers, there is a verdict or an error, and what is to be added are fields.
func FuzzAnswers(f *testing.F) {
	f.Add(bytes.Join([][]byte{packetOf(cmdNegotiate, []byte{0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0}), packetOf(ansContinue), packetOf(modAdd, texts("X", "y"))}, nil))
	f.Add(bytes.Join([][]byte{packetOf(cmdNegotiate, []byte{0, 0, 0, 6, 0, 0, 0, 0, 0, 0x1f, 0xff, 0xff}), packetOf(modAdd, texts("X", "y\n z")), packetOf(ansReply, texts("550 5.7.1 no"))}, nil))
	f.Fuzz(func(t *testing.T, octets []byte) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() { _, _ = theirs.Write(octets); _ = theirs.Close() }()
		fl := New(Options{Timeout: time.Second, AddFields: true, Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
		v, err := fl.Ask(t.Context(), mail("x"))
		if err != nil && (v.Action != "" || v.Fields != nil) {
			t.Errorf("%+v and %v", v, err)
		}
		for _, field := range v.Fields {
			for i, line := range strings.Split(field.Value, "\n") {
				if strings.ContainsAny(line, "\r\x00") || i > 0 && strings.TrimLeft(line, " \t") == line {
					t.Errorf("a field %q", field)
				}
			}
		}
	})
}

// What a filter wants to be told is bounded before anything is said.
func TestMacrosThatAreTooMany(t *testing.T) {
	for _, n := range []int{1, maxMacros, maxMacros + 1, 60000} {
		_, err := readMacros(append([]byte{0, 0, 0, 1}, texts(strings.Repeat("_ ", n))...))
		if (err != nil) != (n > maxMacros) {
			t.Errorf("%d: %v", n, err)
		}
	}
}
