package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Kept is one recipient of a message that waits, as a person may see it: without the number, which is a secret.
type Kept struct {
	Message  string     `json:"message"`
	User     string     `json:"user"`
	From     string     `json:"from"`
	To       string     `json:"rcpt"`
	Size     int64      `json:"size"`
	Stage    Stage      `json:"stage"`
	Peer     netip.Addr `json:"peer,omitzero"`
	Attempts int        `json:"attempts"`
	Arrived  time.Time  `json:"arrived"`
	Next     time.Time  `json:"next"`
	Expires  time.Time  `json:"expires"`
	Last     string     `json:"last"`
	// Twice says that it was given away and nobody has said what became of it.
	Twice bool `json:"twice_possible"`
}

// Look reads what waits in a folder, the oldest first, while its server runs or not. It changes nothing. A state that
// cannot be read is in the error, and the others come all the same.
func Look(path string) (list []Kept, err error) {
	names, err := filepath.Glob(filepath.Join(path, "*"+stateSuffix))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if _, err := os.ReadDir(path); err != nil { // which Glob does not say
		return nil, fmt.Errorf("spool: %w", err)
	}
	var faults []error
	for _, name := range names {
		m, err := lookAt(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // it was done meanwhile
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		for i := range m.Entries {
			e := &m.Entries[i]
			list = append(list, Kept{
				Message: m.ID, User: m.User, From: m.From.String(), To: e.To.String(), Size: m.Size, Stage: e.Stage, Peer: e.Peer, Attempts: e.Attempts,
				Arrived: m.Arrived, Next: e.Next, Expires: m.Expires, Last: e.Last, Twice: e.Handed > 0,
			})
		}
	}
	slices.SortStableFunc(list, func(a, b Kept) int { return a.Arrived.Compare(b.Arrived) })
	return list, errors.Join(faults...)
}

func lookAt(name string) (*message, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	text, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return nil, err
	}
	return parseState(strings.TrimSuffix(filepath.Base(name), stateSuffix), text)
}
