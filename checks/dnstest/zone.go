// Package dnstest is DNS out of a text: zone files, read into a resolver that
// needs no network, and into a name server on loopback. Tests, rule tests and
// the demonstration use it where the live proxy asks the real DNS.
//
// A zone is a master file (RFC 1035 §5), with names taken from the root: the
// dot at the end may be left out, the TTL too (300 seconds then). Names below a
// wildcard are found as RFC 4592 has it, and CNAMEs are followed. What a zone
// file cannot say stands in a comment of its own:
//
//	good.example.      TXT  "v=spf1 ip4:192.0.2.1 -all"
//	*.lists.example.   A    127.0.0.2
//	; SERVFAIL broken.example
//	; REFUSED  closed.example
//	; TIMEOUT  slow.example TXT
//
// Such a mark is one of the three words in capitals, a name, and a type if it is
// for that type alone; it goes before the records of the name. Any other comment
// is a comment.
package dnstest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Limits of what is read: zones are small, and may come with a rule test from
// somebody else.
const (
	maxText    = 4 << 20 // octets
	maxRecords = 100000
	maxChain   = 12    // CNAMEs followed
	maxAsked   = 10000 // names counted one by one
	maxName    = 1024  // octets; suites hold names that are too long to be asked for
	defaultTTL = 300
)

// mark is an answer that no record makes.
type mark int

const (
	markNone mark = iota
	markServFail
	markRefused
	markTimeout
)

var marks = map[string]mark{"SERVFAIL": markServFail, "REFUSED": markRefused, "TIMEOUT": markTimeout}

// node is a name.
type node struct {
	records map[uint16][]dns.RR
	marks   map[uint16]mark // by type
	mark    mark            // for all types
	rest    mark            // for the types without records
	below   bool            // there are names below it: it exists, whatever it has
}

// Zone is a part of the DNS: names with their records. Its methods may be used
// by several goroutines, those that change it too.
type Zone struct {
	mu    sync.RWMutex
	nodes map[string]*node // by name, lower case, no dot at the end
	flat  bool             // names that only have others below them do not exist
	delay time.Duration
	asked map[string]int

	queries   atomic.Int64
	authentic atomic.Bool
}

func newZone() *Zone { return &Zone{nodes: make(map[string]*node), asked: make(map[string]int)} }

// Parse reads a zone, see the package's introduction. An error names the line.
func Parse(text string) (*Zone, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("dnstest: zone of %d octets; at most %d", len(text), maxText)
	}
	z := newZone()
	n := 0
	for line := range strings.Lines(text) {
		n++
		if err := z.parseMark(line); err != nil {
			return nil, fmt.Errorf("dnstest: line %d: %w", n, err)
		}
	}
	p := dns.NewZoneParser(strings.NewReader(text), ".", "")
	p.SetDefaultTTL(defaultTTL)
	count := 0
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		if count++; count > maxRecords {
			return nil, fmt.Errorf("dnstest: more than %d records", maxRecords)
		}
		name, err := unescape(rr.Header().Name)
		if err != nil {
			return nil, fmt.Errorf("dnstest: %w", err)
		}
		z.add(name, rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("dnstest: %w", err)
	}
	return z, nil
}

// parseMark reads a line that is a mark; other lines are the parser's.
func (z *Zone) parseMark(line string) error {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), ";")
	if !ok {
		return nil
	}
	f := strings.Fields(rest)
	if len(f) == 0 || marks[f[0]] == markNone {
		return nil
	}
	if len(f) != 2 && len(f) != 3 {
		return fmt.Errorf("%s wants a name, and perhaps a type: ; %s slow.example TXT", f[0], f[0])
	}
	if len(f[1]) > maxName {
		return fmt.Errorf("a name of %d octets; at most %d", len(f[1]), maxName)
	}
	n := z.node(key(f[1]))
	if len(f) == 2 {
		n.mark = marks[f[0]]
		return nil
	}
	t, ok := dns.StringToType[strings.ToUpper(f[2])]
	if !ok {
		return fmt.Errorf("%q is no record type", f[2])
	}
	if n.marks == nil {
		n.marks = make(map[uint16]mark)
	}
	n.marks[t] = marks[f[0]]
	return nil
}

// SetDelay makes every answer wait, those over the network and those of the
// methods.
func (z *Zone) SetDelay(d time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.delay = d
}

// SetAuthentic makes answers over the network say that they were verified by DNSSEC (AD), to
// those who ask for it.
func (z *Zone) SetAuthentic(is bool) { z.authentic.Store(is) }

// Queries counts the questions asked so far.
func (z *Zone) Queries() int { return int(z.queries.Load()) }

// Asked counts the questions for one name and type ("TXT"); aliases followed on
// the way are not counted.
func (z *Zone) Asked(name, rrtype string) int {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.asked[key(name)+" "+strings.ToUpper(rrtype)]
}

// Repeated returns the questions that were asked more than once, as "name TYPE"; aliases
// followed on the way are not counted.
func (z *Zone) Repeated() (questions []string) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	for q, n := range z.asked {
		if n > 1 {
			questions = append(questions, q)
		}
	}
	slices.Sort(questions)
	return questions
}

// Replace makes z answer as other does, which is not to be used any more. The
// counts go on.
func (z *Zone) Replace(other *Zone) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.nodes, z.flat = other.nodes, other.flat
}

// node returns the node of a name, made if it is not there, with those above.
func (z *Zone) node(name string) *node {
	n := z.nodes[name]
	if n == nil {
		n = &node{records: make(map[uint16][]dns.RR)}
		z.nodes[name] = n
		if _, parent, ok := strings.Cut(name, "."); ok {
			z.node(parent).below = true
		}
	}
	return n
}

func (z *Zone) add(name string, rr dns.RR) {
	n := z.node(key(name))
	t := rr.Header().Rrtype
	n.records[t] = append(n.records[t], rr)
}

// key brings a name into the form of the map.
func key(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// exists tells whether there is anything at the name.
func (z *Zone) exists(n *node) bool {
	return n != nil && (len(n.records) > 0 || n.mark != markNone || n.marks != nil || n.rest != markNone || n.below && !z.flat)
}

// find returns the node that answers for a name: its own, or that of the
// wildcard (RFC 4592 §2.2.1: beside the closest name that exists). nil: NXDOMAIN.
func (z *Zone) find(name string) *node {
	if n := z.nodes[name]; z.exists(n) {
		return n
	}
	for rest := name; ; {
		_, parent, ok := strings.Cut(rest, ".")
		if !ok {
			parent = ""
		}
		star := "*." + parent
		if parent == "" {
			star = "*"
		}
		if n := z.nodes[star]; z.exists(n) {
			return n
		}
		if !ok || z.exists(z.nodes[parent]) {
			return nil
		}
		rest = parent
	}
}

// reply is what the zone says to a question.
type reply struct {
	mark   mark // if set, the rest is empty
	rcode  int
	answer []dns.RR // with the CNAMEs on the way
	soa    *dns.SOA // of a negative answer
}

// resolve answers a question; name is in the map's form. A chain of CNAMEs that
// does not end is SERVFAIL, as a resolver would say.
func (z *Zone) resolve(name string, t uint16) reply {
	z.queries.Add(1)
	z.countAsked(name + " " + dns.TypeToString[t])
	z.mu.RLock()
	defer z.mu.RUnlock()
	var r reply
	for range maxChain + 1 {
		n := z.find(name)
		if n == nil {
			r.rcode, r.soa = dns.RcodeNameError, z.soa(name)
			return r
		}
		if m := n.marked(t); m != markNone {
			return reply{mark: m}
		}
		if rrs := n.records[t]; len(rrs) > 0 {
			r.answer = append(r.answer, own(name, rrs)...)
			return r
		}
		alias := n.records[dns.TypeCNAME]
		if len(alias) == 0 {
			if n.rest != markNone {
				return reply{mark: n.rest}
			}
			r.soa = z.soa(name)
			return r
		}
		r.answer = append(r.answer, own(name, alias[:1])...)
		target, err := unescape(alias[0].(*dns.CNAME).Target)
		if err != nil {
			return reply{mark: markServFail}
		}
		name = key(target)
	}
	return reply{mark: markServFail}
}

func (z *Zone) countAsked(what string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if _, known := z.asked[what]; known || len(z.asked) < maxAsked {
		z.asked[what]++
	}
}

func (n *node) marked(t uint16) mark {
	if m := n.marks[t]; m != markNone {
		return m
	}
	return n.mark
}

// own returns records under a name, which is not theirs below a wildcard.
func own(name string, rrs []dns.RR) []dns.RR {
	owned := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		owned[i] = dns.Copy(rr)
		owned[i].Header().Name = escape(name)
	}
	return owned
}

// soa returns the SOA above a name, or one made up, that makes negative answers
// last a minute.
func (z *Zone) soa(name string) *dns.SOA {
	for rest, ok := name, true; ok; _, rest, ok = strings.Cut(rest, ".") {
		if n := z.nodes[rest]; n != nil && len(n.records[dns.TypeSOA]) > 0 {
			return own(rest, n.records[dns.TypeSOA][:1])[0].(*dns.SOA)
		}
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:  "ns.invalid.", Mbox: "hostmaster.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
	}
}
