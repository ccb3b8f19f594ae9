package backend

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/proxy/smtptest"
)

// examine tries one backend.
func examine(t *testing.T, b configs.Backend) (Examination, *Set) {
	t.Helper()
	return examineFor(t, b, 0)
}

// examineFor waits so long for a greeting; 0: as configured by default.
func examineFor(t *testing.T, b configs.Backend, patience time.Duration) (Examination, *Set) {
	t.Helper()
	s := newSet(t, Options{Timeouts: configs.Timeouts{BackendConnect: patience}}, b)
	all := s.Examine(t.Context(), alice)
	if len(all) != 1 || all[0].Backend != "mta" || all[0].Address != b.Addresses[0] {
		t.Fatalf("%+v", all)
	}
	return all[0], s
}

func kind(err error) Kind {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}

// It is told of the client, and no transaction begins.
func TestExamineToldByXCLIENT(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{Without: []string{"DSN"}})
	x, s := examine(t, backendAt(identityXClient, sink.Addr()))
	if x.Err != nil || x.Greeting == "" || x.TLS != "" || x.Took <= 0 || !x.Caps.SMTPUTF8 || x.Caps.DSN {
		t.Errorf("%+v", x)
	}
	if x.Told == nil || x.Told.Err != nil || x.Told.Greeting != "mta.test ESMTP" || x.Told.Hello != "mta.test" || !x.Told.XClient {
		t.Errorf("%+v", x.Told)
	}
	if c := s.Capabilities(); !s.Up() || !c.SMTPUTF8 || c.DSN {
		t.Errorf("nothing was learned: %+v", c)
	}
	said := strings.Join(sink.Commands(), "\n")
	if !strings.Contains(said, "XCLIENT NAME=mail.example.com REVERSE_NAME=mail.example.com ADDR=192.0.2.7 ") || strings.Contains(said, "MAIL") || strings.Count(said, "QUIT") != 3 || !strings.Contains(said, "ADDR=IPV6:2001:db8::1 ") {
		t.Errorf("it was told\n%s", said)
	}
}

func TestExamineToldInOtherWays(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	x, _ := examine(t, backendAt(identityXForward, sink.Addr()))
	if x.Err != nil || x.Told == nil || x.Told.Err != nil {
		t.Errorf("%+v %+v", x, x.Told)
	}
	if said := sink.Commands(); !slices.ContainsFunc(said, func(c string) bool { return strings.HasPrefix(c, "XFORWARD NAME=mail.example.com ADDR=192.0.2.7 ") }) {
		t.Errorf("it was told\n%s", strings.Join(said, "\n"))
	}
	proxied := newSink(t, smtptest.SinkOptions{Proxy: true})
	if x, _ = examine(t, backendAt(identityProxyV2, proxied.Addr())); x.Err != nil || x.Told == nil || x.Told.Err != nil || x.Told.Hello != "mta.test" {
		t.Errorf("%+v %+v", x, x.Told)
	}
	if x, _ = examine(t, backendAt(identityNone, sink.Addr())); x.Err != nil || x.Told != nil {
		t.Errorf("%+v %+v", x, x.Told)
	}
}

// What it will not be told is said with what it offers nevertheless, so that one
// sees that it is the right MTA.
func TestExamineWhatIsNotToldIsSaid(t *testing.T) {
	mute := newSink(t, smtptest.SinkOptions{Without: []string{"XCLIENT"}})
	x, _ := examine(t, backendAt(identityXClient, mute.Addr()))
	if kind(x.Err) != KindIdentity || !x.Known || !x.Caps.SMTPUTF8 || x.Told == nil || kind(x.Told.Err) != KindIdentity {
		t.Errorf("%+v %+v", x, x.Told)
	}
	turned := newSink(t, smtptest.SinkOptions{Script: script("XCLIENT", smtptest.Action{Reply: "554 5.7.1 Not him\r\n"})})
	x, _ = examine(t, backendAt(identityXClient, turned.Addr()))
	if x.Err != nil || x.Told == nil || kind(x.Told.Err) != KindRefused {
		t.Errorf("%+v %+v", x, x.Told)
	}
	deaf := newSink(t, smtptest.SinkOptions{Script: script("XFORWARD", smtptest.Action{Reply: "501 5.5.4 Bad\r\n"})})
	if x, _ = examine(t, backendAt(identityXForward, deaf.Addr())); x.Told == nil || kind(x.Told.Err) != KindIdentity {
		t.Errorf("%+v %+v", x, x.Told)
	}
	// It waits for a header that never comes, or takes the header for a command.
	waits := newSink(t, smtptest.SinkOptions{Proxy: true})
	if x, s := examineFor(t, backendAt(identityNone, waits.Addr()), 2*time.Second); kind(x.Err) != KindTimeout || x.Known || s.Up() {
		t.Errorf("%+v", x)
	}
	plain := newSink(t, smtptest.SinkOptions{})
	if x, _ = examine(t, backendAt(identityProxyV2, plain.Addr())); x.Err == nil || x.Told != nil {
		t.Errorf("%+v", x)
	}
}

func TestExamineTheEncryption(t *testing.T) {
	root := newAuthority(t)
	sink := newSink(t, smtptest.SinkOptions{TLS: root.server(t, "127.0.0.1")})
	b := backendAt(identityXClient, sink.Addr())
	b.TLS, b.CA = tlsVerify, root.file(t)
	x, _ := examine(t, b)
	if x.Err != nil || x.TLS != "TLS 1.3" || x.Certificate == nil || x.Certificate.IPAddresses[0].String() != "127.0.0.1" || !x.Caps.Verified || x.Told.Err != nil {
		t.Errorf("%+v %+v", x, x.Told)
	}
	b.CA = newAuthority(t).file(t)
	if x, _ = examine(t, b); kind(x.Err) != KindTLS || x.Told != nil || x.Greeting == "" {
		t.Errorf("%+v", x)
	}
	broken := newSink(t, smtptest.SinkOptions{TLS: root.server(t, "x"), Script: script("STARTTLS", smtptest.Action{Reply: "220 Go\r\n", Close: true})})
	b = backendAt(identityNone, broken.Addr())
	b.TLS = tlsOpportunistic
	if x, _ = examine(t, b); x.Err != nil || kind(x.Clear) != KindTLS || x.TLS != "" || !x.Caps.StartTLS {
		t.Errorf("%+v", x)
	}
}

func TestExamineNobody(t *testing.T) {
	if x, s := examine(t, backendAt(identityXClient, "127.0.0.1:1")); kind(x.Err) != KindDial || x.Told != nil || s.Up() {
		t.Errorf("%+v", x)
	}
}
