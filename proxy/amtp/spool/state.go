package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"postern/proxy/smtp"
)

// writeState puts the state of a message on the disk, so that it lasts. Who calls it is the only one to do so for that
// message.
func (s *Spool) writeState(m *message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) > maxState {
		return fmt.Errorf("the state of message %s is too large", m.ID)
	}
	fresh := m.ID + stateSuffix + newSuffix
	f, err := s.disk.create(fresh)
	if err != nil {
		// A write that failed before has left its file.
		_ = s.disk.remove(fresh)
		if f, err = s.disk.create(fresh); err != nil {
			return err
		}
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.sync()
	}
	if closed := f.close(); err == nil {
		err = closed
	}
	if err == nil {
		err = s.disk.rename(fresh, m.ID+stateSuffix)
	}
	if err != nil {
		_ = s.disk.remove(fresh)
		return err
	}
	return s.disk.sync()
}

// recover reads what is there, and removes what was never answered for.
func (s *Spool) recover() error {
	names, err := s.disk.list()
	if err != nil {
		return err
	}
	slices.Sort(names)
	here := map[string]bool{}
	for _, n := range names {
		here[n] = true
	}
	kept := 0
	for _, n := range names {
		id, isState := strings.CutSuffix(n, stateSuffix)
		of, isMessage := strings.CutSuffix(n, messageSuffix)
		switch {
		case strings.HasSuffix(n, newSuffix), isMessage && !here[of+stateSuffix]:
			s.log.Warn("what was received or noted half is removed: nobody was told that we keep it", "file", n)
			if err := s.disk.remove(n); err != nil {
				return err
			}
		case isState:
			m, err := s.readState(id)
			if err == nil {
				err = s.whole(m)
			}
			if err != nil && !errors.Is(err, errDamaged) {
				return err // of the disk, which may be well the next time
			}
			if err != nil {
				// NOT: to remove it. A person can see in it who is to be told.
				s.log.Error("mail is damaged: look at the file, tell its sender, and remove it", "file", n, "error", err.Error())
				continue
			}
			s.index(m)
			s.add(m.User, m.Size, len(m.Entries))
			kept += len(m.Entries)
			for i := range m.Entries {
				if m.Entries[i].Handed > 0 {
					m.Entries[i].Next = time.Time{} // at once: the other server tells what it has, if it remembers
					s.log.Warn("it was given away, and what became of it is not known: it may arrive twice", "message", id, "rcpt", m.Entries[i].To.String())
				}
			}
		}
	}
	s.log.Info("spool", "entries", kept, "octets", s.all.octets)
	return s.disk.sync()
}

// whole says what is wrong with the message of a state.
func (s *Spool) whole(m *message) error {
	r, size, err := s.disk.open(m.ID + messageSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: its message is not there", errDamaged)
	}
	if err != nil {
		return err
	}
	_ = r.Close() // nothing was read
	if size != m.Size {
		return fmt.Errorf("%w: its message has %d octets, not %d", errDamaged, size, m.Size)
	}
	return nil
}

// readState reads a state file.
func (s *Spool) readState(id string) (*message, error) {
	r, size, err := s.disk.open(id + stateSuffix)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // nothing was written
	if size > maxState {
		return nil, fmt.Errorf("%w: it is too large", errDamaged)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxState))
	if err != nil {
		return nil, err
	}
	m, err := parseState(id, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return m, nil
}

// errDamaged is in the error of what no disk mends by itself.
var errDamaged = errors.New("damaged")

// parseState reads the text of a state file.
func parseState(id string, text []byte) (*message, error) {
	m := &message{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, err
	}
	if m.Version != version {
		return nil, fmt.Errorf("it is of version %d, and this is version %d", m.Version, version)
	}
	if m.ID != id || m.Size <= 0 || len(m.Entries) == 0 || m.Expires.IsZero() || m.From.IsNull() {
		return nil, errors.New("it lacks what every message has")
	}
	seen := map[string]bool{}
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Number == "" || seen[e.Number] || !smtp.IsDomain(e.To.Domain) || !slices.Contains([]Stage{Waiting, Announced, Failed}, e.Stage) || (e.Stage == Announced) != e.Peer.IsValid() {
			return nil, errors.New("it lacks what every recipient has")
		}
		seen[e.Number] = true
	}
	return m, nil
}
