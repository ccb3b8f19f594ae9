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
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/filter"
)

func TestParseAnswer(t *testing.T) {
	for text, want := range map[string]Answer{
		"action=DUNNO\n\n":          {"dunno", ""},
		"action=dunno\r\n\r\n":      {"dunno", ""},
		"action=OK\nfuture=yes\n\n": {"ok", ""},
		"action=permit\n\n":         {"ok", ""},
		"action=1\n\n":              {"ok", ""},
		"action=REJECT\n\n":         {"reject", ""},
		"action=550 5.7.23 Message rejected due to: SPF fail\n\n":    {"reject", "Message rejected due to: SPF fail"},
		"action=450 4.2.0 Greylisted, see http://x.example/?a=b\n\n": {"defer", "Greylisted, see http://x.example/?a=b"},
		"action=451\n\n":                                     {"defer", ""},
		"Action=DEFER_IF_PERMIT  Greylisted\n\n":             {"defer_if_permit", "Greylisted"},
		"action=PREPEND Received-SPF: pass (x)\n\n":          {"prepend", "Received-SPF: pass (x)"},
		"action=reject caf\xc3\xa9 \x1b[2J\n\n":              {"reject", "caf?? ?[2J"},
		"action=reject " + strings.Repeat("x", 500) + "\n\n": {"reject", strings.Repeat("x", 400)},
		"action=reject 5.7.1\n\n":                            {"reject", ""},
		"action=reject 1.2.3 is no status\n\n":               {"reject", "1.2.3 is no status"},
		"action=dunno\n\naction=reject after the end\n\n":    {"dunno", ""},
	} {
		if got, err := ParseAnswer([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %+v %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"\n":                              "has no action",
		"status=1\n\n":                    "has no action",
		"action=\n\n":                     "is no action",
		"action=greylist\n\n":             "is no action",
		"action=dunno\naction=reject\n\n": "two actions",
		"HTTP/1.1 200 OK\n\n":             "is no name=value",
	} {
		if got, err := ParseAnswer([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || got != (Answer{}) {
			t.Errorf("%q: %+v %v, want %q", text, got, err, want)
		}
	}
}

// server answers each question with what answer returns; an error ends the connection.
type server struct {
	mu     sync.Mutex
	opened int
	asked  []string
	answer func(n int, question string) (string, error)
}

func (s *server) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	s.mu.Lock()
	s.opened++
	s.mu.Unlock()
	go func() {
		defer func() { _ = theirs.Close() }()
		in := bufio.NewReader(theirs)
		for {
			var question strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\n" {
					break
				}
				question.WriteString(line)
			}
			s.mu.Lock()
			s.asked = append(s.asked, question.String())
			n := len(s.asked)
			s.mu.Unlock()
			text, err := s.answer(n, question.String())
			if _, werr := io.WriteString(theirs, text); werr != nil || err != nil {
				return
			}
		}
	}()
	return ours, nil
}

func (s *server) service(log io.Writer) *Service {
	o := Options{Name: "grey", Address: "127.0.0.1:10023", Timeout: 5 * time.Second, Dial: s.dial}
	if log != nil {
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	return New(o)
}

var question = []Attribute{{"request", "smtpd_access_policy"}, {"sender", "a@b.example\nrecipient=forged"}, {"helo_name", strings.Repeat("x", 3000)}}

func TestConnectionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: func(int, string) (string, error) { return "action=dunno\n\n", nil }}
		s := srv.service(nil)
		defer s.Close()
		for range 3 {
			if a, err := s.Ask(t.Context(), question); err != nil || a.Action != "dunno" {
				t.Fatal(a, err)
			}
		}
		if srv.opened != 1 {
			t.Errorf("%d connections", srv.opened)
		}
		if want := "request=smtpd_access_policy\nsender=a@b.example\nhelo_name=" + strings.Repeat("x", 1024) + "\n"; srv.asked[0] != want {
			t.Errorf("asked %q", srv.asked[0])
		}
		time.Sleep(maxIdle + time.Second)
		if _, err := s.Ask(t.Context(), question); err != nil || srv.opened != 2 {
			t.Errorf("after a while: %v, %d connections", err, srv.opened)
		}
		time.Sleep(maxIdle - time.Second)
		for range 5 { // it is in use, and too old in the end
			if _, err := s.Ask(t.Context(), question); err != nil {
				t.Error(err)
			}
			time.Sleep(maxIdle - time.Second)
		}
		if srv.opened != 3 {
			t.Errorf("of too great an age: %d connections", srv.opened)
		}
	})
}

// A service closes what was idle for it for too long: the question is asked again, once.
func TestAKeptConnectionThatWasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: func(int, string) (string, error) { return "action=dunno\n\n", errors.New("enough") }}
		s := srv.service(nil)
		defer s.Close()
		for range 3 {
			if _, err := s.Ask(t.Context(), question); err != nil {
				t.Fatal(err)
			}
		}
		if srv.opened != 3 {
			t.Errorf("%d connections", srv.opened)
		}
	})
}

// Whatever the service does, there is an end, an error that says what, one line when it begins
// and one when it is over.
func TestServicesInTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		ends   bool
		want   string
	}{
		"hangs":                {want: "no answer within 5s"},
		"hangs in the answer":  {answer: "action=du", want: "no answer within 5s"},
		"hangs before the end": {answer: "action=dunno\n", want: "no answer within 5s"},
		"ends":                 {ends: true, want: "ended before the answer"},
		"ends in the answer":   {answer: "action=dunno\n", ends: true, want: "ended within the answer"},
		"nonsense":             {answer: "220 mail.example ESMTP\n\n", want: "is no name=value"},
		"no action":            {answer: "\n", want: "has no action"},
		"an unknown word":      {answer: "action=greylist\n\n", want: `is no action: "greylist"`},
		"never ends":           {answer: strings.Repeat("a=b\n", 5000), want: "longer than 8192 octets"},
		"never ends in a line": {answer: strings.Repeat("a", 20000), want: "longer than 8192 octets"},
		"an answer with a NUL": {answer: "action=\x00\n\n", want: "is no action"},
		"speaks out of turn":   {answer: "action=dunno\n\naction=reject\n\n"},
		"talks after the end":  {answer: "action=dunno\n\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				good := false
				srv := &server{answer: func(int, string) (string, error) { return "", nil }}
				srv.answer = func(n int, _ string) (string, error) {
					switch {
					case good:
						return "action=reject no\n\n", nil
					case c.ends:
						return c.answer, errors.New("ends")
					}
					return c.answer, nil
				}
				var log bytes.Buffer
				s := srv.service(&log)
				defer s.Close()
				for range 2 {
					a, err := s.Ask(t.Context(), question)
					switch {
					case c.want == "" && (err != nil || a.Action != "dunno"):
						t.Errorf("%+v %v", a, err)
					case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || a != (Answer{})):
						t.Errorf("%+v %v, want %q", a, err, c.want)
					}
				}
				if n := strings.Count(log.String(), "gives no answer"); n != 1 && c.want != "" || c.want == "" && n != 0 {
					t.Errorf("said %d times: %s", n, &log)
				}
				good = true
				// An answer that came out of turn is nobody's.
				if a, err := s.Ask(t.Context(), question); err != nil || a.Action != "reject" {
					t.Errorf("in the end: %+v %v", a, err)
				}
				if n := strings.Count(log.String(), "answers again"); n != 1 && c.want != "" {
					t.Errorf("said %d times that it answers again", n)
				}
			})
		})
	}
}

func TestServiceThatIsNotThere(t *testing.T) {
	s := New(Options{Name: "gone", Address: "unix:/nowhere/socket", Timeout: time.Second})
	if _, err := s.Ask(t.Context(), question); err == nil || !strings.Contains(err.Error(), "no connection: dial unix /nowhere/socket") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Ask(ctx, question); err == nil {
		t.Error("asked for nobody")
	}
}

// No more than a bounded number of questions is under way, and nobody waits for longer than
// an answer may take.
func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		srv := &server{answer: func(int, string) (string, error) { <-release; return "action=dunno\n\n", nil }}
		s := srv.service(nil)
		defer s.Close()
		var wg sync.WaitGroup
		for i := range filter.MaxQuestions {
			about := append([]Attribute{{"client_address", fmt.Sprintf("192.0.2.%d", i)}}, question...)
			wg.Go(func() { _, _ = s.Ask(t.Context(), about) })
		}
		synctest.Wait()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := s.Ask(ctx, question); err == nil || !strings.Contains(err.Error(), "no room in time") {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*time.Second || srv.opened != filter.MaxQuestions {
			t.Errorf("after %s, %d connections", took, srv.opened)
		}
		close(release)
		wg.Wait()
	})
}

func FuzzParseAnswer(f *testing.F) {
	for _, text := range []string{"action=dunno\n\n", "action=550 5.7.1 no\r\n\r\n", "a=b\naction=PREPEND X: y\n\n", "", "action=", "\xff=\x00\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAnswer(text)
		if err != nil && a != (Answer{}) {
			t.Errorf("an error and %+v", a)
		}
		if len(a.Text) > maxText || strings.ContainsFunc(a.Text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%+v", a)
		}
	})
}
