package jsonline

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
)

// handler writes the lines of slog.JSONHandler. What is Ready at the end of a record it
// appends as it is: slog would have it read again to see that it is JSON, which costs
// more than it cost to make it.
type handler struct {
	slog.Handler // takes what has none
	w            io.Writer
	lines        sync.Pool // of *line
}

// line is where a line is made whose end is Ready.
type line struct {
	buf   bytes.Buffer
	head  slog.Handler // writes to buf
	attrs []slog.Attr
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
	l := h.lines.Get().(*line)
	defer func() {
		if clear(l.attrs); l.buf.Cap() <= maxKept {
			l.buf.Reset()
			l.attrs = l.attrs[:0]
			h.lines.Put(l)
		}
	}()
	ready := 0
	r.Attrs(func(a slog.Attr) bool {
		l.attrs = append(l.attrs, a)
		if _, ok := readyIn(a); ok {
			ready++
		} else if ready > 0 {
			ready = 0
			return false // it is not at the end
		}
		return true
	})
	if ready == 0 {
		return h.Handler.Handle(ctx, r)
	}
	own := len(l.attrs) - ready
	head := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	head.AddAttrs(l.attrs[:own]...)
	if err := l.head.Handle(ctx, head); err != nil {
		return err
	}
	l.buf.Truncate(l.buf.Len() - len("}\n"))
	for _, a := range l.attrs[own:] {
		v, _ := readyIn(a)
		l.buf.WriteString(`,"`)
		l.buf.WriteString(a.Key)
		l.buf.WriteString(`":`)
		if v.JSON == nil {
			l.buf.WriteString("null")
		}
		l.buf.Write(v.JSON)
	}
	l.buf.WriteString("}\n")
	_, err := h.w.Write(l.buf.Bytes())
	return err
}

// readyIn returns the value of an attribute that is Ready and whose key needs no escape.
func readyIn(a slog.Attr) (Ready, bool) {
	if a.Value.Kind() != slog.KindAny {
		return Ready{}, false
	}
	v, ok := a.Value.Any().(Ready)
	for _, c := range a.Key {
		ok = ok && (c == '_' || c >= 'a' && c <= 'z')
	}
	return v, ok
}
