package main

import (
	"context"
	"io"
	"net/netip"
	"strings"

	"postern/cmd/postern/page"
	"postern/cmd/postern/service"
	"postern/cmd/postern/trial"
	"postern/configs"
)

// newPage makes the page of a proxy that runs.
func newPage(s *service.Service) service.Page {
	return page.New(page.Options{Service: s, Test: testForm, Log: s.Log})
}

// testForm runs the session of the page's form, as test-session does that of its flags.
func testForm(ctx context.Context, cfg *configs.Config, s page.Session) (*page.Tested, error) {
	ip, err := netip.ParseAddr(s.IP)
	if err != nil {
		return nil, page.BadSession{Text: "The client's address is no IP address."}
	}
	m := trial.Mail{Helo: s.Helo, From: s.From, Recipients: s.Rcpt, Submitter: s.Submitter, Message: trial.CRLF([]byte(s.Message))}
	if len(m.Recipients) == 0 || len(m.Recipients) > maxFormRecipients {
		return nil, page.BadSession{Text: "Name at least one recipient, and no more than 100."}
	}
	if err := trial.Clean(&m); err != nil {
		return nil, page.BadSession{Text: strings.TrimPrefix(err.Error(), "--")}
	}
	if s.Message == "" {
		m.Message = trial.MadeUp(m)
	}
	var known *trial.Known
	switch {
	case len(s.Known) > maxFormKnown:
		return nil, page.BadSession{Text: "What is remembered of the sender is too long."}
	case strings.TrimSpace(s.Known) != "":
		if known, err = trial.ReadKnown("known", s.Known); err != nil {
			return nil, page.BadSession{Text: "What is remembered of the sender cannot be read: " + err.Error()}
		}
	}
	t, err := trial.SessionBy(ctx, cfg, ip, m, known, io.Discard)
	if err != nil {
		return nil, err
	}
	done := &page.Tested{}
	done.Transaction, done.Said = t.View()
	if t.NoVerdict != nil {
		done.NoVerdict = t.NoVerdict.Error()
	}
	return done, nil
}

// maxFormRecipients is how many recipients the form may name.
const maxFormRecipients = 100

// maxFormKnown is how many octets the form may take to say what is remembered.
const maxFormKnown = 1000
