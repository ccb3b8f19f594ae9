package metrics

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// WithLabelValues hashes the values and takes a lock. What is counted several times for
// each message has its counters resolved beforehand: here, where the values are a closed
// set, or by those who count (Check, Backend).

// known counts by one label, whose values are known beforehand.
type known struct {
	vec *prometheus.CounterVec
	by  map[string]prometheus.Counter // immutable
}

// newKnown makes the counters of those values. They are 0 from the start: a counter that
// appears only with its first event hides that event from rate().
func newKnown(vec *prometheus.CounterVec, values ...string) known {
	k := known{vec, make(map[string]prometheus.Counter, len(values))}
	for _, v := range values {
		k.by[v] = vec.WithLabelValues(v)
	}
	return k
}

// inc counts one; a value that was not known beforehand as well.
func (k *known) inc(value string) {
	if c, ok := k.by[value]; ok {
		c.Inc()
		return
	}
	k.vec.WithLabelValues(clean(value)).Inc()
}

// pairs counts by two labels, whose values are those of a configuration and of the program. A counter
// is resolved once.
type pairs struct {
	vec   *prometheus.CounterVec
	mu    sync.RWMutex
	known map[pair]prometheus.Counter
}

type pair struct{ a, b string }

func newPairs(vec *prometheus.CounterVec) *pairs {
	return &pairs{vec: vec, known: map[pair]prometheus.Counter{}}
}

// of returns the counter of two values.
func (p *pairs) of(a, b string) prometheus.Counter {
	p.mu.RLock()
	c, ok := p.known[pair{a, b}]
	p.mu.RUnlock()
	if !ok {
		c = p.vec.WithLabelValues(clean(a), clean(b))
		p.mu.Lock()
		p.known[pair{a, b}] = c // two who come together have the same
		p.mu.Unlock()
	}
	return c
}

// clean makes a text a legal label value; the library panics on bad UTF-8.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// Check counts the results of one check. A nil Check counts nothing.
type Check struct {
	results known
	took    prometheus.Observer
}

// Check returns what counts the check of that name, whose results are those words.
func (m *Metrics) Check(name string, results []string) *Check {
	if m == nil {
		return nil
	}
	name = clean(name)
	return &Check{
		results: newKnown(m.checkResults.MustCurryWith(prometheus.Labels{"check": name}), results...),
		took:    m.checkDuration.WithLabelValues(name),
	}
}

// Filter is Check for a filter of somebody else's: a policy service.
func (m *Metrics) Filter(name string, results []string) *Check {
	if m == nil {
		return nil
	}
	name = clean(name)
	m.filterNotAsked.WithLabelValues(name) // 0 from the start
	return &Check{
		results: newKnown(m.filterResults.MustCurryWith(prometheus.Labels{"filter": name}), results...),
		took:    m.filterDuration.WithLabelValues(name),
	}
}

// FilterNotAsked counts a question that a filter of that name was not asked, since it is down.
func (m *Metrics) FilterNotAsked(name string) {
	if m != nil {
		m.filterNotAsked.WithLabelValues(clean(name)).Inc()
	}
}

// Done counts a result of the check and the time that it took.
func (c *Check) Done(result string, took time.Duration) {
	if c != nil {
		c.results.inc(result)
		c.took.Observe(took.Seconds())
	}
}

// Untimed counts a result that took no time, since nobody was asked.
func (c *Check) Untimed(result string) {
	if c != nil {
		c.results.inc(result)
	}
}

// Phase is a phase of the conversation with a backend.
type Phase uint8

// The phases, in their order.
const (
	PhaseConnect Phase = iota
	PhaseTLS
	PhaseIdentity
	PhaseEnvelope
	PhaseData
	PhaseEndOfData
)

var phases = [...]string{"connect", "tls", "identity", "envelope", "data", "end_of_data"}

// Backend measures the conversations with one backend. A nil Backend measures nothing.
type Backend struct {
	took   [len(phases)]prometheus.Observer
	errors known
}

// Backend returns what measures the backend of that name, which can fail in those ways.
func (m *Metrics) Backend(name string, kinds []string) *Backend {
	if m == nil {
		return nil
	}
	name = clean(name)
	b := &Backend{errors: newKnown(m.backendErrors.MustCurryWith(prometheus.Labels{"backend": name}), kinds...)}
	for p, phase := range phases {
		b.took[p] = m.backendDuration.WithLabelValues(name, phase)
	}
	return b
}

// Took measures a phase of the conversation.
func (b *Backend) Took(p Phase, took time.Duration) {
	if b != nil {
		b.took[p].Observe(took.Seconds())
	}
}

// Error counts a failure of the backend.
func (b *Backend) Error(kind string) {
	if b != nil {
		b.errors.inc(kind)
	}
}

// maxReplies bounds the codes that replies are counted by. Most replies are a backend's,
// and one that makes codes up shall not fill our memory, nor that of the scraper.
const maxReplies = 1000

// other is the label value of what comes after maxReplies.
const other = "other"

// replies counts replies by code and enhanced status code.
type replies struct {
	vec   *prometheus.CounterVec
	rest  prometheus.Counter // of all after maxReplies; nil: there was none yet
	mu    sync.RWMutex
	known map[replyCode]prometheus.Counter
}

// replyCode is a reply as smtp.Reply has its codes. Their text would allocate for each.
type replyCode struct {
	code     int
	enhanced string
}

func (r *replies) inc(code replyCode) {
	r.mu.RLock()
	c, ok := r.known[code]
	r.mu.RUnlock()
	if !ok {
		c = r.add(code)
	}
	c.Inc()
}

// add resolves the counter of a code.
func (r *replies) add(code replyCode) prometheus.Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.known[code]; ok {
		return c
	}
	if len(r.known) >= maxReplies {
		if r.rest == nil {
			r.rest = r.vec.WithLabelValues(other, other)
		}
		return r.rest
	}
	if r.known == nil {
		r.known = make(map[replyCode]prometheus.Counter)
	}
	code.enhanced = strings.Clone(code.enhanced) // it may be part of a connection's buffer
	c := r.vec.WithLabelValues(code.labels())
	r.known[code] = c
	return c
}

// labels are the label values of a code. enhanced comes without its class, which is the
// first digit of the code, and is published with it.
func (r replyCode) labels() (code, enhanced string) {
	if r.code < 0 || r.code > 999 {
		return other, clean(r.enhanced)
	}
	code = fmt.Sprintf("%03d", r.code)
	if r.enhanced == "" {
		return code, ""
	}
	return code, clean(code[:1] + "." + r.enhanced)
}
