package smtptest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"postern/proxy/smtptest"
)

var _ = flag.Bool("update", false, "rewrite the transcripts in testdata")

// direct connects the client of a story to a Sink, without a proxy between
// them: it is server and MTA at once.
func direct(t *testing.T, s *smtptest.Story) (net.Conn, func() []byte) {
	sink := smtptest.NewSink(smtptest.SinkOptions{
		Hostname: strings.TrimSpace(s.Config),
		TLS:      &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}},
	})
	t.Cleanup(sink.Close)
	c, err := sink.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return c, func() []byte {
		sink.Close()
		return sink.Wire(1)
	}
}

// selfSigned makes a certificate that is good for a handshake and nothing else.
func selfSigned(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestStories(t *testing.T) { smtptest.Run(t, "testdata/*.txt", direct) }

// TestUpdateRewritesTheStory: from what the client says alone, -update makes
// the story that then passes, and leaves the rest of the file as it is.
func TestUpdateRewritesTheStory(t *testing.T) {
	want, err := os.ReadFile("testdata/pipelined.txt")
	if err != nil {
		t.Fatal(err)
	}
	bare, _, ok := strings.Cut(string(want), "-- backend --\n")
	if !ok {
		t.Fatal("the story has no backend section")
	}
	var b strings.Builder
	for line := range strings.Lines(bare) {
		switch {
		case strings.HasPrefix(line, "S: ") && line[len("S: 250")] == '-':
			// One line stands for the reply, however many it has.
		case strings.HasPrefix(line, "S: "):
			b.WriteString("S:\n")
		default:
			b.WriteString(line)
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "pipelined.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	before := flag.Lookup("update").Value.String()
	t.Cleanup(func() {
		if err := flag.Set("update", before); err != nil {
			t.Error(err)
		}
	})
	if err := flag.Set("update", "true"); err != nil {
		t.Fatal(err)
	}
	smtptest.Run(t, file, direct)
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// serve answers each thing the client sends with the next of its texts, and
// closes after the last.
func serve(t *testing.T, texts ...string) net.Conn {
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		buf := make([]byte, 4096)
		for i, text := range texts {
			if i > 0 {
				if _, err := server.Read(buf); err != nil {
					return
				}
			}
			if _, err := io.WriteString(server, text); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = client.Close()
		<-done
	})
	return client
}

func TestPlay(t *testing.T) {
	for _, tt := range []struct {
		story    string
		server   []string
		dialogue string
		want     string // what Play says was said; empty: the dialogue
	}{
		{"the server says what it should", []string{"220 hi\r\n", "250 ok\r\n"}, "S: 220 hi\nC: NOOP\nS: 250 ok\nEOF\n", ""},
		{"it says something else", []string{"220 hi\r\n", "550 no\r\n"}, "S: 220 hi\nC: NOOP\nS: 250 ok\nEOF\n", "S: 220 hi\nC: NOOP\nS: 550 no\nEOF\n"},
		{"more lines than the story has", []string{"250-a\r\n250-b\r\n250 c\r\n"}, "S: 250 a\nEOF\n", "S: 250-a\nS: 250-b\nS: 250 c\nEOF\n"},
		{"fewer", []string{"250 c\r\n"}, "S: 250-a\nS: 250-b\nS: 250 c\nEOF\n", "S: 250 c\nEOF\n"},
		{"a reply too many", []string{"220 hi\r\n220 again\r\n"}, "S: 220 hi\nEOF\n", "S: 220 hi\nS: 220 again\nEOF\n"},
		{"it closes before its time", []string{"220 hi\r\n"}, "S: 220 hi\nC: NOOP\nS: 250 ok\nC: QUIT\nS: 221 bye\nEOF\n", "S: 220 hi\nC: NOOP\nEOF\nC: QUIT\n"},
		{"ids and dates change", []string{"220 hi; Mon, 2 Jan 2006 15:04:05 +0000\r\n", "451 4.3.0 Later. (0123456789ab)\r\n"},
			"S: 220 hi; (DATE)\nC: NOOP\nS: 451 4.3.0 Later. (ID)\nEOF\n", ""},
		{"odd octets and line ends can be seen", []string{"220 a\x01b\r\n", "250 ok\n"}, "S:raw \"220 a\\x01b\\r\\n\"\nC: NOOP\nS:raw \"250 ok\\n\"\nEOF\n", ""},
		{"comments and empty lines stay", []string{"220 hi\r\n"}, "# The greeting.\n\nS: 220 hi\nEOF\n", ""},
		{"what is pipelined is sent as one", []string{"220 hi\r\n", "250 a\r\n250 b\r\n"}, "S: 220 hi\nC: NOOP\nC:raw \"NO\"\nC: OP\nS: 250 a\nS: 250 b\nEOF\n", ""},
		{"the client hangs up", []string{"220 hi\r\n", "never"}, "S: 220 hi\nCLOSE\n", ""},
	} {
		t.Run(tt.story, func(t *testing.T) {
			want := tt.want
			if want == "" {
				want = tt.dialogue
			}
			if got, err := smtptest.Play(serve(t, tt.server...), tt.dialogue); got != want || err != nil {
				t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
			}
		})
	}
}

func TestPlayRefuses(t *testing.T) {
	for story, dialogue := range map[string]string{
		"a line that is none":              "S: 220 hi\nNOOP\n",
		"octets that are not in Go syntax": "C:raw \"\n",
		"a handshake that fails":           "S: 220 hi\nTLS\n",
	} {
		if _, err := smtptest.Play(serve(t, "220 hi\r\n", "no\r\n"), dialogue); err == nil {
			t.Errorf("%s: no error", story)
		}
	}
}

// TestPlayLosesPatience: a server that says nothing, or does not close, ends
// the dialogue.
func TestPlayLosesPatience(t *testing.T) {
	for _, dialogue := range []string{"S: 220 hi\nS: 250 ok\n", "S: 220 hi\nEOF\n"} {
		synctest.Test(t, func(t *testing.T) {
			said, err := smtptest.Play(serve(t, "220 hi\r\n", "never"), dialogue)
			if err == nil || said != "S: 220 hi\n" {
				t.Errorf("%v after %q", err, said)
			}
		})
	}
}

func TestFormatOctets(t *testing.T) {
	for octets, want := range map[string]string{
		"":                                "",
		"a\r\n\r\nb\r\n":                  "a\n\nb\n",
		"a\nb\r\nc":                       "raw \"a\\n\"\nb\nraw \"c\"\n",
		"-- zone --\r\n":                  "raw \"-- zone --\\r\\n\"\n",
		"raw \"x\"\r\n":                   "raw \"raw \\\"x\\\"\\r\\n\"\n",
		"gr\u00fcn \xfc\r\n":              "raw \"grün \\xfc\\r\\n\"\n",
		"\tid 0123456789ab;\r\n":          "\tid ID;\n",
		"XFORWARD IDENT=0123456789ab\r\n": "XFORWARD IDENT=ID\n",
	} {
		if got := smtptest.FormatOctets([]byte(octets)); got != want {
			t.Errorf("%q: %q, want %q", octets, got, want)
		}
	}
}
