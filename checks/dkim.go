package checks

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"postern/checks/dkim"
	"postern/checks/dnscache"
	"postern/policy"
	"postern/proxy/smtp"
)

// DKIM verifies the signatures of the message (RFC 6376, 8301, 8463).
func (d Deps) DKIM() Check {
	lookup := keyLookup(d.Resolver)
	return Check{
		Doc:    "The DKIM signatures of the message (RFC 6376).",
		waits:  true, // the check waits for its turn, and reads the whole message
		stands: true,
		begin: func(f *policy.Facts, msg Message) bool {
			f.DKIM = policy.DKIM{Result: policy.None, Domains: []string{}}
			return !Signed(msg.Header)
		},
		Run: func(ctx context.Context, f *policy.Facts, msg Message) {
			f.DKIM = verifyDKIM(ctx, d.judged.keys, lookup, msg)
		},
	}
}

// Signed says whether a message bears a DKIM-Signature. An unsigned message needs
// no holding: all that the message stage would find out is known from its header.
func Signed(h smtp.Header) bool {
	return slices.ContainsFunc(h, func(f smtp.Field) bool { return fieldIs(f.Name, "DKIM-Signature") })
}

// severallySigned says whether there is more than one signature.
func severallySigned(h smtp.Header) bool {
	first := slices.IndexFunc(h, func(f smtp.Field) bool { return fieldIs(f.Name, "DKIM-Signature") })
	return first >= 0 && Signed(h[first+1:])
}

// keyLookup asks a resolver for key records.
func keyLookup(r Resolver) dkim.Lookup {
	return func(ctx context.Context, name string) ([]string, error) {
		txts, err := r.LookupTXT(ctx, name)
		if dnscache.IsNotFound(err) {
			return nil, dkim.ErrNoKey
		}
		return txts, err
	}
}

// verifyDKIM verifies the first signatures of a message that has some.
func verifyDKIM(ctx context.Context, keys *dkim.Keys, lookup dkim.Lookup, msg Message) policy.DKIM {
	split, err := splitMessage(msg)
	if err != nil {
		split, lookup = unread(msg.Header, err)
	}
	if end, ok := ctx.Deadline(); ok && severallySigned(msg.Header) {
		// The message is read when all keys are there. A key that does not come must
		// leave time to verify the other signatures.
		within, cancel := context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
		ask := lookup
		lookup = func(_ context.Context, name string) ([]string, error) { return ask(within, name) }
	}
	body := verifying.reader(ctx, split.Body, msg.Size)
	defer body.end()
	split.Body = body
	out := policy.DKIM{Result: policy.None, Domains: []string{}}
	for _, s := range keys.Verify(ctx, split, lookup, time.Now()) {
		domain, ok := domainName(s.Domain)
		if !ok {
			domain = printable(s.Domain, smtp.MaxDomain)
		}
		domain = strings.Clone(domain) // of a header section, which nobody shall keep
		switch {
		case !ok:
		case s.Result == policy.Pass && !slices.Contains(out.Domains, domain):
			out.Domains = append(out.Domains, domain)
		case s.Result == policy.TempError && !slices.Contains(out.Unknown, domain):
			out.Unknown = append(out.Unknown, domain)
		}
		out.Signatures = append(out.Signatures, policy.DKIMSignature{
			Domain: domain, Selector: strings.Clone(printable(s.Selector, smtp.MaxDomain)), Result: s.Result, Reason: printable(s.Reason, maxReason),
		})
		if better(s.Result, out.Result) {
			out.Result = s.Result
		}
	}
	return out
}

// better says whether a is the better result of two signatures. Temperror comes
// right behind pass: it might have been one.
func better(a, b policy.Result) bool {
	order := [...]policy.Result{policy.None, policy.PermError, policy.Fail, policy.Neutral, policy.TempError, policy.Pass}
	return slices.Index(order[:], a) > slices.Index(order[:], b)
}

// unread is what is left of a message that cannot be read: its signatures are known,
// and none of them can be verified.
func unread(h smtp.Header, err error) (dkim.Message, dkim.Lookup) {
	var header []byte
	for _, f := range h {
		header = append(append(append(append(header, f.Name...), ':'), f.Value...), "\r\n"...)
	}
	return dkim.Message{Header: header, Body: failed{err}}, func(context.Context, string) ([]string, error) { return nil, err }
}

// failed is a reader of what cannot be read.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

var errNotKept = errors.New("the message was not kept")

// splitMessage parts a held message at the empty line below its header section. A
// message that is its header alone may be without that line (RFC 5322 §2.1).
func splitMessage(msg Message) (dkim.Message, error) {
	if msg.Whole == nil {
		return dkim.Message{}, errNotKept
	}
	for size := int64(8 << 10); ; size *= 4 {
		header := make([]byte, min(size, msg.Size))
		if _, err := io.ReadFull(io.NewSectionReader(msg.Whole, 0, msg.Size), header); err != nil {
			return dkim.Message{}, err
		}
		end, body := smtp.HeaderEnd(header)
		switch {
		case end >= 0:
		case size >= msg.Size:
			end, body = len(header), len(header)
		default:
			continue
		}
		return dkim.Message{Header: header[:end], Body: io.NewSectionReader(msg.Whole, int64(body), msg.Size-int64(body))}, nil
	}
}
