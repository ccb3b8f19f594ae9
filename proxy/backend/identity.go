package backend

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"postern/proxy/smtp"
)

// The ways in which a backend learns who the client is (configs.Backend.Identity).
const (
	identityXClient  = "xclient"
	identityXForward = "xforward"
	identityProxyV2  = "proxy-v2"
	identityNone     = "none"
)

// maxXLine is the longest XCLIENT or XFORWARD line without its CRLF, maxXValue
// the longest value that fits into one (an octet may become three).
const (
	maxXLine  = 510
	maxXValue = 480
)

// unavailable stands for a value that is not known, temporary for a name that
// the DNS could not tell at the moment.
const (
	unavailable = "[UNAVAILABLE]"
	temporary   = "[TEMPUNAVAIL]"
)

// attribute returns the value of an XCLIENT or XFORWARD attribute, not yet
// encoded, and false for one that we have no value for.
func (c Client) attribute(name string) (string, bool) {
	switch name {
	case "NAME":
		if c.Name != "" {
			return c.Name, true
		}
		if c.NameTemporary {
			return temporary, true
		}
		return unavailable, true
	case "REVERSE_NAME":
		if c.ReverseName != "" {
			return c.ReverseName, true
		}
		if c.ReverseTemporary {
			return temporary, true
		}
		return unavailable, true
	case "ADDR":
		return xaddress(c.Addr), true
	case "PORT":
		return xport(c.Addr), true
	case "DESTADDR":
		return xaddress(c.Local), true
	case "DESTPORT":
		return xport(c.Local), true
	case "HELO":
		if c.Helo == "" {
			return unavailable, true
		}
		// A backend may refuse control characters, and all of XCLIENT with
		// them; what it would have logged is "?".
		return strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '?'
			}
			return r
		}, c.Helo), true
	case "PROTO":
		if c.ESMTP {
			return "ESMTP", true
		}
		return "SMTP", true
	case "SOURCE":
		return "REMOTE", true
	}
	return "", false
}

// xaddress renders an address as XCLIENT wants it: IPv4 bare, IPv6 behind
// "IPV6:", neither in brackets.
func xaddress(ap netip.AddrPort) string {
	a := ap.Addr().Unmap().WithZone("")
	switch {
	case a.Is4():
		return a.String()
	case a.Is6():
		return "IPV6:" + a.String()
	}
	return unavailable
}

func xport(ap netip.AddrPort) string {
	if !ap.IsValid() {
		return unavailable
	}
	return strconv.Itoa(int(ap.Port()))
}

// xlines appends the lines of verb (XCLIENT, XFORWARD) for those of want that
// the backend offers, as many on a line as fit. Each line is handed to add.
func xlines(verb string, want, offered []string, c Client, add func(line []byte)) {
	line := append(make([]byte, 0, 192), verb...)
	for _, name := range want {
		value, ok := c.attribute(name)
		if value == temporary && verb == "XFORWARD" {
			value = unavailable // Postfix takes the other one in XCLIENT alone
		}
		if !ok || !slices.Contains(offered, name) {
			continue
		}
		text := smtp.EncodeXtext(value)
		if len(text) > maxXValue {
			text = smtp.EncodeXtext(value[:min(len(value), maxXValue/3)])
		}
		pair := name + "=" + text
		if len(line)+1+len(pair) > maxXLine {
			add(line)
			line = append(line[:0:0], verb...)
		}
		line = append(append(line, ' '), pair...)
	}
	if len(line) > len(verb) {
		add(line)
	}
}

var (
	// HELO and PROTO first would be wrong: a server that resets its state at
	// NAME and ADDR would lose them.
	// REVERSE_NAME stands behind NAME: a confirmed NAME sets both in Postfix. It must
	// be said, or the name behind our own address stays that of every client who has
	// no confirmed one.
	xclientWant  = []string{"NAME", "REVERSE_NAME", "ADDR", "PORT", "DESTADDR", "DESTPORT", "PROTO", "HELO"}
	xforwardWant = []string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "SOURCE"}
)

// xclient tells the backend who the client is, and says EHLO again as the
// client. It fails closed: a backend that is not told takes us for the client
// and trusts it.
func (l *link) xclient(c Client, d time.Duration) error {
	if !slices.Contains(l.caps.XClient, "ADDR") {
		return l.fail(KindIdentity, fmt.Errorf("XCLIENT ADDR is not offered (Postfix: smtpd_authorized_xclient_hosts)"))
	}
	l.introduced = true
	var lines [][]byte
	xlines("XCLIENT", xclientWant, l.caps.XClient, c, func(line []byte) { lines = append(lines, line) })
	for _, line := range lines {
		r, err := l.ask(string(line), d)
		switch {
		case err != nil:
			return err
		case r.Code == 220:
		case r.Code == 550 || r.Code == 501 || r.Code/100 == 2:
			return l.refuse(KindIdentity, r, "XCLIENT")
		default:
			// The MTA's access rules have turned this client away, which it
			// would have heard in place of a greeting. NOT: by 500 to 504, which
			// are about the command.
			e := l.refuse(KindRefused, r, "XCLIENT")
			e.TurnsAway = r.Transient() || r.Code > 504
			return e
		}
	}
	err := l.ehlo(ehloName(c, l.at.pool.o.Hostname), d)
	var e *Error
	if errors.As(err, &e) && e.Kind == KindRefused {
		// EHLO said the client's name, and the MTA has rules for names.
		// NOT: 500, 502 and 503, which are about the command and its place.
		switch e.Reply.Code {
		case 500, 502, 503:
		default:
			e.TurnsAway = !e.Reply.Positive() && !e.Reply.Intermediate()
		}
	}
	return err
}

// forOthers says whether the connection can serve another client than the one
// that the backend was told of. A PROXY header is said once. XCLIENT could be
// said again, but to Postfix only by a client that is itself authorized: it
// looks at the address that it was told, and lists XCLIENT no more.
func (l *link) forOthers() bool {
	switch l.at.pool.identity {
	case identityProxyV2:
		return false
	case identityXClient:
		return slices.Contains(l.caps.XClient, "ADDR")
	}
	return true
}

// proxyHeader is the PROXY v2 header for c; LOCAL for ourselves (nil).
func proxyHeader(c *Client, fallback net.Addr) ([]byte, error) {
	if c == nil {
		return (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	}
	if !c.Addr.IsValid() {
		return nil, fmt.Errorf("the client's address is not known")
	}
	dst := c.Local
	if !dst.IsValid() {
		if t, ok := fallback.(*net.TCPAddr); ok {
			dst = t.AddrPort()
		}
	}
	h := proxyproto.HeaderProxyFromAddrs(2, tcpAddr(c.Addr), tcpAddr(dst))
	if h.Command != proxyproto.PROXY {
		return nil, fmt.Errorf("no PROXY header from %v to %v", c.Addr, dst)
	}
	if c.TLS {
		ssl, err := tlvparse.PP2SSL{Client: tlvparse.PP2_BITFIELD_CLIENT_SSL, Verify: 1, TLV: sslTLVs(c)}.Marshal()
		if err != nil {
			return nil, err
		}
		tlvs := []proxyproto.TLV{ssl}
		// Whatever else a client has put there is no name, and nothing to pass on.
		if name, err := smtp.ASCIIDomain(c.ServerName); err == nil {
			tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(name)})
		}
		if err := h.SetTLVs(tlvs); err != nil {
			return nil, err
		}
	}
	return h.Format()
}

// sslTLVs tells version and cipher of the client's leg.
func sslTLVs(c *Client) []proxyproto.TLV {
	var t []proxyproto.TLV
	if c.TLSVersion != "" {
		t = append(t, proxyproto.TLV{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte(c.TLSVersion)})
	}
	if c.TLSCipher != "" {
		t = append(t, proxyproto.TLV{Type: proxyproto.PP2_SUBTYPE_SSL_CIPHER, Value: []byte(c.TLSCipher)})
	}
	return t
}

func tcpAddr(ap netip.AddrPort) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()))
}
