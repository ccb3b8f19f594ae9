package jsonline

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// handler writes the lines of slog.JSONHandler. It has a short way for records
// of plain attributes and Appenders, and leaves all others to that.
type handler struct {
	slog.Handler // takes what the short way does not
	w            io.Writer
}

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

var lines = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	line := lines.Get().(*[]byte)
	b := Open((*line)[:0])
	if !r.Time.IsZero() {
		b = append(r.Time.AppendFormat(append(Key(b, slog.TimeKey), '"'), time.RFC3339Nano), '"')
	}
	b = String(b, slog.LevelKey, r.Level.String())
	b = String(b, slog.MessageKey, r.Message)
	plain := true
	r.Attrs(func(a slog.Attr) bool {
		b, plain = appendAttr(b, a)
		return plain
	})
	var err error
	if plain {
		b = append(Close(b), '\n')
		_, err = h.w.Write(b)
	}
	if cap(b) <= maxKept {
		*line = b
		lines.Put(line)
	}
	if !plain {
		return h.Handler.Handle(ctx, r)
	}
	return err
}

// appendAttr appends an attribute, if it is a plain one.
func appendAttr(b []byte, a slog.Attr) ([]byte, bool) {
	b = append(AppendString(append(b, ','), a.Key), ':')
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		return AppendString(b, v.String()), true
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10), true
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool()), true
	case slog.KindFloat64:
		f := v.Float64()
		return AppendFloat(b, f), f-f == 0 // NOT: what is no number, or endless, which slog calls an error
	case slog.KindAny:
		switch v := v.Any().(type) {
		case Appender:
			return v.AppendJSON(b), true
		case []string:
			return AppendStrings(b, v), true
		}
	}
	return b, false
}
