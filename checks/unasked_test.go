package checks

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/delegation"
	"postern/checks/milter"
	"postern/metrics"
	"postern/policy"
)

// A filter that refuses its connections is tried three times, and then left alone. The facts say
// which: that a question did not go out, and whether anybody tried.
// All of them are counted as temperror, and those alone that it was tried to ask have a time.
func TestFiltersThatWereNotAsked(t *testing.T) {
	m := metrics.New()
	synctest.Test(t, func(t *testing.T) {
		dialled := 0
		refused := func(context.Context, string, string) (net.Conn, error) {
			dialled++
			time.Sleep(time.Second)
			return nil, syscall.ECONNREFUSED
		}
		service := delegation.New(delegation.Options{Name: "grey", Timeout: 5 * time.Second, Dial: refused})
		filter := milter.New(milter.Options{Name: "scan", Timeout: 5 * time.Second, Dial: refused})
		set := NewSet(Deps{
			Resolver: records{}.zone(t), Metrics: m,
			Services: []Service{{Name: "grey", Timeout: 5 * time.Second, Ask: service.Ask}},
			Milters:  []Milter{{Name: "scan", Timeout: 5 * time.Second, Size: 100, Ask: filter.Ask}},
		}, func(name string) bool {
			return strings.HasPrefix(name, "milter.") || strings.HasPrefix(name, "service.")
		})
		f := transaction("192.0.2.1", "client.example", "alice@client.example")
		for i := range 6 {
			want := policy.UnaskedUnreached
			if i >= 3 {
				want = policy.UnaskedAlone
			}
			set.Run(t.Context(), policy.Rcpt, f, Message{}, nil)
			set.Run(t.Context(), policy.Message, f, held("Subject: x\r\n\r\n"), nil)
			if s, m := f.Service.Of("grey"), f.Milter.Of("scan"); s.Unasked != want || m.Unasked != want || s.Action != policy.TempError || m.Action != policy.TempError {
				t.Errorf("%d: %+v %+v, want %s", i, s, m, want)
			}
		}
		if dialled != 6 {
			t.Errorf("%d connections were tried", dialled)
		}
		set.Run(t.Context(), policy.Message, f, Message{}, nil)
		if m := f.Milter.Of("scan"); m.Unasked != policy.UnaskedUnkept || m.Action != policy.TempError {
			t.Errorf("not kept: %+v", m)
		}
		set.Run(t.Context(), policy.Message, f, held(strings.Repeat("x", 200)), nil)
		if m := f.Milter.Of("scan"); m.Unasked != "" || m.Action != policy.Skipped {
			t.Errorf("too large: %+v", m)
		}
	})
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`postern_filter_results_total{filter="service.grey",result="temperror"} 6`,
		`postern_filter_results_total{filter="milter.scan",result="temperror"} 7`,
		`postern_filter_results_total{filter="milter.scan",result="skipped"} 1`,
		`postern_filter_duration_seconds_count{filter="service.grey"} 3`,
		`postern_filter_duration_seconds_sum{filter="service.grey"} 3`,
		`postern_filter_duration_seconds_count{filter="milter.scan"} 3`,
		`postern_filter_duration_seconds_sum{filter="milter.scan"} 3`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("the metrics do not say %s", want)
		}
	}
}

// A question that went out was asked, though no answer came.
func TestFiltersThatWereAskedAndAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there net.Conn
		service := delegation.New(delegation.Options{Name: "grey", Timeout: 5 * time.Second, Dial: func(context.Context, string, string) (net.Conn, error) {
			var here net.Conn
			here, there = net.Pipe()
			go func() {
				for b := make([]byte, 512); ; {
					if _, err := there.Read(b); err != nil {
						return
					}
				}
			}()
			return here, nil
		}})
		defer service.Close()
		set := NewSet(Deps{Services: []Service{{Name: "grey", Timeout: 5 * time.Second, Ask: service.Ask}}}, func(name string) bool { return name == "service.grey" })
		f := transaction("192.0.2.1", "client.example", "alice@client.example")
		set.Run(t.Context(), policy.Rcpt, f, Message{}, nil)
		if s := f.Service.Of("grey"); s.Unasked != "" || s.Action != policy.TempError || s.Reason != "no answer within 5s" {
			t.Errorf("%+v", s)
		}
	})
}
