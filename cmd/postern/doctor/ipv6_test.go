package doctor

import (
	"errors"
	"testing"

	"postern/cmd/postern/service"
	"postern/configs"
	"postern/proxy/backend"
)

// An MTA that cannot be told of IPv6 clients is a fault where some may come.
func TestAnMTAThatKnowsNoIPv6(t *testing.T) {
	x := backend.Examination{NoIPv6: errors.New("501 5.5.4 Bad ADDR syntax")}
	for address, want := range map[string]Status{":25": Fault, "[::]:25": Fault, "[2001:db8::25]:25": Fault, "192.0.2.25:25": OK, "0.0.0.0:25": OK} {
		cfg := configs.Default()
		cfg.Listeners = []configs.Listener{{Name: "mx", Address: address}}
		d := &patient{Parts: &service.Parts{Config: cfg}}
		var r Report
		d.clientOfIPv6(r.on("backend.client", "", ""), backend.Examination{})
		d.clientOfIPv6(r.on("backend.client", "", ""), x)
		if found := r.Findings; len(found) != 1 || found[0].Status != want || (want == Fault) != (found[0].Advice != "") {
			t.Errorf("%s: %+v, want %v", address, found, want)
		}
	}
}
