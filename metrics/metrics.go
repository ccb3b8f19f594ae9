// Package metrics holds every metric of Postern, in one file a reader can see
// whole.
package metrics

import "time"

// Metrics counts. Its methods accept a nil receiver, so that nobody needs a
// registry to run a session. Labels come from closed sets, never an address or
// a domain.
type Metrics struct{}

// Connection counts a connection when it ends, or when it is turned away.
func (m *Metrics) Connection(listener, result string) {}

// SessionStarted and SessionEnded keep the number of sessions open now.
func (m *Metrics) SessionStarted() {}

// SessionEnded is the other half of SessionStarted.
func (m *Metrics) SessionEnded() {}

// Transaction counts a transaction by its disposition and the rule that decided it.
func (m *Metrics) Transaction(disposition, rule string) {}

// CheckDone counts a check's result and the time it took.
func (m *Metrics) CheckDone(check, result string, took time.Duration) {}

// Reply counts a reply to a client.
func (m *Metrics) Reply(code int, enhanced string) {}

// DNSQuery counts a look-up by how it was answered: hit, miss, stale, negative or error.
func (m *Metrics) DNSQuery(rrtype, outcome string) {}

// DNSQueryTook measures one exchange with a server.
func (m *Metrics) DNSQueryTook(took time.Duration) {}

// DNSCacheEntries reports the number of cached answers through f, which is
// called at each scrape.
func (m *Metrics) DNSCacheEntries(f func() float64) {}

// BackendUp tells whether an address of a backend is taken for usable.
func (m *Metrics) BackendUp(backend, address string, up bool) {}

// BackendTook measures a phase of the conversation with a backend: connect,
// tls, identity, envelope, data or end_of_data.
func (m *Metrics) BackendTook(backend, phase string, took time.Duration) {}

// BackendError counts a failure of a backend: dial, timeout, tls, protocol,
// identity, refused or lost.
func (m *Metrics) BackendError(backend, kind string) {}

// MessageBytes observes the size of a message that was read to its end.
func (m *Metrics) MessageBytes(n int64) {}

// TimeToFinalReply observes the time from the end of a message to our reply.
func (m *Metrics) TimeToFinalReply(took time.Duration) {}

// TLSHandshake counts handshakes with clients.
func (m *Metrics) TLSHandshake(version, result string) {}

// CertificateNotAfter publishes when a certificate ends.
func (m *Metrics) CertificateNotAfter(name string, t time.Time) {}

// OutcomeUnknown counts a message whose end went to the backend and whose
// answer never came.
func (m *Metrics) OutcomeUnknown() {}

// Disagreement counts a transaction on which the active and the candidate
// policy disagree.
func (m *Metrics) Disagreement(active, candidate string) {}

// ConfigReload counts reloads: "ok" or "error".
func (m *Metrics) ConfigReload(result string) {}
