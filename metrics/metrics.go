// Package metrics holds every metric of Postern, in one file a reader can see
// whole.
package metrics

import (
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics counts. Its methods accept a nil receiver, so that nobody needs a
// registry to run a session. Labels come from closed sets or from the configuration,
// never an address or a domain; the one set that is open, the codes of replies, is
// bounded, and what comes late is counted under "other".
type Metrics struct {
	registry *prometheus.Registry
	glanced  *prometheus.Registry // those of Glance, which are in the other too

	connections  *pairs
	sessions     prometheus.Gauge
	transactions *pairs
	outcomes     known
	messages     known

	checkResults   *prometheus.CounterVec
	checkDuration  *prometheus.HistogramVec
	filterResults  *prometheus.CounterVec
	filterNotAsked *prometheus.CounterVec
	filterDuration *prometheus.HistogramVec
	replies        replies

	dnsVec      *prometheus.CounterVec
	dnsQueries  map[string]known // of dnsVec, by type
	dnsRefused  known
	dnsDuration prometheus.Observer
	dnsEntries  atomic.Pointer[func() float64]
	dnsHealthy  atomic.Pointer[func() bool]

	backendUp       *prometheus.GaugeVec
	backendDuration *prometheus.HistogramVec
	backendErrors   *prometheus.CounterVec

	messageBytes     prometheus.Observer
	timeToFinalReply prometheus.ExemplarObserver
	exemplars        []atomic.Int64 // when the buckets of timeToFinalReply had their last, in ns since 1970
	outcomeUnknown   prometheus.Counter

	tlsHandshakes       *pairs
	certificateNotAfter *prometheus.GaugeVec

	stateHealthy atomic.Pointer[func() bool]
	unreadFiles  atomic.Pointer[func() int]
	stateEntries *prometheus.GaugeVec
	stateBytes   *prometheus.GaugeVec

	limitsReached known
	heldBytes     prometheus.Gauge

	held        *prometheus.GaugeVec
	holding     sync.Map // names of rules that hold, of which 0 is said where nothing waits
	holdSeconds *prometheus.HistogramVec
	retrievals  known
	amtp        amtp

	disagreements *pairs
	configReloads known
	journal       known
	buildInfo     *prometheus.GaugeVec
}

// holdBuckets go to the five days after which senders give up.
var holdBuckets = []float64{60, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 48 * 3600, 96 * 3600, 120 * 3600}

// The classic buckets, which every scraper sees; native histograms stand beside
// them for those who ask for them.
var (
	waitBuckets  = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600} // to the ten minutes a client waits
	bytesBuckets = prometheus.ExponentialBuckets(1<<10, 4, 9)                                                      // 1 KiB to 64 MiB
)

// New returns a set of metrics in a registry of its own, with those of Go and of
// the process.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	f := promauto.With(m.registry)

	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Namespace: "postern", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "postern", Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Namespace: "postern", Name: name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
		}
	}

	m.connections = newPairs(counter("connections_total", "Connections of clients, by listener and by how they ended.", "listener", "result"))
	m.sessions = f.NewGauge(gauge("sessions_active", "Sessions open now."))
	m.transactions = newPairs(counter("transactions_total", "Mail transactions, by verdict and by the rule that decided.", "disposition", "rule"))

	m.messages = newKnown(counter("messages_total", "Messages that were passed to a backend or refused, by the strongest proof of who the sender is, weakest first: none, iprev, amtp, spf, submitter, tls.", "identity"),
		"none", "iprev", "amtp", "spf", "submitter", "tls")
	m.outcomes = newKnown(counter("outcomes_total", "Mail transactions, by how they ended.", "outcome"),
		"delivered", "refused", "backend_refused", "failed", "abandoned", "unknown")

	m.checkResults = counter("check_results_total", "Results of checks, in the words of RFC 8601.", "check", "result")
	m.checkDuration = f.NewHistogramVec(histogram("check_duration_seconds", "Time that checks took.", waitBuckets), []string{"check"})
	m.filterResults = counter("filter_results_total", "Answers of other people's filters, in the words of milter.NAME.action and service.NAME.action.", "filter", "result")
	m.filterNotAsked = counter("filter_not_asked_total", "Questions that other people's filters were not asked, since they had failed again and again: temperror at once.", "filter")
	m.filterDuration = f.NewHistogramVec(histogram("filter_duration_seconds", "Time that other people's filters took, where it was tried to ask them.", waitBuckets), []string{"filter"})
	m.replies.vec = counter("replies_total", "Replies to clients, by code and enhanced status code.", "code", "enhanced")
	for _, trouble := range []replyCode{{451, "3.0"}, {451, "4.1"}, {451, "4.3"}, {452, "3.1"}} { // of ours; alerts wait for the first of each
		m.replies.add(trouble)
	}

	m.dnsVec = counter("dns_queries_total", "DNS look-ups, by how they were answered.", "type", "outcome")
	m.dnsQueries = make(map[string]known)
	for _, rrtype := range []string{"A", "AAAA", "MX", "PTR", "TXT"} {
		m.dnsQueries[rrtype] = newKnown(m.dnsVec.MustCurryWith(prometheus.Labels{"type": rrtype}), "hit", "miss", "stale", "negative", "error")
	}
	m.dnsRefused = newKnown(counter("dns_refused_total", "DNS look-ups that were not made since too many were under way: of the client or its network, in all, or for a connection to be free in time.", "bound"),
		"client", "network", "all", "connections")
	m.dnsDuration = f.NewHistogram(histogram("dns_query_duration_seconds", "Time of one exchange with a DNS server.", waitBuckets))
	f.NewGaugeFunc(gauge("dns_cache_entries", "DNS answers in the cache."), func() float64 {
		if count := m.dnsEntries.Load(); count != nil {
			return (*count)()
		}
		return 0
	})

	f.NewGaugeFunc(gauge("dns_healthy", "Whether our own name servers seem to work: 0 while different domains fail together."), func() float64 {
		if healthy := m.dnsHealthy.Load(); healthy != nil && !(*healthy)() {
			return 0
		}
		return 1
	})

	m.backendUp = f.NewGaugeVec(gauge("backend_up", "Whether an address of a backend is taken for usable."), []string{"backend", "address"})
	m.backendDuration = f.NewHistogramVec(histogram("backend_duration_seconds", "Time of a phase of the conversation with a backend.", waitBuckets), []string{"backend", "phase"})
	m.backendErrors = counter("backend_errors_total", "Failures of backends.", "backend", "kind")

	m.messageBytes = f.NewHistogram(histogram("message_bytes", "Size of the messages read to their end.", bytesBuckets))
	timeToFinalReply := f.NewHistogram(histogram("time_to_final_reply_seconds", "Time from the end of a message to the reply.", waitBuckets))
	// What the library calls a Histogram observes with an exemplar as well.
	m.timeToFinalReply, _ = timeToFinalReply.(prometheus.ExemplarObserver)
	m.exemplars = make([]atomic.Int64, len(waitBuckets)+1)
	m.outcomeUnknown = f.NewCounter(prometheus.CounterOpts{
		Namespace: "postern", Name: "outcome_unknown_total",
		Help: "Messages whose end went to the backend and whose answer never came: they may arrive twice.",
	})

	m.tlsHandshakes = newPairs(counter("tls_handshakes_total", "TLS handshakes with clients.", "version", "result"))
	for _, version := range []string{"1.2", "1.3"} {
		m.tlsHandshakes.of(version, "ok")
	}
	m.tlsHandshakes.of("", "error") // of which no version is known
	m.certificateNotAfter = f.NewGaugeVec(gauge("tls_certificate_not_after_seconds", "When a certificate ends, in seconds since 1970."), []string{"name"})

	f.NewGaugeFunc(gauge("state_healthy", "Whether the store of what lasts between sessions is asked: 0 while it gives no sign of life."), func() float64 {
		if healthy := m.stateHealthy.Load(); healthy != nil && !(*healthy)() {
			return 0
		}
		return 1
	})
	f.NewGaugeFunc(gauge("network_files_unreadable", "Files of checks.geo.files that cannot be read; what one said before stays in force."), func() float64 {
		if count := m.unreadFiles.Load(); count != nil {
			return float64((*count)())
		}
		return 0
	})
	m.stateEntries = f.NewGaugeVec(gauge("state_entries", "Senders (past), clients and domains of the hour (rate) and held mail (hold) that are remembered, as counted within the last minute."), []string{"kind"})
	m.stateBytes = f.NewGaugeVec(gauge("state_bytes", "Room that the store of this machine takes; of servers nothing is known."), nil)

	m.limitsReached = newKnown(counter("limits_reached_total", "What clients were not given since a limit was reached, by the key of it in the configuration.", "limit"),
		"held", "held_per_client", "held_memory", "header_fields", "header_size", "message_rate", "notices", "notices_per_sender", "recipients")
	m.heldBytes = f.NewGauge(gauge("held_bytes", "Room taken by messages that are held until the last rule can judge them, in memory and on disk."))

	m.held = f.NewGaugeVec(gauge("held", "Mail that was told to come again and has not yet, by the rule that holds it, as counted within the last minute; the newest 10,000 are looked at."), []string{"rule"})
	m.holdSeconds = f.NewHistogramVec(histogram("hold_seconds", "How long mail was held, by what ended it.", holdBuckets), []string{"released"})
	for _, end := range []string{"clock", "operator", "expired"} {
		m.holdSeconds.WithLabelValues(end)
	}
	m.retrievals = newKnown(counter("retrievals_total", "Hosts that were asked for the mail that they keep (ETRN), by what they answered; error: it did not come to an answer.", "reply"),
		append(slices.Clone(retrievalReplies), "other", "error")...)

	m.amtp = amtp{
		announcements: newKnown(counter("amtp_announcements_total", "Mail that other servers announced by SELO, by the code of our answer.", "reply"), "250", "451", "452", "550"),
		fetches:       newKnown(counter("amtp_fetches_total", "Tries to fetch announced mail, by what came of them.", "result"), amtpFetches...),
		waiting:       f.NewGauge(gauge("amtp_waiting", "Mail that was announced and not yet fetched.")),
	}

	m.disagreements = newPairs(counter("policy_disagreement_total", "Transactions on which the active and the candidate policy disagree.", "active", "candidate"))
	m.configReloads = newKnown(counter("config_reloads_total", "Attempts to load the configuration anew.", "result"), "ok", "error")
	m.journal = newKnown(counter("journal_records_total", "Records of transactions for the journal, by what became of them.", "result"),
		"written", "dropped", "error")
	f.NewGaugeFunc(gauge("time_seconds", "What the clock of this machine says, in seconds since 1970: to be compared with that of the scraper."), func() float64 {
		return float64(time.Now().UnixMilli()) / 1000
	})
	m.buildInfo = f.NewGaugeVec(gauge("build_info", "Always 1; the labels say what is running."), []string{"version", "goversion"})
	m.glanced = prometheus.NewRegistry()
	m.glanced.MustRegister(m.sessions, m.dnsVec, m.journal.vec, m.outcomeUnknown, m.held, timeToFinalReply)
	return m
}

// Handler serves the metrics to a scraper, in text or as protocol buffers.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 4, // scrapers are few; more are a mistake or worse
		Timeout:             10 * time.Second,
	})
}

// Gatherer returns the registry to read from.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Listener makes the series of a listener's connections, one for each way in which they can
// end, with 0. A series that appears only with its first event hides that event from rate();
// so do those that Rules, Candidate and Backend make.
func (m *Metrics) Listener(name string, results []string) {
	if m == nil {
		return
	}
	for _, r := range results {
		m.connections.of(name, r)
	}
}

// Rule makes the series of a rule of the policy, with 0. That of the transactions that no
// rule decides has an empty name and the disposition pass, or none.
func (m *Metrics) Rule(disposition, rule string) {
	if m == nil {
		return
	}
	m.transactions.of(disposition, ruleLabel(rule))
	if disposition == "hold" {
		if _, known := m.holding.LoadOrStore(rule, nil); !known {
			m.held.WithLabelValues(clean(rule)).Set(0)
		}
	}
}

// Candidate makes the series of each way in which two policies can disagree, with 0.
func (m *Metrics) Candidate(dispositions []string) {
	if m == nil {
		return
	}
	for _, active := range dispositions {
		for _, candidate := range dispositions {
			if active != candidate {
				m.disagreements.of(active, candidate)
			}
		}
	}
}

// Connection counts a connection when it ends, or when it is turned away.
func (m *Metrics) Connection(listener, result string) {
	if m != nil {
		m.connections.of(listener, result).Inc()
	}
}

// SessionStarted and SessionEnded keep the number of sessions open now.
func (m *Metrics) SessionStarted() {
	if m != nil {
		m.sessions.Inc()
	}
}

// SessionEnded is the other half of SessionStarted.
func (m *Metrics) SessionEnded() {
	if m != nil {
		m.sessions.Dec()
	}
}

// Outcome counts a transaction by how it ended.
func (m *Metrics) Outcome(outcome string) {
	if m != nil {
		m.outcomes.inc(outcome)
	}
}

// Message counts a message that was passed to a backend or refused, by the strongest
// proof of who its sender is.
func (m *Metrics) Message(identity string) {
	if m != nil {
		m.messages.inc(identity)
	}
}

// Transaction counts a transaction by its disposition and the rule that decided
// it; no rule is "none".
func (m *Metrics) Transaction(disposition, rule string) {
	if m != nil {
		m.transactions.of(disposition, ruleLabel(rule)).Inc()
	}
}

func ruleLabel(rule string) string {
	if rule == "" {
		return "none"
	}
	return rule
}

// Reply counts a reply to a client. enhanced comes without its class, as in
// smtp.Reply, and is published with it.
func (m *Metrics) Reply(code int, enhanced string) {
	if m != nil {
		m.replies.inc(replyCode{code, enhanced})
	}
}

// DNSQuery counts a look-up by how it was answered: hit, miss, stale, negative or error.
func (m *Metrics) DNSQuery(rrtype, outcome string) {
	if m == nil {
		return
	}
	if by, ok := m.dnsQueries[rrtype]; ok {
		by.inc(outcome)
		return
	}
	m.dnsVec.WithLabelValues(clean(rrtype), clean(outcome)).Inc()
}

// DNSRefused counts a DNS look-up that was not made, by the bound that was
// reached: client, network, all or connections.
func (m *Metrics) DNSRefused(bound string) {
	if m != nil {
		m.dnsRefused.inc(bound)
	}
}

// DNSQueryTook measures one exchange with a server.
func (m *Metrics) DNSQueryTook(took time.Duration) {
	if m != nil {
		m.dnsDuration.Observe(took.Seconds())
	}
}

// DNSCacheEntries reports the number of cached answers through f, which is
// called at each scrape; a later f takes the place of an earlier one.
func (m *Metrics) DNSCacheEntries(f func() float64) {
	if m != nil {
		m.dnsEntries.Store(&f)
	}
}

// DNSHealthy reports the state of our own name servers through f, which is
// called at each scrape; a later f takes the place of an earlier one.
func (m *Metrics) DNSHealthy(f func() bool) {
	if m != nil {
		m.dnsHealthy.Store(&f)
	}
}

// StateHealthy reports the state of the store of what lasts between sessions through
// f, which is called at each scrape; a later f takes the place of an earlier one.
func (m *Metrics) StateHealthy(f func() bool) {
	if m != nil {
		m.stateHealthy.Store(&f)
	}
}

// NetworkFilesUnreadable reports through f how many of the files that say to which network an
// address belongs cannot be read. It is called at each scrape; a later f takes the place of an earlier one.
func (m *Metrics) NetworkFilesUnreadable(f func() int) {
	if m != nil {
		m.unreadFiles.Store(&f)
	}
}

// StateSizes publishes how much that store holds, by kind and in octets; a size below
// zero is not known.
func (m *Metrics) StateSizes(entries map[string]int64, octets int64) {
	if m == nil {
		return
	}
	for kind, n := range entries {
		m.stateEntries.WithLabelValues(clean(kind)).Set(float64(n))
	}
	if octets >= 0 {
		m.stateBytes.WithLabelValues().Set(float64(octets))
	}
}

// ForgetState drops what StateSizes said, before another store is counted.
func (m *Metrics) ForgetState() {
	if m != nil {
		m.stateEntries.Reset()
		m.stateBytes.Reset()
	}
}

// BackendUp tells whether an address of a backend is taken for usable.
func (m *Metrics) BackendUp(backend, address string, up bool) {
	if m == nil {
		return
	}
	value := 0.0
	if up {
		value = 1
	}
	m.backendUp.WithLabelValues(clean(backend), clean(address)).Set(value)
}

// ForgetBackends drops what BackendUp said, before the backends of a new
// configuration report for the first time.
func (m *Metrics) ForgetBackends() {
	if m != nil {
		m.backendUp.Reset()
	}
}

// MessageBytes observes the size of a message that was read to its end.
func (m *Metrics) MessageBytes(n int64) {
	if m != nil {
		m.messageBytes.Observe(float64(n))
	}
}

// TimeToFinalReply observes the time from the end of a message to our reply. Whoever scrapes
// as OpenMetrics is told of one transaction in each bucket by its id (an exemplar): from a
// slow point of a graph it leads to `postern explain`.
func (m *Metrics) TimeToFinalReply(took time.Duration, id string) {
	if m == nil {
		return
	}
	var exemplar prometheus.Labels
	if id != "" && len(id) <= maxExemplar && m.exemplarDue(took, time.Now()) {
		exemplar = prometheus.Labels{"id": clean(id)}
	}
	m.timeToFinalReply.ObserveWithExemplar(took.Seconds(), exemplar)
}

// maxExemplar bounds the id of an exemplar in octets; the library panics where name and value
// have more than 128 characters.
const maxExemplar = 64

// exemplarDue says whether the bucket of that time may have a new exemplar: one a second.
// A scraper comes every few seconds and hears of the last one alone, and an exemplar
// costs nine allocations, which is a tenth of what all of a message costs.
func (m *Metrics) exemplarDue(took time.Duration, now time.Time) bool {
	i, _ := slices.BinarySearch(waitBuckets, took.Seconds())
	last := m.exemplars[i].Load()
	since := now.UnixNano() - last // negative: the clock was set back
	return (since < 0 || since >= int64(time.Second)) && m.exemplars[i].CompareAndSwap(last, now.UnixNano())
}

// TLSHandshake counts handshakes with clients.
func (m *Metrics) TLSHandshake(version, result string) {
	if m != nil {
		m.tlsHandshakes.of(version, result).Inc()
	}
}

// CertificateNotAfter publishes when a certificate ends.
func (m *Metrics) CertificateNotAfter(name string, t time.Time) {
	if m != nil {
		m.certificateNotAfter.WithLabelValues(clean(name)).Set(float64(t.Unix()))
	}
}

// ForgetCertificates drops what CertificateNotAfter said, before the
// certificates of a new configuration are published.
func (m *Metrics) ForgetCertificates() {
	if m != nil {
		m.certificateNotAfter.Reset()
	}
}

// OutcomeUnknown counts a message whose end went to the backend and whose
// answer never came.
func (m *Metrics) OutcomeUnknown() {
	if m != nil {
		m.outcomeUnknown.Inc()
	}
}

// LimitReached counts what a client was not given, by the key of the limit; held_memory
// is that of the memory for large header sections, which has no key.
func (m *Metrics) LimitReached(limit string) {
	if m != nil {
		m.limitsReached.inc(limit)
	}
}

// HeldBytes adds to the room that held messages take.
func (m *Metrics) HeldBytes(n int64) {
	if m != nil {
		m.heldBytes.Add(float64(n))
	}
}

// Held publishes how much mail is held, by rule.
func (m *Metrics) Held(byRule map[string]int) {
	if m == nil {
		return
	}
	m.held.Reset()
	for rule := range m.holding.Range {
		m.held.WithLabelValues(clean(rule.(string))).Set(0)
	}
	for rule, n := range byRule {
		m.held.WithLabelValues(clean(rule)).Set(float64(n))
	}
}

// HoldEnded observes for how long mail was held: until the clock, or an operator, let it
// in, or it did not come again (expired).
func (m *Metrics) HoldEnded(released string, held time.Duration) {
	if m != nil {
		m.holdSeconds.WithLabelValues(released).Observe(held.Seconds())
	}
}

// retrievalReplies are the answers that RFC 1985 §5.1 has, but for faults of syntax.
var retrievalReplies = []string{"250", "251", "252", "253", "458", "459"}

// Retrieval counts a host that was asked for mail, by the code of its reply, or error.
func (m *Metrics) Retrieval(reply string) {
	if m == nil {
		return
	}
	if reply != "error" && !slices.Contains(retrievalReplies, reply) {
		reply = "other"
	}
	m.retrievals.inc(reply)
}

// Disagreement counts a transaction on which the active and the candidate
// policy disagree.
func (m *Metrics) Disagreement(active, candidate string) {
	if m != nil {
		m.disagreements.of(active, candidate).Inc()
	}
}

// ConfigReload counts reloads: "ok" or "error".
func (m *Metrics) ConfigReload(result string) {
	if m != nil {
		m.configReloads.inc(result)
	}
}

// JournalRecord counts what became of a record for the journal: written, dropped
// (the disk did not keep up) or error (it could not be written).
func (m *Metrics) JournalRecord(result string) {
	if m != nil {
		m.journal.inc(result)
	}
}

// BuildInfo says which version is running.
func (m *Metrics) BuildInfo(version string) {
	if m != nil {
		m.buildInfo.WithLabelValues(clean(version), runtime.Version()).Set(1)
	}
}
