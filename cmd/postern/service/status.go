package service

import (
	"sync/atomic"
	"time"
)

// The parts of a configuration that are read again each for itself.
const (
	partConfiguration = iota // all of it
	partCertificates
	partLists
	partCount
)

// reloads is how the last attempt to read each part again ended; nil: there was none.
type reloads [partCount]atomic.Pointer[reload]

type reload struct {
	at  time.Time
	err error // nil: it is in force
}

// reloaded notes how an attempt to read a part again ended.
func (s *Service) reloaded(part int, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	s.metrics.ConfigReload(result)
	if part == partConfiguration && err == nil {
		for i := range s.reloads {
			s.reloads[i].Store(nil) // it brought them along
		}
	}
	s.reloads[part].Store(&reload{time.Now(), err})
}
