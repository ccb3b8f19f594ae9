// Package reuse keeps memory that is used again and again: what a message needs, for the
// next one. Each Pool belongs to one type or one file, whose it is to see that nobody has
// a part of a value any more when it goes back.
//
// A build with the tag "poison" proves that: there, a value that is put back is overwritten
// with what makes no sense, and never comes again, so that whoever still reads it finds out
// (make poison runs the tests so).
package reuse

import "sync"

// Pool keeps values of one kind. It may be used by any goroutine.
type Pool[T any] struct {
	New  func() *T // makes one where none is left; nil: it is zero
	pool sync.Pool
}

// Take returns a value: one that Put was given, as it was then, or a new one.
func (p *Pool[T]) Take() *T {
	if v, ok := p.pool.Get().(*T); ok {
		return v
	}
	if p.New != nil {
		return p.New()
	}
	return new(T)
}

// Put takes v back, which whoever calls has made ready for the next one: what is secret or
// holds on to something is gone from it. Nobody may use v, or what it points to and is its
// own, from here on.
func (p *Pool[T]) Put(v *T) {
	if poisoned {
		spoil(v)
		return
	}
	p.pool.Put(v)
}
