package view

import (
	"testing"
	"time"

	"postern/policy"
	"postern/policy/journal"
)

// How mail came by AMTP is told as it was: nobody connected to hand it over.
func TestPlainAMTP(t *testing.T) {
	at := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	for want, c := range map[string]policy.Client{
		"On 2026-11-30 08:00:00 UTC the computer 192.0.2.54 had announced a message of \u201csender.example\u201d, whose server it is, and Postern fetched it there (AMTP).": {IP: "192.0.2.54", Fetched: "sender.example"},
		"On 2026-11-30 08:00:00 UTC the computer 192.0.2.54 connected, and the user al@rcpt.example logged in with a password (AMTP).":                                       {IP: "192.0.2.54", User: "al@rcpt.example"},
	} {
		v := Transaction{Record: &journal.Record{Time: at, Facts: policy.Facts{Client: c, Helo: policy.HeloName{Name: "x"}}}}
		if got := v.caller(); got != want {
			t.Errorf("got %q\nwant %q", got, want)
		}
	}
}
