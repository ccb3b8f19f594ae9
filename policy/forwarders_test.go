package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

func TestForwardersThatAreTooMany(t *testing.T) {
	now := func() time.Time { return time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC) }
	at := configs.Position{File: "forwarders.txt", Line: 7, Column: 1}
	for entry, want := range map[string]string{
		"192.0.2.7":                        "",
		"192.0.0.0/22":                     "",
		"192.0.0.0/21":                     "192.0.0.0/21 is 2048 addresses: ",
		"40.107.0.0/16 # the provider":     "40.107.0.0/16 is 65536 addresses: ",
		"40.107.0.0/16 # until 2026-11-27": "", // it no longer counts
		"2001:db8::/48":                    "",
		"2001:db8::/32":                    "2001:db8::/32 is a /32: ",
		"::ffff:192.0.0.0/112":             "::ffff:192.0.0.0/112 is 65536 addresses: ",
		"provider.example":                 "",
	} {
		lists, err := NewLists([]configs.List{{Name: TrustedForwarders, Entries: []string{entry}, Position: at}}, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := Compile(BuiltIn(), lists)
		if err != nil {
			t.Fatal(err)
		}
		warnings := slices.DeleteFunc(chain.Warnings(), func(f configs.Fault) bool { return !strings.HasPrefix(f.Text, "list ") })
		switch {
		case want == "":
			if len(warnings) != 0 {
				t.Errorf("%s: %v", entry, warnings)
			}
		case len(warnings) != 1 || !strings.HasPrefix(warnings[0].Text, "list trusted_forwarders: "+want) || warnings[0].Position != at:
			t.Errorf("%s: %v", entry, warnings)
		}
	}
}
