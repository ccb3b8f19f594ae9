package jsonline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// reference is what encoding/json makes of v.
func reference(t *testing.T, v any) string {
	t.Helper()
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	text, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// hidden are characters that a terminal obeys or does not show.
var hidden = regexp.MustCompile("[^[:print:]\n\\pL\\pM\\pN\\pP\\pS]")

// same says whether got is want, but for what is hidden.
func same(got, want string) bool {
	var a, b any
	if hidden.MatchString(got) || json.Unmarshal([]byte(got), &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
		return false
	}
	return reflect.DeepEqual(a, b) && (hidden.MatchString(want) || got == want)
}

// What moves the cursor, or turns the direction of a text, is escaped wherever it stands.
func TestHiddenCharacters(t *testing.T) {
	const text = "a\x1b[2J\x7f \u0085\u009b31m \u200b\u200e\u200f \u061c \u202a\u202b\u202c\u202d\u202e \u2066\u2067\u2068\u2069 \ufeff \u00a0 \u2028 \U000e0041 <é日📧> \xff"
	const want = `"a\u001b[2J\u007f \u0085\u009b31m \u200b\u200e\u200f \u061c \u202a\u202b\u202c\u202d\u202e \u2066\u2067\u2068\u2069 \ufeff \u00a0 \u2028 \udb40\udc41 <é日📧> \ufffd"`
	if got := marshal(t, text); got != want {
		t.Errorf("a text:\n%s\nwant\n%s", got, want)
	}
	for n := range 20 { // wherever in a line they are
		for _, c := range []string{"\x7f", "\u0080", "\u2028", "\U000e0041"} {
			line := marshal(t, strings.Repeat("~", n)+c+strings.Repeat("~", n))
			if hidden.MatchString(line) || !strings.Contains(line, `~\u`) && n > 0 {
				t.Errorf("%q", line)
			}
		}
	}
	var buf bytes.Buffer
	if err := NewEncoder(&buf, "\t").Encode(map[string][]string{text: {text}}); err != nil || buf.String() != "{\n\t"+want+": [\n\t\t"+want+"\n\t]\n}\n" {
		t.Errorf("an object: %s %v", buf.String(), err)
	}
	for name, log := range map[string]func(*slog.Logger){
		"with octets": func(l *slog.Logger) {
			l.Info(text, "a", text, "b", text, "", attrs{slog.Any("octets", &Ready{JSON: []byte("{}")})})
		},
		"without":            func(l *slog.Logger) { l.Info(text, text, errors.New(text)) },
		"with what was said": func(l *slog.Logger) { l.With(text, text).Info(text) },
	} {
		buf.Reset()
		log(slog.New(NewHandler(&buf, slog.LevelInfo)))
		if hidden.MatchString(buf.String()) || strings.Count(buf.String(), want) != 3 {
			t.Errorf("%s: %s", name, buf.String())
		}
	}
}

// FuzzMarshal: a text and a number are written as encoding/json writes them, but that
// nothing is hidden in the text.
func FuzzMarshal(f *testing.F) {
	f.Add("user@example.org", 0.25)
	f.Add(`"quoted\" <a&b> {[,]}\\`, 1e-7)
	f.Add("\x00\t\n\x1b\x7f \u009b \u202e \U000e0041", 1e21)
	f.Add("gr\u00fc\u00dfe \u2028 \U0001f4e7 \xff\xfe", math.Copysign(0, -1))
	f.Add("", math.MaxFloat64)
	f.Fuzz(func(t *testing.T, s string, v float64) {
		if v-v != 0 {
			v = 0 // JSON has no infinity, and nothing that is no number
		}
		values := map[string]any{"a": s, "b": v, "c": []any{s, v, map[string]any{s: s}}, "d": map[string]any{}, "e": nil, "f": true, "g": []string{}}
		object, err := Marshal(values)
		if err != nil || !same(string(object), reference(t, values)) {
			t.Fatalf("%s, want %s", object, reference(t, values))
		}
	})
}

// attrs is what a record of the journal is to a log.
type attrs []slog.Attr

func (a attrs) AppendAttrs(to []slog.Attr) []slog.Attr { return append(to, a...) }
func (a attrs) LogValue() slog.Value                   { return slog.GroupValue(a...) }

// TestHandler: whatever is logged, the line is that of slog.JSONHandler.
func TestHandler(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 123456000, time.FixedZone("", 3600))
	plain := []slog.Attr{
		slog.String("text", "\"<&>\" \u2028 \xff"), slog.Int("int", -3), slog.Bool("bool", true), slog.Float64("float", 0.000123),
		slog.Float64("tiny", 1e-9), slog.Any("list", []string{"a", "\n"}), slog.Any("nil list", []string(nil)), slog.String(`key "with" <marks>`, ""),
	}
	for name, attrs := range map[string][]slog.Attr{
		"nothing":           nil,
		"plain":             plain,
		"octets":            {octets(`{"a":"<>"}`), slog.Int("a", 1), slog.Any("none", &Ready{})},
		"many":              append(plain[:len(plain):len(plain)], slog.Any("", attrs{slog.Int("a", 1), octets(`{"a":"<>"}`)})),
		"many alone":        {slog.Any("", attrs{octets(`[]`), slog.Bool("b", true)})},
		"many above":        {slog.Any("", attrs{octets(`[]`)}), slog.Int("a", 1), slog.Any("", attrs{octets(`1`)})},
		"many with a name":  {slog.Any("named", attrs{octets(`[]`)})},
		"many within":       {slog.Any("", attrs{slog.Any("", attrs{octets(`[]`)}), slog.Int("a", 1)})},
		"many with another": {slog.Any("", attrs{slog.Int("a", 1), slog.Any("error", errors.New("no"))})},
		"none of them":      {slog.Int("a", 1), slog.Any("", attrs{})},
		"duration":          {slog.Duration("d", time.Second)},
		"time":              {slog.Time("t", now)},
		"error":             {slog.Any("error", errors.New("no"))},
		"nil":               {slog.Any("nil", nil)},
		"zero attr":         {{}, slog.Int("a", 1)},
		"group":             {slog.Group("g", slog.Int("a", 1)), slog.Group("empty")},
		"unsigned":          {slog.Uint64("u", math.MaxUint64)},
		"map":               {slog.Any("m", map[string]int{"b": 1, "a": 2})},
		"not a number":      {slog.String("a", "b"), slog.Any("f", math.NaN())},
	} {
		for _, with := range []func(*slog.Logger) *slog.Logger{
			func(l *slog.Logger) *slog.Logger { return l },
			func(l *slog.Logger) *slog.Logger { return l.With("a", 1).WithGroup("g").With("b", 2) },
		} {
			line := func(h slog.Handler, buf *bytes.Buffer) string {
				r := slog.NewRecord(now, slog.LevelError, `message "quoted"`, 0)
				r.AddAttrs(attrs...)
				if err := with(slog.New(h)).Handler().Handle(t.Context(), r); err != nil {
					t.Error(err)
				}
				return buf.String()
			}
			var got, want bytes.Buffer
			if g, w := line(NewHandler(&got, slog.LevelInfo), &got), line(slog.NewJSONHandler(&want, nil), &want); g != w {
				t.Errorf("%s:\n%s%s", name, g, w)
			}
		}
	}
}

// octets is an attribute that is JSON already.
func octets(text string) slog.Attr { return slog.Any("octets", &Ready{JSON: []byte(text)}) }

// TestHandlerLevels: what is below the level is not written.
func TestHandlerLevels(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(NewHandler(&buf, slog.LevelWarn))
	log.Info("no")
	log.Warn("yes")
	if !bytes.Contains(buf.Bytes(), []byte(`"yes"`)) || bytes.Contains(buf.Bytes(), []byte(`"no"`)) {
		t.Error(buf.String())
	}
}

// torn is a writer that is not made for two at a time.
type torn struct{ lines [][]byte }

func (w *torn) Write(p []byte) (int, error) {
	w.lines = append(w.lines, bytes.Clone(p))
	return len(p), nil
}

// TestHandlerLinesStayWhole: each record is one Write, and no two run at a time,
// whichever way they take (the race detector watches).
func TestHandlerLinesStayWhole(t *testing.T) {
	var w torn
	h := NewHandler(&w, slog.LevelInfo)
	done := make(chan struct{})
	for _, log := range []*slog.Logger{slog.New(h), slog.New(h).With("a", 1)} {
		go func() {
			for range 100 {
				log.Info("with octets", "a", 1, "", attrs{octets(`{"b":[]}`)})
				log.Info("without", "d", errors.New("no"))
			}
			done <- struct{}{}
		}()
	}
	<-done
	<-done
	if len(w.lines) != 400 {
		t.Fatalf("%d writes", len(w.lines))
	}
	for _, line := range w.lines {
		if !json.Valid(line) || line[len(line)-1] != '\n' {
			t.Errorf("%q", line)
		}
	}
}

func BenchmarkHandler(b *testing.B) {
	for name, h := range map[string]slog.Handler{"jsonline": NewHandler(io.Discard, slog.LevelInfo), "slog": slog.NewJSONHandler(io.Discard, nil)} {
		b.Run(name, func(b *testing.B) {
			log := slog.New(h)
			b.ReportAllocs()
			for b.Loop() {
				log.LogAttrs(context.Background(), slog.LevelInfo, "connection",
					slog.String("session", "0123456789ab"), slog.String("client", "192.0.2.1:54321"), slog.String("listener", "mx"),
					slog.String("helo", "client.example"), slog.String("tls", "1.3"), slog.String("result", "quit"),
					slog.Int("messages", 1), slog.Int("errors", 0), slog.Float64("took", 0.012345))
			}
		})
	}
}
