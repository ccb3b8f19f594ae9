package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/smtp"
)

// ports looks whether the listeners can be opened, or who holds them.
func (d *patient) ports(ctx context.Context, r *Report) {
	for i, l := range service.Listeners(d.Config) {
		f := d.port(ctx, l, tryBind(l.Address))
		f.Check, f.Subject, f.At = "listener", l.Name, d.Config.At(fmt.Sprintf("listeners[%d].address", i)).String()
		f.Seen = fmt.Sprintf("%s on %s %s", l.Name, l.Address, f.Seen)
		r.add(f)
	}
}

// port tells of one listener; bound is what came of binding to its address.
func (d *patient) port(ctx context.Context, l configs.Listener, bound error) Finding {
	switch {
	case bound == nil && d.running.up:
		return Finding{Status: Warn, Seen: "is free, although a proxy runs here: it serves by another configuration", Advice: "reload it: systemctl reload postern"}
	case bound == nil:
		return Finding{Status: OK, Seen: "is free"}
	case errors.Is(bound, syscall.EADDRNOTAVAIL):
		return Finding{Status: Fault, Seen: "cannot be opened: this machine has no such address", Advice: "ip address shows those it has; leave the host out to listen on all"}
	case !errors.Is(bound, syscall.EADDRINUSE) && !errors.Is(bound, syscall.EACCES):
		return Finding{Status: Fault, Seen: "cannot be opened: " + bound.Error(), Advice: "look at the address"}
	}
	greeting, err := greetingOf(ctx, l)
	ours := d.Settings.Hostname + " ESMTP"
	if l.Protocol == configs.ProtocolAMTP {
		ours = d.Settings.Hostname + " AMTP"
	}
	var op *net.OpError
	switch {
	// The kernel asks for that right before it looks whether somebody has the port.
	case errors.Is(bound, syscall.EACCES) && errors.As(err, &op) && op.Op == "dial":
		return Finding{
			Status: Warn, Seen: "cannot be opened by this user: ports below 1024 want CAP_NET_BIND_SERVICE",
			Advice: "the unit in deploy/systemd gives it; without systemd: setcap cap_net_bind_service=+ep on the binary",
		}
	case err != nil && d.running.up:
		return Finding{Status: Warn, Seen: fmt.Sprintf("is in use, and greets nobody: %v", err), Advice: "right if a rule refuses every connection from this machine; else see who listens: ss -ltnp"}
	case err != nil:
		return Finding{Status: Fault, Seen: fmt.Sprintf("is in use by a program that does not greet: %v", err), Advice: "see who it is: ss -ltnp. If systemd holds it (postern.socket), start the service"}
	case greeting != ours: // an MTA of the same name says what it is behind that
		return Finding{Status: Fault, Seen: fmt.Sprintf("is in use by another program, which greets with %q", greeting), Advice: "your MTA still has it? deploy/README.md says how the port moves over; or a proxy runs with another hostname: reload it"}
	}
	return Finding{Status: OK, Seen: fmt.Sprintf("is in use by Postern, which greets with %q", greeting)}
}

// tryBind binds to the address of a listener without listening on it: nobody can
// connect meanwhile, and the proxy itself can start at the same moment.
func tryBind(address string) error {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return err
	}
	ap := addr.AddrPort()
	ip := ap.Addr().Unmap()
	bind := func(family int, to syscall.Sockaddr) error {
		fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = syscall.Close(fd) }()
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if family == syscall.AF_INET6 {
			both := 1
			if !ip.IsValid() || ip.IsUnspecified() {
				both = 0 // no host: IPv4 as well, as the listener has it
			}
			if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, both); err != nil {
				return err
			}
		}
		return syscall.Bind(fd, to)
	}
	if ip.Is4() {
		return bind(syscall.AF_INET, &syscall.SockaddrInet4{Port: addr.Port, Addr: ip.As4()})
	}
	to := &syscall.SockaddrInet6{Port: addr.Port}
	if ip.IsValid() {
		to.Addr = ip.As16()
	}
	err = bind(syscall.AF_INET6, to)
	if errors.Is(err, syscall.EAFNOSUPPORT) && (!ip.IsValid() || ip.IsUnspecified()) {
		return bind(syscall.AF_INET, &syscall.SockaddrInet4{Port: addr.Port}) // a machine without IPv6
	}
	return err
}

// greetingOf connects to a listener of this machine as a client does, and returns
// what stands behind 220.
func greetingOf(ctx context.Context, l configs.Listener) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil {
		return "", err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	// One of those who must say who the client is says that it is itself.
	if from, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		for _, p := range service.ProxyListener(l).ProxyProtocol {
			if p.Contains(from.AddrPort().Addr().Unmap()) {
				if _, err := io.WriteString(conn, "PROXY UNKNOWN\r\n"); err != nil {
					return "", err
				}
				break
			}
		}
	}
	if l.TLS == "implicit" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // G402: the greeting is wanted; pairs looks at the certificates
	}
	r, err := smtp.ReadReply(bufio.NewReader(conn))
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("nothing in %v", doctorWait)
		}
		return "", err
	}
	_, _ = io.WriteString(conn, "QUIT\r\n") // the answer tells nothing
	if r.Code != 220 {
		return "", fmt.Errorf("it said %s", strings.ReplaceAll(r.String(), "\n", " / "))
	}
	return r.Text, nil
}

// How many of the last records are looked at for where clients come from, and how
// many must be there before something is concluded.
const (
	tailRecords  = 500
	leastRecords = 20
	fewClients   = 4 // a pair of load balancers, each with two addresses
)

// clientAddress looks whether what is taken for the client's address is the client's.
func (d *patient) clientAddress(_ context.Context, r *Report) {
	listeners := service.Listeners(d.Config)
	for i, l := range listeners {
		if len(l.ProxyProtocol) == 0 {
			continue
		}
		it := r.on("client.address", l.Name, d.Config.At(fmt.Sprintf("listeners[%d].proxy_protocol", i)).String())
		believed := service.ProxyListener(l).ProxyProtocol
		if i := slices.IndexFunc(believed, wide); i >= 0 {
			it.Fault("name the load balancers, and nobody else", "%s believes the PROXY header of %v: whoever is in there can say that it is anybody", l.Name, believed[i])
		} else {
			it.OK("%s takes the client's address from the PROXY header of %s, who must send one", l.Name, strings.Join(l.ProxyProtocol, ", "))
		}
	}
	dir := d.Config.Journal.Path
	if dir == "" {
		r.on("client.address", "", "").OK("there is no journal to see from where clients come: look at client.ip in the log")
		return
	}
	records, err := journal.Tail(dir, tailRecords)
	if err != nil && len(records) == 0 {
		r.on("client.address", "", "").OK("there are no records yet to see from where clients come (%v)", err)
		return
	}
	seenClients(r, records, listeners, d.now)
}

// wide says whether a block holds more of the Internet than anybody's load balancers.
func wide(p netip.Prefix) bool {
	if p.Bits() == 0 {
		return true
	}
	least := 16
	if p.Addr().Is6() {
		least = 32
	}
	return p.Bits() < least && !hidden(p.Addr())
}

// hidden says whether an address cannot be that of a client somewhere in the Internet:
// private (RFC 1918, RFC 4193), shared (RFC 6598), loopback or link-local.
func hidden(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || netip.MustParsePrefix("100.64.0.0/10").Contains(a)
}

// seenClients concludes from the last records, the newest first.
func seenClients(r *Report, records []journal.Record, listeners []configs.Listener, now time.Time) {
	if len(records) > 0 && records[0].Time.After(now.Add(5*time.Minute)) {
		r.on("clock", "", "").Warn("the clock was ahead, or is behind: let NTP have it", "the last record of the journal is of %s, which is yet to come", records[0].Time.UTC().Format("2006-01-02 15:04 MST"))
	}
	clients := map[netip.Addr]int{}
	inside := 0
	for i := range records {
		a, err := netip.ParseAddr(records[i].Facts.Client.IP)
		if err != nil {
			continue
		}
		if clients[a]++; hidden(a) {
			inside++
		}
	}
	it := r.on("client.address", "", "")
	total, most, busiest := 0, 0, netip.Addr{}
	for a, n := range clients {
		if total += n; n > most {
			most, busiest = n, a
		}
	}
	advice := "a load balancer must send a PROXY header and stand in listeners[].proxy_protocol; a NAT or a container's network (Docker's userland proxy) must keep the source address: deploy/README.md"
	for _, l := range listeners {
		if len(l.ProxyProtocol) > 0 {
			advice = "those in proxy_protocol do send a header, and it names that address: what stands before them hides the client"
		}
	}
	switch {
	case total < leastRecords:
		it.OK("the journal has %s lately: too few to see from where clients come", view.Counted(total, "record"))
	case len(clients) == 1 && inside > 0:
		it.Fault(advice, "the last %d transactions all came from %v, which is no address of the Internet: something before us hides the clients, and SPF judges it in their place", total, busiest)
	case len(clients) <= fewClients && inside == total:
		it.Fault(advice, "the last %d transactions came from %d addresses of a network of your own: something before us hides the clients, and SPF judges it in their place", total, len(clients))
	case len(clients) == 1:
		it.Warn(advice, "the last %d transactions all came from %v: is it the only one who sends you mail?", total, busiest)
	case inside == total:
		it.Warn(advice, "the last %d transactions came from networks of your own, and none from the Internet", total)
	default:
		it.OK("the last %d transactions came from %d addresses; %d came from the Internet", total, len(clients), total-inside)
	}
}
