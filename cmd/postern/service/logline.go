package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/jsonline"
)

// NewLogger writes the log as configured.
func NewLogger(c configs.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // the words were checked
	w = &serial{w: w}
	var h slog.Handler
	switch c.Format {
	case "text", "logfmt":
		h = &lineHandler{w: w, level: level, people: c.Format == "text"}
	default:
		h = jsonline.NewHandler(w, level)
	}
	if c.NoQueue != "" {
		host, _ := os.Hostname() // without one the line has none
		host, _, _ = strings.Cut(host, ".")
		h = &noqueueHandler{Handler: h, w: w, head: fmt.Sprintf("%s %s[%d]: NOQUEUE: reject: ", host, c.NoQueue, os.Getpid())}
	}
	return slog.New(h)
}

// serial keeps the lines of two handlers apart.
type serial struct {
	mu sync.Mutex
	w  io.Writer
}

// Write writes one line.
func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// lineHandler writes lines of name=value: for people, without what the journal has anyway,
// or all of it as logfmt.
type lineHandler struct {
	w      io.Writer
	level  slog.Level
	people bool
	before []byte // of With
	group  string // of WithGroup, with a dot behind it
}

// Enabled implements slog.Handler.
func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.before = slices.Clone(h.before)
	for _, a := range attrs {
		with.before = h.append(with.before, h.group, a)
	}
	return &with
}

// WithGroup implements slog.Handler.
func (h *lineHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.group += name + "."
	return &with
}

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b []byte
	if h.people {
		b = r.Time.AppendFormat(b, "2006-01-02 15:04:05.000 -07:00")
		b = fmt.Appendf(b, " %-5s ", r.Level)
		b = append(b, cleaned(r.Message)...)
	} else {
		b = append(r.Time.AppendFormat(append(b, "time="...), time.RFC3339Nano), " level="...)
		b = appendValue(append(append(b, strings.ToLower(r.Level.String())...), " msg="...), r.Message)
	}
	b = append(b, h.before...)
	r.Attrs(func(a slog.Attr) bool {
		b = h.append(b, h.group, a)
		return true
	})
	_, err := h.w.Write(append(b, '\n'))
	return err
}

// append appends an attribute, with a blank before it.
func (h *lineHandler) append(b []byte, group string, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, a := range v.Group() {
			b = h.append(b, group, a)
		}
		return b
	}
	key := group + a.Key
	if h.people {
		return appendForPeople(b, key, v)
	}
	switch of := valueOf(v).(type) {
	case []string:
		return appendPair(b, key, strings.Join(of, ", "))
	case *[]string:
		return appendPair(b, key, strings.Join(*of, ", "))
	default:
		if ready, ok := v.Any().(*jsonline.Ready); ok {
			return appendFlat(b, key, ready.JSON)
		}
	}
	return appendPair(b, key, v.String())
}

// valueOf returns the value of an attribute, without the JSON that it has.
func valueOf(v slog.Value) any {
	if ready, ok := v.Any().(*jsonline.Ready); ok {
		return ready.Value
	}
	return v.Any()
}

// appendForPeople appends what somebody wants to read in a log: nothing that is empty, no facts,
// of which explain shows all, and recipients and times in short.
func appendForPeople(b []byte, key string, v slog.Value) []byte {
	text := ""
	switch of := valueOf(v).(type) {
	case *policy.Facts:
		return b
	case *journal.Took:
		text = time.Duration(of.Sum() * float64(time.Second)).Round(10 * time.Microsecond).String()
	case *[]journal.Recipient:
		key = "to"
		var all []string
		for _, r := range *of {
			to := r.Address
			if r.Rule != "" {
				to += " (" + string(r.Disposition) + " by " + r.Rule + ")"
			}
			all = append(all, to)
		}
		text = strings.Join(all, ", ")
	case *journal.Candidate:
		text = strings.TrimSuffix(string(of.Disposition)+" by "+of.Rule, " by ")
	case float64:
		text = strconv.FormatFloat(of, 'g', 6, 64)
	case []string:
		text = strings.Join(of, ", ")
	case *[]string:
		text = strings.Join(*of, ", ")
	case bool:
		if !of {
			return b
		}
		text = "true"
	default:
		text = v.String()
	}
	if text == "" {
		return b
	}
	return appendPair(b, key, text)
}

// appendPair appends a name and a value.
func appendPair(b []byte, key, value string) []byte {
	return appendValue(append(append(append(b, ' '), key...), '='), value)
}

// appendValue appends a value as it stands, or in quotes where it would not be one word, with
// escapes for what is not printable.
func appendValue(b []byte, value string) []byte {
	plain := value != "" && utf8.ValidString(value) && !strings.ContainsFunc(value, func(r rune) bool {
		return r == ' ' || r == '"' || r == '=' || r == '\\' || !configs.IsShown(r)
	})
	if plain {
		return append(b, value...)
	}
	return strconv.AppendQuote(b, value)
}

// cleaned is a text without quotes around it, whose characters are printable.
func cleaned(text string) string {
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// appendFlat appends the members of a JSON value, each by the path that leads to it: those that
// are not empty, 0 or false.
func appendFlat(b []byte, path string, value []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	flat, err := flatten(b, path, d)
	if err != nil {
		return appendPair(b, path, string(value)) // it was no JSON; what it was, is seen
	}
	return flat
}

// errToken is the error of what no JSON begins with.
var errToken = errors.New("no JSON")

func flatten(b []byte, path string, d *json.Decoder) ([]byte, error) {
	token, err := d.Token()
	if err != nil {
		return b, err
	}
	switch t := token.(type) {
	case json.Delim:
		for i := 0; d.More(); i++ {
			name := strconv.Itoa(i)
			if t == '{' {
				key, err := d.Token()
				if err != nil {
					return b, err
				}
				text, ok := key.(string)
				if !ok {
					return b, errToken
				}
				name = text
			}
			if b, err = flatten(b, path+"."+name, d); err != nil {
				return b, err
			}
		}
		_, err := d.Token()
		return b, err
	case string:
		if t != "" {
			b = appendPair(b, path, t)
		}
	case json.Number:
		if t != "0" {
			b = appendPair(b, path, t.String())
		}
	case bool:
		if t {
			b = appendPair(b, path, "true")
		}
	}
	return b, nil
}

// noqueueHandler writes, beside the log, each refusal of ours as the line that Postfix has for
// one, for programs that read those.
type noqueueHandler struct {
	slog.Handler
	w    io.Writer
	head string
}

// WithAttrs implements slog.Handler.
func (h *noqueueHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.Handler = h.Handler.WithAttrs(attrs)
	return &with
}

// WithGroup implements slog.Handler.
func (h *noqueueHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.Handler = h.Handler.WithGroup(name)
	return &with
}

// Handle implements slog.Handler.
func (h *noqueueHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Message != "transaction" {
		return err
	}
	var x refused
	r.Attrs(x.take)
	lines := x.lines()
	if len(lines) == 0 {
		return err
	}
	var b []byte
	for _, line := range lines {
		b = r.Time.AppendFormat(b, time.Stamp)
		b = append(b, ' ')
		b = append(append(append(b, h.head...), cleaned(line)...), '\n')
	}
	_, err2 := h.w.Write(b)
	return errors.Join(err, err2)
}

// refused is what the log's line of a transaction has, as far as Postfix's line has it.
type refused struct {
	client, name, helo, from, stage, disposition, outcome, reply string
	observed                                                     bool
	recipients                                                   []journal.Recipient
}

func (x *refused) take(a slog.Attr) bool {
	switch a.Key {
	case "client":
		x.client = a.Value.String()
	case "helo":
		x.helo = a.Value.String()
	case "from":
		x.from = a.Value.String()
	case "stage":
		x.stage = a.Value.String()
	case "disposition":
		x.disposition = a.Value.String()
	case "outcome":
		x.outcome = a.Value.String()
	case "reply":
		x.reply = a.Value.String()
	case "observed":
		x.observed = a.Value.Kind() == slog.KindBool && a.Value.Bool()
	case "": // the record
		if v := a.Value.Resolve(); v.Kind() == slog.KindGroup {
			for _, a := range v.Group() {
				x.take(a)
			}
		}
	case "recipients":
		if all, ok := valueOf(a.Value).(*[]journal.Recipient); ok {
			x.recipients = *all
		}
	case "facts":
		if f, ok := valueOf(a.Value).(*policy.Facts); ok {
			x.name = f.Client.Name
		}
	}
	return true
}

// commands are Postfix's words for the stages.
var commands = map[string]string{"connect": "CONNECT", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT", "header": "END-OF-MESSAGE", "message": "END-OF-MESSAGE"}

// lines are those of a transaction: one for each recipient that was refused by itself, or one for
// the whole of it. What the MTA refuses has a line in its own log.
func (x *refused) lines() (all []string) {
	add := func(command, reply, to string) {
		name := x.name
		if name == "" {
			name = "unknown"
		}
		line := fmt.Sprintf("%s from %s[%s]: %s;", command, name, x.client, x.because(command, name, reply, to))
		if command != "CONNECT" && command != "EHLO" {
			line += fmt.Sprintf(" from=<%s>", x.from)
		}
		if to != "" {
			line += fmt.Sprintf(" to=<%s>", to)
		}
		line += " proto=ESMTP"
		if x.helo != "" {
			line += fmt.Sprintf(" helo=<%s>", x.helo)
		}
		all = append(all, line)
	}
	if !x.observed {
		for i := range x.recipients {
			rc := &x.recipients[i]
			if rc.Disposition.Refuses() && refusal(rc.Reply) {
				add("RCPT", rc.Reply, rc.Address)
			}
		}
	}
	if len(all) > 0 || x.outcome != string(journal.OutcomeRefused) || !refusal(x.reply) {
		return all
	}
	to := ""
	if len(x.recipients) > 0 {
		to = x.recipients[0].Address
	}
	add(commands[x.stage], x.reply, to)
	return all
}

// because is a reply with what Postfix writes between its codes and its text: who was refused.
func (x *refused) because(command, name, reply, to string) string {
	who := map[string]string{
		"CONNECT":        fmt.Sprintf("<%s[%s]>: Client host rejected", name, x.client),
		"EHLO":           fmt.Sprintf("<%s>: Helo command rejected", x.helo),
		"MAIL":           fmt.Sprintf("<%s>: Sender address rejected", x.from),
		"RCPT":           fmt.Sprintf("<%s>: Recipient address rejected", to),
		"END-OF-MESSAGE": "<END-OF-MESSAGE>: End-of-data rejected",
	}[command]
	// The text behind "550 5.7.23 "; a reply without the second code has it sooner.
	words := strings.SplitN(reply, " ", 3)
	if who == "" || len(words) < 3 || !strings.Contains(words[1], ".") {
		return reply
	}
	return words[0] + " " + words[1] + " " + who + ": " + words[2]
}

func refusal(reply string) bool {
	return strings.HasPrefix(reply, "4") || strings.HasPrefix(reply, "5")
}
