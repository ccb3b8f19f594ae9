// Package setup looks at a machine and writes a first configuration for it.
package setup

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"postern/configs"
	"postern/proxy/smtp"
)

// Machine is what is looked at. The zero Machine is this one.
type Machine struct {
	Root     string // before each path that is looked at
	Hostname string // empty: that of the machine
	Backend  string // host:port of the MTA; empty: it is looked for
	Now      time.Time
}

// doors are where an MTA is looked for, the best first: a door of its own, and port 25.
var doors = []string{"127.0.0.1:10025", "127.0.0.1:25"}

// patience is how long an MTA may take for each answer.
const patience = 3 * time.Second

// Seen is what was found.
type Seen struct {
	Hostname    string
	MTA         string // postfix, exim, opensmtpd; empty: none that is known
	Backend     string // where the MTA is to listen for us
	Answers     string // what answered: its greeting; empty: nobody
	XCLIENT     bool   // it was offered there
	OnPort25    bool   // the MTA holds it still
	Servers     []string
	Certificate string // empty: none was found
	Key         string
	Ends        time.Time
	Notes       []string // what the user should know
}

// Look looks at a machine. It changes nothing, and sends no mail.
func Look(ctx context.Context, m Machine) *Seen {
	s := &Seen{Hostname: m.Hostname, Backend: m.Backend}
	if s.Hostname == "" {
		s.Hostname = hostname(m.Root)
	}
	s.MTA = m.mta()
	m.backend(ctx, s)
	m.resolver(s)
	m.certificate(s)
	return s
}

func (m *Machine) path(name string) string { return filepath.Join("/", m.Root, name) }

// read returns a file of a mebibyte at most; empty: there is none.
func (m *Machine) read(name string) string {
	f, err := os.Open(m.path(name))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // nothing was written
	b, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	return string(b)
}

// hostname is the machine's name with its domain, where one is known.
func hostname(root string) string {
	m := Machine{Root: root}
	if name := parameter(m.read("etc/postfix/main.cf"), "myhostname"); smtp.IsDomain(name) {
		return name
	}
	name, err := os.Hostname()
	if err != nil || smtp.IsDomain(name) {
		return name
	}
	for line := range strings.Lines(m.read("etc/hosts")) {
		for _, host := range strings.Fields(line) {
			if strings.HasPrefix(host, name+".") && smtp.IsDomain(host) {
				return host
			}
		}
	}
	return name
}

// parameter is the value of a parameter of Postfix's main.cf, where it is plain.
func parameter(main, name string) (value string) {
	for line := range strings.Lines(main) {
		key, v, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(key) == name && !strings.Contains(v, "$") {
			value = strings.TrimSpace(v)
		}
	}
	return value
}

// mta says which MTA is installed, by its configuration.
func (m *Machine) mta() string {
	for _, is := range []struct{ file, name string }{
		{"etc/postfix/main.cf", "postfix"}, {"etc/exim4", "exim"}, {"etc/exim/exim.conf", "exim"},
		{"etc/smtpd.conf", "opensmtpd"}, {"etc/mail/smtpd.conf", "opensmtpd"},
	} {
		if _, err := os.Stat(m.path(is.file)); err == nil {
			return is.name
		}
	}
	return ""
}

// backend asks who answers where the MTA may be.
func (m *Machine) backend(ctx context.Context, s *Seen) {
	at := doors
	if m.Backend != "" {
		at = []string{m.Backend}
	}
	for _, door := range at {
		greeting, offers, err := greet(ctx, door)
		if err != nil {
			continue
		}
		if strings.HasSuffix(door, ":25") && m.Backend == "" {
			s.OnPort25 = true // to look at; NOT: a backend, since it trusts 127.0.0.1
			s.Notes = append(s.Notes, fmt.Sprintf("%s greets with %q: that is port 25, which will be ours. The MTA needs a second door, see below.", door, greeting))
			break
		}
		s.Backend, s.Answers, s.XCLIENT = door, greeting, offers["XCLIENT"]
		break
	}
	if s.Backend == "" {
		s.Backend = doors[0]
	}
	switch {
	case s.Answers == "":
		s.Notes = append(s.Notes, "nobody answers at "+s.Backend+" yet: until the MTA listens there, clients hear 451 and come again")
	case !s.XCLIENT && s.MTA == "postfix":
		s.Notes = append(s.Notes, s.Backend+" does not offer XCLIENT: smtpd_authorized_xclient_hosts is missing there, see below")
	}
}

// greet reads a greeting and what EHLO offers.
func greet(ctx context.Context, addr string) (greeting string, offers map[string]bool, err error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = c.Close() }() // it was only asked
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return "", nil, err
	}
	r := bufio.NewReader(io.LimitReader(c, 64<<10))
	if greeting, err = r.ReadString('\n'); err != nil {
		return "", nil, err
	}
	greeting = strings.TrimSpace(strings.TrimPrefix(greeting, "220"))
	if _, err := io.WriteString(c, "EHLO localhost\r\n"); err != nil {
		return "", nil, err
	}
	offers = map[string]bool{}
	for {
		line, err := r.ReadString('\n')
		if err != nil || len(line) < 5 {
			break
		}
		if words := strings.Fields(line[4:]); len(words) > 0 {
			offers[strings.ToUpper(words[0])] = true
		}
		if line[3] == ' ' {
			break
		}
	}
	_, _ = io.WriteString(c, "QUIT\r\n") // out of courtesy
	return greeting, offers, nil
}

// resolver notes which name servers the machine asks.
func (m *Machine) resolver(s *Seen) {
	own := false
	for line := range strings.Lines(m.read("etc/resolv.conf")) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			s.Servers = append(s.Servers, words[1])
			a := net.ParseIP(words[1])
			own = own || a != nil && a.IsLoopback()
		}
	}
	switch {
	case len(s.Servers) == 0:
		s.Notes = append(s.Notes, "/etc/resolv.conf names no server: without DNS all mail is deferred. Install a resolver such as unbound, and name it in dns.servers")
	case !own:
		s.Notes = append(s.Notes, "the name servers are others' ("+strings.Join(s.Servers, ", ")+"): DNS lists often refuse those. A resolver of your own on this machine, such as unbound, is better")
	}
}

// certificate looks for a certificate of this name.
func (m *Machine) certificate(s *Seen) {
	main := m.read("etc/postfix/main.cf")
	pairs := [][2]string{
		{"/etc/postern/fullchain.pem", "/etc/postern/key.pem"},
		{"/etc/letsencrypt/live/" + s.Hostname + "/fullchain.pem", "/etc/letsencrypt/live/" + s.Hostname + "/privkey.pem"},
		{parameter(main, "smtpd_tls_cert_file"), parameter(main, "smtpd_tls_key_file")},
	}
	for _, pair := range pairs {
		if pair[0] == "" || pair[1] == "" || strings.ContainsAny(pair[0]+pair[1], "\"\\\n") {
			continue
		}
		loaded, err := tls.LoadX509KeyPair(m.path(pair[0]), m.path(pair[1]))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				s.Notes = append(s.Notes, fmt.Sprintf("%s is not used: %v", pair[0], err))
			}
			continue
		}
		leaf, err := x509.ParseCertificate(loaded.Certificate[0])
		if err != nil {
			continue
		}
		if err := leaf.VerifyHostname(s.Hostname); err != nil {
			s.Notes = append(s.Notes, fmt.Sprintf("%s is not used: it is not for %s", pair[0], s.Hostname))
			continue
		}
		s.Certificate, s.Key, s.Ends = pair[0], pair[1], leaf.NotAfter
		if s.Ends.Before(m.Now) {
			s.Notes = append(s.Notes, fmt.Sprintf("%s ended on %s", pair[0], s.Ends.Format(time.DateOnly)))
		}
		s.Notes = append(s.Notes, "the user postern must be able to read "+pair[1]+": check-config, run as postern, says whether it is")
		return
	}
	s.Notes = append(s.Notes, "no certificate for "+s.Hostname+" was found: clients are offered one that is made anew at each start, which most of them take")
}

// Write writes a configuration where there is none, for the owner and the group postern. The
// error is fs.ErrExist where there is one.
func Write(file, text string) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file)
		}
	}()
	if group, err := user.LookupGroup("postern"); err == nil {
		if id, err := strconv.Atoi(group.Gid); err == nil {
			_ = f.Chown(-1, id) // who may not has no proxy that runs as another user
		}
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if _, err := configs.Load(configs.Options{File: file}); err != nil {
		return fmt.Errorf("such a configuration would not be good, and none was left: %v", err) //nolint:errorlint // NOT: as faults of a file, which is gone
	}
	return nil
}
