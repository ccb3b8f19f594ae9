package metrics

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxChildren bounds the label combinations of one metric. The closed sets that
// we count by stay far below it.
const maxChildren = 1000

// other is the label value of what comes after maxChildren.
const other = "other"

// pair is up to two label values. A struct and not a joined string, since that
// would have to be built for each event.
type pair struct{ a, b string }

// children remembers the children of a vector. WithLabelValues hashes the values
// and takes a lock for each event, ten times the price of a look-up here.
type children[T any] struct {
	known atomic.Pointer[map[pair]T] // never written to once it is here
	mu    sync.Mutex                 // held by those who add one
}

// find returns the child of key, if there is one yet.
func (c *children[T]) find(key pair) (child T, ok bool) {
	if m := c.known.Load(); m != nil {
		child, ok = (*m)[key]
	}
	return child, ok
}

// add resolves the child of key, which is labelled a and b.
func (c *children[T]) add(key pair, a, b string, resolve func(...string) (T, error)) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	if child, ok := c.find(key); ok {
		return child
	}
	next := map[pair]T{}
	if m := c.known.Load(); m != nil {
		if len(*m) >= maxChildren {
			return labelled(resolve, other, other)
		}
		next = maps.Clone(*m)
	}
	child := labelled(resolve, a, b)
	// A key may be part of a session's buffer, which would be kept alive by it.
	next[pair{strings.Clone(key.a), strings.Clone(key.b)}] = child
	c.known.Store(&next)
	return child
}

// counters are the counters of one name, by one or two labels.
type counters struct {
	children[prometheus.Counter]
	vec *prometheus.CounterVec
}

// get returns the counter of the label values; b is empty where there is one label.
func (c *counters) get(a, b string) prometheus.Counter {
	if child, ok := c.find(pair{a, b}); ok {
		return child
	}
	return c.add(pair{a, b}, a, b, c.vec.GetMetricWithLabelValues)
}

// observers are the histograms of one name, by one or two labels.
type observers struct {
	children[prometheus.Observer]
	vec *prometheus.HistogramVec
}

func (o *observers) get(a, b string) prometheus.Observer {
	if child, ok := o.find(pair{a, b}); ok {
		return child
	}
	return o.add(pair{a, b}, a, b, o.vec.GetMetricWithLabelValues)
}

// labelled resolves a child of a vector with two labels, or with one.
func labelled[T any](resolve func(...string) (T, error), a, b string) T {
	child, err := resolve(clean(a), clean(b))
	if err != nil { // one label only
		child, _ = resolve(clean(a))
	}
	return child
}

// clean makes a text a legal label value; the library panics on bad UTF-8.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// codes are the texts of the reply codes, so that looking one up allocates nothing.
var codes = func() (t [1000]string) {
	for i := range t {
		t[i] = string([]byte{byte('0' + i/100), byte('0' + i/10%10), byte('0' + i%10)})
	}
	return t
}()

// codeText returns the text of a reply code.
func codeText(code int) string {
	if code < 0 || code >= len(codes) {
		return other
	}
	return codes[code]
}
