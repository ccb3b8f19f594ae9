package proxy

import (
	"net/netip"
	"strings"
	"testing"
)

// A PROXY header of version 2 whose family is none says as much as LOCAL: the peer
// speaks for itself, with whatever stands in the place of the addresses.
func TestAProxyHeaderWithoutFamilyIsTakenAsLocal(t *testing.T) {
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	for name, header := range map[string]string{
		"UNSPEC":                    signature + "\x21\x00\x00\x00",
		"UNSPEC with octets":        signature + "\x21\x00\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x19\x12\x67\x00\x19",
		"UNSPEC, a stream":          signature + "\x21\x01\x00\x00",
		"LOCAL with a family":       signature + "\x20\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x19\x12\x67\x00\x19",
		"AF_INET that is no stream": signature + "\x21\x10\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x19\x12\x67\x00\x19",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: &openPolicy})
			c := r.dialFrom("192.0.2.9", Listener{Name: "mx", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}})
			c.send(header)
			got := c.hear()
			if strings.HasPrefix(name, "AF_INET") {
				if got != "close" {
					t.Errorf("%q", got)
				}
				return
			}
			if !strings.HasPrefix(got, "220 ") {
				t.Fatalf("%q", got)
			}
			c.ehlo()
			c.cmd("MAIL FROM:<a@good.example>", "250")
			c.cmd("RCPT TO:<b@local.example>", "250")
			c.cmd("DATA", "354")
			c.send("A: b\r\n\r\nx\r\n.\r\n")
			c.expect("250")
			if ip := r.last().Facts.Client.IP; ip != "192.0.2.9" {
				t.Errorf("the client is %s", ip)
			}
		})
	}
}
