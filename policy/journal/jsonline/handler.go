package jsonline

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
)

// handler writes the lines of slog.JSONHandler. The Tail of a record it appends as it is:
// slog would have it read again to see that it is JSON, which costs more than it cost to
// make it.
type handler struct {
	slog.Handler // takes what has none
	w            io.Writer
	lines        sync.Pool // of *line
}

// line is where a line is made that has a Tail.
type line struct {
	buf  bytes.Buffer
	head slog.Handler // writes to buf
}

// NewHandler returns a handler that writes to w what slog.NewJSONHandler would, with
// characters escaped that are not printable, from that level on. Each record is one Write, and no two at a time.
func NewHandler(w io.Writer, level slog.Leveler) slog.Handler {
	w = &serial{w: w}
	options := &slog.HandlerOptions{Level: level}
	h := &handler{Handler: slog.NewJSONHandler(escaper{w}, options), w: w}
	h.lines.New = func() any {
		l := new(line)
		l.head = slog.NewJSONHandler(escaper{&l.buf}, options)
		return l
	}
	return h
}

// serial keeps the two that write to w apart.
type serial struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// maxKept bounds the lines whose buffer is used again; most have 2 KiB.
const maxKept = 16 << 10

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	tail := tailOf(&r)
	if tail == nil {
		return h.Handler.Handle(ctx, r)
	}
	l := h.lines.Get().(*line)
	defer func() {
		if l.buf.Cap() <= maxKept {
			l.buf.Reset()
			h.lines.Put(l)
		}
	}()
	tail.copied = true
	err := l.head.Handle(ctx, r)
	tail.copied = false
	if err != nil {
		return err
	}
	l.buf.Truncate(l.buf.Len() - len("}\n"))
	tail.append(&l.buf)
	l.buf.WriteString("}\n")
	_, err = h.w.Write(l.buf.Bytes())
	return err
}

// tailOf returns the Tail with which a record ends; nil: it has none.
func tailOf(r *slog.Record) *Tail {
	var last slog.Attr
	r.Attrs(func(a slog.Attr) bool {
		last = a
		return true
	})
	if last.Key != "" || last.Value.Kind() != slog.KindLogValuer {
		return nil
	}
	tail, _ := last.Value.Any().(*Tail)
	return tail
}
