package page

import (
	"fmt"
	"net/http"
	"time"

	"postern/cmd/postern/view"
)

// The pace of what is told to those who listen.
const (
	tellEvery     = time.Second
	overviewEvery = 5         // of those
	tellMost      = 20        // transactions at a time: more nobody can read
	tellFirst     = 20        // of those that were before somebody listened
	listenTime    = time.Hour // then a browser asks anew, and is admitted anew
)

// told is what a listener hears of transactions.
type told struct {
	Rows   []view.Row `json:"rows"`   // the oldest first
	Passed uint64     `json:"passed"` // by, since there were more than anybody can read
}

// events tells a listener what goes on, as server-sent events: "records", "overview".
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	leave := p.listeners.enter()
	if leave == nil {
		refuse(w, &problem{http.StatusServiceUnavailable, fmt.Sprintf("%d listen already", maxListeners)})
		return
	}
	defer leave()
	l := listening{w: w, to: http.NewResponseController(w)}
	if l.to.SetReadDeadline(time.Time{}) != nil { // it says nothing for an hour, and that is no fault
		refuse(w, &problem{http.StatusNotImplemented, "this connection cannot be listened on"})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no") // for nginx in between
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	end := time.NewTimer(listenTime)
	defer end.Stop()

	_, count := p.watch.since(0, 0)
	heard := count - min(count, tellFirst)
	for n := 0; ; n++ {
		if n%overviewEvery == 0 {
			text, err := p.overviewText()
			if err != nil || l.tell("overview", text) != nil {
				return
			}
		}
		if next, err := p.tellRecords(&l, heard, n == 0); err != nil {
			return
		} else {
			heard = next
		}
		select {
		case <-r.Context().Done():
			return
		case <-p.closed.Done():
			return
		case <-end.C:
			return
		case <-tick.C:
		}
	}
}

// tellRecords tells of the transactions behind the first heard, and returns how many there were in all.
func (p *Page) tellRecords(l *listening, heard uint64, always bool) (next uint64, err error) {
	records, next := p.watch.since(heard, tellMost)
	if len(records) == 0 && !always {
		return next, nil
	}
	t := told{Rows: []view.Row{}, Passed: next - heard - uint64(len(records))}
	for _, r := range records {
		t.Rows = append(t.Rows, view.NewRow(p.opt.Service.AsKept(r)))
	}
	text, err := encode(t)
	if err != nil {
		return next, err
	}
	return next, l.tell("records", text)
}

// listening is somebody who listens.
type listening struct {
	w  http.ResponseWriter
	to *http.ResponseController
}

// tell sends an event. Who does not take it in time is let go: the error.
func (l *listening) tell(event string, text []byte) error {
	if err := l.to.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(l.w, "event: %s\ndata: %s\n\n", event, text); err != nil {
		return err
	}
	return l.to.Flush()
}
