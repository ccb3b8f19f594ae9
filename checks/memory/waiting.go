package memory

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
)

// Bounds say how many notices may wait.
type Bounds struct {
	Notices   int // of all senders; 0: 500,000
	PerSender int // of one: what is proven, or the network of a client that proves nothing; 0: 1,000
}

const (
	defaultNotices   = 500_000
	defaultPerSender = 1000
	// idle is after what time a notice may have to give way to another one: senders
	// come again within hours (RFC 5321 §4.5.4.1).
	idle = 12 * time.Hour
)

// Errors of a Hold for which there is no room. The store is well, and no notice was
// written: the mail has to wait all the same, or whoever invents recipients would let
// in what comes after them.
var (
	ErrSenderFull = errors.New("memory: as many notices wait of this sender as may")
	ErrFull       = errors.New("memory: as many notices wait as may")
)

// isFull says whether a Hold failed for want of room.
func isFull(err error) bool { return errors.Is(err, ErrSenderFull) || errors.Is(err, ErrFull) }

// holder is whom a notice counts for.
func (n Notice) holder() Key { return keyOf("holder", strings.ToLower(n.Who)) }

// spot is where a notice stands among others.
type spot struct {
	id      string
	touched int64 // when it was tried last, or released; seconds since 1970
}

// waiting lists the notices of a local store, so that there is no need to look through
// them for how many there are and which is the oldest. It needs the lock of its store.
type waiting struct {
	of map[Key][]spot // those that wait, by their holders
	n  int
	// passed are those that have passed, and that another one may take the place of at
	// once, the oldest first. What came again since is there still.
	passed []spot
	// fresh is until when no notice that waits is idle.
	fresh int64
}

// find is the place of a notice among those of its holder, or -1.
func (w *waiting) find(holder Key, id string) int {
	return slices.IndexFunc(w.of[holder], func(s spot) bool { return s.id == id })
}

// touch adds a notice, or moves it.
func (w *waiting) touch(holder Key, id string, at int64) {
	if i := w.find(holder, id); i >= 0 {
		w.of[holder][i].touched = at
		return
	}
	if w.of == nil {
		w.of = map[Key][]spot{}
	}
	w.of[holder] = append(w.of[holder], spot{id, at})
	w.n++
}

// remove takes a notice away.
func (w *waiting) remove(holder Key, id string) {
	i := w.find(holder, id)
	if i < 0 {
		return
	}
	w.n--
	if list := slices.Delete(w.of[holder], i, i+1); len(list) > 0 {
		w.of[holder] = list
	} else {
		delete(w.of, holder)
	}
}

// giveWay says which notice has to go for one more of a holder; passed: it is the first
// of those. It is none where there is room.
func (w *waiting) giveWay(holder Key, b Bounds, now int64) (from Key, id string, passed bool, err error) {
	before := now - int64(idle/time.Second)
	if list := w.of[holder]; len(list) >= b.PerSender {
		oldest := slices.MinFunc(list, func(a, b spot) int { return cmp.Compare(a.touched, b.touched) })
		if oldest.touched > before {
			return Key{}, "", false, ErrSenderFull
		}
		return holder, oldest.id, false, nil
	}
	switch {
	case w.n+len(w.passed) < b.Notices:
		return Key{}, "", false, nil
	case len(w.passed) > 0:
		return Key{}, w.passed[0].id, true, nil
	case now <= w.fresh:
		return Key{}, "", false, ErrFull
	}
	oldest := now
	for k, list := range w.of {
		for _, s := range list {
			if s.touched <= before {
				return k, s.id, false, nil
			}
			oldest = min(oldest, s.touched)
		}
	}
	// None is idle before the oldest of them is: they only ever become younger.
	w.fresh = oldest + int64(idle/time.Second) - 1
	return Key{}, "", false, ErrFull
}

// all are those that wait, in the order of their last try.
func (w *waiting) all() []spot {
	list := make([]spot, 0, w.n)
	for _, of := range w.of {
		list = append(list, of...)
	}
	return list
}

// sortSpots puts the newest first, or the oldest.
func sortSpots(list []spot, newest bool) {
	slices.SortFunc(list, func(a, b spot) int {
		if newest {
			a, b = b, a
		}
		return cmp.Or(cmp.Compare(a.touched, b.touched), strings.Compare(a.id, b.id))
	})
}
