package checks

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/delegation"
	"postern/policy"
)

func TestServices(t *testing.T) {
	var told map[string]string
	set := NewSet(Deps{Services: []Service{
		{Name: "grey", Timeout: time.Second, Ask: func(_ context.Context, request []delegation.Attribute) (delegation.Answer, error) {
			told = map[string]string{}
			for _, a := range request {
				told[a.Name] = a.Value
			}
			return delegation.Answer{Action: "defer_if_permit", Text: "Greylisted"}, nil
		}},
		{Name: "gone", Timeout: time.Second, Ask: func(context.Context, []delegation.Attribute) (delegation.Answer, error) {
			return delegation.Answer{}, errors.New("no connection")
		}},
		{Name: "broken", Timeout: time.Second, Ask: func(context.Context, []delegation.Attribute) (delegation.Answer, error) { panic("made up") }},
		{Name: "unwanted", Ask: func(context.Context, []delegation.Attribute) (delegation.Answer, error) {
			t.Error("asked for nobody")
			return delegation.Answer{}, nil
		}},
	}, Uses: Journal}, func(name string) bool { return name != "service.unwanted" && strings.HasPrefix(name, "service.") })
	f := transaction("192.0.2.1", "client.example", "alice@client.example")
	f.Rcpt.Address, f.TLS.Version, f.Mail.Size = "bob@example.org", "1.3", 12
	ran := set.Run(t.Context(), policy.Rcpt, f, Message{Session: Session{ESMTP: true, Server: netip.MustParseAddrPort("198.51.100.25:25")}}, nil)
	want := policy.Services{
		{Name: "grey", Action: "defer_if_permit", Text: "Greylisted"},
		{Name: "gone", Action: policy.TempError, Reason: "no connection"},
		{Name: "broken", Action: policy.TempError},
	}
	for _, w := range want {
		if got := *f.Service.Of(w.Name); got != w {
			t.Errorf("%+v, want %+v", got, w)
		}
	}
	if len(f.Service) != 3 || len(ran) != 3 {
		t.Errorf("%d answers, %+v ran", len(f.Service), ran)
	}
	for name, value := range map[string]string{
		"request": "smtpd_access_policy", "protocol_state": "RCPT", "protocol_name": "ESMTP", "client_address": "192.0.2.1", "client_name": "unknown",
		"helo_name": "client.example", "sender": "alice@client.example", "recipient": "bob@example.org", "size": "12", "encryption_protocol": "TLSv1.3",
		"server_address": "198.51.100.25", "server_port": "25", "instance": f.ID, "sasl_username": "",
	} {
		if got, said := told[name]; got != value || !said {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	if f.Reason("service.gone") != "no connection" || f.Reason("service.grey") != "Greylisted" {
		t.Error("the reasons are not told")
	}
}

// A service has its own time, which is not that of the checks, and those beside it have theirs.
func TestServicesHaveTheirOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(ctx context.Context, _ []delegation.Attribute) (delegation.Answer, error) {
			select {
			case <-ctx.Done():
				return delegation.Answer{}, ctx.Err()
			case <-time.After(25 * time.Second):
				return delegation.Answer{Action: "ok"}, nil
			}
		}
		set := NewSet(Deps{Services: []Service{{Name: "slow", Timeout: 30 * time.Second, Ask: slow}, {Name: "late", Timeout: 5 * time.Second, Ask: slow}}},
			func(name string) bool { return strings.HasPrefix(name, "service.") })
		f := transaction("192.0.2.1", "client.example", "alice@client.example")
		start := time.Now()
		set.Run(t.Context(), policy.Rcpt, f, Message{}, nil)
		if slow, late := f.Service.Of("slow").Action, f.Service.Of("late").Action; slow != "ok" || late != policy.TempError {
			t.Errorf("slow %s, late %s", slow, late)
		}
		if took := time.Since(start); took != 25*time.Second {
			t.Errorf("after %s: they did not run side by side", took)
		}
	})
}
