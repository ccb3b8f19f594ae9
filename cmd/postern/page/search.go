package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"postern/checks/dnscache"
	"postern/cmd/postern/control"
	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/policy/journal"
)

// The bounds of what is shown.
const (
	findFew  = 50 // records, where nobody says how many
	findMost = 500
	heldMost = 200       // notices
	textMost = 512 << 10 // octets of the configuration
	dnsMost  = 200       // answers of one transaction
	restMost = 100 * time.Millisecond
)

var errEnough = errors.New("enough")

// found is what a search found.
type found struct {
	Rows []view.Row `json:"rows"`
	More bool       `json:"more"` // there are others
	// Partly says that the time ran out, or not all could be read, and in words how far it came.
	Partly string  `json:"partly,omitempty"`
	Took   float64 `json:"took"` // seconds
}

// asked reads what is looked for from a request.
func asked(q url.Values) (a journal.Ask, err error) {
	for name, to := range map[string]*string{
		"from": &a.From, "rcpt": &a.Rcpt, "client": &a.Client, "asn": &a.ASN, "country": &a.Country, "disposition": &a.Disposition, "outcome": &a.Outcome,
		"rule": &a.Rule, "queue-id": &a.QueueID, "since": &a.Since, "until": &a.Until,
	} {
		word := strings.TrimSpace(q.Get(name))
		if len(word) > maxWord {
			return a, &problem{http.StatusBadRequest, fmt.Sprintf("%s: at most %d octets", name, maxWord)}
		}
		*to = word
	}
	a.Refused = q.Get("refused") != ""
	return a, nil
}

// search is a search of the journal that may begin: the folder, what is looked for, and what ends it.
// Mail comes first: it rests as long as it works.
func (p *Page) search(r *http.Request, a journal.Ask) (ctx context.Context, dir string, f journal.Filter, end func(), err error) {
	c := p.opt.Service.Journal()
	if c.Path == "" {
		return nil, "", f, nil, &problem{http.StatusNotFound, "There is no journal to look into: journal.path is not set."}
	}
	if f, err = a.Filter(c, p.opt.Now()); err != nil {
		return nil, "", f, nil, &problem{http.StatusBadRequest, err.Error()}
	}
	leave := p.searches.enter()
	if leave == nil {
		return nil, "", f, nil, errBusy
	}
	ctx, cancel := context.WithTimeout(r.Context(), searchTime)
	stop := context.AfterFunc(p.closed, cancel)
	began := time.Now()
	f.Progress = func(journal.Progress) {
		rest := time.NewTimer(min(time.Since(began), restMost))
		defer rest.Stop()
		select {
		case <-rest.C:
		case <-ctx.Done():
		}
		began = time.Now()
	}
	return ctx, c.Path, f, func() { stop(); cancel(); leave() }, nil
}

// find answers with what postern find prints.
func (p *Page) find(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit := findFew
	if text := q.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > findMost {
			return nil, &problem{http.StatusBadRequest, fmt.Sprintf("limit: a number from 1 to %d", findMost)}
		}
	}
	a, err := asked(q)
	if err != nil {
		return nil, err
	}
	ctx, dir, f, end, err := p.search(r, a)
	if err != nil {
		return nil, err
	}
	defer end()
	began := time.Now()
	all := found{Rows: []view.Row{}}
	rest := f.Progress
	var at journal.Progress
	f.Progress = func(now journal.Progress) {
		at = now
		rest(now)
	}
	got, err := journal.Search(ctx, dir, f, func(rec *journal.Record) error {
		if len(all.Rows) == limit {
			all.More = true
			return errEnough
		}
		all.Rows = append(all.Rows, view.NewRow(rec))
		return nil
	})
	all.Took = time.Since(began).Seconds()
	switch {
	case err == nil, errors.Is(err, errEnough):
	case errors.Is(err, fs.ErrNotExist): // nothing was written yet
	case ctx.Err() != nil && r.Context().Err() == nil:
		all.Partly = fmt.Sprintf("The search ended after %s, in the file %s: older records were not looked at. Name a shorter time, or use postern find, which has no end.", searchTime, at.File)
		if at.Indexing {
			all.Partly = fmt.Sprintf("The search ended after %s, while it made the index of %s, which is done once for each file: try again, or let postern find do it.", searchTime, at.File)
		}
	default:
		return nil, &problem{http.StatusInternalServerError, err.Error()}
	}
	if len(got.Unreadable) > 0 {
		all.Partly = strings.TrimSpace(all.Partly + " Not all files could be read: " + got.Unreadable[0])
	}
	return all, nil
}

// explained is a transaction, drawn for a person.
type explained struct {
	ID        string     `json:"id"`
	Recipient string     `json:"recipient,omitempty"`
	All       []string   `json:"recipients"` // one of which can be asked for
	Plain     view.Plain `json:"plain"`
	Who       []cell     `json:"who"`
	Replies   []cell     `json:"replies"`
	DNS       []answer   `json:"dns"`
	Rules     any        `json:"rules"`
	RulesSame bool       `json:"rulesSame"` // those that judged are those in force
	Session   []string   `json:"session,omitempty"`
	Notes     []string   `json:"notes,omitempty"`
	Row       view.Row   `json:"row"`
}

// cell is a row of a table: what, its value, and what there is to say of it.
type cell struct {
	What  string `json:"what"`
	Value string `json:"value"`
	How   string `json:"how"`
}

type answer struct {
	Type   string `json:"type"`
	Name   string `json:"name"`
	Answer string `json:"answer"`
	Source string `json:"source"`
}

// explain answers with what postern explain prints.
func (p *Page) explain(r *http.Request) (any, error) {
	q := r.URL.Query()
	a, err := asked(q)
	if err != nil {
		return nil, err
	}
	recipient := a.Rcpt
	id := ""
	if pasted := q.Get("id"); pasted != "" {
		if len(pasted) > maxWord {
			return nil, &problem{http.StatusBadRequest, fmt.Sprintf("id: at most %d octets", maxWord)}
		}
		id, a = journal.IDIn(pasted), journal.Ask{}
	} else if a == (journal.Ask{}) {
		return nil, &problem{http.StatusBadRequest, "Say which: the id, as it stands at the end of a refusal."}
	}
	ctx, dir, f, end, err := p.search(r, a)
	if err != nil {
		return nil, err
	}
	defer end()
	f.ID = id
	rec, err := journal.Last(ctx, dir, f)
	if errors.Is(err, journal.ErrNotFound) && id != "" {
		// Replies that are about no transaction bear the id of the connection.
		f.ID, f.Session = "", id
		rec, err = journal.Last(ctx, dir, f)
	}
	switch {
	case errors.Is(err, journal.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return nil, &problem{http.StatusNotFound, "The journal has no such transaction. Its day may be over (journal.keep), it may be the id of a connection that had none, or its record was lost: the log has it all the same."}
	case ctx.Err() != nil:
		return nil, &problem{http.StatusGatewayTimeout, fmt.Sprintf("It was not found within %s. postern explain takes the time that it needs.", searchTime)}
	case err != nil:
		return nil, &problem{http.StatusInternalServerError, err.Error()}
	}
	switch {
	case id == "":
		recipient = f.Meant(rec)
	case !rec.Has(recipient):
		recipient = ""
	}
	parts := p.opt.Service.Parts()
	return drawn(view.NewTransaction(rec, parts.Rules.Chain, service.PolicySource(parts.Config), recipient)), nil
}

// drawn is a transaction as the page shows it.
func drawn(v view.Transaction) explained {
	rec := v.Record
	x := explained{
		ID: rec.ID, Recipient: v.Recipient, All: []string{}, Plain: v.Plain(), Who: []cell{}, Replies: []cell{}, DNS: []answer{},
		Rules: v.Explanation.Rules, RulesSame: v.Policy.Same, Row: view.NewRow(rec),
	}
	for _, i := range v.Identities {
		x.Who = append(x.Who, cell{i.What, i.Value, i.How})
	}
	for i := range rec.Recipients {
		x.All = append(x.All, rec.Recipients[i].Address)
	}
	for _, c := range view.Replies(rec) {
		x.Replies = append(x.Replies, cell{c[0], c[1], c[2]})
	}
	for _, a := range rec.DNS[:min(len(rec.DNS), dnsMost)] {
		x.DNS = append(x.DNS, drawnAnswer(a))
	}
	if rec.Truncated {
		x.Notes = append(x.Notes, "The record was too long: its DNS answers, or recipients behind the hundredth, are lost.")
	}
	return x
}

func drawnAnswer(a dnscache.Answer) answer {
	text := strings.Join(a.Answer, ", ")
	switch {
	case a.Error != "":
		text = "(" + a.Error + ")"
	case a.LeftOff > 0:
		text = fmt.Sprintf("(%d octets, too many to keep)", a.LeftOff)
	case text == "":
		text = "(nothing)"
	}
	return answer{a.Type, a.Name, text, string(a.Source)}
}

// held answers with what postern held prints.
func (p *Page) held(r *http.Request) (any, error) {
	q := r.URL.Query()
	f := control.Filter{From: strings.TrimSpace(q.Get("from")), Rcpt: strings.TrimSpace(q.Get("rcpt"))}
	if len(f.From) > maxWord || len(f.Rcpt) > maxWord {
		return nil, &problem{http.StatusBadRequest, fmt.Sprintf("at most %d octets", maxWord)}
	}
	leave := p.searches.enter()
	if leave == nil {
		return nil, errBusy
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	list, err := p.opt.Service.Held(ctx, f, heldMost)
	if err != nil {
		return nil, &problem{http.StatusServiceUnavailable, "The store of the state does not answer: " + err.Error()}
	}
	type notice struct {
		ID       string `json:"id"`
		Since    string `json:"since"`
		Last     string `json:"last"`
		Tries    int    `json:"tries"`
		From     string `json:"from"`
		Rcpt     string `json:"rcpt"`
		Who      string `json:"who"`
		Rule     string `json:"rule"`
		Released bool   `json:"released"`
	}
	notices := []notice{}
	for _, n := range list {
		notices = append(notices, notice{n.ID, view.Moment(n.First), view.Moment(n.Last), n.Tries, n.From, n.Rcpt, n.Who, n.Rule, n.Released})
	}
	return map[string]any{"notices": notices, "more": len(list) == heldMost}, nil
}

// config answers with what postern config show prints, of the configuration in force. It has no secrets: a
// secret is in a file of its own, whose name alone is there.
func (p *Page) config(r *http.Request) (any, error) {
	text, err := p.opt.Service.Parts().Config.YAML(r.URL.Query().Get("all") != "")
	if err != nil {
		return nil, &problem{http.StatusInternalServerError, err.Error()}
	}
	cut := len(text) > textMost
	if cut {
		text = text[:textMost]
	}
	return map[string]any{"text": string(text), "cut": cut}, nil
}

// test answers with what postern test-session prints.
func (p *Page) test(r *http.Request) (any, error) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "application/json" {
		return nil, &problem{http.StatusUnsupportedMediaType, "the form is sent as application/json"}
	}
	var s Session
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, &problem{http.StatusRequestEntityTooLarge, fmt.Sprintf("the message is too large for the form: %d octets in all; postern test-session takes more", maxBody)}
		}
		return nil, &problem{http.StatusBadRequest, "the form cannot be read: " + err.Error()}
	}
	leave := p.tests.enter()
	if leave == nil {
		return nil, &problem{http.StatusServiceUnavailable, "Another test runs. Try again in a moment."}
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), testTime)
	defer cancel()
	defer context.AfterFunc(p.closed, cancel)()
	t, err := p.opt.Test(ctx, p.opt.Service.Parts().Config, s)
	var bad BadSession
	switch {
	case errors.As(err, &bad):
		return nil, &problem{http.StatusBadRequest, bad.Text}
	case ctx.Err() != nil:
		return nil, &problem{http.StatusGatewayTimeout, fmt.Sprintf("The session did not end within %s.", testTime)}
	case err != nil:
		return nil, &problem{http.StatusUnprocessableEntity, err.Error()}
	}
	x := drawn(t.Transaction)
	x.Session = t.Said
	if t.NoVerdict != "" {
		x.Notes = append(x.Notes, t.NoVerdict)
	}
	return x, nil
}
