package trial

import (
	"context"
	"strings"
	"sync"
	"time"

	"postern/checks/memory"
	"postern/configs"
)

type casePast struct {
	Days      int `yaml:"days" min:"0"`
	Delivered int `yaml:"delivered" min:"0"`
	Refused   int `yaml:"refused" min:"0"`
}

type caseRate struct {
	Messages int `yaml:"messages" min:"0"`
	Refused  int `yaml:"refused" min:"0"`
	Unknown  int `yaml:"unknown" min:"0"`
	Domain   int `yaml:"domain" min:"0"`
}

type caseHold struct {
	Age      int  `yaml:"age" min:"0"` // seconds
	Tries    int  `yaml:"tries" min:"0"`
	Released bool `yaml:"released"`
}

type caseState struct {
	Healthy *bool `yaml:"healthy"` // nil: yes
}

// Known is what a trial takes for what the site remembers of the sender, as a case of a
// test of the policy says it.
type Known struct {
	Past  casePast  `yaml:"past"`
	Rate  caseRate  `yaml:"rate"`
	Hold  caseHold  `yaml:"hold"`
	State caseState `yaml:"state"`
}

// ReadKnown reads what stands behind a flag: past: {delivered: 12}, or in braces several.
func ReadKnown(flag, text string) (*Known, error) {
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		text = "{" + text + "}"
	}
	k := new(Known)
	if err := configs.Decode(flag, []byte(text), k); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *Known) remembered() remembered { return remembered{k.Past, k.Rate, k.Hold} }

func (k *Known) healthy() bool { return k.State.Healthy == nil || *k.State.Healthy }

// remembered is what a case says that the site knows of the sender; what it does not
// say is nothing.
type remembered struct {
	past casePast
	rate caseRate
	hold caseHold
}

// script is the store of a trial: it tells what the case says, and notes nothing, so
// that what one case does is no matter to the next.
type script struct {
	memory.Store // that knows nothing

	mu   sync.Mutex
	tell remembered
}

func newScript() *script { return &script{Store: memory.NewProcess(time.Now)} }

func (s *script) say(r remembered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = r
}

// Recall implements memory.Store.
func (s *script) Recall(_ context.Context, k memory.Keys) (r memory.Recalled, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, rate := s.tell.past, s.tell.rate
	if p != (casePast{}) {
		r.Past = memory.Past{First: time.Now().Add(-time.Duration(p.Days) * 24 * time.Hour), Delivered: int64(p.Delivered), Refused: int64(p.Refused)}
	}
	r.Client = memory.Rate{Messages: int64(rate.Messages), Refused: int64(rate.Refused), Unknown: int64(rate.Unknown)}
	if !k.Domain.IsZero() {
		r.Domain = int64(rate.Domain)
	}
	return r, nil
}

// Notice implements memory.Store.
func (s *script) Notice(_ context.Context, id string) (n memory.Notice, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.tell.hold; h != (caseHold{}) {
		n = memory.Notice{ID: id, First: time.Now().Add(-time.Duration(h.Age) * time.Second), Tries: max(1, h.Tries), Released: h.Released}
	}
	return n, nil
}

// Hold implements memory.Store.
func (s *script) Hold(_ context.Context, n memory.Notice, _ memory.Bounds) (memory.Notice, error) {
	return n, nil
}

// Pass implements memory.Store.
func (s *script) Pass(context.Context, []string) ([]memory.Notice, error) { return nil, nil }

// Add implements memory.Store.
func (s *script) Add(context.Context, time.Duration, []memory.Event) error { return nil }
