package proxy

import (
	"context"
	"errors"
	"net"
	"testing"

	"postern/configs"
	"postern/proxy/backend"
)

// routed makes the rig's second backend, for recipients at other.example. The
// first one, for the rest, is at down if that is set.
func (r *rig) routed(t *testing.T, down bool) *backend.Set {
	mta := func(name, address string) configs.Backend {
		return configs.Backend{Name: name, Addresses: []string{address}, TLS: "off", Identity: "none"}
	}
	set, err := backend.New([]configs.Backend{mta("mta", "127.0.0.1:10025"), mta("other", "127.0.0.1:10026")},
		[]configs.Route{{Recipients: []string{"other.example"}, Backend: "other"}},
		backend.Options{Hostname: "mx.test", Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if down && address == "127.0.0.1:10025" {
				return nil, errors.New("connection refused")
			}
			return r.dialSink(ctx, network, address)
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	return set
}

// TestOneBackendDown: recipients of one backend do not wait for those of
// another that is down, whichever the client names first.
func TestOneBackendDown(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	set := *r.set
	set.Backends = r.routed(t, true)
	r.srv.Configure(&set)
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "451 4.4.1 ")
	c.cmd("RCPT TO:<rcpt@other.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "452 4.5.3 ")
	c.cmd("DATA", "354 ")
	c.send(rigMessage + ".\r\n")
	c.expect("250 ")
	if ms := r.sink.Messages(); len(ms) != 1 || len(ms[0].To) != 1 {
		t.Errorf("%d messages", len(ms))
	}
}

// TestReloadWithinTransaction: a transaction ends with the backends that it
// began with, also if it has not spoken to them yet.
func TestReloadWithinTransaction(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, noIdle: true})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	set := *r.set
	set.Backends = r.routed(t, false)
	r.srv.Configure(&set)
	r.set.Backends.Close()
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.cmd("DATA", "354 ")
	c.send(rigMessage + ".\r\n")
	c.expect("250 ")
	if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
		t.Error(got)
	}
}
