package backend

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/configs"
	"postern/proxy/backend/mta"
	"postern/proxy/smtp"
)

// Maildir is the embedded backend: an MTA in small that puts every message into
// one Maildir, whoever it is for. It is spoken to over SMTP like any other, so
// that there is one way of the mail and not two.
//
// A message is one file, not one per recipient: then it is there whole or not
// at all, and the reply to the dot is true for everybody. On top stand
// Return-Path, a Delivered-To for each recipient, and Received. Lines end in
// LF, as readers of a Maildir expect. It is on the disk (fsync) before 250 is
// said; trouble with the disk is 452 4.3.1, and the client comes again.
type Maildir struct {
	Dir      string // holds tmp, new and cur, and is made if it is not there
	Hostname string // for the greeting, Received and file names
	MaxSize  int64  // octets of a message; 0: 64 MiB

	once   sync.Once
	server *mta.Server
	count  atomic.Int64
}

// Keywords that the embedded backend honours. NOT: DSN, which would have it
// send mail of its own (RFC 3461 §5.2.2).
var maildirKeywords = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING"}

func (m *Maildir) engine() *mta.Server {
	m.once.Do(func() {
		m.server = &mta.Server{
			Hostname: m.hostname(), Store: maildirStore{m}, Keywords: maildirKeywords,
			MaxSize: m.MaxSize, Trusted: isLoopback,
		}
	})
	return m.server
}

func (m *Maildir) hostname() string {
	if m.Hostname == "" {
		return "localhost"
	}
	return m.Hostname
}

// isLoopback says whether a peer is on this machine, which is who may tell us
// by XCLIENT that it speaks for another.
func isLoopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback() || a.Network() == "unix"
}

// Serve makes the folders, clears what crashes have left in tmp, and takes mail
// until Close; it returns net.ErrClosed then.
func (m *Maildir) Serve(ln net.Listener) error {
	if err := m.prepare(); err != nil {
		_ = ln.Close()
		return err
	}
	return m.engine().Serve(ln)
}

// Handle serves one connection.
func (m *Maildir) Handle(nc net.Conn) { m.engine().Handle(nc) }

// Close ends listeners and connections. A message whose dot was not answered
// is not delivered.
func (m *Maildir) Close() error { return m.engine().Close() }

// Backend returns the configuration of a backend that stands at address.
func (m *Maildir) Backend(address string) configs.Backend {
	return configs.Backend{Name: "maildir", Addresses: []string{address}, TLS: tlsOff, Identity: identityXClient}
}

// abandoned is the age at which a file in tmp belongs to nobody any more.
const abandoned = 36 * time.Hour

func (m *Maildir) prepare() error {
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(m.Dir, sub), 0o700); err != nil {
			return fmt.Errorf("maildir: %w", err)
		}
	}
	files, err := os.ReadDir(filepath.Join(m.Dir, "tmp"))
	if err != nil {
		return fmt.Errorf("maildir: %w", err)
	}
	for _, f := range files {
		if i, err := f.Info(); err == nil && i.Mode().IsRegular() && time.Since(i.ModTime()) > abandoned {
			_ = os.Remove(filepath.Join(m.Dir, "tmp", f.Name()))
		}
	}
	return nil
}

// unique returns a file name that no other delivery has or will have.
func (m *Maildir) unique() string {
	now := time.Now()
	host := strings.NewReplacer("/", `\057`, ":", `\072`).Replace(m.hostname())
	return fmt.Sprintf("%d.M%06dP%dQ%d.%s", now.Unix(), now.Nanosecond()/1000, os.Getpid(), m.count.Add(1), host)
}

type maildirStore struct{ m *Maildir }

// delivery is a file in tmp on its way to new.
type delivery struct {
	m    *Maildir
	name string
	f    *os.File
	w    *bufio.Writer
	cr   bool // a CR was the last octet, and waits for its LF
}

// Begin implements mta.Store.
func (s maildirStore) Begin(e *mta.Envelope) (mta.Message, smtp.Reply) {
	name := s.m.unique()
	f, err := os.OpenFile(filepath.Join(s.m.Dir, "tmp", name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, storage
	}
	d := &delivery{m: s.m, name: name, f: f, w: bufio.NewWriterSize(f, 32<<10)}
	if _, err := d.w.WriteString(trace(e, s.m.hostname(), name, time.Now())); err != nil {
		d.Discard()
		return nil, storage
	}
	return d, smtp.Reply{}
}

var storage = smtp.Reply{Code: 452, Enhanced: "3.1", Text: "Insufficient system storage."}

// trace is what a delivering MTA puts on top (RFC 5321 §4.4).
func trace(e *mta.Envelope, host, id string, now time.Time) string {
	var b strings.Builder
	b.WriteString("Return-Path: " + e.From.Angle() + "\n")
	for _, r := range e.To {
		b.WriteString("Delivered-To: " + r.Path.String() + "\n")
	}
	helo, addr := e.Helo, e.XClient["ADDR"]
	if v, ok := strings.CutPrefix(addr, "IPV6:"); ok {
		addr = "IPv6:" + v
	}
	with := "SMTP"
	if e.ESMTP {
		with = "ESMTP"
	}
	if _, err := netip.ParseAddr(strings.TrimPrefix(addr, "IPv6:")); err != nil {
		addr = ""
	} else {
		addr = " ([" + addr + "])"
	}
	b.WriteString("Received: from " + atoms(helo) + addr + "\n\tby " + host + " with " + with + " id " + id + ";\n\t" +
		now.Format(time.RFC1123Z) + "\n")
	return b.String()
}

// atoms makes a name fit for a Received field: what is no domain or literal
// could end the clause, or the line.
func atoms(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`()<>@,;\"`, r) {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 255)]
}

// Write turns CRLF into LF.
func (d *delivery) Write(p []byte) (int, error) {
	n := len(p)
	if d.cr && n > 0 && p[0] != '\n' {
		_ = d.w.WriteByte('\r')
	}
	d.cr = false
	for len(p) > 0 {
		line := p
		i := bytes.IndexByte(p, '\n')
		if i >= 0 {
			line = p[:i+1]
		}
		p = p[len(line):]
		switch k := len(line); {
		case i >= 1 && line[i-1] == '\r':
			_, _ = d.w.Write(line[:i-1])
			_ = d.w.WriteByte('\n')
		case i < 0 && line[k-1] == '\r':
			d.cr = true
			_, _ = d.w.Write(line[:k-1])
		default:
			_, _ = d.w.Write(line)
		}
	}
	// The writer keeps its first error, and this asks for it.
	_, err := d.w.Write(nil)
	return n, err
}

// Commit makes the message durable, and then visible.
func (d *delivery) Commit() smtp.Reply {
	if d.cr {
		_ = d.w.WriteByte('\r')
	}
	err := d.w.Flush()
	if err == nil {
		err = d.f.Sync()
	}
	if e := d.f.Close(); err == nil {
		err = e
	}
	tmp := filepath.Join(d.m.Dir, "tmp", d.name)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(d.m.Dir, "new", d.name))
	}
	if err != nil {
		_ = os.Remove(tmp)
		return storage
	}
	// The name has to survive as well.
	if err := syncDir(filepath.Join(d.m.Dir, "new")); err != nil {
		// The message is there, and may be gone after a power cut: the client must
		// keep it, so we do not say 250.
		if os.Remove(filepath.Join(d.m.Dir, "new", d.name)) == nil {
			return storage
		}
	}
	return smtp.Reply{Code: 250, Enhanced: "6.0", Text: "OK, queued as " + d.name}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Discard takes the file away.
func (d *delivery) Discard() {
	_ = d.f.Close()
	_ = os.Remove(filepath.Join(d.m.Dir, "tmp", d.name))
}
