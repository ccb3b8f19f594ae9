package jsonline

import (
	"context"
	"io"
	"log/slog"
	"sync"

	"postern/proxy/reuse"
)

// handler writes the lines of slog.JSONHandler. What consists of texts, numbers and the octets of
// Ready, as the lines of sessions and transactions do, it writes itself: it need not read again
// what is JSON already.
type handler struct {
	slog.Handler // takes the rest
	w            io.Writer
}

// line is where a line is made.
type line struct {
	json  JSON
	attrs []slog.Attr // of Attrs
}

// lines are those that have been written.
var lines reuse.Pool[line]

// NewHandler returns a handler that writes to w what slog.NewJSONHandler would, with
// characters escaped that are not printable, from that level on. Each record is one Write, and no two at a time.
func NewHandler(w io.Writer, level slog.Leveler) slog.Handler {
	w = &serial{w: w}
	return &handler{Handler: slog.NewJSONHandler(escaper{w}, &slog.HandlerOptions{Level: level}), w: w}
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
	l := lines.Take()
	defer func() {
		if cap(l.json) <= maxKept {
			lines.Put(l)
		}
	}()
	if !l.set(&r) {
		return h.Handler.Handle(ctx, r)
	}
	_, err := h.w.Write(l.json)
	return err
}

// set makes the line of a record; false: something in it is for others to write.
func (l *line) set(r *slog.Record) bool {
	b := append(l.json[:0], '{')
	if !r.Time.IsZero() {
		b = b.Time(slog.TimeKey, r.Time)
	}
	b = b.Text(slog.LevelKey, r.Level.String()).Text(slog.MessageKey, r.Message)
	ok := true
	r.Attrs(func(a slog.Attr) bool {
		b, ok = l.append(b, a)
		return ok
	})
	l.json = append(b, "}\n"...)
	return ok
}

// append appends an attribute.
func (l *line) append(b JSON, a slog.Attr) (_ JSON, ok bool) {
	if plainLength([]byte(a.Key)) < len(a.Key) {
		return b, false
	}
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		return b.Text(a.Key, v.String()), true
	case slog.KindInt64:
		return b.Int(a.Key, v.Int64()), true
	case slog.KindBool:
		return b.Bool(a.Key, v.Bool()), true
	case slog.KindFloat64:
		f := v.Float64()
		return b.Float(a.Key, f), f-f == 0
	case slog.KindAny:
		if ready, ok := v.Any().(*Ready); ok {
			return b.ready(a.Key, ready), true
		}
	case slog.KindLogValuer:
		all, ok := v.Any().(Attrs)
		if !ok || a.Key != "" || len(l.attrs) > 0 {
			return b, false
		}
		l.attrs = all.AppendAttrs(l.attrs)
		for _, a := range l.attrs {
			if b, ok = l.append(b, a); !ok {
				break
			}
		}
		clear(l.attrs) // what they point to is not ours
		l.attrs = l.attrs[:0]
		return b, ok
	}
	return b, false
}
