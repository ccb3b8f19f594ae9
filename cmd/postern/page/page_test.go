package page

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/checks/leaktest"
	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

// patience is how long a test waits for what it expects.
const patience = 30 * time.Second

func TestMain(m *testing.M) { leaktest.Main(m) }

// rig is a service that runs, with its page.
type rig struct {
	t    *testing.T
	s    *service.Service
	page *Page
	dir  string // of the configuration
	url  string
}

// quiet is a configuration of a service that asks nobody.
const quiet = `
hostname: mx.example.org
listeners: [{address: "127.0.0.1:0"}]
dns: {servers: ["127.0.0.1:9"]}
journal: {path: journal}
`

// newRig starts a service. test runs the form; nil: no form is sent.
func newRig(t *testing.T, config string, test func(context.Context, *configs.Config, Session) (*Tested, error)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	file := filepath.Join(r.dir, "postern.yaml")
	r.write("postern.yaml", config)
	opt := configs.Options{File: file, NoEnvironment: true}
	cfg, err := configs.Load(opt)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	r.s = service.New(service.Options{Config: opt, Version: "v1.2.3", Log: log, Maildir: filepath.Join(r.dir, "Maildir"), Page: func(s *service.Service) service.Page {
		r.page = New(Options{Service: s, Log: log, Test: test})
		return r.page
	}})
	if err := r.s.Start(cfg, nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.s.Stop(nil)
		http.DefaultClient.CloseIdleConnections()
	})
	if err := r.s.WaitUp(context.Background(), patience); err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + r.s.AdminAt.String()
	return r
}

const open = quiet + `admin: {address: "127.0.0.1:0"}` + "\n"

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// happened has a record counted, and kept in the journal.
func (r *rig) happened(records ...*journal.Record) {
	r.t.Helper()
	f, err := os.OpenFile(filepath.Join(r.dir, "journal", "2026-11-21.jsonl"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Join(r.dir, "journal"), 0o700); err == nil {
			f, err = os.OpenFile(filepath.Join(r.dir, "journal", "2026-11-21.jsonl"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	for _, rec := range records {
		line, err := rec.Line()
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := f.Write(line); err != nil {
			r.t.Fatal(err)
		}
		r.page.Record(rec)
	}
}

// ask sends a request, which change may change, and returns the answer.
func (r *rig) ask(method, path, body string, change func(*http.Request)) (int, http.Header, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// get reads JSON that must be there.
func (r *rig) get(path string, v any) string {
	r.t.Helper()
	code, _, text := r.ask("GET", path, "", nil)
	if code != http.StatusOK {
		r.t.Fatalf("%s: %d %s", path, code, text)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			r.t.Fatalf("%s: %v: %s", path, err, text)
		}
	}
	return text
}

func refusal(i int, domain string) *journal.Record {
	r := journaltest.Delivery(i, domain, "fail")
	r.Disposition, r.Rule, r.RuleStage, r.Stage, r.Reached = journal.DispositionReject, "spf-fail", "mail", "rcpt", "rcpt"
	r.Outcome, r.Reply, r.Backend = journal.OutcomeRefused, "550 5.7.23 SPF validation failed. ("+r.ID+")", ""
	r.Recipients[0] = journal.Recipient{Address: "bob@local.example", Disposition: journal.DispositionReject, Rule: "spf-fail", Reply: r.Reply}
	return r
}

func TestWhatIsThere(t *testing.T) {
	r := newRig(t, open, nil)
	r.happened(journaltest.Delivery(1, "good.example", "pass"), refusal(2, "bad.example"), refusal(3, "bad.example"))

	code, h, text := r.ask("GET", "/", "", nil)
	if code != 200 || !strings.Contains(text, "<title>Postern</title>") || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		t.Errorf("%d %v\n%.200s", code, h, text)
	}
	var o overview
	r.get("/api/overview", &o)
	if !o.Ready || o.Hostname != "mx.example.org" || o.Version != "v1.2.3" || len(o.Backends) != 1 || !o.Backends[0].Up {
		t.Errorf("%+v", o)
	}
	if len(o.Hour.Verdicts) != 2 || o.Hour.Verdicts[0] != (verdictSum{"reject", "spf-fail", false, 2}) {
		t.Errorf("%+v", o.Hour.Verdicts)
	}
	if len(o.RefusedDomains) != 1 || o.RefusedDomains[0] != (counted{"bad.example", 2}) || len(o.RefusedClients) != 1 {
		t.Errorf("%+v %+v", o.RefusedDomains, o.RefusedClients)
	}
	var f found
	r.get("/api/find?from=bad.example&refused=1", &f)
	if len(f.Rows) != 2 || f.More || f.Rows[0].ID != "000000000003" || f.Rows[0].Tone != view.Bad || f.Rows[0].Says != "Refused by policy" {
		t.Errorf("%+v", f)
	}
	r.get("/api/find?limit=1", &f)
	if len(f.Rows) != 1 || !f.More {
		t.Errorf("%+v", f)
	}
	var x explained
	r.get("/api/explain?id="+"550+5.7.23+(000000000002)", &x)
	if x.ID != "000000000002" || x.Plain.Headline != "Refused by policy" || len(x.Plain.Path) != 7 || x.Plain.Path[3].State != "stopped" ||
		x.Plain.Checks[0].Says != "bad.example says that this computer may not send its mail." {
		t.Errorf("%+v", x.Plain)
	}
	r.get("/api/explain?from=good.example", &x)
	if x.ID != "000000000001" {
		t.Error(x.ID)
	}
	var s series
	r.get("/api/history?range=hour", &s)
	if s.Step != 10 || len(s.Times) != fineLength || len(s.Fates) != 6 || len(s.Fates[0].Values) != fineLength {
		t.Errorf("%d steps of %d s", len(s.Times), s.Step)
	}
	if text := r.get("/api/held", nil); !strings.Contains(text, `"notices":[]`) {
		t.Error(text)
	}
	if text := r.get("/api/config", nil); !strings.Contains(text, "mx.example.org") {
		t.Error(text)
	}
	for path, want := range map[string]int{
		"/api/explain?id=zzzzzzzzzzzz": 404, "/api/explain": 400, "/api/history?range=year": 400, "/api/find?limit=501": 400, "/api/find?client=x": 400,
		"/api/find?since=soon": 400, "/api/find?rule=" + strings.Repeat("a", maxWord+1): 400, "/api/nothing": 404, "/page/nothing.js": 404, "/page/": 404, "/page/../go.mod": 404,
	} {
		if code, _, text := r.ask("GET", path, "", nil); code != want {
			t.Errorf("%.40s: %d %s", path, code, text)
		}
	}
}

// It changes nothing: what is not asked for with GET is not answered, but for the form.
func TestMethods(t *testing.T) {
	r := newRig(t, open, nil)
	for _, path := range []string{"/", "/page/page.js", "/api/overview", "/api/find", "/api/explain", "/api/held", "/api/config", "/api/history", "/api/events"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			if code, _, _ := r.ask(method, path, "{}", nil); code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, code)
			}
		}
	}
	if code, _, _ := r.ask("GET", "/api/test-session", "", nil); code != http.StatusMethodNotAllowed {
		t.Errorf("GET of the form: %d", code)
	}
}

// Whoever has made a name of his own lead here, or has a page of his own in the postmaster's browser, gets
// nothing and starts nothing.
func TestOtherSites(t *testing.T) {
	var ran atomic.Bool
	r := newRig(t, open, func(context.Context, *configs.Config, Session) (*Tested, error) {
		ran.Store(true)
		return nil, BadSession{"no"}
	})
	paths := []string{"/", "/page/page.js", "/api/overview", "/api/find", "/api/explain?id=x", "/api/events", "/api/config", "/api/held", "/api/history"}
	for _, path := range paths {
		if code, _, text := r.ask("GET", path, "", func(q *http.Request) { q.Host = "rebound.example:9125" }); code != http.StatusMisdirectedRequest {
			t.Errorf("%s of another host: %d %.80s", path, code, text)
		}
	}
	for _, path := range paths[2:] {
		for _, site := range []string{"cross-site", "same-site"} {
			if code, _, text := r.ask("GET", path, "", func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", site) }); code != http.StatusForbidden {
				t.Errorf("%s from a page of another site: %d %.80s", path, code, text)
			}
		}
	}
	form := `{"ip": "192.0.2.1", "helo": "h", "from": "", "rcpt": ["b@example.org"]}`
	for name, change := range map[string]func(*http.Request){
		"another origin":  func(q *http.Request) { q.Header.Set("Origin", "https://rebound.example") },
		"no origin":       func(q *http.Request) { q.Header.Set("Origin", "null") },
		"another site":    func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "cross-site") },
		"another port":    func(q *http.Request) { q.Header.Set("Origin", "http://127.0.0.1:1") },
		"a form's type":   func(q *http.Request) { q.Header.Set("Content-Type", "text/plain") },
		"no type":         func(q *http.Request) { q.Header.Del("Content-Type") },
		"a form that has": func(q *http.Request) { q.Header.Set("Content-Type", "application/x-www-form-urlencoded") },
	} {
		code, _, text := r.ask("POST", "/api/test-session", form, func(q *http.Request) {
			q.Header.Set("Content-Type", "application/json")
			change(q)
		})
		if code != http.StatusForbidden && code != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if ran.Load() {
		t.Error("a session ran")
	}
	code, _, _ := r.ask("POST", "/api/test-session", form, func(q *http.Request) {
		q.Header.Set("Content-Type", "application/json")
		q.Header.Set("Origin", r.url)
		q.Header.Set("Sec-Fetch-Site", "same-origin")
	})
	if code != http.StatusBadRequest || !ran.Load() {
		t.Errorf("our own form: %d", code)
	}
}

// The token is asked for wherever one is set, and where others could come without one nothing is shown.
func TestToken(t *testing.T) {
	const token = "0123456789abcdef0123"
	r := &rig{t: t, dir: t.TempDir()}
	r.write("token", token+"\n")
	file := filepath.Join(r.dir, "token")
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		r := newRig(t, quiet+`admin: {address: "`+address+`", token_file: `+file+"}\n", nil)
		r.url = "http://127.0.0.1:" + r.s.AdminAt.String()[strings.LastIndexByte(r.s.AdminAt.String(), ':')+1:]
		for name, c := range map[string]struct {
			change func(*http.Request)
			want   int
		}{
			"none":              {func(*http.Request) {}, 401},
			"the right one":     {func(q *http.Request) { q.Header.Set("Authorization", "Bearer "+token) }, 200},
			"as a password":     {func(q *http.Request) { q.SetBasicAuth("whoever", token) }, 200},
			"as a name":         {func(q *http.Request) { q.SetBasicAuth(token, "") }, 401},
			"a wrong one":       {func(q *http.Request) { q.Header.Set("Authorization", "Bearer "+token+"4") }, 401},
			"its beginning":     {func(q *http.Request) { q.Header.Set("Authorization", "Bearer "+token[:19]) }, 401},
			"an empty one":      {func(q *http.Request) { q.Header.Set("Authorization", "Bearer ") }, 401},
			"an empty pair":     {func(q *http.Request) { q.SetBasicAuth("", "") }, 401},
			"of another kind":   {func(q *http.Request) { q.Header.Set("Authorization", "Token "+token) }, 401},
			"with a line end":   {func(q *http.Request) { q.SetBasicAuth("x", token+"\n") }, 401},
			"in the address":    {func(q *http.Request) { q.URL.RawQuery = "token=" + token }, 401},
			"behind a comma":    {func(q *http.Request) { q.Header.Set("Authorization", "Basic x, Bearer "+token) }, 401},
			"of another folder": {func(q *http.Request) { q.SetBasicAuth("x", file) }, 401},
		} {
			for _, path := range []string{"/", "/page/page.js", "/api/overview", "/api/find"} {
				if code, _, text := r.ask("GET", path, "", c.change); code != c.want {
					t.Errorf("%s of %s with %s: %d %.80s", path, address, name, code, text)
				}
			}
		}
		for _, path := range []string{"/healthz", "/metrics", "/readyz"} {
			if code, _, _ := r.ask("GET", path, "", nil); code != 200 {
				t.Errorf("%s: %d: health and metrics want no token", path, code)
			}
		}
	}
	r = newRig(t, quiet+`admin: {address: "0.0.0.0:0"}`+"\n", nil)
	r.url = "http://127.0.0.1:" + r.s.AdminAt.String()[strings.LastIndexByte(r.s.AdminAt.String(), ':')+1:]
	for _, path := range []string{"/", "/api/overview", "/api/events", "/page/page.js"} {
		code, _, text := r.ask("GET", path, "", func(q *http.Request) { q.SetBasicAuth("", "") })
		if code != http.StatusForbidden || !strings.Contains(text, "admin.token_file") {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if code, _, _ := r.ask("GET", "/healthz", "", nil); code != 200 {
		t.Errorf("health: %d", code)
	}
}

// hostile is what a sender may write: markup, script, what turns a text around, control characters, long words.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, "</title></style></textarea>", "javascript:alert(1)", "&lt;b&gt;&#60;",
	"\u202egro.live", "\u2066\u2067\u200f", "a\u200bb\ufeff", "\x1b[2J\x1b]0;x\x07", "\x00\x7f\u0085", "\u2028\u2029", strings.Repeat("W", 10_000), "\xff\xfe",
	"{{.}}${x}", "data: x\n\nevent: overview\ndata: {}",
}

// What strangers wrote is inert: printable, and never anything but a text of JSON.
func TestHostileSenders(t *testing.T) {
	r := newRig(t, open, nil)
	for i, text := range hostile {
		rec := refusal(100+i, "bad.example")
		f := &rec.Facts
		f.Helo.Name, f.Mail.From, f.Mail.Domain, f.Client.Name = text, text+"@"+text, text, text
		f.SPF.Reason, f.SPF.Domain, f.Header.FromDomain, f.Submitter.Address = text, text, text, text
		rec.Reply, rec.BackendReply, rec.Error, rec.Backend = "550 "+text, text, text, text
		rec.Recipients[0].Address, rec.Recipients[0].Reply = text, "550 "+text
		rec.DNS[0].Name, rec.DNS[0].Answer = text, []string{text}
		rec.Tags = []string{"X-Tag: " + text}
		r.happened(rec)
	}
	inert := func(where, answer string) {
		t.Helper()
		if strings.ContainsAny(answer, "<>") {
			t.Errorf("%s has what a browser could take for markup, were it not JSON: %.300s", where, answer)
		}
		var v any
		if err := json.Unmarshal([]byte(answer), &v); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case string:
				if s := configs.Printable(v); s != v {
					t.Errorf("%s has %.100q", where, v)
				}
			case []any:
				for _, x := range v {
					walk(x)
				}
			case map[string]any:
				for k, x := range v {
					walk(k)
					walk(x)
				}
			}
		}
		walk(v)
	}
	inert("the search", r.get("/api/find?limit=500", nil))
	inert("the overview", r.get("/api/overview", nil))
	for i, text := range hostile {
		var x explained
		answer := r.get("/api/explain?id="+refusal(100+i, "x").ID, &x)
		inert("the explanation", answer)
		if want := configs.Printable(inJSON(t, text)); !slices.ContainsFunc(x.Who, func(c cell) bool { return c.Value == want }) {
			t.Errorf("the explanation does not show %.40q: %.300q", want, x.Who)
		}
		for _, s := range x.Plain.Story {
			if len([]rune(s)) > 1500 {
				t.Errorf("a sentence has %d characters: %.80q", len(s), s)
			}
		}
	}
	events := r.listen(nil)
	defer events.close()
	for range 2 {
		event, data := events.next(t)
		inert(event, data)
	}
	for _, word := range hostile {
		if len(word) > maxWord || strings.TrimSpace(word) == "" {
			continue // refused for its length, or nothing is asked
		}
		code, h, text := r.ask("GET", "/api/find?rule="+urlEscaped(word)+"&client="+urlEscaped(word), "", nil)
		if code == 200 || h.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%d %v", code, h)
		}
		inert("what is said of a wrong word", text)
	}
}

// inJSON is what JSON makes of octets that are no UTF-8.
func inJSON(t *testing.T, s string) (back string) {
	t.Helper()
	b, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func urlEscaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		const hex = "0123456789ABCDEF"
		b.WriteString("%" + string(hex[s[i]>>4]) + string(hex[s[i]&15]))
	}
	return b.String()
}

// hearer hears events.
type hearer struct {
	resp *http.Response
	in   *bufio.Scanner
}

func (r *rig) listen(change func(*http.Request)) *hearer {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.url+"/api/events", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // the hearer closes it
	if err != nil {
		r.t.Fatal(err)
	}
	l := &hearer{resp, bufio.NewScanner(resp.Body)}
	l.in.Buffer(nil, 4<<20)
	return l
}

func (l *hearer) close() { l.resp.Body.Close() }

// next is the next event.
func (l *hearer) next(t *testing.T) (event, data string) {
	t.Helper()
	for l.in.Scan() {
		switch line := l.in.Text(); {
		case strings.HasPrefix(line, "event: "):
			event = line[7:]
		case strings.HasPrefix(line, "data: "):
			data = line[6:]
		case line == "" && event != "":
			return event, data
		default:
			t.Fatalf("a line that is no event's: %q", line)
		}
	}
	t.Fatalf("no more events: %v", l.in.Err())
	return "", ""
}

// Who listens hears how things stand and what ends, at once; and more cannot listen than there is room for.
func TestListeners(t *testing.T) {
	r := newRig(t, open, nil)
	r.happened(journaltest.Delivery(1, "good.example", "pass"))
	var all []*hearer
	defer func() {
		for _, l := range all {
			l.close()
		}
	}()
	for range maxListeners {
		l := r.listen(nil)
		all = append(all, l)
		if l.resp.StatusCode != http.StatusOK || l.resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
			t.Fatal(l.resp.Status)
		}
		if event, data := l.next(t); event != "overview" || !strings.Contains(data, `"hostname":"mx.example.org"`) {
			t.Fatal(event, data)
		}
		if event, data := l.next(t); event != "records" || !strings.Contains(data, "000000000001") {
			t.Fatal(event, data)
		}
	}
	if l := r.listen(nil); l.resp.StatusCode != http.StatusServiceUnavailable || l.resp.Header.Get("Retry-After") == "" {
		t.Error(l.resp.Status)
		l.close()
	} else {
		l.close()
	}
	// Others are still answered.
	r.get("/api/overview", nil)

	r.happened(refusal(2, "bad.example"))
	for {
		if event, data := all[0].next(t); event == "records" {
			if !strings.Contains(data, "000000000002") || strings.Contains(data, "000000000001") {
				t.Error(data)
			}
			break
		}
	}
	// One that goes makes room.
	all[1].close()
	for end := time.Now().Add(patience); ; {
		l := r.listen(nil)
		all = append(all, l)
		if l.resp.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no room for another")
		}
		time.Sleep(10 * time.Millisecond)
	}
	// A stop does not wait for those who listen.
	r.page.Close()
	for all[0].in.Scan() {
	}
}

// Searches are few at a time, and the next is told to come again; mail is not asked to wait.
func TestSearchesAreFew(t *testing.T) {
	r := newRig(t, open, nil)
	r.happened(refusal(1, "bad.example"))
	for range maxSearches {
		if leave := r.page.searches.enter(); leave == nil {
			t.Fatal("no room")
		} else {
			defer leave()
		}
	}
	for _, path := range []string{"/api/find", "/api/explain?id=000000000001", "/api/held"} {
		if code, h, text := r.ask("GET", path, "", nil); code != http.StatusServiceUnavailable || h.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	done := make(chan struct{})
	go func() { // while the journal is searched by as many as may
		defer close(done)
		for i := range 10_000 {
			r.page.Record(refusal(i, "bad.example"))
		}
	}()
	<-done
}

// The form has bounds, and what is wrong with it is said.
func TestForm(t *testing.T) {
	var mu sync.Mutex
	var got []Session
	waits := make(chan struct{})
	r := newRig(t, open, func(ctx context.Context, cfg *configs.Config, s Session) (*Tested, error) {
		mu.Lock()
		got = append(got, s)
		mu.Unlock()
		switch s.Helo {
		case "wrong":
			return nil, BadSession{"helo is wrong"}
		case "waits":
			select {
			case <-waits:
			case <-ctx.Done():
			}
			return nil, BadSession{"waited"}
		}
		rec := refusal(7, "bad.example")
		return &Tested{Transaction: view.NewTransaction(rec, nil, "", ""), Said: []string{"C: EHLO <h>"}, NoVerdict: "none"}, nil
	})
	send := func(body string) (int, string) {
		code, _, text := r.ask("POST", "/api/test-session", body, func(q *http.Request) { q.Header.Set("Content-Type", "application/json") })
		return code, text
	}
	for body, want := range map[string]int{
		``: 400, `[]`: 400, `{"ip": 7}`: 400, `{"unknown": ""}`: 400, `{"helo": "wrong"}`: 400,
		`{"message": "` + strings.Repeat("a", maxBody) + `"}`: 413,
	} {
		if code, text := send(body); code != want {
			t.Errorf("%.40s: %d %s", body, code, text)
		}
	}
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		if code, text := send(`{"helo": "waits"}`); code != 400 || !strings.Contains(text, "waited") {
			t.Errorf("%d %s", code, text)
		}
	}()
	for {
		mu.Lock()
		n := len(got)
		mu.Unlock()
		if n == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if code, text := send(`{"helo": "h"}`); code != http.StatusServiceUnavailable {
		t.Errorf("a second test: %d %s", code, text)
	}
	close(waits)
	<-begun
}

// Everything that the page may do is bounded: no script and no style but its own, nothing from elsewhere.
func TestPolicyOfThePage(t *testing.T) {
	r := newRig(t, open, nil)
	for _, path := range []string{"/", "/api/overview", "/page/page.js", "/api/nothing"} {
		_, h, _ := r.ask("GET", path, "", nil)
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: %q lacks %s", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") || strings.Contains(csp, "*") {
			t.Errorf("%s: %q", path, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cross-Origin-Resource-Policy") != "same-origin" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, h)
		}
	}
	_, h, _ := r.ask("GET", "/page/page.js", "", nil)
	if code, _, _ := r.ask("GET", "/page/page.js", "", func(q *http.Request) { q.Header.Set("If-None-Match", h.Get("ETag")) }); code != http.StatusNotModified {
		t.Errorf("what a browser has it gets again: %d", code)
	}
}

// Without a journal nothing can be searched, and that is said.
func TestNoJournal(t *testing.T) {
	r := newRig(t, strings.Replace(open, "journal: {path: journal}", "", 1), nil)
	r.page.Record(refusal(1, "bad.example"))
	for _, path := range []string{"/api/find", "/api/explain?id=000000000001"} {
		if code, _, text := r.ask("GET", path, "", nil); code != 404 || !strings.Contains(text, "journal.path") {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	var o overview
	r.get("/api/overview", &o)
	if len(o.RefusedDomains) != 1 {
		t.Errorf("%+v", o.RefusedDomains)
	}
}

// A page that nobody listens to is as quick for mail as none.
func BenchmarkRecord(b *testing.B) {
	w := newWatch(time.Now())
	rec := refusal(1, "bad.example")
	b.ReportAllocs()
	for b.Loop() {
		w.record(rec, time.Now())
	}
}
