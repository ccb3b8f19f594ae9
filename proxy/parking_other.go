//go:build !linux

package proxy

// canPark says whether sessions can be parked on this system. Where they cannot,
// each waits in its goroutine.
const canPark = false

type parking struct{}

type parkedAt struct{}

func (*parking) park(*session) bool { return false }

func (*parking) unpark(*session) {}
