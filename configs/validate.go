package configs

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// minDuration is the least that makes sense for a wait: below it every command would
// time out.
const minDuration = 50 * time.Millisecond

// validate notes every fault that can be seen without looking at anything but the
// values themselves. Rules, lists, certificates and servers are judged by those
// who build them.
func (l *loader) validate(c *Config) {
	l.bounds(reflect.ValueOf(c).Elem(), "")
	if c.Log.NoQueue != "" && !isProgramName(c.Log.NoQueue) {
		l.fault("log.noqueue", "log.noqueue: %q is no name of a program, such as postfix/smtpd", c.Log.NoQueue)
	}
	if c.Hostname != "" && !isHostname(c.Hostname) {
		l.fault("hostname", "hostname: %q is no domain name", c.Hostname)
	}
	l.listeners(c)
	for i, cert := range c.TLS.Certificates {
		p := fmt.Sprintf("tls.certificates[%d]", i)
		l.required(p+".certificate", cert.Certificate)
		l.required(p+".key", cert.Key)
	}
	l.backends(c)
	for i, s := range c.DNS.Servers {
		if err := checkDNSServer(s); err != nil {
			l.fault(fmt.Sprintf("dns.servers[%d]", i), "dns.servers: %q %v", s, err)
		}
	}
	for i, name := range c.DNS.Canaries {
		_, err := netip.ParseAddr(name)
		if err == nil || !isHostname(name) {
			l.fault(fmt.Sprintf("dns.canaries[%d]", i), "dns.canaries: %q is no domain name", name)
		}
	}
	if n := len(c.DNS.Canaries); n > MaxCanaries {
		l.fault("dns.canaries", "dns.canaries: %d names; at most %d", n, MaxCanaries)
	}
	l.overrides(c, time.Now())
	l.notOfOverrides(c)
	if c.Journal.HashLocalParts {
		l.required("journal.hash_key", c.Journal.HashKey)
	}
	l.state(&c.State)
	if a := c.Admin.Address; a != "" {
		l.hostPort("admin.address", a)
	}
	l.retrieve(c)
	l.amtp(c)
	l.filters(c)
	l.hold(&c.AMTP.Hold)
	for i, name := range c.Admin.Hosts {
		if !isHostname(name) {
			l.fault(fmt.Sprintf("admin.hosts[%d]", i), "admin.hosts: %q is no host name: write the name alone, without port", name)
		}
	}
}

// bounds applies the words and min tags.
func (l *loader) bounds(v reflect.Value, path string) {
	switch {
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			l.bounds(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case v.Kind() == reflect.Pointer && !v.IsNil():
		l.bounds(v.Elem(), path)
	case isSection(v.Type()):
		for i := range v.NumField() {
			sf := v.Type().Field(i)
			key := keyOf(sf)
			if key == "" {
				continue
			}
			p, f := join(path, key), v.Field(i)
			l.bounds(f, p)
			if words, ok := sf.Tag.Lookup("words"); ok {
				l.word(p, f.String(), strings.Fields(words))
			}
			if err := checkMin(f, sf.Tag.Get("min")); err != nil {
				l.fault(p, "%s: %v", p, err)
			}
		}
	}
}

// word notes a text that is none of the words.
func (l *loader) word(path, s string, words []string) {
	for _, w := range words {
		if s == w {
			return
		}
	}
	hint := ""
	if near := Nearest(s, func(yield func(string) bool) {
		for _, w := range words {
			if !yield(w) {
				return
			}
		}
	}); near != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", near)
	}
	l.fault(path, "%s: %q is none of %s%s", path, s, strings.Join(words, ", "), hint)
}

// checkMin compares a number, size or duration with its least value.
func checkMin(v reflect.Value, least string) error {
	switch x := v.Interface().(type) {
	case time.Duration:
		m := minDuration
		if least != "" {
			m, _ = ParseDuration(least)
		}
		if x < m {
			return fmt.Errorf("%s is too short: the least is %s", FormatDuration(x), FormatDuration(m))
		}
	case Size:
		m := Size(1)
		if least != "" {
			m, _ = ParseSize(least)
		}
		if x < m {
			return fmt.Errorf("%s is too small: the least is %s", x, m)
		}
	case int:
		m := 1
		if least != "" {
			m, _ = strconv.Atoi(least)
		}
		if x < m {
			return fmt.Errorf("%d is too small: the least is %d", x, m)
		}
	}
	return nil
}

func (l *loader) required(path, value string) {
	if value == "" {
		l.fault(path, "%s: missing", path)
	}
}

// name notes a name that is missing, badly formed or taken; seen is by name.
func (l *loader) name(path, name string, seen map[string]string) {
	switch other, taken := seen[name]; {
	case name == "":
		l.required(path, name)
	case !isName(name):
		l.fault(path, "%s: %q is no name: use up to 64 letters, digits, - _ and .", path, name)
	case taken:
		l.fault(path, "%s: %q is the name of %s already", path, name, other)
	default:
		seen[name] = parent(path)
	}
}

func (l *loader) listeners(c *Config) {
	names, addresses := map[string]string{}, map[string]string{}
	for i := range c.Listeners {
		ln := &c.Listeners[i]
		p := fmt.Sprintf("listeners[%d]", i)
		if ln.Name == "" && len(c.Listeners) == 1 {
			ln.Name = "mx" // there is nothing to tell it from
		}
		l.name(p+".name", ln.Name, names)
		if ln.Address == "" {
			l.required(p+".address", "")
		} else if l.hostPort(p+".address", ln.Address) && !strings.HasSuffix(ln.Address, ":0") {
			if other, taken := addresses[ln.Address]; taken {
				l.fault(p+".address", "%s.address: %s is the address of %s already", p, ln.Address, other)
			}
			addresses[ln.Address] = p
		}
		for j, peer := range ln.ProxyProtocol {
			if _, err := ParsePrefix(peer); err != nil {
				l.fault(fmt.Sprintf("%s.proxy_protocol[%d]", p, j), "%s.proxy_protocol: %q is neither an IP address nor a CIDR block", p, peer)
			}
		}
	}
}

func (l *loader) backends(c *Config) {
	names := map[string]string{}
	for i, b := range c.Backends {
		p := fmt.Sprintf("backends[%d]", i)
		l.name(p+".name", b.Name, names)
		if len(b.Addresses) == 0 {
			l.fault(p+".addresses", "%s.addresses: missing", p)
		}
		for j, a := range b.Addresses {
			ap := fmt.Sprintf("%s.addresses[%d]", p, j)
			if path, ok := strings.CutPrefix(a, "unix:"); ok {
				if !strings.HasPrefix(path, "/") {
					l.fault(ap, "%s: %q: the path of a socket begins with a slash", ap, a)
				}
				continue
			}
			switch {
			case !l.hostPort(ap, a):
			case strings.HasPrefix(a, ":"):
				l.fault(ap, "%s: %q has no host", ap, a)
			default:
				// RFC 5321 §6.3: a message that we send to ourselves goes round until
				// it has a hundred Received fields.
				for _, own := range c.ownAddresses() {
					if sameEnd(own, a) {
						l.fault(ap, "%s: %s is where we listen ourselves (%s): mail would go round", ap, a, own)
					}
				}
			}
		}
		if b.CA != "" && b.TLS != "verify" {
			l.fault(p+".ca", "%s.ca: says whom to verify by, but tls is %s: write tls: verify", p, b.TLS)
		}
	}
	for i, r := range c.Routes {
		p := fmt.Sprintf("routes[%d]", i)
		if len(r.Recipients) == 0 {
			l.fault(p+".recipients", "%s.recipients: missing", p)
		}
		for j, rcpt := range r.Recipients {
			if rcpt == "" || strings.ContainsAny(rcpt, " \t<>") {
				l.fault(fmt.Sprintf("%s.recipients[%d]", p, j), "%s.recipients: %q is no domain, *.domain, address or *", p, rcpt)
			}
		}
		if _, ok := names[r.Backend]; !ok {
			hint := ""
			if near := Nearest(r.Backend, maps.Keys(names)); near != "" {
				hint = fmt.Sprintf(": did you mean %q?", near)
			}
			l.fault(p+".backend", "%s.backend: there is no backend %q%s", p, r.Backend, hint)
		}
	}
}

func (l *loader) state(s *State) {
	if s.Path != "" && len(s.Servers) > 0 {
		l.fault("state.servers", "state.servers: path names a store already: path is for one machine, servers for several; take one of them out")
	}
	for i, server := range s.Servers {
		p := fmt.Sprintf("state.servers[%d]", i)
		if l.hostPort(p, server) && strings.HasPrefix(server, ":") {
			l.fault(p, "%s: %q has no host", p, server)
		}
	}
	for _, of := range []struct {
		key  string
		said bool
	}{{"tls", s.TLS == "verify"}, {"ca", s.CA != ""}, {"user", s.User != ""}, {"password_file", s.PasswordFile != ""}} {
		if of.said && len(s.Servers) == 0 {
			l.fault("state."+of.key, "state.%s: is about servers, and state.servers names none", of.key)
		}
	}
	if s.CA != "" && s.TLS != "verify" {
		l.fault("state.ca", "state.ca: says whom to verify by, but tls is %s: write tls: verify", s.TLS)
	}
	if s.User != "" && s.PasswordFile == "" {
		l.fault("state.user", "state.user: a user has a password, and state.password_file names no file that holds it")
	}
	if !isKeyPrefix(s.Prefix) {
		l.fault("state.prefix", "state.prefix: %q begins no key: use up to 64 letters, digits, - _ . : and /", s.Prefix)
	}
}

// DefaultListen is where we stand if no listener is configured.
const DefaultListen = ":2525"

// ownAddresses are those that we stand on.
func (c *Config) ownAddresses() []string {
	if len(c.Listeners) == 0 {
		return []string{DefaultListen}
	}
	var own []string
	for i := range c.Listeners {
		own = append(own, c.Listeners[i].Address)
	}
	return own
}

// sameEnd says whether who connects to an address is sure to come out at a
// listener. NOT: by looking names up, or at the addresses of this machine;
// both may be others where the configuration is used.
func sameEnd(listener, to string) bool {
	listenHost, listenPort, err1 := net.SplitHostPort(listener)
	host, port, err2 := net.SplitHostPort(to)
	if err1 != nil || err2 != nil || port != listenPort || port == "0" {
		return false
	}
	at, all := hostAddr(listenHost)
	addr, _ := hostAddr(host)
	switch {
	case !addr.IsValid():
		return strings.EqualFold(host, listenHost)
	case all:
		return addr.IsLoopback()
	case at.IsUnspecified(): // of IPv6, it takes IPv4 too
		return addr.IsLoopback() && (at.Is6() || addr.Is4())
	}
	return at == addr
}

// hostAddr reads the host of an address; all: there is none.
func hostAddr(host string) (addr netip.Addr, all bool) {
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	addr, _ = netip.ParseAddr(host)
	return addr.Unmap(), host == ""
}

// hostPort notes what is no host:port. The port may be a number or 0.
func (l *loader) hostPort(path, s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if _, err := strconv.ParseUint(s, 10, 16); err == nil {
			l.fault(path, "%s: %q is not host:port: write \"127.0.0.1:%s\", or \":%s\" for all addresses", path, s, s, s)
			return false
		}
		l.fault(path, "%s: %q is not host:port (IPv6 addresses stand in brackets)", path, s)
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		l.fault(path, "%s: %q: the port is a number from 0 to 65535", path, s)
		return false
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !isHostname(host) {
		l.fault(path, "%s: %q: the host is neither an IP address nor a name", path, s)
		return false
	}
	return true
}

// ParseNetwork reads a CIDR block as rules have it: one of IPv4-mapped addresses becomes the one of
// IPv4 addresses that is meant. The bits behind the prefix stay, and an address alone is an error: ParsePrefix
// is for keys that take both.
func ParseNetwork(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err == nil && p.Masked().Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, err
}

// ParsePrefix reads a CIDR block, or an address as a block of one.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// checkDNSServer accepts address, address:port and tls://address:port#name.
func checkDNSServer(s string) error {
	address, isTLS := strings.CutPrefix(s, "tls://")
	if isTLS {
		var name string
		var named bool
		if address, name, named = strings.Cut(address, "#"); named && !isHostname(name) {
			return fmt.Errorf("has a bad name behind #")
		}
	}
	if _, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return nil
	}
	if ap, err := netip.ParseAddrPort(address); err != nil || ap.Port() == 0 {
		return fmt.Errorf("is no name server: write address, address:port or tls://address:port#name")
	}
	return nil
}
