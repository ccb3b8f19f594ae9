package doctor

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"postern/cmd/postern/service"
	"postern/configs"
	"postern/proxy"
	"postern/proxy/backend"
	"postern/proxy/smtp"
)

// exampleClient is whom the backends are told of: an address of documentation
// (RFC 5737), so that no log or filter takes it for anybody.
var exampleClient = backend.Client{
	Addr: netip.MustParseAddrPort("192.0.2.1:25000"), Helo: "doctor.example", ESMTP: true,
}

// backendsAndOffers tries the MTAs, and then what clients will be offered.
func (d *patient) backendsAndOffers(ctx context.Context, r *Report) {
	if len(d.Config.Backends) == 0 {
		r.on("backend", "", d.Config.At("backends").String()).Warn("name your MTA in backends",
			"no backend is configured: mail goes into the folder Maildir below the one that the proxy is started in")
		return
	}
	up := false
	for _, x := range d.Backends.Examine(ctx, exampleClient) {
		i := slices.IndexFunc(d.Config.Backends, func(b configs.Backend) bool { return b.Name == x.Backend })
		b := d.Config.Backends[i]
		up = up || x.Err == nil
		d.backend(r, b, x)
		told := r.on("backend.client", x.Address, b.Position.String()).leading(x.Backend + " at " + x.Address + ": ")
		clientTold(told, b, x)
		d.clientOfIPv6(told, x)
	}
	if up {
		d.announced(r)
	}
}

// backend tells whether an address takes mail, and what it offers.
func (d *patient) backend(r *Report, b configs.Backend, x backend.Examination) {
	it := r.on("backend", x.Address, b.Position.String()).leading(x.Backend + " at " + x.Address + ": ")
	var e *backend.Error
	if errors.As(x.Err, &e) && e.Kind != backend.KindIdentity {
		it.Fault(backendAdvice(b, x, e), "%s; its mail is deferred (451 4.4.1)", backendWhy(e))
		return
	}
	offers := []string{}
	for _, o := range []struct {
		name string
		has  bool
	}{
		{"PIPELINING", x.Caps.Pipelining}, {"8BITMIME", x.Caps.EightBitMIME}, {"SMTPUTF8", x.Caps.SMTPUTF8}, {"DSN", x.Caps.DSN},
		{"CHUNKING", x.Caps.Chunking}, {"SUBMITTER", x.Caps.Submitter}, {"REQUIRETLS", x.Caps.RequireTLS}, {fmt.Sprintf("SIZE %d", x.Caps.Size), x.Caps.HasSize},
	} {
		if o.has {
			offers = append(offers, o.name)
		}
	}
	secure := "in the clear"
	switch {
	case x.TLS != "" && x.Caps.Verified:
		secure = fmt.Sprintf("%s, its certificate verified, until %s", x.TLS, x.Certificate.NotAfter.Format(time.DateOnly))
	case x.TLS != "":
		secure = x.TLS + ", its certificate not verified (tls: opportunistic)"
	}
	it.OK("greets with %q in %s, %s; offers %s", x.Greeting, short(x.Took), secure, strings.Join(offers, ", "))
	if x.Clear != nil {
		it.Warn("mend it there (openssl s_client -starttls smtp -connect "+x.Address+"), or say tls: off if this leg does not leave the machine", "offers STARTTLS, which fails, so that mail goes on in the clear: %s", backendWhy(x.Clear))
	}
	if x.TLS == "" && x.Clear == nil && !service.OnThisMachine(x.Address) {
		it.Warn("offer STARTTLS there, and say tls: verify", "mail crosses the network in the clear")
	}
	if b.TLS == "verify" && x.Certificate != nil && x.Certificate.NotAfter.Sub(d.now) < certificateSoon {
		it.Warn("renew it: with tls: verify no mail goes there after that day", "its certificate ends on %s", x.Certificate.NotAfter.Format(time.DateOnly))
	}
	if limit := int64(d.Config.Limits.MessageSize); x.Caps.HasSize && x.Caps.Size > 0 && x.Caps.Size < limit {
		it.OK("takes messages of up to %d octets, which is less than limits.message_size (%v): that is what clients are told", x.Caps.Size, d.Config.Limits.MessageSize)
	}
}

// backendWhy is an error without the name and address, which have been said.
func backendWhy(err error) string {
	var e *backend.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	var parts []string
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	if !e.Reply.IsZero() {
		parts = append(parts, "it said "+strings.ReplaceAll(e.Reply.String(), "\n", " / "))
	}
	return string(e.Kind) + ": " + strings.Join(parts, ", ")
}

// backendAdvice is what to do about a backend that no mail can be given to.
func backendAdvice(b configs.Backend, x backend.Examination, e *backend.Error) string {
	switch {
	case e.Kind == backend.KindDial:
		return "does the MTA run, and listen there? ss -ltn; a firewall between the two drops what it should refuse"
	case b.Identity == "proxy-v2" && e.Kind != backend.KindTLS:
		return "does this port of the MTA expect a PROXY header? Postfix: -o smtpd_upstream_proxy_protocol=haproxy; Exim: hosts_proxy; OpenSMTPD: proxy-v2"
	case e.Kind == backend.KindTimeout && x.Greeting == "":
		return "does this port wait for a PROXY header (then identity: proxy-v2), or is the MTA overloaded? Its log says"
	case e.Kind == backend.KindTLS && b.TLS == "verify":
		return "tls: verify wants STARTTLS and a certificate for the host in the address; backends[].ca names the root, where it is not a public one"
	case e.Kind == backend.KindRefused:
		return "the MTA turns this machine away: let it in by its address"
	}
	return "the MTA's log says what it made of the connection"
}

// clientTold says whether the MTA learns who the client is.
func clientTold(it topic, b configs.Backend, x backend.Examination) {
	if b.Identity == "none" {
		if x.Err != nil {
			return
		}
		it.Warn("identity: xclient (Postfix), xforward or proxy-v2 (Exim, OpenSMTPD); right for Exchange, which takes it from nobody",
			"is not told who the client is (identity: none): its log, DNS lists, greylisting and relay rules see this machine")
		return
	}
	t := x.Told
	if t == nil {
		return // the backend does not even greet
	}
	const postfix = "Postfix: -o smtpd_authorized_xclient_hosts= (or smtpd_authorized_xforward_hosts=) with the address that Postern comes from, in master.cf"
	client := exampleClient.Addr.Addr().String()
	var e *backend.Error
	switch errors.As(t.Err, &e); {
	case t.Err != nil && e.Kind == backend.KindRefused:
		it.OK("was told of a client at %s by %s, and turned that client away (%s): it goes by the address", client, b.Identity, backendWhy(e))
		return
	case t.Err != nil:
		advice := postfix
		if b.Identity == "proxy-v2" {
			advice = backendAdvice(b, x, e)
		}
		it.Fault(advice, "cannot be told who the client is, so all its mail is deferred (451 4.4.1): %s", backendWhy(t.Err))
		return
	}
	told := fmt.Sprintf("was told of a client at %s by %s", client, b.Identity)
	switch {
	case b.Identity == "xforward":
		it.OK("%s, for its log and its filters; its own rules (relay, DNS lists) still see this machine", told)
	case strings.Contains(t.Hello, client):
		it.OK("%s, and answers to it: %q", told, t.Hello)
	case b.Identity == "xclient" && !t.XClient:
		it.OK("accepted XCLIENT for a client at %s, and treats the session as coming from there (it no longer offers XCLIENT)", client)
	case b.Identity == "xclient" && strings.Contains(x.Greeting, "Postfix"):
		it.Fault("name Postern's address in smtpd_authorized_xclient_hosts and nobody else's: with a list that has everybody, any client can say who it is",
			"%s, and would let that client say XCLIENT itself", told)
	default:
		it.OK("%s, and greets it: %q", told, cmp.Or(t.Hello, t.Greeting))
	}
}

// clientOfIPv6 tells of an MTA that can be told of IPv4 clients alone.
func (d *patient) clientOfIPv6(it topic, x backend.Examination) {
	if x.NoIPv6 == nil {
		return
	}
	if !slices.ContainsFunc(service.Listeners(d.Config), func(l configs.Listener) bool { return takesIPv6(l.Address) }) {
		it.OK("cannot be told of a client at an IPv6 address (%s); none comes, since no listener takes IPv6", backendWhy(x.NoIPv6))
		return
	}
	it.Fault("Postfix: inet_protocols = all in main.cf, and restart it; or listen at IPv4 addresses only (listeners[].address), and have no AAAA record",
		"cannot be told of a client at an IPv6 address, so all of them hear 421 4.3.5 and have to come by IPv4: %s", backendWhy(x.NoIPv6))
}

// takesIPv6 says whether a listener at that address takes clients of IPv6.
func takesIPv6(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Is6() && !ip.Is4In6()
}

// announced has the proxy itself answer an EHLO, now that it is known what the
// backends offer.
func (d *patient) announced(r *Report) {
	ours, theirs, err := service.SocketPair()
	if err != nil {
		r.on("announced", "", "").Warn("see the file descriptors", "%v", err)
		return
	}
	listener := service.Listeners(d.Config)[0]
	listener.ProxyProtocol, listener.Pregreet = nil, 0
	if listener.TLS == "implicit" {
		listener.TLS = "off" // the connection is encrypted already
	}
	server := proxy.New(proxy.Options{Log: slog.New(slog.DiscardHandler)}, d.Settings)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Handle(service.FromAddress(theirs, exampleClient.Addr), service.ProxyListener(listener))
	}()
	defer func() {
		_ = ours.Close()
		<-done
	}()
	_ = ours.SetDeadline(time.Now().Add(doctorWait))
	in := bufio.NewReader(ours)
	reply, err := smtp.ReadReply(in)
	if err == nil && reply.Code == 220 {
		if _, err = io.WriteString(ours, "EHLO "+exampleClient.Helo+"\r\n"); err == nil {
			reply, err = smtp.ReadReply(in)
		}
	}
	switch {
	case err != nil:
		r.on("announced", "", "").Warn("postern test-session shows what a client meets", "a session of ours came to no EHLO: %v", err)
		return
	case reply.Code != 250:
		r.on("announced", "", "").OK("the policy turns the example client away, so what is offered was not seen: %s", strings.ReplaceAll(reply.String(), "\n", " / "))
		return
	}
	_, keywords, _ := strings.Cut(reply.Text, "\n")
	seen := strings.ReplaceAll(keywords, "\n", ", ")
	var without []string
	for _, keyword := range []string{"8BITMIME", "SMTPUTF8", "DSN"} {
		if !reply.Offers(keyword) {
			without = append(without, keyword)
		}
	}
	if without != nil {
		seen += "; not " + strings.Join(without, ", ") + ", which not every backend has"
	}
	r.on("announced", listener.Name, "").OK("%s", seen)
}
