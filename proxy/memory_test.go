package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/checks/dnstest"
	"postern/configs"
	"postern/proxy/backend"
)

// TestWorstSession builds the sessions that hold the most, by the table in
// memory.go, at the moments when they do, and measures them. What counts against
// limits.held is bounded there, for all together.
func TestWorstSession(t *testing.T) {
	zone, err := dnstest.Parse(worstZone())
	if err != nil {
		t.Fatal(err)
	}
	addr, closeZone := zone.Serve()
	defer closeZone()
	for _, tt := range []struct {
		name string
		tls  bool
		ends func(c *client) // how it goes on behind the recipients, to where it stays
	}{
		{"behind the recipients", false, func(*client) {}},
		{"behind the recipients, in TLS", true, func(*client) {}},
		{"in the header", false, func(c *client) { c.cmd("DATA", "354 "); c.send(worstHeader(smallHeader - 100)) }},
		{"in a large header", false, func(c *client) { c.cmd("DATA", "354 "); c.send(worstHeader(250 << 10)) }},
		{"in a large header, in TLS", true, func(c *client) { c.cmd("DATA", "354 "); c.send(worstHeader(250 << 10)) }},
		{"in a message", true, func(c *client) {
			c.cmd("DATA", "354 ")
			c.send(worstHeader(smallHeader-100) + "\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 60))
		}},
		{"in a message with a large header", true, func(c *client) {
			c.cmd("DATA", "354 ")
			c.send("From: alice@worst.example\r\n" + worstHeader(250<<10) + "\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 60))
		}},
		{"in a chunk", false, func(c *client) {
			text := worstHeader(smallHeader-100) + "\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 60)
			c.send(fmt.Sprintf("BDAT %d\r\n%s", len(text)+1000, text))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := rigSettings(t, rigOptions{config: func(c *configs.Config) { c.Limits.Connections = 0; c.Limits.ConnectionsPerClient = 0 }, policy: &streamPolicy})
			resolver, err := dnscache.New(dnscache.Options{Servers: []string{addr}, Cache: configs.DNSCache{Entries: 1, MaxTTL: time.Second, NegativeMaxTTL: time.Second}, CacheBytes: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer resolver.Close()
			set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: resolver}, func(n string) bool { return n == "spf" })
			set.TraceDNS = true
			set.Backends, err = backend.New([]configs.Backend{{Name: "mta", Addresses: []string{"127.0.0.1:25"}, TLS: "off", Identity: "none"}}, nil, backend.Options{
				Dial: func(context.Context, string, string) (net.Conn, error) {
					w := newCable(netip.MustParseAddrPort("198.51.100.25:50000"), netip.MustParseAddrPort("127.0.0.1:10025"))
					go plainMTA(w.server)
					return w.client, nil
				}})
			if err != nil {
				t.Fatal(err)
			}
			defer set.Backends.Close()
			r := &rig{t: t, set: set, srv: New(Options{}, set)}
			begin := func(i int) *client {
				c := r.dialFrom(fmt.Sprintf("192.0.2.%d", i+10), Listener{Name: "mx", TLS: "starttls"})
				c.expect("220 ")
				c.ehlo()
				if tt.tls {
					c.cmd("STARTTLS", "220 ")
					if err := c.tls(); err != nil {
						t.Fatal(err)
					}
					c.ehlo()
				}
				c.cmd("MAIL FROM:<alice@worst.example>", "250 ")
				local := strings.Repeat("x", 200)
				c.cmd("RCPT TO:<good@local.example>", "250 ")
				for n := 0; ; n++ {
					c.send(fmt.Sprintf("RCPT TO:<%s-%d@%s.example>\r\n", local, n, strings.Repeat("d.", 100)+"local"))
					if got := c.reply(); strings.HasPrefix(got, "452 ") {
						break
					}
					if n > 1000 {
						t.Fatal("no end of recipients")
					}
				}
				tt.ends(c)
				return c
			}
			begin(0) // what is made once
			r.quiet()
			const n = 30
			before, held := heapAndStacks(), inMemory(r)
			for i := range n {
				begin(i + 1)
			}
			r.quiet()
			each := (heapAndStacks() - before - (inMemory(r) - held)) / n
			t.Logf("%d KiB each, and %d KiB of limits.held", each>>10, (inMemory(r)-held)/n>>10)
			if each > sessionMemory {
				t.Errorf("%d octets each", each)
			}
			if large := strings.Contains(tt.name, "in a large"); each < 200<<10 && !large {
				t.Errorf("%d octets each: these are not the worst", each)
			}
			for _, c := range r.clients {
				_ = c.conn.Close()
				<-c.done
			}
			if u := inMemory(r); u != 0 {
				t.Errorf("%d octets are still taken", u)
			}
		})
	}
}

// worstHeader is a header section without an end, of many short fields.
func worstHeader(size int) string {
	field := "x: " + strings.Repeat("y", size/990) + "\r\n"
	return strings.Repeat(field, size/len(field))
}

// worstZone has a sender whose SPF record leads to many large answers.
func worstZone() string {
	var b strings.Builder
	b.WriteString("worst.example. 0 TXT \"v=spf1")
	for i := range 9 {
		fmt.Fprintf(&b, " include:s%d.worst.example", i)
	}
	b.WriteString(" ?all\"\n")
	for i := range 9 {
		fmt.Fprintf(&b, "s%d.worst.example. 0 TXT \"v=spf1 ip4:203.0.113.1 -all\"\n", i)
		for j := range 40 {
			fmt.Fprintf(&b, "s%d.worst.example. 0 TXT \"%d %s\"\n", i, j, strings.Repeat("x", 240))
		}
	}
	return b.String()
}

// inMemory is what is held in memory, in octets.
func inMemory(r *rig) int64 {
	_, memory := r.srv.held.Used()
	return memory
}
