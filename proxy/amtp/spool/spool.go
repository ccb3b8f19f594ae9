// Package spool keeps mail in files until it was fetched: what the server of AMTP's senders answers for once it has
// said 250.
//
// A message is two files: ID.message has its octets, ID.state the envelope and what became of each recipient. The
// state is what counts: it is written beside, synced, and put in its place by a rename, when the message is synced
// already. A message without state was never answered for, and is removed at the next start. When the last recipient
// is done, the state goes first, and then the message.
package spool

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/proxy/smtp"
)

// Limits bounds what is kept. An entry is one recipient of one message.
type Limits struct {
	Octets, OctetsPerUser   int64
	Entries, EntriesPerUser int
}

// What Begin, Write and Commit may end with.
var (
	ErrFull     = errors.New("spool: full")
	ErrUserFull = errors.New("spool: the user has as much as one may")
	// ErrGone: there is no such entry any more.
	ErrGone = errors.New("spool: no such entry")
)

// Stage is what an entry waits for.
type Stage string

// The stages.
const (
	Waiting   Stage = "waiting"   // to be announced, or to be given to the smarthost
	Announced Stage = "announced" // to be fetched
	Failed    Stage = "failed"    // its sender is to be told
)

// Entry is one recipient of a message. The number is the secret by which it is fetched.
type Entry struct {
	Number   string     `json:"number"`
	To       smtp.Path  `json:"to"`
	Stage    Stage      `json:"stage"`
	Peer     netip.Addr `json:"peer,omitzero"` // the server that it was announced to, and the only one that may fetch it
	Spoke    bool       `json:"spoke"`         // a server of the recipient's domain has spoken AMTP
	Absent   int        `json:"absent"`        // how often in a row none was found to
	Attempts int        `json:"attempts"`
	Next     time.Time  `json:"next"`
	Last     string     `json:"last"`   // what the last attempt came to
	Status   string     `json:"status"` // the status code of the failure, "5.1.1" (RFC 3463)
	// Handed is how often all of the message was given away. Each time that no last word follows, nobody knows whether it
	// was delivered.
	Handed int `json:"handed"`

	m *message
}

// Of is what the entries of one message have in common.
type Of struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	From    smtp.Path `json:"from"`
	Arrived time.Time `json:"arrived"`
	Expires time.Time `json:"expires"`
	Size    int64     `json:"size"` // octets
}

// Of returns what the entry has in common with the others of its message.
func (e *Entry) Of() Of { return e.m.Of }

// message is what a state file has.
type message struct {
	Version int     `json:"version"`
	Entries []Entry `json:"recipients"`
	Of

	writing sync.Mutex // whoever writes the state
}

const (
	messageSuffix = ".message"
	stateSuffix   = ".state"
	newSuffix     = ".new"
	version       = 1
	maxState      = 16 << 20 // octets of a state file
	maxLast       = 500      // octets of what the last attempt of an entry came to, which others have written
)

// Spool is a folder of mail. Any number of goroutines may use it.
type Spool struct {
	disk   disk
	limits Limits
	log    *slog.Logger

	mu       sync.Mutex
	byNumber map[[sha256.Size]byte]*Entry // by the sum of the number: a look-up tells nothing of it by its time
	used     map[string]*use
	all      use
}

type use struct {
	octets  int64
	entries int
}

// Open opens a folder, and makes it where there is none. What a process that was killed has left behind half is
// removed, and told to the log.
func Open(path string, l Limits, log *slog.Logger) (*Spool, error) {
	f, err := openFolder(path)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s, err := open(f, l, log)
	if err != nil {
		_ = f.close()
		return nil, fmt.Errorf("spool: %s: %w", path, err)
	}
	return s, nil
}

func open(d disk, l Limits, log *slog.Logger) (*Spool, error) {
	s := &Spool{disk: d, limits: l, log: log, byNumber: map[[sha256.Size]byte]*Entry{}, used: map[string]*use{}}
	return s, s.recover()
}

// Close lets go of the folder.
func (s *Spool) Close() error { return s.disk.close() }

// Draft is a message that is being received.
type Draft struct {
	s     *Spool
	id    string
	user  string
	f     file // nil: ended
	size  int64
	taken int64 // of the octets
	err   error
}

// Begin begins a message of a user's.
func (s *Spool) Begin(user string) (*Draft, error) {
	d := &Draft{s: s, user: user, id: newID()}
	if err := s.take(user, 0, 1); err != nil { // NOT: to receive all of it first
		return nil, err
	}
	s.give(user, 0, 1)
	f, err := s.disk.create(d.id + messageSuffix)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	d.f = f
	return d, nil
}

func newID() string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// ID is by what the log and the files know the message.
func (d *Draft) ID() string { return d.id }

// Write appends to the message. ErrFull, ErrUserFull: there is no room for it.
func (d *Draft) Write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n := int64(len(p))
	if d.err = d.s.take(d.user, n, 0); d.err != nil {
		return 0, d.err
	}
	d.taken += n
	if _, d.err = d.f.Write(p); d.err != nil {
		d.err = fmt.Errorf("spool: %w", d.err)
		return 0, d.err
	}
	d.size += n
	return len(p), nil
}

// Abort forgets the message. It does nothing after Commit.
func (d *Draft) Abort() {
	if d.f == nil {
		return
	}
	_ = d.f.close()
	d.f = nil
	d.drop()
}

// drop removes what was written; what cannot be removed is, at the next start.
func (d *Draft) drop() {
	if err := d.s.disk.remove(d.id + messageSuffix); err != nil {
		d.s.log.Error("a message that is not kept could not be removed", "message", d.id, "error", err.Error())
	}
	d.s.give(d.user, d.taken, 0)
}

// Commit keeps the message for its recipients: when it returns nil, all of it lasts. With an error nothing of it is
// kept.
func (d *Draft) Commit(of Of, entries []Entry) error {
	if d.f == nil {
		return errors.New("spool: the message was given up")
	}
	f := d.f
	d.f = nil
	err := d.err
	if err == nil {
		err = f.sync()
	}
	if closed := f.close(); err == nil {
		err = closed
	}
	counted := 0
	if err == nil {
		if err = d.s.take(d.user, 0, len(entries)); err == nil {
			counted = len(entries)
		}
	}
	of.ID, of.User, of.Size = d.id, d.user, d.size
	m := &message{Version: version, Of: of, Entries: slices.Clone(entries)}
	if err == nil {
		// The name of the message lasts before its state does: a state without a message would be a loss.
		if err = d.s.disk.sync(); err == nil {
			err = d.s.writeState(m)
		}
	}
	if err != nil {
		// A state that is there but may not last must not come back: the client is about to hear that we did not take it.
		if removed := d.s.disk.remove(d.id + stateSuffix); removed == nil {
			_ = d.s.disk.sync()
		}
		d.drop()
		d.s.give(d.user, 0, counted)
		return fmt.Errorf("spool: %w", err)
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.s.index(m)
	return nil
}

// take takes room for a user, or says what is in the way.
func (s *Spool) take(user string, octets int64, entries int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.used[user]
	if u == nil {
		u = &use{}
	}
	switch {
	case s.all.octets+octets > s.limits.Octets, s.all.entries+entries > s.limits.Entries:
		return ErrFull
	case u.octets+octets > s.limits.OctetsPerUser, u.entries+entries > s.limits.EntriesPerUser:
		return ErrUserFull
	}
	s.add(user, octets, entries)
	return nil
}

func (s *Spool) give(user string, octets int64, entries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(user, -octets, -entries)
}

// add counts. The lock is held.
func (s *Spool) add(user string, octets int64, entries int) {
	u := s.used[user]
	if u == nil {
		u = &use{}
		s.used[user] = u
	}
	u.octets += octets
	u.entries += entries
	s.all.octets += octets
	s.all.entries += entries
	if *u == (use{}) {
		delete(s.used, user)
	}
}

// Used is how many octets and entries are kept, or being received.
func (s *Spool) Used() (octets int64, entries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.octets, s.all.entries
}

// index makes the entries of a message known. The lock is held.
func (s *Spool) index(m *message) {
	for i := range m.Entries {
		e := &m.Entries[i]
		e.m = m
		s.byNumber[sha256.Sum256([]byte(e.Number))] = e
	}
}

// Find returns the entry of a number for a recipient.
func (s *Spool) Find(number string, to smtp.Path) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byNumber[sha256.Sum256([]byte(number))]
	if e == nil {
		return Entry{}, false
	}
	// Both are compared in the same time, whatever they are: the map has looked at a sum.
	same := subtle.ConstantTimeCompare([]byte(e.Number), []byte(number)) & subtle.ConstantTimeCompare([]byte(smtp.Address(e.To)), []byte(smtp.Address(to)))
	return *e, same == 1
}

// Due returns the entries whose time has come, the oldest first, and when the next one is due; the zero time: there is
// none.
func (s *Spool) Due(now time.Time) (due []Entry, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.byNumber {
		switch {
		case !e.Next.After(now):
			due = append(due, *e)
		case next.IsZero() || e.Next.Before(next):
			next = e.Next
		}
	}
	slices.SortFunc(due, func(a, b Entry) int {
		if c := a.Next.Compare(b.Next); c != 0 {
			return c
		}
		return strings.Compare(a.Number, b.Number)
	})
	return due, next
}

// Update changes an entry. When it returns nil, the change lasts; with an error the entry is what it was, but ErrGone
// where there is none. change is called once, and nothing else changes the entry meanwhile.
func (s *Spool) Update(number string, change func(*Entry)) (Entry, error) {
	m, i, err := s.hold(number)
	if err != nil {
		return Entry{}, err
	}
	defer m.writing.Unlock()
	next := m.copied()
	change(&next.Entries[i])
	if e := &next.Entries[i]; len(e.Last) > maxLast {
		e.Last = strings.ToValidUTF8(e.Last[:maxLast], "")
	}
	if err := s.writeState(next); err != nil {
		return Entry{}, fmt.Errorf("spool: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Entries[i] = next.Entries[i]
	m.Entries[i].m = m
	return m.Entries[i], nil
}

// Postpone sets when an entry is due, until the next process and no longer: for what is not worth a write, or where none
// is possible.
func (s *Spool) Postpone(number string, until time.Time) {
	m, i, err := s.hold(number)
	if err != nil {
		return
	}
	defer m.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Entries[i].Next = until
}

// Done forgets an entry, and its message with the last one. With an error other than ErrGone it is there still.
func (s *Spool) Done(number string) error {
	m, i, err := s.hold(number)
	if err != nil {
		return err
	}
	defer m.writing.Unlock()
	next := m.copied()
	next.Entries = slices.Delete(next.Entries, i, i+1)
	if len(next.Entries) > 0 {
		err = s.writeState(next)
	} else {
		err = s.removeMessage(m)
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range m.Entries {
		delete(s.byNumber, sha256.Sum256([]byte(m.Entries[k].Number)))
	}
	m.Entries = next.Entries
	s.index(m)
	octets := int64(0)
	if len(m.Entries) == 0 {
		octets = m.Size
	}
	s.add(m.User, -octets, -1)
	return nil
}

// hold finds an entry and keeps its message from being changed by others; the caller unlocks m.writing.
func (s *Spool) hold(number string) (m *message, i int, err error) {
	find := func() (*message, int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		e := s.byNumber[sha256.Sum256([]byte(number))]
		if e == nil {
			return nil, 0
		}
		return e.m, slices.IndexFunc(e.m.Entries, func(o Entry) bool { return o.Number == number })
	}
	if m, _ = find(); m == nil {
		return nil, 0, ErrGone
	}
	m.writing.Lock()
	now, i := find()
	if now == nil {
		m.writing.Unlock()
		return nil, 0, ErrGone
	}
	return m, i, nil
}

// copied is m for a change that may fail.
func (m *message) copied() *message {
	return &message{Version: m.Version, Of: m.Of, Entries: slices.Clone(m.Entries)}
}

// removeMessage forgets a message: the state first, without which it does not count.
func (s *Spool) removeMessage(m *message) error {
	if err := s.disk.remove(m.ID + stateSuffix); err != nil {
		return err
	}
	if err := s.disk.sync(); err != nil {
		// It may come back after a power cut, and must not be forgotten here either.
		return errors.Join(err, s.writeState(m))
	}
	if err := s.disk.remove(m.ID + messageSuffix); err != nil {
		s.log.Error("a message that is done could not be removed", "message", m.ID, "error", err.Error())
	}
	return nil
}

// Read opens the message of an entry. Close it.
func (s *Spool) Read(e Entry) (io.ReadCloser, error) {
	r, size, err := s.disk.open(e.m.ID + messageSuffix)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if size != e.m.Size {
		_ = r.Close()
		return nil, fmt.Errorf("spool: message %s has %d octets, not %d", e.m.ID, size, e.m.Size)
	}
	return r, nil
}

// Head returns the beginning of the message of an entry, its header section or as much of it as limit allows.
func (s *Spool) Head(e Entry, limit int64) ([]byte, error) {
	r, err := s.Read(e)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // nothing was written
	b, err := io.ReadAll(io.LimitReader(r, limit))
	if end, _ := smtp.HeaderEnd(b); end >= 0 {
		return b[:end], err
	}
	return b[:bytes.LastIndexByte(b, '\n')+1], err
}
