package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"postern/proxy/amtp"
	"postern/proxy/amtp/spool"
	"postern/proxy/smtp"
)

const (
	// absentBefore is how often in a row no server of AMTP must be found before its sender is told so: one that is
	// being started again must not cost anybody a message. Where a smarthost takes it, once is enough.
	absentBefore = 3
	// mostHosts and mostAddresses bound whom one attempt calls: hosts of a domain, and addresses of a host.
	mostHosts     = 5
	mostAddresses = 4
	// lookPause is how long it takes at least from one look at what is due to the next.
	lookPause = 20 * time.Millisecond
	// afterwards is how long a report is tried beyond the lifetime of its message, in lifetimes.
	afterwards = 2
)

// Run works on what is due until ctx ends. Then it begins nothing more, and returns when what was begun has ended;
// cut ends that sooner.
func (h *Holder) Run(ctx, cut context.Context) {
	slots := make(chan struct{}, workers)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			h.active.Wait()
			return
		case <-timer.C:
		case <-h.changed:
			// Each entry that is done says so, and to look through all of them for each would take longer than the work.
			if wait := time.Until(looked.Add(lookPause)); wait > 0 {
				timer.Reset(wait)
				continue
			}
		}
		looked = time.Now()
		due, next := h.o.Spool.Due(time.Now())
		for _, e := range due {
			if ctx.Err() != nil || !h.begin(cut, e, slots) {
				break
			}
		}
		wait := time.Hour
		if !next.IsZero() {
			wait = time.Until(next)
		}
		timer.Reset(max(wait, time.Millisecond))
	}
}

// begin works on an entry, if nobody does, its domain is not being called, and its user has not as many workers as one
// may; false: all workers are busy.
func (h *Holder) begin(ctx context.Context, e spool.Entry, slots chan struct{}) bool {
	domain, user := strings.ToLower(e.To.Domain), e.Of().User
	select {
	case slots <- struct{}{}:
	default:
		return false
	}
	h.mu.Lock()
	taken := h.calls[domain] || h.busy[e.Number] || h.given[e.Number] || h.users[user] >= workersPerUser
	if !taken {
		h.calls[domain], h.busy[e.Number] = true, true
		h.users[user]++
	}
	h.mu.Unlock()
	if taken {
		<-slots
		return true
	}
	h.active.Go(func() {
		defer h.release(h.busy, e.Number) // behind the others: then Run looks again
		defer func() {
			<-slots
			h.mu.Lock()
			delete(h.calls, domain)
			if h.users[user]--; h.users[user] == 0 {
				delete(h.users, user)
			}
			h.mu.Unlock()
		}()
		// What was found due may have been fetched meanwhile.
		now, ok := h.o.Spool.Find(e.Number, e.To)
		if !ok || now.Next.After(time.Now()) {
			return
		}
		if err := h.attempt(ctx, now); err != nil && !errors.Is(err, spool.ErrGone) {
			h.log(now).Error("the spool cannot be read or written", "error", err.Error())
			// Without a pause a disk that is full would keep us busy, and where it cannot be noted it is remembered.
			h.o.Spool.Postpone(e.Number, time.Now().Add(h.o.Retry))
		}
	})
	return true
}

// outcome is what an attempt came to.
type outcome struct {
	fail   string // the status code of a failure for good
	text   string // what there is to say of it
	absent bool   // the domain has no server of AMTP
	there  bool   // a server of AMTP has begun to talk, whatever came of it
	spoke  bool   // the domain has one
}

// attempt does what an entry waits for. An error is that of the spool.
func (h *Holder) attempt(ctx context.Context, e spool.Entry) error {
	if e.Stage == spool.Failed {
		return h.report(ctx, e)
	}
	if !time.Now().Before(e.Of().Expires) {
		text := "it was not fetched in time"
		if e.Last != "" {
			text += "; at last: " + e.Last
		}
		return h.giveUp(e, "5.4.7", text)
	}
	out, err := h.announce(ctx, e)
	switch {
	case errors.Is(err, errGiven):
		return nil // what comes of that decides
	case err != nil || ctx.Err() != nil:
		return err
	}
	absent := 0
	if out.absent && !e.Spoke {
		absent = e.Absent + 1
	}
	switch {
	case out.fail != "":
		return h.giveUp(e, out.fail, out.text)
	case absent > 0 && h.o.Fallback:
		return h.relay(ctx, e)
	case absent >= absentBefore:
		return h.giveUp(e, "5.4.1", "there is no server of AMTP for that domain: "+out.text)
	}
	next, err := h.o.Spool.Update(e.Number, func(now *spool.Entry) {
		if now.Stage == spool.Failed {
			return // the other server has fetched it meanwhile, and does not want it
		}
		now.Attempts++
		now.Next = h.again(now.Attempts, now.Of().Expires)
		now.Last = out.text
		now.Absent = absent
		switch {
		case out.spoke:
			now.Spoke = true
		case now.Stage == spool.Announced:
			// Who has heard of it before may ask for it still.
			now.Stage, now.Peer = e.Stage, e.Peer
		}
	})
	if err != nil {
		return err
	}
	if next.Stage == spool.Failed {
		return nil
	}
	log := h.log(next).With("attempt", next.Attempts, "next", next.Next.UTC().Format(time.RFC3339), "result", out.text)
	if out.spoke {
		log.Info("announced", "peer", next.Peer.String())
	} else {
		log.Warn("not announced")
	}
	return nil
}

// giveUp fails an entry, unless it is being handed over: then it is looked at again behind that.
func (h *Holder) giveUp(e spool.Entry, code, text string) error {
	if !h.take(h.given, e.Number) {
		return nil
	}
	defer h.release(h.given, e.Number)
	return h.fail(e, code, text, false)
}

// again is when the next attempt is, behind so many; at the latest when the mail expires.
func (h *Holder) again(attempts int, expires time.Time) time.Time {
	const most = 12
	factor := min(1<<min(max(attempts-1, 0), 4), most)
	next := time.Now().Add(time.Duration(factor) * h.o.Retry)
	if next.After(expires) && time.Now().Before(expires) {
		return expires
	}
	return next
}

// fail notes that a message will not arrive, so that its sender is told. told: that was said of a message that was given
// away, so it is known what became of it.
func (h *Holder) fail(e spool.Entry, code, text string, told bool) error {
	next, err := h.o.Spool.Update(e.Number, func(e *spool.Entry) {
		e.Stage, e.Peer, e.Attempts, e.Next = spool.Failed, netip.Addr{}, 0, time.Now()
		e.Status, e.Last = code, text
		if told {
			e.Handed--
		}
	})
	if err == nil {
		h.log(next).Warn("not delivered, its sender is told", "status", code, "why", text)
	}
	return err
}

// target is an address to be called.
type target struct {
	host string
	addr netip.Addr
}

// announce says SELO to the first server that hears it. The entry is bound to that server before it does: it may ask
// for the mail before it has answered. All of it takes no longer than two steps of a call may.
func (h *Holder) announce(ctx context.Context, e spool.Entry) (outcome, error) {
	all, cancel := context.WithTimeout(ctx, 2*h.o.Timeout)
	defer cancel()
	targets, out := h.targets(all, e.To.Domain)
	if len(targets) == 0 {
		return out, nil
	}
	// Those that nobody has answered at come last, or one of them would use up the time of all of them each time.
	slices.SortStableFunc(targets, func(a, b target) int {
		switch now := time.Now(); {
		case h.silent.knows(a.addr, now) == h.silent.knows(b.addr, now):
			return 0
		case h.silent.knows(a.addr, now):
			return 1
		}
		return -1
	})
	var said outcome
	there := false
	for _, t := range targets {
		if all.Err() != nil {
			break
		}
		// NOT: where its sender would be told so. One absence, remembered, must not count as three.
		if h.o.Fallback && !e.Spoke && !there && h.absent.knows(t.addr, time.Now()) {
			return outcome{absent: true, text: t.host + " had no AMTP a short while ago, and SMTP"}, nil
		}
		next, over, err := h.tell(all, e, t)
		if next.spoke {
			h.absent.forget(t.addr)
		}
		if over || err != nil {
			return next, err
		}
		there = there || next.there
		said = next
		if said.absent {
			// The host that the domain prefers is there, and has no AMTP: others need not be asked. NOT: behind one that has,
			// or whoever disturbs that could choose how mail travels.
			if said.absent = !there; !e.Spoke {
				h.absent.note(t.addr, time.Now())
			}
			break
		}
	}
	if said.text == "" {
		said.text = "the servers of that domain took too long"
	}
	return said, nil
}

// tell says SELO to one server; over: what it said decides.
func (h *Holder) tell(ctx context.Context, e spool.Entry, t target) (out outcome, over bool, err error) {
	first := &firstOctets{}
	caller := h.caller
	caller.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := h.o.Dial(ctx, network, address)
		if err == nil {
			first.Conn, conn = conn, first
		}
		return conn, err
	}
	call, err := caller.Open(ctx, netip.AddrPortFrom(t.addr, h.o.Port))
	if err != nil {
		out.text = fmt.Sprintf("%s: %v", t.host, err)
		// Who has greeted as a server does has AMTP, and what breaks then is trouble that passes. NOT: to leave it for SMTP,
		// or whoever disturbs a connection could choose how mail travels.
		greeted := first.n > 0 && (first.octets[0] == '2' || first.octets[0] == '4')
		out.there = greeted
		out.absent = !greeted && (first.Conn == nil || first.n > 0) && ctx.Err() == nil && h.smtp(ctx, t.addr)
		if first.Conn == nil && !out.absent {
			h.silent.note(t.addr, time.Now())
		}
		return out, greeted && first.octets[0] == '4', nil
	}
	r, err := h.say(call, e, t)
	call.Close()
	switch {
	case errors.Is(err, errSpool), errors.Is(err, errGiven):
		return out, true, err
	case err != nil:
		return outcome{there: true, text: fmt.Sprintf("%s: %v", t.host, err)}, false, nil
	case r.Code == 500 || r.Code == 502: // a server of something else
		return outcome{absent: true, text: fmt.Sprintf("%s: SELO was answered by %s", t.host, r)}, false, nil
	case r.Permanent():
		return outcome{fail: status(r, "5.0.0"), text: t.host + " said to SELO: " + r.String()}, true, nil
	case !r.Positive():
		return outcome{there: true, text: fmt.Sprintf("%s: SELO was answered by %s", t.host, r)}, false, nil
	}
	return outcome{spoke: true, text: t.host + " said: " + r.String()}, true, nil
}

// firstOctets is a connection that remembers how what it reads begins.
type firstOctets struct {
	net.Conn
	octets [3]byte
	n      int
}

func (c *firstOctets) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.n < len(c.octets) {
		c.n += copy(c.octets[c.n:], p[:n])
	}
	return n, err
}

var (
	errSpool = errors.New("the spool")
	errGiven = errors.New("it is being handed over")
)

// say binds an entry to the server at an address, and announces it.
func (h *Holder) say(call *amtp.Call, e spool.Entry, t target) (smtp.Reply, error) {
	h.mu.Lock()
	given := h.given[e.Number]
	h.mu.Unlock()
	if given {
		return smtp.Reply{}, errGiven
	}
	failed := false
	_, err := h.o.Spool.Update(e.Number, func(e *spool.Entry) {
		if failed = e.Stage == spool.Failed; !failed {
			e.Stage, e.Peer = spool.Announced, t.addr
		}
	})
	switch {
	case err != nil:
		return smtp.Reply{}, fmt.Errorf("%w: %w", errSpool, err)
	case failed:
		return smtp.Reply{}, errGiven
	}
	domain, err := smtp.ASCIIDomain(e.Of().From.Domain)
	if err != nil {
		return smtp.Reply{}, err
	}
	return call.Announce(amtp.Announcement{Domain: domain, Number: e.Number, Recipient: e.To})
}

// targets are the addresses that take mail of a domain: those of its MX hosts, the most preferred first, or its own
// where it has none (RFC 5321 §5.1). The drafts know A records alone, from before anybody had mail for a domain taken
// elsewhere than at its web server.
func (h *Holder) targets(ctx context.Context, domain string) ([]target, outcome) {
	domain, err := smtp.ASCIIDomain(domain)
	if err != nil {
		return nil, outcome{fail: "5.1.2", text: err.Error()}
	}
	mx, err := h.o.Resolver.LookupMX(ctx, domain)
	var noName *net.DNSError
	switch {
	case err == nil:
	case errors.As(err, &noName) && noName.IsNotFound:
	default:
		return nil, outcome{text: err.Error()}
	}
	slices.SortStableFunc(mx, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	var hosts []string
	for _, m := range mx[:min(len(mx), mostHosts)] {
		if host := strings.TrimSuffix(m.Host, "."); host != "" {
			hosts = append(hosts, host)
		}
	}
	switch {
	case len(mx) > 0 && len(hosts) == 0:
		return nil, outcome{fail: "5.1.10", text: "the domain takes no mail (RFC 7505)"}
	case len(mx) == 0:
		hosts = []string{domain}
	}
	return h.addresses(ctx, domain, hosts)
}

// addresses are those of the hosts that may be called.
func (h *Holder) addresses(ctx context.Context, domain string, hosts []string) (targets []target, out outcome) {
	barred, missing := "", 0
	for _, host := range hosts {
		addrs, err := h.o.Resolver.LookupNetIP(ctx, "ip", host)
		var noName *net.DNSError
		switch {
		case errors.As(err, &noName) && noName.IsNotFound:
			missing++
			continue
		case err != nil:
			out.text = err.Error()
			continue
		}
		for _, a := range addrs[:min(len(addrs), mostAddresses)] {
			a = a.Unmap().WithZone("")
			switch err := h.o.Callable(a); {
			case errors.Is(err, ErrTrouble):
				out.text = err.Error()
			case err != nil:
				barred = fmt.Sprintf("%s: %v", host, err)
			default:
				targets = append(targets, target{host, a})
			}
		}
	}
	switch {
	case len(targets) > 0:
	case missing == len(hosts):
		out = outcome{fail: "5.1.2", text: domain + " has no host that takes mail"}
	case out.text == "" && barred != "":
		out = outcome{fail: "5.4.4", text: barred}
	}
	return targets, out
}

// smtp says whether somebody at an address takes mail by SMTP: that is how the drafts tell a server that has no AMTP
// from one that is away (-01, 2.2).
func (h *Holder) smtp(ctx context.Context, a netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, h.o.Timeout)
	defer cancel()
	conn, err := h.o.Dial(ctx, "tcp", netip.AddrPortFrom(a, 25).String())
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(h.o.Timeout))
	r, err := readReply(conn)
	if err != nil {
		return false
	}
	if _, err := conn.Write([]byte("QUIT\r\n")); err == nil {
		_, _ = readReply(conn)
	}
	return r.Code == 220
}
