package proxy

import (
	"bufio"
	"errors"
	"net/netip"
	"testing"

	"postern/configs"
	"postern/proxy/amtp"
	"postern/proxy/smtp"
)

// Connections of another protocol have a part of their own of limits.connections, and a client has its share once.
func TestGuestsHaveAPart(t *testing.T) {
	r := newRig(t, rigOptions{config: func(c *configs.Config) { c.Limits.Connections, c.Limits.ConnectionsPerClient = 8, 1 }})
	first, why := r.srv.Admit(netip.MustParseAddr("192.0.2.1"))
	if why != "" {
		t.Fatal(why)
	}
	if _, why := r.srv.Admit(netip.MustParseAddr("192.0.2.1")); why != string(endedClientLimit) {
		t.Errorf("the same client: %q", why)
	}
	second, why := r.srv.Admit(netip.MustParseAddr("192.0.2.2"))
	if why != "" {
		t.Fatal(why)
	}
	if _, why := r.srv.Admit(netip.MustParseAddr("192.0.2.3")); why != string(endedLimit) {
		t.Errorf("more than a quarter: %q", why)
	}
	first()
	third, why := r.srv.Admit(netip.MustParseAddr("192.0.2.3"))
	if why != "" {
		t.Errorf("when one has gone: %q", why)
	}
	second()
	third()
	if n := r.srv.clients.Used(); n != 0 {
		t.Errorf("%d shares were not given back", n)
	}
}

// Nobody is let in from inside once the server leaves, and what was said there is of that client.
func TestInside(t *testing.T) {
	r := newRig(t, rigOptions{})
	o := amtp.Origin{Session: "outer", Listener: "amtp", Client: netip.MustParseAddrPort("192.0.2.1:26"), Fetched: "good.example"}
	conn, err := r.srv.Inside(o)
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	for _, line := range []string{"", "EHLO good.example", "MAIL FROM:<a@good.example>", "RCPT TO:<b@rcpt.example>", "RSET", "QUIT"} {
		if line != "" {
			if _, err := conn.Write([]byte(line + "\r\n")); err != nil {
				t.Fatal(err)
			}
		}
		if reply, err := smtp.ReadReply(br); err != nil || !reply.Positive() {
			t.Fatalf("%s: %v, %v", line, reply, err)
		}
	}
	_ = conn.Close()
	if err := r.srv.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	rec := r.records[len(r.records)-1]
	r.mu.Unlock()
	if rec.Session != "outer" || rec.Facts.Client.IP != "192.0.2.1" || rec.Facts.Client.Fetched != "good.example" || rec.Facts.SPF.Result != "pass" || rec.Facts.Listener != "amtp" {
		t.Errorf("%+v", rec)
	}
	if _, err := r.srv.Inside(o); !errors.Is(err, ErrServerClosed) {
		t.Errorf("%v", err)
	}
	if r.srv.within != 0 {
		t.Errorf("%d sessions within", r.srv.within)
	}
}
