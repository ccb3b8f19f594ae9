package page

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// often finds what comes most often of what has no end of different values: Misra and Gries's sketch, of
// which each count is at most Total/(maxOften+1) too low.
type often struct {
	since time.Time
	total uint64
	lost  uint64 // what every count may be too low by
	by    map[string]uint64
}

const (
	maxOften = 1024      // values that are counted at a time
	turnover = time.Hour // after which the counts begin anew, the last ones beside them
	maxKey   = 255       // octets of a value
)

func newOften(now time.Time) often { return often{since: now, by: map[string]uint64{}} }

// add counts a value.
func (o *often) add(value string) {
	if len(value) > maxKey {
		value = value[:maxKey]
	}
	o.total++
	if _, there := o.by[value]; there {
		o.by[value]++
		return
	}
	if len(o.by) < maxOften {
		o.by[strings.Clone(value)] = 1 // it may be part of a large buffer
		return
	}
	o.lost++
	for k, n := range o.by {
		if n == 1 {
			delete(o.by, k)
		} else {
			o.by[k] = n - 1
		}
	}
}

// counted is a value and how often it came, at the least.
type counted struct {
	Value string `json:"value"`
	Count uint64 `json:"count"`
}

// most returns the n values that came most often.
func (o *often) most(n int, before *often) []counted {
	all := make([]counted, 0, len(o.by)+len(before.by))
	for v, c := range o.by {
		all = append(all, counted{v, c + before.by[v]})
	}
	for v, c := range before.by {
		if _, there := o.by[v]; !there {
			all = append(all, counted{v, c})
		}
	}
	slices.SortFunc(all, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Value, b.Value))
	})
	return all[:min(n, len(all))]
}

// lately is what came often in this hour and the last.
type lately struct{ now, before often }

func newLately(now time.Time) lately { return lately{newOften(now), newOften(now)} }

func (l *lately) add(value string, now time.Time) {
	if value == "" {
		return
	}
	if age := now.Sub(l.now.since); age >= turnover || age < 0 {
		l.before = l.now
		if age >= 2*turnover || age < 0 {
			l.before = newOften(now)
		}
		l.now = newOften(now)
	}
	l.now.add(value)
}

// most returns what came most often, and since when that is counted.
func (l *lately) most(n int, now time.Time) (top []counted, since time.Time) {
	if now.Sub(l.now.since) >= 2*turnover {
		return nil, now.Add(-2 * turnover)
	}
	since = l.now.since
	if len(l.before.by) > 0 {
		since = l.before.since
	}
	return l.now.most(n, &l.before), since
}
