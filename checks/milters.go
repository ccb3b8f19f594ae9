package checks

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"postern/checks/milter"
	"postern/policy"
	"postern/proxy/smtp"
)

// Milter is a milter of somebody else's, which rules may read as milter.NAME.
type Milter struct {
	Name    string
	Timeout time.Duration // of the whole conversation
	Size    int64         // of the largest message that it gets
	// AddFields has it asked for its fields, though no rule read it.
	AddFields bool
	// Ask has a message judged; the error says in words why there is no verdict.
	Ask func(ctx context.Context, m *milter.Message) (milter.Verdict, error)
}

// milter has the message judged.
func (d Deps) milter(m *Milter) Check {
	c := Check{
		Name: "milter." + m.Name, Doc: "The verdict of the milter " + m.Name + " (milters).",
		Stage: policy.Message, result: func(f *policy.Facts, _ *policy.Recipient) *policy.Result { return &f.Milter.Of(m.Name).Action },
		forRules: true, waits: true, stands: true, within: m.Timeout + grace, filter: policy.MilterActions(),
		tried: func(f *policy.Facts, _ *policy.Recipient) bool { return f.Milter.Of(m.Name).Tried() },
		begin: func(f *policy.Facts, msg Message) (settled bool) {
			v := policy.Milter{Name: m.Name, Action: policy.TempError}
			switch {
			case msg.Whole == nil:
				v.Reason, v.Unasked, settled = errNotKept.Error(), policy.UnaskedUnkept, true
			case msg.Size > m.Size:
				v.Action, v.Reason, settled = policy.Skipped, fmt.Sprintf("the message has %d octets, and %d are its most", msg.Size, m.Size), true
			}
			*f.Milter.Of(m.Name) = v
			return settled
		},
		Run: func(ctx context.Context, f *policy.Facts, msg Message) {
			v, err := d.judgedBy(ctx, m, f, msg)
			// NOT: all of the element, as with services.
			answer := f.Milter.Of(m.Name)
			answer.Told = v.Told
			if err != nil {
				answer.Reason, answer.Unasked = printable(err.Error(), maxReason), unasked(err)
				return
			}
			answer.Reply, answer.Reason = withoutCodes(v.Reply), v.Reason
			answer.Fields, answer.Reason = fieldsOf(v.Fields, answer.Reason)
			answer.Action = policy.Result(v.Action)
		},
	}
	if m.AddFields {
		c.Uses = AddedFields
	}
	return c
}

// judgedBy tells a milter of the message.
func (d Deps) judgedBy(ctx context.Context, m *Milter, f *policy.Facts, msg Message) (v milter.Verdict, err error) {
	split, err := splitMessage(msg)
	if err != nil {
		return v, fmt.Errorf("%w: %w", errNotKept, err)
	}
	s := &msg.Session
	message := &milter.Message{
		Hostname: d.Hostname, Daemon: f.Listener, Server: addressOf(*s), ID: f.ID, Port: uint16(f.Client.Port),
		Name: f.Client.Name, Reverse: f.Iprev.Reverse, Helo: f.Helo.Name, Cipher: f.TLS.Cipher,
		From: f.Mail.From, FromArgs: s.FromArgs, Recipients: s.Recipients, Size: msg.Size,
	}
	if a := f.Client.Addr(); a.IsValid() {
		message.Client = net.IP(a.AsSlice())
	}
	if f.TLS.Version != "" {
		message.TLSVersion = "TLSv" + f.TLS.Version
	}
	if f.TLS.Peer.Verified && len(f.TLS.Peer.Names) > 0 {
		message.CertSubject = f.TLS.Peer.Names[0]
	}
	for _, field := range msg.Header {
		message.Header = append(message.Header, milterField(field))
	}
	message.Body = split.Body
	return m.Ask(ctx, message)
}

// milterField is a field as milters are told of it.
func milterField(f smtp.Field) milter.Field {
	return milter.Field{Name: strings.TrimRight(f.Name, " \t"), Value: strings.ReplaceAll(strings.TrimSuffix(f.Value, "\r\n"), "\r\n", "\n")}
}

// withoutCodes is the text of a reply.
func withoutCodes(reply string) string {
	if len(reply) < 3 {
		return ""
	}
	text := strings.TrimSpace(reply[3:])
	if status, rest, _ := strings.Cut(text, " "); strings.Count(status, ".") == 2 && strings.Trim(status, "0123456789.") == "" {
		text = strings.TrimSpace(rest)
	}
	return text
}

// fieldsOf are the fields that a milter adds, less those that are the message's or ours; the
// reason tells of these.
func fieldsOf(all []milter.Field, reason string) (kept []string, why string) {
	var refused []string
	for _, f := range all {
		if policy.IsReserved(f.Name) && !strings.EqualFold(f.Name, "Authentication-Results") {
			refused = append(refused, f.Name)
			continue
		}
		kept = append(kept, f.Name+": "+f.Value)
	}
	if refused != nil {
		reason = strings.TrimPrefix(reason+"; not added, since it is the message's or ours: "+strings.Join(refused, ", "), "; ")
	}
	return kept, printable(reason, maxReason)
}

// AppendFields appends the fields that milters added, in their order, with CRLF.
func AppendFields(b []byte, milters policy.Milters) []byte {
	for i := range milters {
		for _, f := range milters[i].Fields {
			b = append(append(b, strings.ReplaceAll(f, "\n", "\r\n")...), "\r\n"...)
		}
	}
	return b
}

// AddsFields says whether a milter is asked for fields on top, so that the message has to be
// held for it.
func (s *Set) AddsFields() bool { return s.addedSize > 0 }

// AddedSize is how many octets milters may add on top.
func (s *Set) AddedSize() int { return s.addedSize }

// MilterRecipient is a recipient as milters are told of it.
func MilterRecipient(address string, params []smtp.Param) milter.Recipient {
	return milter.Recipient{Address: address, Args: MilterArgs(params)}
}

// MilterArgs are ESMTP parameters as milters are told of them.
func MilterArgs(params []smtp.Param) []string {
	var args []string
	for _, p := range params {
		arg := p.Key
		if p.Value != "" {
			arg += "=" + p.Value
		}
		args = append(args, arg)
	}
	return args
}
