package proxy

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"postern/configs"
	"postern/policy"
	"postern/proxy/smtptest"
)

var _ = flag.Bool("update", false, "rewrite the transcripts in testdata")

// storyConfig is the config section of a story: what of Postern's configuration
// matters to it, who the client is, and what the MTA behind is like.
type storyConfig struct {
	Client   string // its address; default: 192.0.2.1
	Identity string // how the MTA learns of it; default: none
	Policy   *struct {
		Mode  string
		Rules []storyRule
	}
	Limits struct {
		MessageSize int64 `yaml:"message_size"` // octets
		HeaderSize  int64 `yaml:"header_size"`
		Recipients  int
	}
	MTA struct {
		Down    bool     // nobody listens
		Without []string // keywords that it does not have
		Script  []struct {
			At    string // a verb, CONNECT, "." or TEXT
			Nth   int    // at which of that name; 0: each
			Reply string // without CRLF
			Close bool
		}
	}
}

type storyRule struct{ Name, When, Do, Reply, Header string }

// TestStories plays the transcripts in testdata.
func TestStories(t *testing.T) { smtptest.Run(t, "testdata/*.txt", startStory) }

func startStory(t *testing.T, s *smtptest.Story) (net.Conn, func() []byte) {
	var sc storyConfig
	if strings.TrimSpace(s.Config) != "" {
		d := yaml.NewDecoder(strings.NewReader(s.Config))
		d.KnownFields(true)
		if err := d.Decode(&sc); err != nil {
			t.Fatal(err)
		}
	}
	o := rigOptions{zone: s.Zone, identity: sc.Identity, sink: smtptest.SinkOptions{Without: sc.MTA.Without}}
	if sc.Policy != nil {
		p := &configs.Policy{Mode: sc.Policy.Mode}
		for _, r := range sc.Policy.Rules {
			p.Rules = append(p.Rules, configs.Rule{Name: r.Name, When: r.When, Do: r.Do, Reply: r.Reply, Header: r.Header})
		}
		if len(p.Rules) == 0 {
			p.Rules = policy.BuiltIn().Rules
		}
		o.policy = p
	}
	o.config = func(c *configs.Config) {
		if n := sc.Limits.MessageSize; n > 0 {
			c.Limits.MessageSize = configs.Size(n)
		}
		if n := sc.Limits.HeaderSize; n > 0 {
			c.Limits.HeaderSize = configs.Size(n)
		}
		if n := sc.Limits.Recipients; n > 0 {
			c.Limits.Recipients = n
		}
	}
	if sc.MTA.Down {
		o.noProbe = true
		o.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	}
	playing := false // the look at what the MTA offers is no part of the story
	var mu sync.Mutex
	seen := make(map[string]int)
	o.sink.Script = func(st smtptest.Step) (a smtptest.Action) {
		mu.Lock()
		defer mu.Unlock()
		if !playing {
			return a
		}
		seen[st.Verb]++
		for _, x := range sc.MTA.Script {
			if x.At == st.Verb && (x.Nth == 0 || x.Nth == seen[st.Verb]) {
				a.Close = x.Close
				if a.Reply = x.Reply; a.Reply != "" {
					a.Reply += "\r\n"
				}
			}
		}
		return a
	}
	o.allChecks, o.noIdle = true, true
	r := newRig(t, o)
	// The story has the size of the message as the MTA hears it, our fields and their
	// date included: of a day with two figures, as that of the transcripts was.
	r.srv.now = func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }
	r.serving.Wait()
	mu.Lock()
	playing = true
	mu.Unlock()
	if sc.Client == "" {
		sc.Client = "192.0.2.1"
	}
	c := r.dialFrom(sc.Client, Listener{Name: "mx", TLS: "starttls"})
	return c.conn, func() []byte {
		<-c.done
		r.set.Backends.Close()
		r.serving.Wait()
		var all [][]byte
		for n := 2; n <= r.sink.Connections(); n++ {
			// An MTA whose last reply nobody took need not have read the QUIT.
			all = append(all, bytes.TrimSuffix(r.sink.Wire(n), []byte("QUIT\r\n")))
		}
		return bytes.Join(all, nil)
	}
}
