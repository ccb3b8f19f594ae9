package proxy

import (
	"strings"
	"testing"

	"postern/configs"
	"postern/proxy/smtptest"
)

// A backend that goes while a message is held, or before it says 354, has heard of an
// envelope alone: that is said again on another connection, once, and all of it must
// be taken again.
func TestTheEnvelopeIsSaidAgainToABackendThatDidNotWait(t *testing.T) {
	held := configs.Policy{Mode: "enforce", Rules: []configs.Rule{{Name: "large", When: "message.size > 1000000", Do: "reject"}}}
	for _, tc := range []struct {
		name        string
		policy      configs.Policy
		without     string
		at          string // what the first connection does not outlive
		second      string // what the second says to the second RCPT; empty: yes
		reply       string
		messages    int
		connections int
	}{
		{"held, gone after RCPT", held, "", "RCPT", "", "250 ", 1, 2},
		{"held, for DATA", held, "CHUNKING", "RCPT", "", "250 ", 1, 2},
		{"gone at DATA", openPolicy, "CHUNKING", "DATA", "", "250 ", 1, 2},
		{"held, gone at DATA", held, "CHUNKING", "DATA", "", "250 ", 1, 2},
		{"a recipient is not taken again", held, "", "RCPT", "550 5.1.1 Gone\r\n", "451 4.4.1 ", 0, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rcpts := 0
			o := smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
				if st.Verb == "RCPT" {
					rcpts++
				}
				switch {
				case st.Connection == 2 && st.Verb == "RCPT" && rcpts == 2 && tc.at == "RCPT":
					return smtptest.Action{Reply: "250 2.1.5 OK\r\n421 4.4.2 Too slow\r\n", Do: true, Close: true}
				case st.Connection == 2 && st.Verb == "DATA":
					return smtptest.Action{Close: true}
				case st.Connection == 3 && rcpts == 4 && st.Verb == "RCPT" && tc.second != "":
					return smtptest.Action{Reply: tc.second}
				}
				return smtptest.Action{}
			}}
			if tc.without != "" {
				o.Without = []string{tc.without}
			}
			// The first connection is the rig's own, which learns what is offered.
			r := newRig(t, rigOptions{policy: &tc.policy, sink: o, overTCP: true, noIdle: true})
			c := r.connect("192.0.2.1")
			c.ehlo()
			c.cmd("MAIL FROM:<a@good.example>", "250")
			c.cmd("RCPT TO:<b@local.example> NOTIFY=NEVER", "250")
			c.cmd("RCPT TO:<c@local.example>", "250")
			c.cmd("DATA", "354")
			c.send("From: a@good.example\r\n\r\nx\r\n.\r\n")
			c.expect(tc.reply)
			c.cmd("QUIT", "221")
			m := r.sink.Messages()
			if len(m) != tc.messages || r.sink.Connections() != 1+tc.connections {
				t.Errorf("%d messages, %d connections\n%s", len(m), r.sink.Connections(), strings.Join(r.sink.Commands(), "\n"))
			}
			if len(m) > 0 && (len(m[0].To) != 2 || len(m[0].To[0].Params) != 1 || m[0].To[0].Params[0].Key != "NOTIFY") {
				t.Errorf("%+v", m[0].To)
			}
		})
	}
}
