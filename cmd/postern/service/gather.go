package service

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// gatherFor is how long a line of the log may wait for others.
	gatherFor = 20 * time.Millisecond
	// gatherMost is how many octets wait, at the most, before they are written.
	gatherMost = 32 << 10
)

// gathering writes lines of many sessions at once: a system call for each line would be
// a good part of what a message costs. A line waits for gatherFor, and no longer than until
// gatherMost octets are there or something is logged as a warning or an error, as a panic
// that a session survives is. What ends the process without a word, as kill -9 does, takes
// the lines of the last moment with it; the journal has a time of its own for that.
type gathering struct {
	mu    sync.Mutex
	w     io.Writer
	lines []byte
	timer *time.Timer // runs while lines wait
	err   error       // of the last write, which the next line hears of
}

func newGathering(w io.Writer) *gathering { return &gathering{w: w} }

// Write takes whole lines. An error is that of an earlier write.
func (g *gathering) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.lines)+len(p) > gatherMost {
		g.flush()
	}
	first := len(g.lines) == 0
	g.lines = append(g.lines, p...)
	switch {
	case len(g.lines) >= gatherMost:
		g.flush()
	case first && g.timer == nil:
		g.timer = time.AfterFunc(gatherFor, g.Flush)
	case first:
		g.timer.Reset(gatherFor)
	}
	err := g.err
	g.err = nil
	return len(p), err
}

// Flush writes what waits.
func (g *gathering) Flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flush()
}

func (g *gathering) flush() {
	if len(g.lines) == 0 {
		return
	}
	if g.timer != nil { // else the first line of all was long
		g.timer.Stop()
	}
	if _, err := g.w.Write(g.lines); err != nil {
		g.err = err
	}
	g.lines = g.lines[:0]
	if cap(g.lines) > 2*gatherMost { // one line was long
		g.lines = nil
	}
}

// urgent is a handler of the log whose warnings and errors do not wait.
type urgent struct {
	slog.Handler
	lines *gathering
}

// Handle implements slog.Handler.
func (u urgent) Handle(ctx context.Context, r slog.Record) error {
	err := u.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		u.lines.Flush()
	}
	return err
}

// WithAttrs implements slog.Handler.
func (u urgent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return urgent{u.Handler.WithAttrs(attrs), u.lines}
}

// WithGroup implements slog.Handler.
func (u urgent) WithGroup(name string) slog.Handler {
	return urgent{u.Handler.WithGroup(name), u.lines}
}
