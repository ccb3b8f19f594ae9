package memory

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"sort"
	"sync"
	"time"
)

// table is one kind of entries in a place that this process alone uses.
type table uint8

const (
	tablePast table = iota
	tableRate
	tableHold
	tables
)

func (t table) String() string { return Kinds[t] }

// write is one entry to be written; a nil value takes it away.
type write struct {
	table table
	key   string
	value []byte
}

// medium is where local keeps entries. Values are not to be changed by anybody.
type medium interface {
	get(t table, key string) ([]byte, error)
	// commit writes all or nothing. Where that is possible they have survived the
	// end of the process when it comes back.
	commit(ws []write) error
	// each calls f for the entries of a table whose keys are behind after, in the
	// order of their keys, until f says false.
	each(t table, after string, f func(key string, value []byte) bool) error
	sizes() (Sizes, error)
	close() error
}

// local is a store on a medium of this process. Each value begins with the time
// at which it is forgotten.
type local struct {
	on   medium
	now  func() time.Time
	most int // notices, whatever the bounds say; 0: no less than they say

	mu      sync.Mutex // of those that read and write back
	waiting waiting
}

var errValue = errors.New("memory: an entry cannot be read")

// Recall implements Store.
func (l *local) Recall(_ context.Context, k Keys) (r Recalled, err error) {
	now := l.now()
	if !k.Who.IsZero() {
		p, err := l.past(k.Who)
		if err != nil {
			return r, err
		}
		r.Past = p
	}
	for _, of := range []struct {
		key Key
		to  func(Rate)
	}{{k.Client, func(x Rate) { r.Client = x }}, {k.Domain, func(x Rate) { r.Domain = x.Messages }}} {
		if of.key.IsZero() {
			continue
		}
		w, err := l.window(of.key)
		if err != nil {
			return r, err
		}
		of.to(w.within(now))
	}
	return r, nil
}

// Add implements Store. Events of the same sender are added up before they are
// written.
func (l *local) Add(_ context.Context, keep time.Duration, events []Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	past := map[Key]*Past{}
	rate := map[Key]*window{}
	for _, e := range events {
		if !e.Who.IsZero() && (e.Delivered > 0 || e.Refused > 0) {
			p := past[e.Who]
			if p == nil {
				got, err := l.past(e.Who)
				if err != nil {
					return err
				}
				p = &got
				past[e.Who] = p
			}
			if p.First.IsZero() {
				p.First = now
			}
			p.Delivered, p.Refused = p.Delivered+e.Delivered, p.Refused+e.Refused
		}
		for _, of := range []struct {
			key Key
			add Rate
		}{{e.Client, e.Rate}, {e.Domain, Rate{Messages: e.Messages}}} {
			if of.key.IsZero() || of.add.isZero() {
				continue
			}
			w := rate[of.key]
			if w == nil {
				got, err := l.window(of.key)
				if err != nil {
					return err
				}
				w = &got
				rate[of.key] = w
			}
			w.add(now, of.add)
		}
	}
	ws := make([]write, 0, len(past)+len(rate))
	for k, p := range past {
		ws = append(ws, write{tablePast, string(k[:]), encode(now.Add(keep), p.First.Unix(), p.Delivered, p.Refused)})
	}
	for k, w := range rate {
		ws = append(ws, write{tableRate, string(k[:]), encode(now.Add(rateLife), w.hour,
			w.now.Messages, w.now.Refused, w.now.Unknown, w.last.Messages, w.last.Refused, w.last.Unknown)})
	}
	return l.on.commit(ws)
}

func (l *local) past(k Key) (p Past, err error) {
	n, ok, err := l.numbers(tablePast, k, 3)
	if err != nil || !ok {
		return p, err
	}
	return Past{First: time.Unix(n[0], 0), Delivered: n[1], Refused: n[2]}, nil
}

func (l *local) window(k Key) (w window, err error) {
	n, ok, err := l.numbers(tableRate, k, 7)
	if err != nil || !ok {
		return w, err
	}
	return window{hour: n[0], now: Rate{n[1], n[2], n[3]}, last: Rate{n[4], n[5], n[6]}}, nil
}

// numbers reads an entry of so many numbers; not ok: it is not there, or over.
func (l *local) numbers(t table, k Key, want int) ([]int64, bool, error) {
	v, err := l.on.get(t, string(k[:]))
	if err != nil || v == nil || over(v, l.now()) {
		return nil, false, err
	}
	n := make([]int64, 0, want)
	for v = v[8:]; len(v) > 0; {
		x, size := binary.Varint(v)
		if size <= 0 {
			return nil, false, errValue
		}
		n, v = append(n, x), v[size:]
	}
	if len(n) != want {
		return nil, false, errValue
	}
	return n, true, nil
}

// encode writes a value of numbers, and when it is over.
func encode(until time.Time, numbers ...int64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+3*len(numbers)), uint64(until.Unix()))
	for _, n := range numbers {
		b = binary.AppendVarint(b, n)
	}
	return b
}

// over says whether an entry is forgotten; an entry that is too short counts as
// forgotten.
func over(v []byte, now time.Time) bool {
	return len(v) < 8 || int64(binary.BigEndian.Uint64(v)) <= now.Unix()
}

// Notice implements Store.
func (l *local) Notice(_ context.Context, id string) (n Notice, err error) {
	v, err := l.on.get(tableHold, id)
	if err != nil || v == nil || over(v, l.now()) {
		return n, err
	}
	if err := json.Unmarshal(v[8:], &n); err != nil {
		return Notice{}, errValue
	}
	return n, nil
}

// Hold implements Store.
func (l *local) Hold(ctx context.Context, n Notice, b Bounds) (Notice, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, err := l.Notice(ctx, n.ID)
	if err != nil && !errors.Is(err, errValue) {
		return n, err
	}
	if l.most > 0 {
		b.Notices = min(b.Notices, l.most)
	}
	now, holder := l.now(), n.holder()
	var ws []write
	gone, from, passed := "", Key{}, false
	if l.waiting.find(holder, n.ID) < 0 {
		if from, gone, passed, err = l.giveWay(ctx, holder, n.ID, b); err != nil {
			return n, err
		}
	}
	if gone != "" {
		ws = append(ws, write{table: tableHold, key: gone})
	}
	n.First, n.Last = now, now
	if !was.First.IsZero() {
		n.First, n.Released = was.First, was.Released
	}
	n.Tries = was.Tries + 1
	if err := l.on.commit(append(ws, l.noticeWrite(n))); err != nil {
		return n, err
	}
	switch {
	case passed:
		l.waiting.passed = l.waiting.passed[1:]
	case gone != "":
		l.waiting.remove(from, gone)
	}
	l.waiting.touch(holder, n.ID, now.Unix())
	return n, nil
}

// giveWay is waiting.giveWay, for a notice that is not of those which have passed and came
// again since.
func (l *local) giveWay(ctx context.Context, holder Key, id string, b Bounds) (from Key, gone string, passed bool, err error) {
	for {
		from, gone, passed, err = l.waiting.giveWay(holder, b, l.now().Unix())
		if err != nil || !passed {
			return from, gone, passed, err
		}
		n, err := l.Notice(ctx, gone)
		if err != nil && !errors.Is(err, errValue) {
			return Key{}, "", false, err
		}
		if (err != nil || n.Passed) && gone != id {
			return from, gone, true, nil
		}
		l.waiting.passed = l.waiting.passed[1:]
	}
}

func (l *local) noticeWrite(n Notice) write {
	text, _ := json.Marshal(n) // never fails: texts, numbers and times of our own clock
	return write{tableHold, n.ID, append(encode(l.now().Add(noticeLife)), text...)}
}

// Waiting implements Store.
func (l *local) Waiting(ctx context.Context, newest bool, f func(Notice) bool) error {
	l.mu.Lock()
	list := l.waiting.all()
	l.mu.Unlock()
	sortSpots(list, newest)
	for _, s := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := l.Notice(ctx, s.id)
		switch {
		case errors.Is(err, errValue): // nobody can make anything of it
		case err != nil:
			return err
		case !n.First.IsZero() && !n.Passed && !f(n):
			return nil
		}
	}
	return nil
}

// Release implements Store.
func (l *local) Release(ctx context.Context, ids []string) ([]Notice, error) {
	return l.mark(ctx, ids, func(n *Notice) *bool { return &n.Released })
}

// Pass implements Store.
func (l *local) Pass(ctx context.Context, ids []string) ([]Notice, error) {
	return l.mark(ctx, ids, func(n *Notice) *bool { return &n.Passed })
}

// mark sets one of the marks of notices and returns those that did not have it.
func (l *local) mark(ctx context.Context, ids []string, of func(*Notice) *bool) (list []Notice, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ws []write
	seen := map[string]bool{} // what was marked is not written before the end
	for _, id := range ids {
		n, err := l.Notice(ctx, id)
		if err != nil {
			return nil, err
		}
		if n.First.IsZero() || *of(&n) || seen[id] {
			continue
		}
		*of(&n), seen[id] = true, true
		list, ws = append(list, n), append(ws, l.noticeWrite(n))
	}
	if err := l.on.commit(ws); err != nil {
		return nil, err
	}
	now := l.now().Unix()
	for _, n := range list {
		if n.Passed {
			l.waiting.remove(n.holder(), n.ID)
			l.waiting.passed = append(l.waiting.passed, spot{n.ID, now})
		} else {
			l.waiting.touch(n.holder(), n.ID, now)
		}
	}
	return list, nil
}

// list lists the notices that are there when the store is opened.
func (l *local) list() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.on.each(tableHold, "", func(id string, v []byte) bool {
		var n Notice
		if over(v, l.now()) || json.Unmarshal(v[8:], &n) != nil {
			return true // it is taken away by and by
		}
		touched := int64(binary.BigEndian.Uint64(v)) - int64(noticeLife/time.Second)
		if n.Passed {
			l.waiting.passed = append(l.waiting.passed, spot{id, touched})
		} else {
			l.waiting.touch(n.holder(), id, touched)
		}
		return true
	})
	sortSpots(l.waiting.passed, false)
	return err
}

// Sizes implements Store.
func (l *local) Sizes(context.Context) (Sizes, error) { return l.on.sizes() }

// pingSize is the room that a sign of life takes, in octets, and leaves for what comes
// next: some hundred notices.
const pingSize = 64 << 10

// Ping implements Store. It writes, since a full disk can be read; and not just a little,
// which would fit where nothing else does: the store would be well and fail by turns.
func (l *local) Ping(context.Context) error {
	const key = "ping"
	if err := l.on.commit([]write{{tableRate, key, append(encode(l.now()), make([]byte, pingSize)...)}}); err != nil {
		return err
	}
	return l.on.commit([]write{{table: tableRate, key: key}})
}

// Close implements Store.
func (l *local) Close() error { return l.on.close() }

// sweepSome is how many entries one step of a sweep looks at, so that it keeps
// nobody who writes waiting.
const sweepSome = 1000

// sweep takes away what is forgotten.
func (l *local) sweep(ctx context.Context) error {
	for t := range tables {
		for after, more := "", true; more && ctx.Err() == nil; {
			var ws []write
			looked := 0
			err := l.on.each(t, after, func(k string, v []byte) bool {
				after = k
				if over(v, l.now()) {
					ws = append(ws, write{table: t, key: k})
				}
				looked++
				return looked < sweepSome
			})
			if err != nil {
				return err
			}
			more = looked == sweepSome
			if err := l.forget(ws); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// forget takes entries away that are over still.
func (l *local) forget(ws []write) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := ws[:0]
	var gone []Notice
	for _, w := range ws {
		v, err := l.on.get(w.table, w.key)
		if err != nil || v == nil || !over(v, l.now()) {
			continue
		}
		kept = append(kept, w)
		var n Notice
		if w.table == tableHold && len(v) > 8 && json.Unmarshal(v[8:], &n) == nil {
			gone = append(gone, n)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	if err := l.on.commit(kept); err != nil {
		return err
	}
	for _, n := range gone {
		l.waiting.remove(n.holder(), n.ID)
	}
	// Those that have passed stand in the order in which they are forgotten.
	was, before := l.waiting.passed, l.now().Add(-noticeLife).Unix()
	l.waiting.passed = was[sort.Search(len(was), func(i int) bool { return was[i].touched > before }):]
	return nil
}
