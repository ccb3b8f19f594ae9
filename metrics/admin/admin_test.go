package admin

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"postern/metrics"
)

func TestPages(t *testing.T) {
	var reasons []string
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" of the page: "+r.URL.Path)
	})
	s := New(Options{Metrics: metrics.New().Handler(), Ready: func() []string { return reasons }, Page: page})
	get := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(method, "http://localhost"+path, nil))
		return w.Code, w.Body.String()
	}
	expect := func(method, path string, status int, texts ...string) {
		t.Helper()
		code, body := get(method, path)
		if code != status {
			t.Errorf("%s %s: %d, not %d", method, path, code, status)
		}
		for _, text := range texts {
			if !strings.Contains(body, text) {
				t.Errorf("%s %s has no %q:\n%s", method, path, text, body)
			}
		}
	}
	expect("GET", "/healthz", 200, "ok\n")
	expect("GET", "/readyz", 200, "ready\n")
	expect("GET", "/", 200, "GET of the page: /")
	expect("GET", "/page/page.js", 200, "GET of the page: /page/page.js")
	expect("POST", "/api/test-session", 200, "POST of the page: /api/test-session") // whether it may is the page's to say
	expect("GET", "/metrics", 200, "postern_sessions_active 0", "go_goroutines")
	expect("GET", "/nothing", 404)
	expect("GET", "/debug/pprof/", 404)
	expect("POST", "/healthz", 405)

	reasons = []string{"no backend is up", "draining"}
	expect("GET", "/healthz", 200, "ok\n") // a restart would not help
	expect("GET", "/readyz", 503, "not ready: no backend is up\nnot ready: draining\n")

	s = New(Options{Metrics: metrics.New().Handler(), Ready: func() []string { return reasons }})
	expect("GET", "/", 404)
	expect("GET", "/api/find", 404)
}

// Who asks by a name that somebody else made lead here gets nothing, on any page.
func TestHosts(t *testing.T) {
	known := []string{"mx.example.org", "Metrics.example.org.", ":9125", ""}
	s := New(Options{
		Metrics: metrics.New().Handler(), Ready: func() []string { return nil }, Hosts: func() []string { return known },
		Page: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	})
	status := func(path, host string) int {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if answered := w.Code == http.StatusOK; !answered && !strings.Contains(w.Body.String(), "admin.hosts") {
			t.Errorf("%s of %q: %s", path, host, w.Body.String())
		}
		return w.Code
	}
	for _, path := range []string{"/", "/metrics", "/healthz", "/readyz"} {
		for _, host := range []string{
			"", "localhost", "localhost:9125", "LOCALHOST.", "x.localhost:1", "127.0.0.1", "127.0.0.1:9125", "10.0.0.5:9125", "[::1]:9125", "[::1]", "::1",
			"[fe80::1%eth0]:9125", "mx.example.org:9125", "MX.Example.ORG", "mx.example.org.:80", "metrics.example.org",
		} {
			if got := status(path, host); got != http.StatusOK {
				t.Errorf("%s of %q: %d", path, host, got)
			}
		}
		for _, host := range []string{
			"rebound.example", "rebound.example:9125", "mx.example.org.rebound.example", "xmx.example.org", "example.org", "notlocalhost", "localhost.rebound.example",
			"127.0.0.1.rebound.example:9125", "127.1", "0x7f000001", "2130706433", "mx.example.org@rebound.example", "a:b:c", ":9125x", "<script>", "\u202ex", "[mx.example.org]x",
		} {
			if got := status(path, host); got != http.StatusMisdirectedRequest {
				t.Errorf("%s of %q: %d", path, host, got)
			}
		}
	}
	known = append(known, "rebound.example") // by a reload
	if got := status("/metrics", "rebound.example:9125"); got != http.StatusOK {
		t.Errorf("a name that is known now: %d", got)
	}
}

// A client that sends its header without end, or too large, gets no further.
func TestHeaderIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Metrics: http.NotFoundHandler(), Ready: func() []string { return nil }, Log: slog.New(slog.DiscardHandler)})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()

	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 32<<10)+"\r\n\r\n")
	answer, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
		t.Errorf("answered %.60q", answer)
	}

	resp, err := http.Get("http://" + ln.Addr().String() + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("a shutdown is no error: %v", err)
	}
}
