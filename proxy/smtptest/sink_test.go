package smtptest

import (
	"bufio"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"postern/proxy/smtp"
)

// talk sends input on a new connection, reads replies until it closes, and
// returns their codes.
func talk(t *testing.T, nc net.Conn, input string) []int {
	t.Helper()
	defer nc.Close()
	go func() { _, _ = io.WriteString(nc, input) }()
	var codes []int
	br := bufio.NewReader(nc)
	for {
		r, err := smtp.ReadReply(br)
		if err != nil {
			return codes
		}
		if codes = append(codes, r.Code); r.Code == 221 {
			return codes
		}
	}
}

const (
	envelope = "EHLO x\r\nMAIL FROM:<a@b> BODY=8BITMIME\r\nRCPT TO:<c@d>\r\n"
	text     = "A: b\r\n\r\n..x\r\n"
)

func TestSinkRecords(t *testing.T) {
	s := NewSink(SinkOptions{})
	defer s.Close()
	input := "XCLIENT ADDR=192.0.2.1 NAME=a+2Bb\r\n" + envelope + "DATA\r\n" + text + ".\r\nQUIT\r\n"
	nc, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if got := talk(t, nc, input); !slices.Equal(got, []int{220, 220, 250, 250, 250, 354, 250, 221}) {
		t.Error(got)
	}
	nc, _ = s.Dial(context.Background(), "", "")
	if got := talk(t, nc, envelope+"BDAT 3\r\nx\r\nBDAT 0 LAST\r\nQUIT\r\n"); !slices.Equal(got, []int{220, 250, 250, 250, 250, 250, 221}) {
		t.Error(got)
	}
	m := s.Messages()
	if len(m) != 2 {
		t.Fatalf("%d messages", len(m))
	}
	if string(m[0].Raw) != text || string(m[0].Text) != strings.Replace(text, "..", ".", 1) || m[0].Chunked ||
		m[0].XClient["NAME"] != "a+b" || m[0].Params[0].String() != "BODY=8BITMIME" || m[0].To[0].Path.String() != "c@d" {
		t.Errorf("%+v", m[0])
	}
	if string(m[1].Raw) != "x\r\n" || !m[1].Chunked || m[1].Connection != 2 {
		t.Errorf("%+v", m[1])
	}
	if string(s.Wire(1)) != input || s.Wire(3) != nil || s.Connections() != 2 || s.Discarded() != 0 {
		t.Errorf("%q", s.Wire(1))
	}
	if got := s.Commands(); len(got) != 12 || got[0] != "XCLIENT ADDR=192.0.2.1 NAME=a+2Bb" || got[10] != "BDAT 0 LAST" {
		t.Errorf("%q", got)
	}
}

func TestSinkMisbehaves(t *testing.T) {
	for _, tc := range []struct {
		name  string
		o     SinkOptions
		codes []int
		kept  int
	}{
		{"refuses a recipient", SinkOptions{Script: on("RCPT", Action{Reply: "550 5.1.1 No\r\n"})}, []int{220, 250, 250, 550, 554, 500, 500, 500, 500, 221}, 0},
		{"refuses the message", SinkOptions{Script: on(".", Action{Reply: "451 4.3.0 No\r\n"})}, []int{220, 250, 250, 250, 354, 451, 221}, 0},
		{"lies", SinkOptions{Script: on(".", Action{Reply: "451 4.3.0 No\r\n", Do: true})}, []int{220, 250, 250, 250, 354, 451, 221}, 1},
		{"hangs up in the middle", SinkOptions{Script: on("TEXT", Action{Close: true})}, []int{220, 250, 250, 250, 354}, 0},
		{"hangs up before the reply", SinkOptions{Script: on(".", Action{Do: true, Close: true})}, []int{220, 250, 250, 250, 354}, 1},
		{"goes down", SinkOptions{Script: on("MAIL", Action{Reply: "421 4.3.2 Bye\r\n", Close: true})}, []int{220, 250, 421}, 0},
		{"offers less", SinkOptions{Without: []string{"8BITMIME"}}, []int{220, 250, 555, 503, 503, 500, 500, 500, 500, 221}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewSink(tc.o)
			nc, err := s.Dial(context.Background(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			got := talk(t, nc, envelope+"DATA\r\n"+text+".\r\nQUIT\r\n")
			s.Close()
			if !slices.Equal(got, tc.codes) || len(s.Messages()) != tc.kept {
				t.Errorf("%v, %d kept", got, len(s.Messages()))
			}
			if _, err := s.Dial(context.Background(), "", ""); err == nil {
				t.Error("it is closed, and answers")
			}
		})
	}
}

// on makes a script that acts at one verb.
func on(verb string, a Action) func(Step) Action {
	return func(st Step) Action {
		if st.Verb == verb {
			return a
		}
		return Action{}
	}
}
