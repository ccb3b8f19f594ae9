package memory

import (
	"slices"
	"sync"
	"time"
)

// processEntries bounds what one table keeps without a file: some 10 MiB.
const processEntries = 100_000

// NewProcess returns the store that holds where nothing is configured: it ends
// with the process, and keeps the newest 100,000 entries of a kind, and as many notices.
func NewProcess(now func() time.Time) Store {
	return &local{on: newProcess(processEntries), now: now, most: processEntries}
}

// process is a medium in the memory of this process. When a table is full, the
// older half of it is forgotten: it is kept as two maps, and one of them goes. Of
// notices none is: whoever writes them minds how many there are.
type process struct {
	mu   sync.RWMutex
	most int
	of   [tables]struct{ young, old map[string][]byte }
}

func newProcess(most int) *process {
	p := &process{most: most}
	for t := range p.of {
		p.of[t].young = map[string][]byte{}
	}
	return p
}

func (p *process) get(t table, key string) ([]byte, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if v, ok := p.of[t].young[key]; ok {
		return v, nil
	}
	return p.of[t].old[key], nil
}

func (p *process) commit(ws []write) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range ws {
		of := &p.of[w.table]
		delete(of.old, w.key)
		if w.value == nil {
			delete(of.young, w.key)
			continue
		}
		of.young[w.key] = w.value
		if w.table != tableHold && len(of.young) > p.most/2 {
			of.old, of.young = of.young, map[string][]byte{}
		}
	}
	return nil
}

func (p *process) each(t table, after string, f func(string, []byte) bool) error {
	p.mu.RLock()
	keys := make([]string, 0, len(p.of[t].young)+len(p.of[t].old))
	for _, m := range []map[string][]byte{p.of[t].young, p.of[t].old} {
		for k := range m {
			if k > after {
				keys = append(keys, k)
			}
		}
	}
	p.mu.RUnlock()
	slices.Sort(keys)
	for _, k := range keys {
		if v, _ := p.get(t, k); v != nil && !f(k, v) {
			break
		}
	}
	return nil
}

func (p *process) sizes() (Sizes, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	s := Sizes{Entries: map[string]int64{}}
	for t := range tables {
		for _, m := range []map[string][]byte{p.of[t].young, p.of[t].old} {
			s.Entries[t.String()] += int64(len(m))
			for k, v := range m {
				s.Bytes += int64(len(k) + len(v))
			}
		}
	}
	return s, nil
}

func (p *process) close() error { return nil }
