package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/checks/dnstest"
	"postern/cmd/postern/service"
	"postern/configs"
)

// The form of the page runs a session by the rules in force, tells it as explain does, and leaves
// nothing behind.
func TestFormOfThePage(t *testing.T) {
	zone, err := dnstest.Parse("strict.example. TXT \"v=spf1 -all\"\nstrict.example. A 192.0.2.1\n")
	if err != nil {
		t.Fatal(err)
	}
	dns, closeDNS, err := zone.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeDNS()
	cfg := configs.Default()
	cfg.Hostname, cfg.DNS.Servers, cfg.DNS.Timeout = "mx.example", []string{dns}, cfg.DNS.Total
	cfg.Listeners = []configs.Listener{{Name: "mx", Address: "127.0.0.1:0", TLS: "implicit", ProxyProtocol: []string{"127.0.0.1"}}}
	cfg.Admin.Address = "127.0.0.1:0"
	cfg.Journal.Path = t.TempDir()
	cfg.Policy.Rules = []configs.Rule{{Name: "regular", When: "past.delivered >= 12", Do: "pass"}}
	s := service.New(service.Options{Log: slog.New(slog.DiscardHandler), Maildir: filepath.Join(t.TempDir(), "Maildir"), Page: newPage})
	if err := s.Start(cfg, nil, nil); err != nil {
		t.Fatal(err)
	}
	defer s.Stop(nil)
	defer http.DefaultClient.CloseIdleConnections()
	if err := s.WaitUp(context.Background(), time.Minute); err != nil {
		t.Fatal(err)
	}
	send := func(form string) (int, string) {
		resp, err := http.Post("http://"+s.AdminAt.String()+"/api/test-session", "application/json", strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for form, want := range map[string]string{
		`{"ip": "x", "helo": "h.example", "rcpt": ["b@mx.example"]}`:                                                       "no IP address",
		`{"ip": "192.0.2.7", "helo": "h.example", "rcpt": []}`:                                                             "at least one recipient",
		`{"ip": "192.0.2.7", "helo": "", "rcpt": ["b@mx.example"]}`:                                                        "helo is empty",
		`{"ip": "192.0.2.7", "helo": "h\r\nRCPT", "rcpt": ["b@mx.example"]}`:                                               "cannot stand on a command line",
		`{"ip": "192.0.2.7", "helo": "h.example", "rcpt": ["b@mx.example\r\nDATA"]}`:                                       "cannot stand on a command line",
		`{"ip": "192.0.2.7", "helo": "h.example", "rcpt": ["b@mx.example"], "known": "past: {deliverd: 1}"}`:               "deliverd",
		`{"ip": "192.0.2.7", "helo": "h.example", "rcpt": ["b@mx.example"], "known": "` + strings.Repeat("x", 2000) + `"}`: "too long",
		`{"ip": "192.0.2.7", "helo": "h.example", "from": "a", "rcpt": ["b@mx.example"]}`:                                  "no verdict",
	} {
		if code, text := send(form); code != http.StatusBadRequest && !(code == http.StatusOK && want == "no verdict") || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", form, code, text)
		}
	}
	code, text := send(`{"ip": "192.0.2.7", "helo": "h.example", "from": "boss@strict.example", "rcpt": ["b@mx.example"], "known": "past: {delivered: 12}"}`)
	if code != http.StatusOK || !strings.Contains(text, "Test: it would be let in") || !strings.Contains(text, "regular") {
		t.Errorf("what is remembered counts for nothing: %d %s", code, text)
	}
	for from, want := range map[string]string{"boss@strict.example": "Test: refused by policy", "<>": "Test: it would be let in"} {
		code, text := send(`{"ip": "192.0.2.7", "helo": "h.example", "from": "` + from + `", "rcpt": ["b@mx.example"], "message": ""}`)
		var x struct {
			Plain struct {
				Headline string
				Because  []string
			}
			Session []string
		}
		if err := json.Unmarshal([]byte(text), &x); err != nil || code != http.StatusOK {
			t.Fatalf("%s: %d %v: %s", from, code, err, text)
		}
		if !strings.HasPrefix(x.Plain.Headline, want) || len(x.Session) < 5 {
			t.Errorf("%s: %+v", from, x)
		}
		if from != "<>" && (len(x.Plain.Because) == 0 || !strings.Contains(x.Plain.Because[0], "strict.example says that this computer may not send its mail.")) {
			t.Errorf("%s: because %q", from, x.Plain.Because)
		}
	}
	if ln := s.Parts().Config.Listeners[0]; ln.TLS != "implicit" || len(ln.ProxyProtocol) != 1 || s.Parts().Config.Journal.Path == "" {
		t.Errorf("the configuration in force has changed: %+v", ln)
	}
}
