package checks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"postern/checks/delegation"
	"postern/checks/filter"
	"postern/policy"
)

// Service is a policy service of somebody else's, which rules may read as service.NAME.
type Service struct {
	Name    string
	Timeout time.Duration // of one question
	// Ask asks it; the error says in words why there is no answer.
	Ask func(ctx context.Context, request []delegation.Attribute) (delegation.Answer, error)
}

// grace is what a filter has beyond its own time-out, which it keeps to itself and says so.
const grace = time.Second

// service asks a policy service about the recipient in question.
func (d Deps) service(s *Service) Check {
	return Check{
		Name: "service." + s.Name, Doc: "The answer of the policy service " + s.Name + " (policy_services).",
		Stage: policy.Rcpt, result: func(_ *policy.Facts, rcpt *policy.Recipient) *policy.Result { return &rcpt.Service.Of(s.Name).Action },
		forRules: true, waits: true, stands: true, within: s.Timeout + grace, filter: policy.ServiceActions(),
		tried: func(_ *policy.Facts, rcpt *policy.Recipient) bool { return rcpt.Service.Of(s.Name).Tried() },
		begin: func(_ *policy.Facts, msg Message) (settled bool) {
			*msg.Rcpt.Service.Of(s.Name) = policy.Service{Name: s.Name, Action: policy.TempError}
			return false
		},
		Run: func(ctx context.Context, f *policy.Facts, msg Message) {
			a, err := s.Ask(ctx, ServiceRequest(f, msg.Rcpt, msg.Session))
			// NOT: all of the element. Those who run beside look for theirs by the names.
			answer := msg.Rcpt.Service.Of(s.Name)
			if err != nil {
				answer.Reason, answer.Unasked = printable(err.Error(), maxReason), unasked(err)
				return
			}
			answer.Action, answer.Text = policy.Result(a.Action), a.Text
		},
	}
}

// unasked says why a question that came to that error did not go out; empty: it did.
func unasked(err error) policy.Unasked {
	switch {
	case errors.Is(err, filter.ErrAlone):
		return policy.UnaskedAlone
	case errors.Is(err, filter.ErrUnreached):
		return policy.UnaskedUnreached
	case errors.Is(err, errNotKept):
		return policy.UnaskedUnkept
	}
	return ""
}

// ServiceRequest is what a policy service is told: the attributes of Postfix's protocol, those
// that there is nothing to say of empty.
func ServiceRequest(f *policy.Facts, to *policy.Recipient, session Session) []delegation.Attribute {
	or := func(text, otherwise string) string {
		if text == "" {
			return otherwise
		}
		return text
	}
	protocol, encryption, subject := "SMTP", "", ""
	if session.ESMTP {
		protocol = "ESMTP"
	}
	if f.TLS.Version != "" {
		encryption = "TLSv" + f.TLS.Version
	}
	if f.TLS.Peer.Verified && len(f.TLS.Peer.Names) > 0 {
		subject = f.TLS.Peer.Names[0]
	}
	return []delegation.Attribute{
		{Name: "request", Value: "smtpd_access_policy"},
		{Name: "protocol_state", Value: "RCPT"},
		{Name: "protocol_name", Value: protocol},
		{Name: "client_address", Value: f.Client.IP},
		{Name: "client_name", Value: or(f.Client.Name, "unknown")},
		{Name: "client_port", Value: strconv.Itoa(f.Client.Port)},
		{Name: "reverse_client_name", Value: or(f.Iprev.Reverse, "unknown")},
		{Name: "server_address", Value: addressOf(session)},
		{Name: "server_port", Value: fmt.Sprint(session.Server.Port())},
		{Name: "helo_name", Value: f.Helo.Name},
		{Name: "sender", Value: f.Mail.From},
		{Name: "recipient", Value: to.Rcpt.Address},
		{Name: "recipient_count", Value: "0"}, // as Postfix has it before DATA
		{Name: "queue_id"},
		{Name: "instance", Value: f.ID},
		{Name: "size", Value: strconv.FormatInt(f.Mail.Size, 10)},
		{Name: "etrn_domain"},
		{Name: "stress"},
		{Name: "sasl_method"},
		{Name: "sasl_username"},
		{Name: "sasl_sender"},
		{Name: "ccert_subject", Value: subject},
		{Name: "ccert_issuer"},
		{Name: "ccert_fingerprint", Value: f.TLS.Peer.Fingerprint},
		{Name: "ccert_pubkey_fingerprint"},
		{Name: "encryption_protocol", Value: encryption},
		{Name: "encryption_cipher", Value: f.TLS.Cipher},
		{Name: "encryption_keysize", Value: "0"},
		{Name: "policy_context"},
	}
}

// addressOf is the address that the client connected to; empty where it is not known.
func addressOf(s Session) string {
	if !s.Server.IsValid() {
		return ""
	}
	return s.Server.Addr().Unmap().String()
}
