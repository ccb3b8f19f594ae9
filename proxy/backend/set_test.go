package backend

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

func TestRoutes(t *testing.T) {
	b := func(name string) configs.Backend {
		return configs.Backend{Name: name, Addresses: []string{name + ":25"}, TLS: tlsOff, Identity: identityNone}
	}
	s, err := New([]configs.Backend{b("first"), b("second"), b("third")}, []configs.Route{
		{Recipients: []string{"Boss@example.org"}, Backend: "third"},
		{Recipients: []string{"example.org", "*.example.net", "bücher.example"}, Backend: "second"},
		{Recipients: []string{"user@sub.example.net"}, Backend: "third"},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for rcpt, want := range map[string]string{
		"a@example.org": "second", "a@EXAMPLE.ORG": "second", "a@example.org.": "second", "a@sub.example.org": "first",
		"boss@example.org": "third", "BOSS@Example.Org": "third",
		"a@example.net": "first", "a@x.example.net": "second", "a@x.y.example.net": "second", "a@xexample.net": "first",
		"user@sub.example.net": "second", // the first that matches
		"a@bücher.example":     "second", "a@xn--bcher-kva.example": "second",
		"postmaster": "first", "a@[192.0.2.1]": "first", "a@elsewhere.example": "first",
	} {
		local, domain, _ := strings.Cut(rcpt, "@")
		if got := s.Route(smtp.Path{Local: local, Domain: domain}).Name(); got != want {
			t.Errorf("%s goes to %s, not %s", rcpt, got, want)
		}
	}
	one, err := New([]configs.Backend{b("first"), b("second")}, []configs.Route{
		{Recipients: []string{"example.org"}, Backend: "second"}, {Recipients: []string{"*"}, Backend: "second"},
	}, Options{})
	if err != nil || len(one.routed) != 1 || one.Route(recipient) != one.routed[0] || one.routed[0].Name() != "second" {
		t.Error(err, one)
	}
	if n := testing.AllocsPerRun(100, func() { s.Route(recipient) }); n > 0 {
		t.Errorf("%v allocations a route", n)
	}
}

func TestFaultsNameTheirPlace(t *testing.T) {
	noCA := filepath.Join(t.TempDir(), "no.pem")
	if err := os.WriteFile(noCA, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := configs.Position{File: "postern.yaml", Line: 7, Column: 5}
	good := configs.Backend{Name: "mta", Addresses: []string{"127.0.0.1:25"}, Position: at}
	bad := func(f func(*configs.Backend)) []configs.Backend {
		b := good
		b.Addresses = []string{"127.0.0.1:25"}
		f(&b)
		return []configs.Backend{b}
	}
	route := func(backend string, rcpt ...string) []configs.Route {
		return []configs.Route{{Recipients: rcpt, Backend: backend, Position: at}}
	}
	for _, tc := range []struct {
		want     string
		backends []configs.Backend
		routes   []configs.Route
	}{
		{"no backend", nil, nil},
		{"no addresses", bad(func(b *configs.Backend) { b.Addresses = nil }), nil},
		{"missing port", bad(func(b *configs.Backend) { b.Addresses = []string{"mta"} }), nil},
		{"want host:port", bad(func(b *configs.Backend) { b.Addresses = []string{":25"} }), nil},
		{"no path", bad(func(b *configs.Backend) { b.Addresses = []string{"unix:"} }), nil},
		{"no name to verify", bad(func(b *configs.Backend) { b.Addresses, b.TLS = []string{"unix:/x"}, tlsVerify }), nil},
		{"listed twice", bad(func(b *configs.Backend) { b.Addresses = []string{"a:25", "a:25"} }), nil},
		{`identity "magic"`, bad(func(b *configs.Backend) { b.Identity = "magic" }), nil},
		{`tls "maybe"`, bad(func(b *configs.Backend) { b.TLS = "maybe" }), nil},
		{"less than none", bad(func(b *configs.Backend) { b.Connections = -1 }), nil},
		{"no such file", bad(func(b *configs.Backend) { b.CA = "/nowhere/ca.pem" }), nil},
		{"no certificate in", bad(func(b *configs.Backend) { b.CA = noCA }), nil},
		{"is taken", []configs.Backend{good, good}, nil},
		{`no backend "other"`, []configs.Backend{good}, route("other", "example.org")},
		{"no recipients", []configs.Backend{good}, route("mta")},
		{"want a domain", []configs.Backend{good}, route("mta", "ex*mple.org")},
		{"no local part", []configs.Backend{good}, route("mta", "@example.org")},
	} {
		_, err := New(tc.backends, tc.routes, Options{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("want %q, got %v", tc.want, err)
			continue
		}
		var f *configs.Fault
		if !errors.As(err, &f) || tc.backends != nil && f.Position != at {
			t.Errorf("%q: no place in %v", tc.want, err)
		}
	}
}

// What is announced is what every backend that may be meant offers, as far as
// is known.
func TestCapabilitiesAreThoseOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHosts(sinks{
			"one:25": smtptest.NewSink(smtptest.SinkOptions{MaxSize: 1000}),
			"two:25": smtptest.NewSink(smtptest.SinkOptions{MaxSize: 2000, Without: []string{"CHUNKING"}, Keywords: append([]string{"LIMITS RCPTMAX=5"}, smtptest.AllKeywords...)}),
			"off:25": smtptest.NewSink(smtptest.SinkOptions{Without: []string{"8BITMIME", "SMTPUTF8"}}),
		})
		b := func(name string, addresses ...string) configs.Backend {
			c := backendAt(identityNone, addresses...)
			c.Name = name
			return c
		}
		// The third backend has no route, so it does not count.
		s, err := New([]configs.Backend{b("a", "one:25"), b("b", "two:25", "gone:25"), b("c", "off:25")},
			[]configs.Route{{Recipients: []string{"example.org"}, Backend: "b"}}, Options{Dial: h.dial})
		if err != nil {
			t.Fatal(err)
		}
		if c := s.Capabilities(); !c.equal(Capabilities{}) || s.Up() {
			t.Errorf("before anything is known: %+v", c)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		time.Sleep(time.Second)
		synctest.Wait()
		c := s.Capabilities()
		if !c.EightBitMIME || !c.SMTPUTF8 || c.Chunking || c.Size != 1000 || !c.HasSize || c.Limits.RcptMax != 5 || !s.Up() {
			t.Errorf("%+v", c)
		}
		// One that stops offering something is found out by the refresh.
		h.set("one:25", smtptest.NewSink(smtptest.SinkOptions{Without: []string{"SMTPUTF8"}}))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if c := s.Capabilities(); c.SMTPUTF8 {
			t.Errorf("%+v", c)
		}
		cancel()
		wg.Wait()
		s.Close()
		h.close()
	})
}

func TestClosedIsClosed(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
	c, d := open(t, s, alice), open(t, s, alice)
	c.Release()
	s.Close()
	send(t, d, "x\r\n") // what is running may end
	d.Release()
	e := open(t, s, alice) // so may what has only begun
	send(t, e, "x\r\n")
	e.Release()
	if idleOf(s) != 0 {
		t.Error("idle connections")
	}
}

func TestErrorsAreForTheLog(t *testing.T) {
	e := &Error{Kind: KindRefused, Backend: "mta", Address: "mx1:25", Reply: smtp.Reply{Code: 554, Text: "No"}, Err: errors.New("greeting")}
	if got := e.Error(); got != "backend mta at mx1:25: refused: 554 No: greeting" {
		t.Error(got)
	}
	if !errors.Is(&Error{Err: context.Canceled}, context.Canceled) {
		t.Error("Unwrap")
	}
}
