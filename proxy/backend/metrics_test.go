package backend

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"postern/metrics"
	"postern/proxy/smtptest"
)

// Failures are counted once each, by their kind, and the phases are measured.
func TestWhatIsCounted(t *testing.T) {
	m := metrics.New()
	rcpts := 0
	sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		if st.Verb != "RCPT" {
			return smtptest.Action{}
		}
		rcpts++
		return smtptest.Action{Close: rcpts == 2}
	}})
	up := true
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if !up {
			return nil, net.ErrClosed
		}
		return sink.Dial(ctx, network, address)
	}
	s := newSet(t, Options{Dial: dial, Metrics: m}, backendAt(identityXClient, "mta:25"))
	for _, how := range []string{"DATA", "DATA", "BDAT", "BDAT in one group"} {
		if err, _ := message(s, how); (err != nil) != (rcpts == 2) {
			t.Fatal(how, err)
		}
	}
	c := open(t, s, alice)
	c.QueueMail(sender, nil)
	c.Abort() // which is no failure of the backend's
	if _, err := c.Reply(); err == nil {
		t.Error("a reply after Abort")
	}
	s.Close()
	s = newSet(t, Options{Dial: dial, Metrics: m}, backendAt(identityXClient, "mta:25"))
	up = false
	failure(t, s, alice)

	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		`postern_backend_errors_total{backend="mta",kind="lost"} 1`,
		`postern_backend_errors_total{backend="mta",kind="dial"} 1`,
		`postern_backend_duration_seconds_count{backend="mta",phase="connect"} 2`,
		`postern_backend_duration_seconds_count{backend="mta",phase="envelope"} 3`,
		`postern_backend_duration_seconds_count{backend="mta",phase="data"} 3`,
		`postern_backend_duration_seconds_count{backend="mta",phase="end_of_data"} 3`,
		`postern_backend_up{address="mta:25",backend="mta"} 0`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("not there: %s", line)
		}
	}
	if t.Failed() {
		for line := range strings.Lines(w.Body.String()) {
			if strings.HasPrefix(line, "postern_backend") && !strings.Contains(line, "bucket") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}
