package receiver

import (
	"container/heap"
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"

	"postern/proxy/amtp"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// What is remembered of announcements. It is some 500 octets each, and is forgotten with the process: who keeps the mail
// announces it again.
const (
	// noticesLimit bounds the announcements that are remembered, and noticesPerPeer those of one client (an IPv4 address, an
	// IPv6 /64; a /48 has four times as many). One more hears 452.
	noticesLimit   = 20_000
	noticesPerPeer = 200
	// callsLimit bounds the calls at a time. A peer is called by one at a time, an IPv6 /48 by four.
	callsLimit = 16
	// callTime bounds a whole call: whoever trickles must not keep one of the calls for long.
	callTime = 75 * time.Minute
	// callShare is when no further message is begun in a call: a message may take as long as callTime.
	callShare = 20 * time.Minute
	// perCall bounds what is fetched in one call, so that other peers have their turn.
	perCall = 20
	// The time between two tries doubles from the first to the last.
	firstRetry = 30 * time.Second
	lastRetry  = time.Hour
	// answersLimit bounds what is remembered of mail that was delivered, see answers.
	answersLimit = 20_000
)

// key is what makes two announcements the same.
type key struct {
	peer   netip.Addr
	domain string
	number string
	rcpt   string
}

func keyOf(peer netip.Addr, a amtp.Announcement) key {
	return key{peer, a.Domain, a.Number, smtp.Address(a.Recipient)}
}

// notice is mail that waits at a peer.
type notice struct {
	amtp.Announcement
	listener string // on which it was announced
	session  string // in which
	until    time.Time
	next     time.Time
	tried    time.Time // the last time; zero: never
	tries    int
}

// queue is what waits at one peer.
type queue struct {
	peer    netip.Addr
	local   netip.AddrPort // at which it has reached us
	notices []*notice
	due     time.Time // of the first notice
	busy    bool      // it is being called, and is not among those that are due
	index   int       // in the heap
}

// dueQueues is a heap of queues that nobody calls, the first that is due on top.
type dueQueues []*queue

func (d dueQueues) Len() int           { return len(d) }
func (d dueQueues) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d dueQueues) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push is for container/heap.
func (d *dueQueues) Push(x any) {
	q := x.(*queue)
	q.index = len(*d)
	*d = append(*d, q)
}

// Pop is for container/heap.
func (d *dueQueues) Pop() any {
	old := *d
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return q
}

// note remembers an announcement; false: there is no room for it. One that is there already stays as it is.
func (r *Receiver) note(peer netip.Addr, local netip.AddrPort, n *notice) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queues[peer]
	if q == nil {
		q = &queue{peer: peer, local: local, busy: true} // busy: not yet in the heap
	}
	k := keyOf(peer, n.Announcement)
	for _, o := range q.notices {
		if keyOf(peer, o.Announcement) != k {
			continue
		}
		// Whoever announces it again has it still, and is there.
		if !q.busy && !o.tried.IsZero() && n.next.Sub(o.tried) > firstRetry && n.next.Before(o.next) {
			o.next = n.next
			r.sooner(q, o.next)
		}
		return true
	}
	if r.closed || r.waiting.Take(share.Of(peer), 1, share.Limits{All: noticesLimit, Each: noticesPerPeer}) != share.None {
		return false
	}
	if r.queues[peer] == nil {
		r.queues[peer] = q
		q.busy = false
		q.due = n.next
		heap.Push(&r.due, q)
	}
	q.notices = append(q.notices, n)
	r.Metrics.AMTPWaiting(int(r.waiting.Used()))
	if !q.busy {
		r.sooner(q, n.next)
	}
	r.signal()
	return true
}

// sooner makes a queue that nobody calls due at a time, if it is not sooner. r.mu must be held.
func (r *Receiver) sooner(q *queue, at time.Time) {
	if at.Before(q.due) {
		q.due = at
		heap.Fix(&r.due, q.index)
		r.signal()
	}
}

// signal wakes who begins calls.
func (r *Receiver) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// dispatch begins the calls that are due, until Shutdown.
func (r *Receiver) dispatch() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, ok := r.begin()
		if !ok {
			return
		}
		timer.Reset(wait)
		select {
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// begin begins what is due now, and says how long nothing will be; not ok: nothing is begun any more.
func (r *Receiver) begin() (wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, false
	}
	now := time.Now()
	for len(r.due) > 0 && r.running < callsLimit && !r.due[0].due.After(now) {
		q := r.due[0]
		if r.calls.Take(share.Of(q.peer), 1, share.Limits{All: callsLimit, Each: 1}) != share.None {
			q.due = now.Add(time.Second) // others of its network are called
			heap.Fix(&r.due, 0)
			continue
		}
		heap.Pop(&r.due)
		q.busy = true
		r.running++
		var list []*notice
		for _, n := range q.notices {
			if !n.next.After(now) && len(list) < perCall {
				list = append(list, n)
			}
		}
		r.done.Go(func() { r.work(q, list) })
	}
	if len(r.due) == 0 || r.running >= callsLimit {
		return time.Hour, true // a call that ends wakes us
	}
	return r.due[0].due.Sub(now), true
}

// work fetches what waits at a peer, and puts the peer back for what is left.
func (r *Receiver) work(q *queue, list []*notice) {
	finished := r.call(q, list)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for i, n := range list {
		switch {
		case finished[i]:
		case now.After(n.until):
			r.tell(q.peer, n, result{word: "expired"})
		default:
			n.tried = now
			n.next = now.Add(min(firstRetry<<min(n.tries, 10), lastRetry))
			n.tries++
			continue
		}
		q.notices = slices.DeleteFunc(q.notices, func(o *notice) bool { return o == n })
		r.waiting.Give(share.Of(q.peer), 1)
	}
	r.Metrics.AMTPWaiting(int(r.waiting.Used()))
	r.calls.Give(share.Of(q.peer), 1)
	r.running--
	q.busy = false
	if len(q.notices) == 0 {
		delete(r.queues, q.peer)
	} else {
		q.due = q.notices[0].next
		for _, n := range q.notices {
			if n.next.Before(q.due) {
				q.due = n.next
			}
		}
		heap.Push(&r.due, q)
	}
	r.signal()
}

// answers remembers what the backend said of mail that it took, until the peer has noted it: a peer that has not heard it
// announces the mail again, and must not have it delivered twice. The oldest give way.
type answers struct {
	by    map[mail]answer
	order []mail
}

// mail is a message, at whichever of the addresses of its domain's servers.
type mail struct{ domain, number, rcpt string }

func mailOf(a amtp.Announcement) mail {
	return mail{a.Domain, a.Number, smtp.Address(a.Recipient)}
}

// answer is what was said of a message, and which message that was.
type answer struct {
	said   smtp.Reply
	digest [sha256.Size]byte
	until  time.Time
}

// delivered is what was said of mail that was delivered, and may not have been noted.
func (r *Receiver) delivered(k mail) (a answer, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok = r.answered.by[k]
	return a, ok && time.Now().Before(a.until)
}

func (r *Receiver) remember(k mail, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := &r.answered
	if all.by == nil {
		all.by = map[mail]answer{}
	}
	_, known := all.by[k]
	if all.by[k] = a; known {
		return // it has its place
	}
	if all.order = append(all.order, k); len(all.order) > answersLimit {
		delete(all.by, all.order[0])
		all.order = all.order[1:]
	}
}

// forget is called when the peer has noted what was said: the number may be another message's from now on.
func (r *Receiver) forget(k mail) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.answered.by[k]; ok {
		delete(r.answered.by, k)
		r.answered.order = slices.DeleteFunc(r.answered.order, func(o mail) bool { return o == k })
	}
}
