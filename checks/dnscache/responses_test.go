package dnscache

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The 27 responses of testdata/responses-dev.json, sent by a server on loopback.
func TestResponses(t *testing.T) {
	text, err := os.ReadFile("testdata/responses-dev.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []responseCase }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) != 27 {
		t.Fatalf("%d cases, want 27", len(file.Cases))
	}
	for _, c := range file.Cases {
		t.Run(c.ID, func(t *testing.T) { t.Parallel(); c.run(t) })
	}
}

type responseCase struct {
	ID       string `json:"id"`
	Query    string `json:"query"`
	Response string `json:"response"`
	IDDelta  int    `json:"id_delta"`
	Expect   struct {
		Answer      []any  `json:"answer"`
		NoAnswer    bool   `json:"no_answer"`
		TXT         []any  `json:"txt"`
		MX          []any  `json:"mx"`
		PTRCount    []int  `json:"ptr_count"`
		Rcode       string `json:"rcode"`
		OrRcode     string `json:"or_rcode"`
		CacheS      any    `json:"cache_s"`
		Temporary   any    `json:"temporary"`
		OrTemporary bool   `json:"or_temporary"`
		Malformed   bool   `json:"malformed"`
		Ignored     bool   `json:"ignored"`
		Retry       string `json:"retry"`
	} `json:"expect"`
}

// seen is what the server saw.
type seen struct {
	mu    sync.Mutex
	udp   int
	tcp   int
	plain int // without EDNS
}

func (s *seen) counts() (udp, tcp, plain int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.udp, s.tcp, s.plain
}

func (c *responseCase) run(t *testing.T) {
	raw, err := hex.DecodeString(c.Response)
	if err != nil {
		t.Fatal(err)
	}
	var saw seen
	address := serve(t, func(network string, query []byte) [][]byte {
		saw.mu.Lock()
		defer saw.mu.Unlock()
		if network == "udp" {
			saw.udp++
		} else {
			saw.tcp++
		}
		if !hasEDNS(query) {
			saw.plain++
		}
		m := bytes.Clone(raw)
		m[0], m[1] = query[0], query[1]
		m[1] += byte(c.IDDelta)
		// A server repeats the question as it came; the case with another case is
		// about one that does not.
		if end := len(query) - 11; c.ID != "case-changed" && hasEDNS(query) && len(m) >= end && bytes.EqualFold(m[headerSize:end], query[headerSize:end]) {
			copy(m[headerSize:], query[headerSize:end])
		}
		return [][]byte{m}
	})
	var now clock
	o := Options{Servers: []string{address}, Now: now.now}
	if c.Expect.Ignored {
		o.Timeout = 100 * time.Millisecond // it is waited for in vain
	}
	r := newTest(t, o)
	name, rrtype, _ := strings.Cut(c.Query, " ")
	got, class := c.lookup(r, name, rrtype)
	c.check(t, got, class)

	_, tcp, plain := saw.counts()
	if c.Expect.Retry == "TCP" && tcp == 0 {
		t.Error("not asked again by TCP")
	}
	if c.Expect.Retry == "without EDNS" && plain == 0 {
		t.Error("not asked again without EDNS")
	}
	c.checkCache(t, r, &now, &saw, name, rrtype)
}

func (c *responseCase) lookup(r *Resolver, name, rrtype string) ([]string, string) {
	ctx := context.Background()
	var got []string
	var err error
	switch rrtype {
	case "A":
		var ips []netip.Addr
		ips, err = r.LookupNetIP(ctx, "ip4", name)
		for _, ip := range ips {
			got = append(got, ip.String())
		}
	case "TXT":
		got, err = r.LookupTXT(ctx, name)
	case "PTR":
		got, err = r.LookupAddr(ctx, "192.0.2.1")
	case "MX":
		mxs, e := r.LookupMX(ctx, name)
		for _, mx := range mxs {
			got = append(got, fmt.Sprintf("[%d %s]", mx.Pref, mx.Host))
		}
		err = e
	}
	return got, class(err)
}

func (c *responseCase) check(t *testing.T, got []string, class string) {
	t.Helper()
	temporary := class == "temporary" || class == "timeout"
	e := c.Expect
	switch {
	case e.Answer != nil:
		// A list, or a list of lists of which any will do.
		if first, ok := e.Answer[0].([]any); ok {
			if !slices.Equal(got, strs(first)) && !slices.Equal(got, strs(e.Answer[1].([]any))) {
				t.Errorf("answer %q, want any of %v", got, e.Answer)
			}
		} else if !slices.Equal(got, strs(e.Answer)) {
			t.Errorf("answer %q (%s), want %q", got, class, e.Answer)
		}
	case e.TXT != nil:
		var want []string
		for _, s := range strs(e.TXT) { // each code point is an octet
			b := []byte{}
			for _, r := range s {
				b = append(b, byte(r))
			}
			want = append(want, string(b))
		}
		if !slices.Equal(got, want) {
			t.Errorf("TXT %q (%s), want %q", got, class, want)
		}
	case e.MX != nil:
		if !slices.Equal(got, strs(e.MX)) {
			t.Errorf("MX %q (%s), want %q", got, class, e.MX)
		}
	case e.PTRCount != nil:
		if !slices.Contains(e.PTRCount, len(got)) {
			t.Errorf("PTR %q", got)
		}
		for _, name := range got {
			if !hostName(name) {
				t.Errorf("%q is no host name", name)
			}
		}
	case e.Rcode == "SERVFAIL", e.Malformed && e.OrRcode == "", e.Ignored:
		if !temporary {
			t.Errorf("%q, %s, want a temporary error", got, class)
		}
	case e.Malformed:
		if !temporary && class != e.OrRcode {
			t.Errorf("%q, %s, want a temporary error or %s", got, class, e.OrRcode)
		}
	case e.Rcode != "":
		if class != e.Rcode {
			t.Errorf("%q, %s, want %s", got, class, e.Rcode)
		}
	case e.NoAnswer:
		if len(got) > 0 || class == "ok" {
			t.Errorf("answer %q, want none", got)
		}
	case e.Temporary == true:
		if !temporary {
			t.Errorf("%q, %s, want a temporary error", got, class)
		}
	case e.Retry == "":
		t.Error("the case expects nothing that is checked here")
	}
}

// checkCache asks again, just before and just after the answer's time is up.
func (c *responseCase) checkCache(t *testing.T, r *Resolver, now *clock, saw *seen, name, rrtype string) {
	least, most := 0, 0
	switch v := c.Expect.CacheS.(type) {
	case nil:
		if !c.Expect.Malformed {
			return
		}
		most = failureMaxTTL
	case float64:
		least, most = int(v), int(v)
		if v == 0 && c.Expect.Rcode == "NXDOMAIN" {
			most = noSOATTL // "a few seconds are tolerated"
		}
	case []any:
		least, most = int(v[0].(float64)), int(v[1].(float64))
	}
	again := func() bool {
		before, tcp, _ := saw.counts()
		c.lookup(r, name, rrtype)
		after, tcpAfter, _ := saw.counts()
		return after+tcpAfter > before+tcp
	}
	if least > 0 {
		now.advance(time.Duration(least)*time.Second - time.Millisecond)
		if again() {
			t.Errorf("asked again before %d s", least)
		}
		now.advance(time.Millisecond)
	}
	now.advance(time.Duration(most-least) * time.Second)
	if !again() {
		t.Errorf("not asked again after %d s", most)
	}
}

// strs reads a list of strings; a pair of preference and host becomes one.
func strs(list []any) []string {
	out := []string{}
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out
}
