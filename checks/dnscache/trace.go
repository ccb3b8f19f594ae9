package dnscache

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Source says where an answer came from.
type Source string

// The sources.
const (
	SourceNetwork Source = "network" // a name server, for this look-up or one it joined
	SourceCache   Source = "cache"
	SourceStale   Source = "stale" // the cache, after its time, since no server answers (RFC 8767)
)

// Answer is one look-up as the journal keeps it, and as `postern explain` and
// `postern test-session` show it.
type Answer struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Answer []string `json:"answer"`
	TTL    int      `json:"ttl"` // seconds left; 0 where the answer is not to be kept
	Source Source   `json:"source"`
	Error  string   `json:"error,omitempty"`
	// LeftOff is how many octets of data were left off, since there are too many.
	LeftOff int           `json:"left_off,omitempty"`
	Took    time.Duration `json:"took,omitempty"` // that it was waited for; nanoseconds in JSON
}

const (
	// maxTrace bounds a Trace: no check asks for more, since SPF has its limits.
	maxTrace = 200
	// maxTraceSize bounds it as well, in octets. What honest domains publish comes
	// to a few thousand; who means harm has 64 KiB in each answer.
	maxTraceSize = 48 << 10
	// usualAnswers is as many as most transactions come to.
	usualAnswers = 10
)

// Trace collects the look-ups of one transaction. The zero Trace is ready, and
// it may be used by several goroutines. Beyond 200 answers the rest is dropped;
// beyond 48 KiB of text an answer is kept without its data.
type Trace struct {
	mu      sync.Mutex
	answers []Answer
	size    int
}

// Answers returns what was collected so far, in the order of completion. It is for
// reading alone.
func (t *Trace) Answers() []Answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clip(t.answers)
}

func (t *Trace) add(a Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.answers) >= maxTrace {
		return
	}
	size := len(a.Name)
	for _, text := range a.Answer {
		size += len(text)
	}
	if t.size+size > maxTraceSize {
		a.LeftOff, a.Answer = size-len(a.Name), []string{}
		size = len(a.Name)
	}
	t.size += size
	if t.answers == nil {
		t.answers = make([]Answer, 0, usualAnswers)
	}
	t.answers = append(t.answers, a)
}

type secretKey struct{}

// WithSecret returns a context whose look-ups are traced without a label of their
// names, by which a name server knows who asks. No Attempt or Transaction may be
// made of it: a secret is one look-up's.
func WithSecret(ctx context.Context, label string) context.Context {
	return context.WithValue(ctx, secretKey{}, strings.ToLower(label))
}

// conceal takes a label out of a name.
func conceal(name, secret string) string {
	if secret == "" {
		return name
	}
	labels := strings.Split(name, ".")
	return strings.Join(slices.DeleteFunc(labels, func(l string) bool { return strings.EqualFold(l, secret) }), ".")
}

// record adds a look-up to the trace.
func (t *Trace) record(q question, e *entry, src Source, now time.Time, took time.Duration, secret string) {
	name := e.name
	switch {
	case secret != "":
		name = conceal(q.name, secret)
	case name != q.name:
		name = strings.Clone(q.name) // it may be a part of a header section, or of a large record
	}
	a := Answer{Name: name, Type: q.rrtype.String(), Answer: e.shown, Source: src, Took: took}
	if left := time.Unix(0, e.expires).Sub(now); left > 0 {
		a.TTL = int((left + time.Second - 1) / time.Second)
	}
	if e.err != nil {
		if a.Error = e.err.Err; secret != "" {
			a.Error = strings.ReplaceAll(a.Error, secret, "")
		}
	}
	if a.Answer == nil {
		a.Answer = []string{} // which is how JSON has it
	}
	t.add(a)
}

// show is the data as a trace has it.
func (e *entry) show() []string {
	n := len(e.mx) + len(e.ips)
	if n == 0 {
		return e.text
	}
	shown := make([]string, 0, n)
	for _, mx := range e.mx {
		shown = append(shown, strconv.Itoa(int(mx.Pref))+" "+mx.Host)
	}
	for _, ip := range e.ips {
		shown = append(shown, ip.String())
	}
	return shown
}
