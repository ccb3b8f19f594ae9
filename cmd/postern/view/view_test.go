package view

import (
	"strings"
	"testing"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

// TestViewTellsHowItIsKnown: each kind of transaction, by the lines that matter in it.
func TestViewTellsHowItIsKnown(t *testing.T) {
	chain := rulesOf(t,
		configs.Rule{Name: "cheap", When: `client.port > 50000`, Do: "tag", Header: "X-Cheap: yes"},
		configs.Rule{Name: "fail", When: `spf.result == "fail"`, Do: "reject"},
	)
	for name, c := range map[string]struct {
		change    func(*journal.Record)
		recipient string
		want      []string
		not       []string
	}{
		"delivered": {
			change: func(r *journal.Record) { r.Backend, r.BackendReply = "mta 127.0.0.1:10025", "250 2.0.0 Ok: queued" },
			want: []string{
				"Transaction 000000000001 of 2026-11-21 10:00:01 UTC: delivered to mta 127.0.0.1:10025\n",
				"  client       192.0.2.1 port 40000  the other end of the connection\n",
				"  its name     mail.a.example        the reverse name, which leads back to the address\n",
				"  MAIL FROM    ann@a.example         the client's word, SPF is pass\n",
				"  responsible  ann@a.example         the header's word (RFC 4407), checked is pass\n",
				"  from mta 127.0.0.1:10025  250 2.0.0 Ok: queued\n",
				"  pass: no rule matched\n",
				"  reject if spf.result had been \"fail\", not \"pass\"\n",
			},
			not: []string{"The policy has changed"},
		},
		"behind a load balancer, with a certificate": {
			change: func(r *journal.Record) {
				r.Facts.Client.Proxy, r.Facts.Client.Name, r.Facts.Iprev = "192.0.2.10", "", policy.Iprev{Result: policy.Fail, Reverse: "liar.example"}
				r.Facts.TLS.Peer = policy.TLSPeer{Verified: true, Names: []string{"mx.partner.example"}, Fingerprint: "00ff"}
				r.Facts.DKIM = policy.DKIM{Result: policy.Pass, Domains: []string{"a.example"}, Signatures: []policy.DKIMSignature{{Domain: "a.example", Selector: "s1", Result: policy.Pass}}}
				r.Facts.DMARC = policy.DMARC{Result: policy.Pass, Policy: "reject", Domain: "a.example"}
				r.Checks = append(r.Checks, journal.Check{Name: "dkim", Result: policy.Pass}, journal.Check{Name: "dmarc", Result: policy.Pass})
			},
			want: []string{
				"as the load balancer 192.0.2.10 told us (PROXY)\n",
				"iprev is fail, its reverse name would be liar.example\n",
				"mx.partner.example sha256:00ff  in a certificate of a root that we trust\n",
				"the header's word, DMARC is pass\n",
				"DKIM signatures that hold\n",
				"a.example/s1 pass\n",
				"p=reject of a.example\n",
			},
		},
		"with filters": {
			change: func(r *journal.Record) {
				r.Facts.Service = policy.Services{{Name: "grey", Action: "defer_if_permit", Text: "Greylisted"}, {Name: "other", Action: policy.TempError, Reason: "no answer within 5s"},
					{Name: "gone", Action: policy.TempError, Reason: "it is not asked for a while", Unasked: policy.UnaskedAlone}, {Name: "late", Action: policy.Skipped}}
				r.Facts.Milter = policy.Milters{{Name: "rspamd", Action: "reject", Reply: "Spam", Told: "CONNECT, HELO", Fields: []string{"X-Spam: Yes,\n\tscore=7", "X-Last: z"}},
					{Name: "far", Action: policy.TempError, Reason: "no connection", Unasked: policy.UnaskedUnreached}}
			},
			want: []string{
				"\nFilters\n  service.grey   told   client_address=192.0.2.1 client_name=mail.a.example ",
				"\n  service.late   said   skipped\n", " helo_name=", " sender=ann@a.example recipient=", "\n                 said   defer_if_permit: Greylisted\n",
				"\n                 said   temperror\n                 note   no answer within 5s\n",
				"\n  service.gone   told   nothing, it was not asked\n                 said   temperror\n                 note   it is not asked for a while\n",
				"\n  milter.far     told   nothing, it was not asked\n                 said   temperror\n                 note   no connection\n",
				"\n  milter.rspamd  told   CONNECT, HELO\n                 said   reject: Spam\n                 added  X-Spam: Yes, score=7\n                 added  X-Last: z\n",
			},
			not: []string{"protocol_name", "server_address"},
		},
		"an author who can be read in two ways": {
			not: []string{"Filters"},
			change: func(r *journal.Record) {
				r.Facts.Header.Author, r.Facts.Header.FromCount, r.Facts.Header.FromDomain = policy.AuthorAmbiguous, 2, ""
			},
			want: []string{"  From         can be read in two ways, in 2 From fields  the header's word"},
		},
		"several authors": {
			change: func(r *journal.Record) {
				r.Facts.Header.Author, r.Facts.Header.FromCount, r.Facts.Header.FromDomain = policy.AuthorSeveral, 1, ""
			},
			want: []string{"  From         several authors       the header's word"},
		},
		"nobody named as author": {
			change: func(r *journal.Record) {
				r.Facts.Header.Author, r.Facts.Header.FromCount, r.Facts.Header.FromDomain = policy.AuthorNone, 1, ""
			},
			want: []string{"  From         names nobody          the header's word"},
		},
		"refused on HELO, by another policy": {
			change: func(r *journal.Record) {
				*r = journal.Record{ID: r.ID, Time: r.Time, Facts: r.Facts, Reached: "helo", Stage: "helo", RuleStage: "helo", Rule: "no-dyn", Disposition: "reject", Reply: "554 5.7.1 No", Outcome: journal.OutcomeRefused}
			},
			want: []string{
				": refused by policy\n", "  reject by rule no-dyn at helo\n",
				"(unknown then, ", "By the rules of now: undetermined, for want of spf.result\n",
				"Checks\n  none ran\n", "DNS\n  nothing was asked\n",
				"  unknown      fail", "spf.result = not measured\n",
			},
			not: []string{"MAIL FROM  ", "It would have been otherwise"},
		},
		"deferred at RCPT": {
			change: func(r *journal.Record) {
				r.Facts.SPF.Result, r.Reached, r.Stage, r.Disposition, r.Rule, r.Outcome = policy.TempError, "rcpt", "rcpt", "defer", "trouble", journal.OutcomeRefused
			},
			want: []string{": deferred by policy\n"},
			not:  []string{"refused by"},
		},
		"MAIL refused for its SIZE": {
			change: func(r *journal.Record) {
				r.Reached, r.Disposition, r.Undecided, r.Recipients, r.Checks = "helo", "pass", true, nil, nil
				r.Facts.SPF, r.Facts.PRA, r.Outcome, r.Reply = policy.SPF{}, policy.PRA{}, journal.OutcomeRefused, "552 5.3.4 Message too large"
			},
			want: []string{": refused by a limit, or for its syntax\n", "  MAIL FROM  ann@a.example         the client's word\n",
				"  It was refused for its form or by a limit, not by a rule: \u201c552 5.3.4 Message too large\u201d. The limit is limits.message_size, or what the mail server behind takes"},
			not: []string{"RCPT TO", "responsible"},
		},
		"observed, with a candidate": {
			change: func(r *journal.Record) {
				r.Facts.SPF.Result, r.Disposition, r.Rule, r.Observed = policy.Fail, "reject", "fail", true
				r.Candidate = &journal.Candidate{Policy: "0123456789ab", Disposition: "undetermined", Missing: []string{"dkim.result"}}
				r.Tags = []string{"X-Cheap: yes"}
				r.Truncated = true
			},
			want: []string{
				"  reject by rule fail at rcpt (", "the mode was observe: it was not carried out\n", "  added X-Cheap: yes\n",
				"the candidate policy (0123456789ab) said undetermined, for want of dkim.result\n", "the record was too long",
			},
		},
		"the client went away": {
			change: func(r *journal.Record) {
				r.Outcome, r.Undecided, r.Reached, r.Error = journal.OutcomeAbandoned, true, "rcpt", "backend: read: EOF"
			},
			want: []string{": given up by the client\n", "  pass until the transaction ended, before its verdict\n", "no verdict\n", "  trouble ", "backend: read: EOF\n"},
			not:  []string{"responsible"},
		},
		"another recipient": {
			change: func(r *journal.Record) {
				r.Recipients = append(r.Recipients, journal.Recipient{Address: "eve@other.example", Disposition: "reject", Rule: "no-eve", Reply: "550 5.7.1 No"})
			},
			recipient: "eve@other.example",
			want:      []string{"eve@other.example  550 5.7.1 No  reject by no-eve\n", "Rules for eve@other.example, first"},
		},
		"a stranger's text": {
			change: func(r *journal.Record) {
				r.DNS[0].Answer = []string{"v=spf1 \x1b[2J\u202e\x9b\u009b\x7f -all\nReplies"}
				r.BackendReply, r.Backend = "250-a\n250 b", "mta x"
			},
			want: []string{`v=spf1 \x1b[2J\u202e\x9b\u009b\x7f -all / Replies`, "250-a / 250 b\n"},
			not:  []string{"\x1b", "\u202e", "\x9b\xc2", "\u009b", "\x7f"},
		},
	} {
		r := journaltest.Delivery(1, "a.example", policy.Pass)
		r.Policy = chain.Fingerprint()
		c.change(r)
		var b strings.Builder
		if err := NewTransaction(r, chain, "policy.yaml", c.recipient).WriteText(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, b.String())
			}
		}
		for _, not := range c.not {
			if strings.Contains(b.String(), not) {
				t.Errorf("%s: %q in\n%s", name, not, b.String())
			}
		}
	}
}

func TestOutcomesHaveWords(t *testing.T) {
	for _, o := range []journal.Outcome{
		journal.OutcomeDelivered, journal.OutcomeRefused, journal.OutcomeBackendRefused, journal.OutcomeFailed, journal.OutcomeAbandoned, journal.OutcomeUnknown,
	} {
		if got := outcomeWords(&journal.Record{Outcome: o, Backend: "mta", Disposition: "pass"}); got == string(o) {
			t.Errorf("%s has no words", o)
		}
	}
}

func rulesOf(t *testing.T, rules ...configs.Rule) *policy.Chain {
	t.Helper()
	chain, err := policy.Compile(configs.Policy{Rules: rules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}
