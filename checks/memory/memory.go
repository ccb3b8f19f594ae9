// Package memory is what Postern remembers between sessions, and what several
// Posterns know together: how long a sender has been known, how much came of it
// within the hour, and which mail was asked to come again.
//
// What is remembered only ever becomes facts that rules read. It is counted off
// the way of mail, kept for a bounded time in a bounded place, and never waited
// for longer than Options.Timeout: see Memory.
package memory

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"math"
	"net/netip"
	"strings"
	"time"
)

// Key stands for a sender or a client. It is a hash, so that whatever the wire
// says, it is of one length and means nothing to a store. The zero Key is none.
type Key [16]byte

// IsZero says whether the key is none.
func (k Key) IsZero() bool { return k == Key{} }

// DomainKey is the key of a domain that a session has proven, letter case aside.
func DomainKey(domain string) Key {
	if domain == "" {
		return Key{}
	}
	return keyOf("domain", strings.ToLower(domain))
}

// ClientKey is the key of one client: an IPv4 address, or an IPv6 /64, which is
// what one client is given.
func ClientKey(ip netip.Addr) Key { return prefixKey("client", ip, 32) }

// NetworkKey is the key by which those are remembered who have proven no domain:
// an IPv4 /24 or an IPv6 /64, since senders without SPF retry from their
// neighbours' addresses as well.
func NetworkKey(ip netip.Addr) Key { return prefixKey("network", ip, 24) }

// Network is the network of NetworkKey, for people.
func Network(ip netip.Addr) string {
	p, err := prefixOf(ip, 24)
	if err != nil {
		return ""
	}
	return p.String()
}

var errNoAddress = errors.New("memory: no address")

func prefixOf(ip netip.Addr, v4 int) (netip.Prefix, error) {
	ip = ip.Unmap().WithZone("")
	switch {
	case !ip.IsValid():
		return netip.Prefix{}, errNoAddress
	case ip.Is4():
		return ip.Prefix(v4)
	}
	return ip.Prefix(64)
}

func prefixKey(kind string, ip netip.Addr, v4 int) Key {
	p, err := prefixOf(ip, v4)
	if err != nil {
		return Key{}
	}
	return keyOf(kind, p.String())
}

// keyOf hashes the parts of a key. Each is closed by an octet that no part has.
func keyOf(parts ...string) (k Key) {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
		_, _ = h.Write([]byte{0})
	}
	copy(k[:], h.Sum(nil))
	return k
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// idLength is the length of the id of a notice, in characters: 5 bits of its sender and 75
// of its own.
const idLength = 16

// NoticeID is the id of the notice on mail of a sender for a recipient. It is
// the same whenever the same mail comes again. The addresses are as facts have
// them; letter case of the sender's and recipient's text is kept, as the MTA
// behind may. All ids of a sender begin with the same letter: a cluster keeps them in one
// place, where they can be counted.
func NoticeID(who Key, from, rcpt string) string {
	k := keyOf("notice", string(who[:]), from, rcpt)
	return idEncoding.EncodeToString(who[:])[:1] + idEncoding.EncodeToString(k[:])[:idLength-1]
}

// IsNoticeID says whether s can be the id of a notice.
func IsNoticeID(s string) bool {
	return len(s) == idLength && strings.Trim(s, "0123456789abcdefghjkmnpqrstvwxyz") == ""
}

// Keys are what one message is remembered by.
type Keys struct {
	Who    Key // the proven domain, or the network of a client without one
	Client Key
	Domain Key // the proven domain; zero: none
}

// Recalled is what is known of the senders of a message.
type Recalled struct {
	Past   Past
	Client Rate  // of the client, within the last hour
	Domain int64 // messages of the proven domain within the last hour
}

// Surge is how many times as many messages of the domain came within the hour as come
// usually, rounded down: as had come by then in an hour of the time since the first. It
// is 0 where that is less than a day ago.
func (r Recalled) Surge(now time.Time) int64 {
	hours := int64(now.Sub(r.Past.First)/time.Hour) - 1
	if r.Past.First.IsZero() || hours < 23 || r.Domain <= 0 {
		return 0
	}
	before := max(r.Past.Delivered+r.Past.Refused-r.Domain, 1)
	return int64(min(float64(r.Domain)*float64(hours)/float64(before), math.MaxInt32))
}

// Past is what is remembered of a sender.
type Past struct {
	First     time.Time // when it was first seen; zero: never
	Delivered int64     // messages
	Refused   int64
}

// Days is for how many whole days the sender has been known.
func (p Past) Days(now time.Time) int {
	if p.First.IsZero() || now.Before(p.First) {
		return 0
	}
	return int(now.Sub(p.First) / (24 * time.Hour))
}

// Rate is what came within the last hour.
type Rate struct {
	Messages int64 // that were passed to the backend or refused
	Refused  int64 // of these, refused by a rule
	Unknown  int64 // recipients that the backend did not know
}

func (r Rate) plus(o Rate) Rate {
	return Rate{r.Messages + o.Messages, r.Refused + o.Refused, r.Unknown + o.Unknown}
}

func (r Rate) isZero() bool { return r == Rate{} }

// Event is what one transaction adds to what is remembered.
type Event struct {
	Keys
	Delivered int64 // messages that the backend took
	Rate
}

// Notice is a piece of mail that was asked to come again.
type Notice struct {
	ID       string    `json:"id"`
	Who      string    `json:"who"` // the domain that was proven, or the client's network
	From     string    `json:"from"`
	Rcpt     string    `json:"rcpt"`
	Rule     string    `json:"rule"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Tries    int       `json:"tries"`
	Released bool      `json:"released"`
	Passed   bool      `json:"passed,omitempty"` // it came again and was let in, or never will: it is held no more
}

// Sizes is how much is remembered.
type Sizes struct {
	Entries map[string]int64 // by kind: past, rate, hold
	Bytes   int64            // on disk, or in the server's memory as far as it tells
}

// Kinds are what entries are counted by.
var Kinds = []string{"past", "rate", "hold"}

// Store keeps what is remembered. Every method may be called by many at once;
// errors are trouble of the store's, never that something is not there.
type Store interface {
	// Recall reads what is remembered by the keys, in one round trip.
	Recall(ctx context.Context, k Keys) (Recalled, error)
	// Add adds what happened, in one go. Nothing that it adds is waited for by mail.
	// A sender is remembered for keep after its last message.
	Add(ctx context.Context, keep time.Duration, events []Event) error
	// Notice reads the notice of that id; its First is zero where there is none.
	Notice(ctx context.Context, id string) (Notice, error)
	// Hold writes one more try of a notice and returns it with its First and Tries.
	// When it has come back, the notice survives the end of the process. ErrSenderFull and
	// ErrFull are that there is no room for one more; one that is idle for half a day, or
	// has passed, gives way.
	Hold(ctx context.Context, n Notice, b Bounds) (Notice, error)
	// Pass marks notices as passed and returns those that were not yet.
	Pass(ctx context.Context, ids []string) ([]Notice, error)
	// Waiting calls f for the notices that have not passed until it says false, in the
	// order in which they were tried last, or released. f may take its time: nobody waits
	// for it. What comes again meanwhile may be left out.
	Waiting(ctx context.Context, newest bool, f func(Notice) bool) error
	// Release marks notices as released and returns those that were not yet.
	Release(ctx context.Context, ids []string) ([]Notice, error)
	// Sizes counts what is remembered.
	Sizes(ctx context.Context) (Sizes, error)
	// Ping asks the store for a sign of life.
	Ping(ctx context.Context) error
	Close() error
}

const (
	hour = 60 * 60 // seconds

	// noticeLife is how long a notice is kept after its last try: senders give up
	// after four to five days (RFC 5321 §4.5.4.1).
	noticeLife = 7 * 24 * time.Hour
	// rateLife is how long an hour's counts are of use.
	rateLife = 2 * time.Hour
	// maxNoticeText bounds each text of a notice, in octets.
	maxNoticeText = 320
)

// window is the counts of two hours of the clock, one after the other.
type window struct {
	hour      int64 // of now, since 1970
	now, last Rate
}

// add counts r at a time.
func (w *window) add(at time.Time, r Rate) {
	w.turn(at)
	w.now = w.now.plus(r)
}

// turn brings the window to the hour of a time.
func (w *window) turn(at time.Time) {
	switch h := at.Unix() / hour; {
	case h == w.hour+1:
		w.last, w.now, w.hour = w.now, Rate{}, h
	case h > w.hour:
		w.last, w.now, w.hour = Rate{}, Rate{}, h
	}
}

// within is what came in the hour before a time: of the hour before this one
// that part which is less than an hour ago, as if it had come evenly.
func (w window) within(at time.Time) Rate {
	w.turn(at)
	left := 1 - float64(at.Unix()%hour)/hour
	part := func(n int64) int64 { return int64(math.Round(float64(n) * left)) }
	return w.now.plus(Rate{part(w.last.Messages), part(w.last.Refused), part(w.last.Unknown)})
}

// cut bounds the texts of a notice.
func (n Notice) cut() Notice {
	for _, s := range []*string{&n.Who, &n.From, &n.Rcpt, &n.Rule} {
		if len(*s) > maxNoticeText {
			*s = strings.ToValidUTF8((*s)[:maxNoticeText], "")
		}
	}
	return n
}
