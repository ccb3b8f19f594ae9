package journal

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// complainEvery is how often trouble of one kind is logged: a disk that is full stays so.
const complainEvery = time.Minute

// trouble is a kind of it. Each is limited by itself: that old files cannot be
// compressed must not hide that records are lost.
type trouble int

// The kinds of trouble.
const (
	troubleSlow trouble = iota
	troubleOpen
	troubleWrite
	troubleRecord // of one record, so it is not said to be over
	troubleSetAside
	troubleClose
	troubleTidy
	troubles
)

// troubleTexts says of each kind that it is there, and that it is over.
var troubleTexts = [troubles]struct{ begun, ended string }{
	troubleSlow:     {"journal: records are dropped: the disk does not keep up", "journal: the disk keeps up again"},
	troubleOpen:     {"journal: cannot open a file, records are lost", "journal: a file could be opened again"},
	troubleWrite:    {"journal: cannot write records", "journal: records are written again"},
	troubleRecord:   {"journal: cannot write a record", ""},
	troubleSetAside: {"journal: cannot set a full file aside", "journal: a full file could be set aside again"},
	troubleClose:    {"journal: cannot close a file", "journal: a file could be closed again"},
	troubleTidy:     {"journal: cannot compress or remove old files", "journal: old files are compressed and removed again"},
}

// complaints logs trouble, of each kind once in complainEvery, and its end once. Trouble
// that comes and goes is told with its end at that rate, not at its own.
type complaints struct {
	log  *slog.Logger
	path string
	now  func() time.Time

	mu    sync.Mutex
	kinds [troubles]struct {
		said  time.Time // last, zero: never
		since time.Time // when the one that was said began; zero: none goes on that was
	}
}

// begun tells of trouble; err may be nil.
func (c *complaints) begun(kind trouble, err error) {
	now := c.now()
	c.mu.Lock()
	k := &c.kinds[kind]
	if !k.said.IsZero() && now.Sub(k.said) < complainEvery {
		c.mu.Unlock()
		return
	}
	k.said = now
	if k.since.IsZero() {
		k.since = now
	}
	c.mu.Unlock()
	attrs := []slog.Attr{slog.String("path", c.path)}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	c.log.LogAttrs(context.Background(), slog.LevelError, troubleTexts[kind].begun, attrs...)
}

// ended tells that what may have been troubled went well.
func (c *complaints) ended(kind trouble) {
	c.mu.Lock()
	since := c.kinds[kind].since
	c.kinds[kind].since = time.Time{}
	c.mu.Unlock()
	if since.IsZero() {
		return
	}
	c.log.LogAttrs(context.Background(), slog.LevelInfo, troubleTexts[kind].ended,
		slog.String("path", c.path), slog.Float64("seconds", c.now().Sub(since).Seconds()))
}
