package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"postern/checks/memory"
	"postern/cmd/postern/control"
	"postern/configs"
	"postern/metrics"
	"postern/policy/journal"
)

// Page is what the admin address shows a person, beside metrics and health.
type Page interface {
	http.Handler
	// Record hears of every transaction, in the session that had it, and comes back at once. The
	// record is the session's: who keeps it takes a copy.
	Record(r *journal.Record)
	// Close ends what goes on and keeps others from listening.
	Close()
}

// The methods below are what a page sees of the service that runs. They are asked from other
// goroutines.

// Parts are those in force; nil before there are any.
func (s *Service) Parts() *Parts { return s.parts.Load() }

// Ready says what stands in the way of mail, in words; nothing: it is served.
func (s *Service) Ready() []string { return s.ready() }

// Glance is some of the counts.
func (s *Service) Glance() metrics.Glance { return s.metrics.Glance() }

// Held lists held mail, the newest first, at most so much.
func (s *Service) Held(ctx context.Context, f control.Filter, most int) (list []memory.Notice, err error) {
	enough := errors.New("enough")
	err = desk{s}.Held(ctx, f, func(n memory.Notice) error {
		if list = append(list, n); len(list) >= most {
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return list, err
}

// Journal is the journal that is written, which a reload does not change.
func (s *Service) Journal() configs.Journal { return s.written }

// AsKept returns a record as the journal keeps it: with hashes in place of local parts, where
// it has those.
func (s *Service) AsKept(r *journal.Record) *journal.Record {
	if s.journal == nil {
		return r
	}
	return s.journal.AsKept(r)
}

// Since is when the process began, and Version what it is.
func (s *Service) Since() time.Time { return s.started }

// Version is that of the build.
func (s *Service) Version() string { return s.opt.Version }

// Reload is how the last attempt to read a part of the configuration again ended.
type Reload struct {
	Part string // Configuration, Certificates, Lists
	At   time.Time
	Err  string // empty: it is in force
}

// Reloads are the last attempts, of each part one.
func (s *Service) Reloads() (all []Reload) {
	for part, name := range [partCount]string{"Configuration", "Certificates", "Lists"} {
		if r := s.reloads[part].Load(); r != nil {
			one := Reload{Part: name, At: r.at}
			if r.err != nil {
				one.Err = oneLine(r.err)
			}
			all = append(all, one)
		}
	}
	return all
}

// Access says who may see the page.
type Access struct {
	Token []byte // what has to be shown; nil: nothing
	Open  bool   // without a token it is shown: it cannot be reached but from this machine
}

// Access is who may see the page now.
func (s *Service) Access() Access {
	tcp, isTCP := s.AdminAt.(*net.TCPAddr)
	return Access{Token: s.parts.Load().token, Open: !isTCP || tcp.IP.IsLoopback()}
}

// closePage ends the page: nobody listens to this process any more.
func (s *Service) closePage() {
	if s.page != nil {
		s.page.Close()
	}
}

// minToken is how long a token must be, in octets, so that nobody guesses it.
const minToken = 16

// readToken reads the file of admin.token_file; nil: there is none.
func readToken(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	if err := checkSecret(file); err != nil {
		return nil, err
	}
	token, err := readSecret(file)
	if err != nil {
		return nil, err
	}
	if len(token) < minToken {
		return nil, fmt.Errorf("%s: a token has at least %d octets, this has %d: make one with openssl rand -hex 32", file, minToken, len(token))
	}
	return []byte(token), nil
}

// adminHosts are the names by which somebody may ask the admin address.
func (s *Service) adminHosts() []string {
	p := s.parts.Load()
	names := append([]string{p.Settings.Hostname, p.Config.Admin.Address}, p.Config.Admin.Hosts...)
	if machine, err := os.Hostname(); err == nil {
		names = append(names, machine)
	}
	return names
}
