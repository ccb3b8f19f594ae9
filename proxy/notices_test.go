package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/checks/memory"
	"postern/configs"
	"postern/metrics"
	"postern/policy"
	"postern/policy/journal"
)

// failing is a store that reads or writes notices, or not.
type failing struct {
	memory.Store
	fail atomic.Int32 // 1: reading, 2: writing
}

var errStore = errors.New("no store")

func (f *failing) Notice(ctx context.Context, id string) (memory.Notice, error) {
	if f.fail.Load() == 1 {
		return memory.Notice{}, errStore
	}
	return f.Store.Notice(ctx, id)
}

func (f *failing) Hold(ctx context.Context, n memory.Notice, b memory.Bounds) (memory.Notice, error) {
	if f.fail.Load() == 2 {
		return n, errStore
	}
	return f.Store.Hold(ctx, n, b)
}

// waiting lists the notices that wait, the newest first.
func waiting(t *testing.T, s memory.Store) (list []memory.Notice) {
	t.Helper()
	if err := s.Waiting(t.Context(), true, func(n memory.Notice) bool { list = append(list, n); return true }); err != nil {
		t.Fatal(err)
	}
	return list
}

// newGreylist is a rig whose policy holds what has no SPF record for ten minutes, and a
// clock that is set by hand.
func newGreylist(t *testing.T, mode string) (r *rig, store *failing, pass func(time.Duration)) {
	t.Helper()
	var since atomic.Int64
	now := func() time.Time { return time.Unix(1_800_000_000, since.Load()) }
	store = &failing{Store: memory.NewProcess(now)}
	m := memory.New(store, memory.Options{Timeout: time.Minute})
	t.Cleanup(func() { _ = m.Close() })
	p := configs.Policy{Mode: mode, Rules: []configs.Rule{
		{Name: "first-contact", When: `spf.result == "none"`, Do: "hold", For: 10 * time.Minute},
		{Name: "after", When: `hold.tries > 0`, Do: "tag", Header: "X-Tries: ${hold.tries}"},
	}}
	r = newRig(t, rigOptions{policy: &p})
	zone, err := dnstest.Parse(rigZone)
	if err != nil {
		t.Fatal(err)
	}
	r.set.Memory = m
	r.set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: zone, Memory: m, Now: now}, r.set.Chain.Needs)
	return r, store, func(d time.Duration) { since.Add(int64(d)) }
}

const heldReply = "451 4.7.1 Held, please send it again. ("

// Mail is held, comes again too soon, comes again in time, and is delivered. The MTA
// hears of it then for the first time, so that nobody learns who exists.
func TestHeldAndComesAgain(t *testing.T) {
	r, store, pass := newGreylist(t, "enforce")
	try := func(rcpt, want string) *client {
		c := r.connect("203.0.113.7")
		c.ehlo()
		c.cmd("MAIL FROM:<ann@none.example>", "250 ")
		c.cmd("RCPT TO:<"+rcpt+">", want)
		return c
	}
	c := try("bob@local.example", heldReply)
	c.cmd("DATA", "451 4.5.1 ")
	c.cmd("RSET", "250 ")
	if got := r.sink.Commands(); strings.Contains(strings.Join(got, " "), "RCPT") {
		t.Errorf("the MTA heard %q", got)
	}
	rec := r.last()
	f := rec.Facts.Hold
	if rec.Disposition != "hold" || rec.State != journal.StateInformation || rec.Rule != "first-contact" || rec.Outcome != journal.OutcomeRefused ||
		f.Result != policy.None || f.Tries != 0 || !memory.IsNoticeID(f.Notice) {
		t.Errorf("%+v", rec)
	}
	pass(9 * time.Minute)
	try("bob@local.example", heldReply).cmd("RSET", "250 ")
	if f := r.last().Facts.Hold; f.Result != policy.Pass || f.Age != 540 || f.Tries != 1 || f.Released {
		t.Errorf("%+v", f)
	}
	try("eve@local.example", heldReply)
	pass(time.Minute)
	c = try("bob@local.example", "250 ")
	c.cmd("DATA", "354 ")
	c.cmd("Subject: x\r\n\r\nx\r\n.", "250 ")
	if f := r.last().Facts.Hold; f.Age != 600 || f.Tries != 2 {
		t.Errorf("%+v", f)
	}
	if got := string(r.sink.Messages()[0].Text); !strings.Contains(got, "X-Tries: 2\r\n") {
		t.Errorf("%s", got)
	}

	// An operator lets the other one in; another sender of that network is no other.
	list, err := store.Release(t.Context(), []string{r.notice(t, "eve@local.example")})
	if err != nil || len(list) != 1 || list[0].Who != "203.0.113.0/24" || list[0].Rule != "first-contact" || list[0].From != "ann@none.example" {
		t.Errorf("%+v %v", list, err)
	}
	c = r.connect("203.0.113.250")
	c.ehlo()
	c.cmd("MAIL FROM:<ann@none.example>", "250 ")
	c.cmd("RCPT TO:<eve@local.example>", "250 ")
	// Another network is, and so are another sender and another recipient.
	c = r.connect("203.0.114.250")
	c.ehlo()
	c.cmd("MAIL FROM:<ann@none.example>", "250 ")
	c.cmd("RCPT TO:<eve@local.example>", heldReply)
	c.cmd("RCPT TO:<postmaster@local.example>", "250 ")
	c.cmd("RSET", "250 ")
	c.cmd("MAIL FROM:<>", "250 ")
	c.cmd("RCPT TO:<eve@local.example>", "250 ")
}

// notice finds the notice on mail for a recipient.
func (r *rig) notice(t *testing.T, rcpt string) string {
	t.Helper()
	list := slices.DeleteFunc(waiting(t, r.set.Memory.Store()), func(n memory.Notice) bool { return n.Rcpt != rcpt })
	if len(list) != 1 {
		t.Fatalf("%s: %+v", rcpt, list)
	}
	return list[0].ID
}

// Recipients of one transaction are held each by itself, and each record says what was
// known of which.
func TestSomeAreHeld(t *testing.T) {
	r, store, _ := newGreylist(t, "enforce")
	c := r.connect("203.0.113.7")
	c.ehlo()
	c.cmd("MAIL FROM:<ann@none.example>", "250 ")
	c.cmd("RCPT TO:<bob@local.example>", heldReply)
	c.cmd("RCPT TO:<eve@local.example>", heldReply)
	c.cmd("RSET", "250 ")
	if _, err := store.Release(t.Context(), []string{r.notice(t, "eve@local.example")}); err != nil {
		t.Fatal(err)
	}
	c.cmd("MAIL FROM:<ann@none.example>", "250 ")
	c.cmd("RCPT TO:<bob@local.example>", heldReply)
	c.cmd("RCPT TO:<eve@local.example>", "250 ")
	c.cmd("DATA", "354 ")
	c.cmd("Subject: x\r\n\r\nx\r\n.", "250 ")
	rec := r.last()
	if rec.State != journal.StateRetrieved || rec.Facts.Rcpt.Address != "eve@local.example" || !rec.Facts.Hold.Released || rec.Recipients[1].Hold != nil {
		t.Errorf("%+v", rec)
	}
	if h := rec.Recipients[0].Hold; h == nil || h.Released || h.Tries != 1 || rec.Recipients[0].Disposition != "hold" {
		t.Errorf("%+v", rec.Recipients[0])
	}
	known := rec.Measured()
	for i, want := range []journal.Disposition{"hold", "tag"} {
		if is := rec.Judge(r.set.Chain, i, known); is.Disposition != want || !is.Known() {
			t.Errorf("recipient %d is replayed as %+v", i, is)
		}
	}
}

// A store that cannot tell, or does not take the notice, holds nothing: a sender that
// nobody remembers would be told to come again for ever.
func TestNothingIsHeldWithoutAStore(t *testing.T) {
	for what, fail := range map[string]int32{"reading": 1, "writing": 2} {
		r, store, _ := newGreylist(t, "enforce")
		store.fail.Store(fail)
		c := r.connect("203.0.113.7")
		c.ehlo()
		c.cmd("MAIL FROM:<ann@none.example>", "250 ")
		c.cmd("RCPT TO:<bob@local.example>", "250 ")
		c.cmd("RSET", "250 ")
		rec := r.last()
		if rec.Facts.Hold != (policy.Hold{Result: policy.TempError}) || rec.Recipients[0].Disposition != "pass" {
			t.Errorf("%s fails: %+v", what, rec)
		}
		if is := rec.Judge(r.set.Chain, 0, rec.Measured()); is.Disposition != "pass" {
			t.Errorf("%s fails: it is replayed as %+v", what, is)
		}
	}
	r, _, _ := newGreylist(t, "enforce")
	r.set.Memory = nil
	c := r.connect("203.0.113.7")
	c.ehlo()
	c.cmd("MAIL FROM:<ann@none.example>", "250 ")
	c.cmd("RCPT TO:<bob@local.example>", "250 ")
}

// reached is how often a limit was reached.
func reached(t *testing.T, m *metrics.Metrics, limit string) (n float64) {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, x := range f.GetMetric() {
			if f.GetName() == "postern_limits_reached_total" && x.GetLabel()[0].GetValue() == limit {
				n += x.GetCounter().GetValue()
			}
		}
	}
	return n
}

// A network that invents recipients has as many notices as one sender may. The rest of its
// mail is held without: none of it is let in, whatever comes again when, and none is refused
// for good. The honest sender beside it is held, comes again, and is delivered; and one in
// the same network is as soon as something of the flood was given up.
func TestAFloodUnderAHoldRule(t *testing.T) {
	r, store, pass := newGreylist(t, "enforce")
	const each = 5
	r.srv.metrics = metrics.New()
	r.set.Memory.Tune(time.Minute, time.Hour, memory.Bounds{PerSender: each})
	rcpt := func(ip, to, want string) *client {
		t.Helper()
		c := r.connect(ip)
		c.ehlo()
		c.cmd("MAIL FROM:<ann@none.example>", "250 ")
		c.cmd("RCPT TO:<"+to+">", want)
		return c
	}
	flood := func() {
		t.Helper()
		for ip := range 3 { // a session has so many recipients, and a network so many addresses
			c := r.connect(fmt.Sprintf("203.0.113.%d", ip+1))
			c.ehlo()
			c.cmd("MAIL FROM:<ann@none.example>", "250 ")
			for i := range 2 * each {
				c.cmd(fmt.Sprintf("RCPT TO:<invented%d.%d@local.example>", ip, i), heldReply)
			}
			c.cmd("DATA", "451 ")
			c.cmd("QUIT", "221 ")
		}
	}
	rcpt("198.51.100.7", "bob@local.example", heldReply).cmd("QUIT", "221 ")
	flood()
	if list := waiting(t, store); len(list) != each+1 {
		t.Errorf("%d notices", len(list))
	}
	rec := r.last()
	last := rec.Recipients[2*each-1]
	if rec.Disposition != "hold" || rec.State != journal.StateEmail || rec.Facts.Hold.Notice != "" || last.Disposition != "hold" {
		t.Errorf("%+v", rec)
	}
	if is := rec.Judge(r.set.Chain, 2*each-1, rec.Measured()); is.Disposition != "hold" {
		t.Errorf("it is replayed as %+v", is)
	}
	if got := reached(t, r.srv.metrics, "notices_per_sender"); got != 5*each {
		t.Errorf("counted %v", got)
	}
	pass(11 * time.Minute) // later than the rule holds: what there is no notice of is not known
	c := r.connect("203.0.113.1")
	c.ehlo()
	c.cmd("MAIL FROM:<ann@none.example>", "250 ")
	c.cmd(fmt.Sprintf("RCPT TO:<invented2.%d@local.example>", each), heldReply)
	c.cmd("QUIT", "221 ")
	c = rcpt("198.51.100.7", "bob@local.example", "250 ")
	c.cmd("DATA", "354 ")
	c.cmd("Subject: x\r\n\r\nx\r\n.", "250 ")

	rcpt("203.0.113.99", "bob@local.example", heldReply).cmd("QUIT", "221 ")
	pass(10 * time.Minute)
	rcpt("203.0.113.99", "bob@local.example", heldReply).cmd("QUIT", "221 ") // there was no room for it
	pass(12 * time.Hour)
	rcpt("203.0.113.99", "bob@local.example", heldReply).cmd("QUIT", "221 ") // there is now
	pass(10 * time.Minute)
	rcpt("203.0.113.99", "bob@local.example", "250 ")
}

// A policy that only observes tells nobody to come again, so it writes no notice.
func TestHoldObserved(t *testing.T) {
	r, store, _ := newGreylist(t, "observe")
	c := r.connect("203.0.113.7")
	c.ehlo()
	if got := c.message("MAIL FROM:<ann@none.example>", "Subject: x\r\n\r\nx\r\n"); !strings.HasPrefix(got, "250 ") {
		t.Error(got)
	}
	rec := r.last()
	if rec.Disposition != "hold" || rec.State != journal.StateEmail || !rec.Observed || rec.Facts.Hold.Notice != "" {
		t.Errorf("%+v", rec)
	}
	if list := waiting(t, store); len(list) != 0 {
		t.Errorf("%v", list)
	}
}

// Mail is known by what its sender proves: the twenty addresses of one SPF record are one
// sender, and whoever proves nothing is one for each network.
func TestHeldByWhatIsProven(t *testing.T) {
	r, _, _ := newGreylist(t, "enforce")
	zone := rigZone + `pool.example. TXT "v=spf1 ip4:198.51.100.0/24 ip4:203.0.113.0/24 -all"` + "\n"
	p := configs.Policy{Rules: []configs.Rule{{Name: "all", When: "true", Do: "hold", For: 10 * time.Minute}}}
	o := rigSettings(t, rigOptions{zone: zone, policy: &p})
	parsed, err := dnstest.Parse(zone)
	if err != nil {
		t.Fatal(err)
	}
	var since atomic.Int64
	now := func() time.Time { return time.Unix(1_800_000_000, since.Load()) }
	m := memory.New(memory.NewProcess(now), memory.Options{Timeout: time.Minute})
	defer m.Close()
	set := *r.set
	set.Chain, set.Memory = o.Chain, m
	set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: parsed, Memory: m, Now: now}, o.Chain.Needs)
	r.srv.Configure(&set)
	held := func(from string, addresses ...string) (n int) {
		for _, ip := range addresses {
			since.Add(int64(11 * time.Minute))
			c := r.connect(ip)
			c.ehlo()
			c.cmd("MAIL FROM:<"+from+">", "250 ")
			c.send("RCPT TO:<bob@local.example>\r\n")
			if reply := c.reply(); strings.HasPrefix(reply, heldReply) {
				n++
			} else if !strings.HasPrefix(reply, "250 ") {
				t.Fatal(reply)
			}
			c.cmd("QUIT", "221 ")
		}
		return n
	}
	var pool []string
	for i := range 10 {
		pool = append(pool, fmt.Sprintf("198.51.100.%d", 3*i+1), fmt.Sprintf("203.0.113.%d", 7*i+1))
	}
	if n := held("ann@pool.example", pool...); n != 1 {
		t.Errorf("20 addresses of an SPF record: held %d times, want once", n)
	}
	if n := held("ann@none.example", pool...); n != 2 {
		t.Errorf("20 addresses of two networks without a record: held %d times, want once for each", n)
	}
	if n := held("ann@none.example", "2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"); n != 2 {
		t.Errorf("3 addresses of two /64: held %d times, want once for each", n)
	}
}
