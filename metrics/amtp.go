package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// amtp is what the proxy's half of AMTP counts.
type amtp struct {
	announcements known
	fetches       known
	waiting       prometheus.Gauge
}

// amtpFetches are what may come of a try to fetch mail: the backend took it, or had taken it before; it or a rule refused
// it for good, or for now; the connection or the message broke off; nobody was there; the peer has it no more; it may not be
// called; it was tried for too long.
var amtpFetches = []string{"delivered", "repeated", "refused", "deferred", "broken", "unreachable", "gone", "forbidden", "expired"}

// AMTPAnnouncement counts a SELO by the code of its answer.
func (m *Metrics) AMTPAnnouncement(code int) {
	if m != nil {
		m.amtp.announcements.inc(strconv.Itoa(code))
	}
}

// AMTPFetch counts a try to fetch mail by what came of it.
func (m *Metrics) AMTPFetch(result string) {
	if m != nil {
		m.amtp.fetches.inc(result)
	}
}

// AMTPWaiting says how much mail was announced and not yet fetched.
func (m *Metrics) AMTPWaiting(n int) {
	if m != nil {
		m.amtp.waiting.Set(float64(n))
	}
}
