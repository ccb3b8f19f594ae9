package proxy

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/checks/dnstest"
)

// The reverse name of a client is asked for when it has said EHLO, and not at MAIL. Where the answer is for
// one use, that is the first message: it does not ask again, and the second does; nor does it take one
// that is old by then.
func TestTheReverseNameIsAskedForAtEHLO(t *testing.T) {
	const name = "1.2.0.192.in-addr.arpa"
	zone, err := dnstest.Parse(name + ". 0 PTR mail.good.example.\nmail.good.example. A 192.0.2.1\n")
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := zone.Serve()
	defer stop()
	asked := make(chan struct{}, 100)
	resolver, err := dnscache.New(dnscache.Options{
		Servers: []string{addr}, Timeout: time.Minute, Total: time.Minute,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			asked <- struct{}{}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	set := rigSettings(t, rigOptions{})
	set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: resolver}, func(name string) bool { return name == "iprev" })
	r := newRig(t, rigOptions{settings: set})
	var later atomic.Int64
	r.srv.now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	greeted := func() *client {
		c := r.connect("192.0.2.1")
		c.ehlo()
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Fatal("nothing was asked behind EHLO")
		}
		return c
	}
	c := greeted()
	for n := range 2 {
		c.cmd("MAIL FROM:<a@good.example>", "250 ")
		if got := zone.Asked(name, "PTR"); got != n+1 {
			t.Errorf("message %d: asked %d times by now", n+1, got)
		}
		c.cmd("RSET", "250 ")
		if f := r.last().Facts; f.Iprev.Name != "mail.good.example" {
			t.Errorf("message %d: %+v", n+1, f.Iprev)
		}
	}

	for len(asked) > 0 {
		<-asked
	}
	c = greeted()
	if _, err := resolver.LookupAddr(t.Context(), "192.0.2.1"); err != nil { // it is there by now
		t.Fatal(err)
	}
	before := zone.Asked(name, "PTR")
	later.Store(int64(aheadFor) + 1)
	c.cmd("MAIL FROM:<a@good.example>", "250 ")
	if got := zone.Asked(name, "PTR") - before; got != 1 {
		t.Errorf("asked %d times at MAIL, and %v lie between it and EHLO", got, aheadFor)
	}
}
