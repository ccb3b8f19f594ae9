package relay

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/checks/leaktest"
	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// story is one transaction with a backend, as a session would have it.
type story struct {
	t        *testing.T
	site     Site
	loan     Loan
	talk     Conversation
	out      Outgoing
	timeouts configs.Timeouts
	sink     *smtptest.Sink
	log      bytes.Buffer
	taken    []smtp.Path
	client   backend.Client
	waiting  int // how often the wait for the client was interrupted
}

var (
	alice = smtp.Path{Local: "alice", Domain: "good.example"}
	bob   = smtp.Path{Local: "bob", Domain: "local.example"}
	carol = smtp.Path{Local: "carol", Domain: "local.example"}
)

// tell begins a story with a backend like that, in a bubble of time of its own.
func tell(t *testing.T, o smtptest.SinkOptions, f func(*story)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &story{t: t, timeouts: configs.Default().Timeouts}
		s.client = backend.Client{Addr: netip.MustParseAddrPort("192.0.2.7:4711"), Helo: "client.example", ESMTP: true}
		s.sink = smtptest.NewSink(o)
		set, err := backend.New([]configs.Backend{{Name: "mta", Addresses: []string{"mta:25"}, TLS: "off", Identity: "none"}}, nil,
			backend.Options{Hostname: "mx.test", Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				return s.sink.Dial(ctx, network, address)
			}})
		if err != nil {
			t.Fatal(err)
		}
		s.site = Site{Context: t.Context(), Log: slog.New(slog.NewTextHandler(&s.log, nil))}
		s.loan.Begin(s)
		s.begin(set.Route(bob))
		f(s)
		s.out.Close()
		s.loan.Release()
		set.Close()
		s.sink.Close()
	})
}

// begin begins a transaction, perhaps another one.
func (s *story) begin(pool *backend.Pool) {
	s.talk, s.out, s.taken = Conversation{}, Outgoing{}, nil
	s.talk.Begin(&s.site, s, "id", &s.loan, &s.timeouts)
	s.talk.Mail.From = alice
	s.talk.To(pool)
	s.talk.Message(&s.out)
}

// rcpt has the backend asked for a recipient, and reads its answer.
func (s *story) rcpt(to smtp.Path) smtp.Reply {
	r := s.talk.Rcpt(to, nil)
	if !r.IsZero() {
		return r
	}
	if r = s.talk.RcptReply(s.talk.MailRefusal()); r.Positive() {
		s.taken = append(s.taken, to)
	}
	return r
}

// message sends a message of that shape in those pieces.
func (s *story) message(shape Shape, pieces ...string) Fate {
	if f := s.out.Begin(shape, int64(len(strings.Join(pieces, "")))); f.Sealed() {
		return f
	}
	for _, p := range pieces {
		if f := s.out.Send([]byte(p)); f.Sealed() {
			return f
		}
	}
	s.out.Ends()
	if f := s.out.End(); f.Sealed() {
		return f
	}
	return s.out.Answer()
}

// want fails unless a reply, and an outcome where there is one, is as it should be.
func (s *story) want(what, prefix string, r smtp.Reply) {
	s.t.Helper()
	if !strings.HasPrefix(r.String(), prefix) {
		s.t.Errorf("%s: %q, want %q", what, r.String(), prefix)
	}
}

func (s *story) wantFate(what string, outcome journal.Outcome, prefix string, f Fate) {
	s.t.Helper()
	s.want(what, prefix, f.Reply)
	if f.Outcome != outcome {
		s.t.Errorf("%s: %q, want %q", what, f.Outcome, outcome)
	}
}

func (s *story) Client() backend.Client { return s.client }

func (s *story) StillTrue(told *backend.Client) bool { return told.Helo == s.client.Helo }

func (s *story) Taken() iter.Seq2[smtp.Path, []smtp.Param] {
	return func(yield func(smtp.Path, []smtp.Param) bool) {
		for _, to := range s.taken {
			if !yield(to, nil) {
				return
			}
		}
	}
}

func (s *story) Took(string, time.Time) {}

func (s *story) Interrupt() { s.waiting++ }

// at answers one verb, and leaves all else to a good server.
func at(verb string, a smtptest.Action) func(smtptest.Step) smtptest.Action {
	return func(st smtptest.Step) smtptest.Action {
		if st.Verb == verb {
			return a
		}
		return smtptest.Action{}
	}
}

// However a message is at hand and whatever the backend offers, it gets the octets that
// the client meant, by the command that the framing is for.
func TestFramings(t *testing.T) {
	const stuffed, plain = "Subject: dots\r\n\r\n..one\r\n", "Subject: dots\r\n\r\n.one\r\n"
	for _, tc := range []struct {
		name  string
		shape Shape
		sent  string
		with  string // how it goes where there is CHUNKING
		rest  string // and where there is none
	}{
		{"DATA, in pieces", Shape{}, stuffed, "DATA", "DATA"},
		{"DATA, at hand", Shape{Whole: true}, stuffed, "BDAT 23 LAST", "DATA"},
		{"BDAT", Shape{Raw: true, Last: true}, plain, "BDAT 23 LAST", "DATA"},
		{"held", Shape{Raw: true, Held: true, Whole: true, Last: true}, plain, "BDAT 23 LAST", "DATA"},
		{"binary", Shape{Raw: true, Binary: true, Last: true}, plain, "BDAT 23 LAST", ""},
	} {
		for _, without := range []string{"", "CHUNKING"} {
			tell(t, smtptest.SinkOptions{Without: []string{without}}, func(s *story) {
				how := tc.with
				if without != "" {
					how = tc.rest
				}
				s.want(tc.name, "250 ", s.rcpt(bob))
				f := s.message(tc.shape, tc.sent[:20], tc.sent[20:])
				if how == "" {
					s.wantFate(tc.name, journal.OutcomeFailed, "451 4.4.1 ", f)
					return
				}
				s.wantFate(tc.name, journal.OutcomeDelivered, "250 ", f)
				if all := s.sink.Messages(); len(all) != 1 || string(all[0].Text) != plain {
					t.Errorf("%s, without %q: %+v", tc.name, without, all)
				}
				if heard := s.sink.Commands(); !slices.Contains(heard, how) {
					t.Errorf("%s, without %q: no %s in %q", tc.name, without, how, heard)
				}
			})
		}
	}
}

// The chunks of a client go on as they come, the last one only when those before it were
// taken.
func TestChunks(t *testing.T) {
	bdats := 0
	tell(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		if st.Verb == "BDAT" {
			if bdats++; bdats == 2 {
				return smtptest.Action{Reply: "552 5.3.4 Too much\r\n"}
			}
		}
		return smtptest.Action{}
	}}, func(s *story) {
		s.want("RCPT", "250 ", s.rcpt(bob))
		if f := s.out.Begin(Shape{Raw: true}, 3); f.Sealed() {
			t.Fatal(f)
		}
		for range 2 {
			if f := s.out.Send([]byte("a\r\n")); f.Sealed() {
				t.Fatal(f)
			}
			if f := s.out.Chunk(3, false); f.Sealed() {
				t.Fatal(f)
			}
		}
		if f := s.out.Send([]byte("a\r\n")); f.Sealed() {
			t.Fatal(f)
		}
		s.wantFate("the last chunk", journal.OutcomeBackendRefused, "552 5.3.4 ", s.out.Chunk(3, true))
		s.loan.Drop()
		synctest.Wait()
		if len(s.sink.Messages()) != 0 {
			t.Error("a message with a hole in it was taken")
		}
	})
}

// What a backend offers decides which parameters of MAIL it hears, and whether it can be
// asked at all.
func TestParametersOfMail(t *testing.T) {
	given := []smtp.Param{
		{Key: "SIZE", Value: "100", HasValue: true}, {Key: "SUBMITTER", Value: "s@good.example", HasValue: true},
		{Key: "BODY", Value: "8BITMIME", HasValue: true}, {Key: "RET", Value: "HDRS", HasValue: true},
	}
	for _, tc := range []struct {
		without string
		more    string
		want    string // the line of MAIL; empty: it is not said
	}{
		{"", "", "MAIL FROM:<alice@good.example> SIZE=300 SUBMITTER=s@good.example BODY=8BITMIME RET=HDRS"},
		{"SUBMITTER", "", "MAIL FROM:<alice@good.example> SIZE=300 BODY=8BITMIME RET=HDRS"},
		{"8BITMIME", "", ""},
		{"DSN", "", ""},
		{"SMTPUTF8", "SMTPUTF8", ""},
		{"", "REQUIRETLS", ""}, // the connection is in the clear
	} {
		tell(t, smtptest.SinkOptions{Without: []string{tc.without}}, func(s *story) {
			s.talk.Mail.Params, s.talk.Mail.Eight, s.talk.Mail.Size = given, true, 300
			if tc.more != "" {
				s.talk.Mail.Params = append(slices.Clip(given), smtp.Param{Key: tc.more})
			}
			r := s.rcpt(bob)
			heard := slices.DeleteFunc(s.sink.Commands(), func(c string) bool { return !strings.HasPrefix(c, "MAIL") })
			if tc.want == "" {
				s.want("without "+tc.without+" "+tc.more, "451 4.3.0 ", r)
				if len(heard) > 0 {
					t.Errorf("without %s: %q", tc.without, heard)
				}
				return
			}
			s.want("without "+tc.without, "250 ", r)
			if diff := cmp.Diff([]string{tc.want}, heard); diff != "" {
				t.Errorf("without %s (-want +got):\n%s", tc.without, diff)
			}
		})
	}
}

// What the client hears of a backend's answers is never an invitation, nor for good what
// is between the backend and us.
func TestAnswersToTheEnvelope(t *testing.T) {
	for _, tc := range []struct {
		at, reply  string
		want, log  string
		stillThere bool
	}{
		{"RCPT", "550 Unknown\r\n", "550 5.0.0 Unknown", "", true},
		{"RCPT", "450 4.2.1 Later\r\n", "450 4.2.1 Later", "", true},
		{"RCPT", "503 5.5.1 MAIL first\r\n", "451 4.3.0 The mail server behind us does not take mail from us", "does not take our commands", true},
		{"RCPT", "530 5.7.0 STARTTLS first\r\n", "451 4.3.0 ", "does not take our commands", true},
		{"RCPT", "354 Go ahead\r\n", "451 4.4.1 ", "", false},
		{"RCPT", "what?\r\n", "451 4.4.1 ", "", false},
		{"MAIL", "552 5.2.2 Too large\r\n", "552 5.2.2 Too large", "", true},
		{"MAIL", "354 Go ahead\r\n", "451 4.4.1 ", "", false},
	} {
		tell(t, smtptest.SinkOptions{Script: at(tc.at, smtptest.Action{Reply: tc.reply})}, func(s *story) {
			s.want(tc.at+" "+tc.reply, tc.want, s.rcpt(bob))
			if !strings.Contains(s.log.String(), tc.log) {
				t.Errorf("%s: the log has %q", tc.reply, s.log.String())
			}
			if there := s.loan.Conn() != nil && s.talk.Broken == ""; there != tc.stillThere {
				t.Errorf("%s: the conversation goes on: %v", tc.reply, there)
			}
			if !tc.stillThere {
				s.want("the next recipient", "451 4.4.1 ", s.rcpt(carol))
			}
		})
	}
}

// A refused MAIL is the answer to each recipient.
func TestRefusedMailIsTheAnswerToAll(t *testing.T) {
	tell(t, smtptest.SinkOptions{Script: at("MAIL", smtptest.Action{Reply: "550 5.7.1 Not you\r\n"})}, func(s *story) {
		for _, to := range []smtp.Path{bob, carol} {
			if r := s.talk.Rcpt(to, nil); !r.IsZero() {
				t.Fatal(r)
			}
		}
		if !s.talk.MailDue() {
			t.Error("MAIL was answered before it was asked for")
		}
		refused := s.talk.MailRefusal()
		for range 2 {
			s.want("RCPT", "550 5.7.1 Not you", s.talk.RcptReply(refused))
		}
		if s.talk.Said.Code != 550 {
			t.Errorf("the record would say %v", s.talk.Said)
		}
	})
}

// Only the backend's 250 to the end is a 250; where its word is missing, the message may
// be there or not, and the client comes again.
func TestAnswersToTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name    string
		action  smtptest.Action
		outcome journal.Outcome
		want    string
	}{
		{"taken", smtptest.Action{}, journal.OutcomeDelivered, "250 "},
		{"taken, without a code", smtptest.Action{Reply: "250 OK\r\n", Do: true}, journal.OutcomeDelivered, "250 2.6.0 OK"},
		{"refused", smtptest.Action{Reply: "554 5.7.1 Spam\r\n"}, journal.OutcomeBackendRefused, "554 5.7.1 Spam"},
		{"354", smtptest.Action{Reply: "354 More\r\n"}, journal.OutcomeFailed, "451 4.4.1 "},
		{"421 and gone", smtptest.Action{Reply: "421 4.3.2 Going\r\n", Close: true}, journal.OutcomeFailed, "451 4.4.1 "},
		{"gone", smtptest.Action{Close: true, Do: true}, journal.OutcomeUnknown, "451 4.4.2 "},
		{"silent", smtptest.Action{Stall: true}, journal.OutcomeUnknown, "451 4.4.2 "},
	} {
		tell(t, smtptest.SinkOptions{Script: at(".", tc.action)}, func(s *story) {
			s.want("RCPT", "250 ", s.rcpt(bob))
			began := time.Now()
			s.wantFate(tc.name, tc.outcome, tc.want, s.message(Shape{}, "Subject: x\r\n\r\n"))
			if took := time.Since(began); took > s.timeouts.EndOfData {
				t.Errorf("%s: after %v", tc.name, took)
			}
			if unknown := strings.Contains(s.log.String(), "possible duplicate"); unknown != (tc.outcome == journal.OutcomeUnknown) {
				t.Errorf("%s: the log has %q", tc.name, s.log.String())
			}
		})
	}
}

// A bare CR that came by BDAT does not go on by DATA, and no end goes.
func TestBadOctetsGetNoEnd(t *testing.T) {
	tell(t, smtptest.SinkOptions{Without: []string{"CHUNKING"}}, func(s *story) {
		s.want("RCPT", "250 ", s.rcpt(bob))
		s.wantFate("a bare CR", journal.OutcomeRefused, "550 5.6.0 Message contains a bare CR (id)", s.message(Shape{Raw: true, Last: true}, "a: b\r\n\r\nx\ry\r\n"))
		if !s.out.Begun() {
			t.Error("DATA was not said")
		}
		s.loan.Drop()
		synctest.Wait()
		if len(s.sink.Messages()) != 0 {
			t.Error("the backend has a message")
		}
	})
}

// A backend that did not wait for a message is told the envelope again, once.
func TestEnvelopeIsSaidAgain(t *testing.T) {
	tell(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		if st.Verb == "NOOP" {
			return smtptest.Action{Reply: "421 4.4.2 Tired\r\n", Close: true}
		}
		return smtptest.Action{}
	}}, func(s *story) {
		s.want("bob", "250 ", s.rcpt(bob))
		s.want("carol", "250 ", s.rcpt(carol))
		for range 4 {
			if f := s.out.KeepAlive(); f.Sealed() {
				t.Fatal(f)
			}
			time.Sleep(keepAliveEvery / 2)
		}
		s.wantFate("the message", journal.OutcomeDelivered, "250 ", s.message(Shape{Raw: true, Held: true, Whole: true, Last: true}, "Subject: x\r\n\r\n"))
		if n := s.sink.Connections(); n != 2 {
			t.Errorf("%d connections", n)
		}
		if all := s.sink.Messages(); len(all) != 1 || len(all[0].To) != 2 {
			t.Errorf("%+v", all)
		}
	})
}

// What was given up is not asked again, and the client hears why.
func TestGivenUp(t *testing.T) {
	slow := smtp.Reply{Code: 451, Enhanced: "4.5", Text: "Too slow"}
	tell(t, smtptest.SinkOptions{}, func(s *story) {
		s.want("bob", "250 ", s.rcpt(bob))
		s.wantFate("the message", journal.OutcomeFailed, "451 4.4.5 Too slow (id)", s.talk.GiveUp(slow, "slow"))
		s.loan.Release()
		s.want("carol", "451 4.4.5 Too slow (id)", s.rcpt(carol))
		if s.talk.Broken != "slow" {
			t.Errorf("the record would say %q", s.talk.Broken)
		}
	})
}

// A connection goes from one transaction to the next, unless the client has become
// another one meanwhile.
func TestLoanLastsWhileWhatWasToldIsTrue(t *testing.T) {
	tell(t, smtptest.SinkOptions{}, func(s *story) {
		pool := s.talk.Pool()
		for i, helo := range []string{"client.example", "client.example", "other.example"} {
			s.client.Helo = helo
			s.begin(pool)
			s.want(helo, "250 ", s.rcpt(bob))
			s.wantFate(helo, journal.OutcomeDelivered, "250 ", s.message(Shape{}, "Subject: x\r\n\r\n"))
			if told := s.loan.Conn().Client().Helo; told != helo {
				t.Errorf("message %d: the backend was told of %s", i, told)
			}
			s.out.Close()
		}
	})
}

// A loan that is asked back interrupts the wait for the client; one that was aborted
// lets no later conversation begin.
func TestLoan(t *testing.T) {
	tell(t, smtptest.SinkOptions{}, func(s *story) {
		if s.loan.Spare() || s.loan.Wanted() {
			t.Error("there is nothing to spare")
		}
		s.want("RCPT", "250 ", s.rcpt(bob))
		if !s.loan.Spare() || s.loan.Wanted() {
			t.Error("wanted before somebody asked")
		}
		s.loan.Spare()
		s.loan.Asked()
		if s.waiting != 1 || !s.loan.Wanted() {
			t.Errorf("interrupted %d times", s.waiting)
		}
		pool := s.talk.Pool()
		s.loan.Release()
		s.loan.Abort()
		s.begin(pool)
		s.want("after Abort", "451 4.4.1 ", s.rcpt(bob))
		if !s.loan.Aborted() {
			t.Error("not aborted")
		}
	})
}

// A timer that could not be stopped in time does not end the conversation of the message
// that came next.
func TestALateTimerEndsNothing(t *testing.T) {
	tell(t, smtptest.SinkOptions{}, func(s *story) {
		pool := s.talk.Pool()
		for range 2 {
			s.rcpt(bob)
			s.wantFate("the message", journal.OutcomeDelivered, "250 2.", s.message(Shape{}, "Subject: x\r\n\r\n"))
			s.out.Close()
			s.loan.HangUp() // that of this message, late
			s.begin(pool)
			s.out.Ends()
			s.loan.HangUp() // and later still, when the next one has a time of its own
			s.out.Close()
			s.begin(pool)
		}
		s.want("the recipient of one whose time is up just as its answer comes", "250 ", s.rcpt(bob))
		s.out.Ends()
		time.Sleep(s.timeouts.EndOfData - 1)
		s.loan.setHangAt(time.Now())
		late := s.loan.timeIsUp()
		s.out.Close()
		if late == nil || s.loan.Conn() == late {
			t.Error("the next message begins on the connection that is about to be ended")
		}
		s.begin(pool)
		s.want("the recipient of the last one", "250 ", s.rcpt(bob))
		late.Abort()
		s.wantFate("the message behind it", journal.OutcomeDelivered, "250 2.", s.message(Shape{}, "Subject: x\r\n\r\n"))
		s.out.Close()
		s.begin(pool)
		s.want("the recipient of the last one", "250 ", s.rcpt(bob))
		s.out.Ends()
		conn := s.loan.Conn()
		time.Sleep(s.timeouts.EndOfData + time.Second)
		synctest.Wait()
		if r, err := conn.Reply(); err == nil {
			t.Errorf("the conversation outlives the time for the end: %+v", r)
		}
		s.loan.Drop()
	})
}
