package checks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/emersion/go-msgauth/dkim"
	"golang.org/x/net/idna"

	"postern/policy"
	"postern/proxy/smtp"
)

const (
	// maxSignatures is how many signatures of a message are read: those on top,
	// since each hop signs above what it got.
	maxSignatures = 8
	// maxKeyRecord keeps a key that takes seconds to multiply from being
	// published: in 2 KiB fit some 12,000 bits of RSA.
	maxKeyRecord = 2048
	// Bounds on what one hostile header section may cost. The dkim package looks
	// every name of h= up in all fields, and joins folded lines one by one.
	maxHeaderFields = 1 << 20
	maxHeaderOctets = 32 << 20
	// maxBlank bounds the line ends in a row, in octets. The package keeps them all
	// until something follows, for each signature, and copies them at each read:
	// 4 MiB of empty lines took it a minute, 50 MiB would take a gigabyte as well.
	maxBlank = 16 << 10
)

// DKIM verifies the signatures of the message (RFC 6376, 8301, 8463).
func DKIM(d Deps) Check {
	return Check{
		Name:   "dkim",
		Doc:    "The DKIM signatures of the message (RFC 6376).",
		Stage:  policy.Message,
		Result: func(f *policy.Facts) *policy.Result { return &f.DKIM.Result },
		begin: func(f *policy.Facts, msg Message) bool {
			f.DKIM = policy.DKIM{Result: policy.None, Domains: []string{}}
			return !Signed(msg.Header)
		},
		Run: func(ctx context.Context, f *policy.Facts, msg Message) { f.DKIM = verifyDKIM(ctx, d.Resolver, msg) },
	}
}

// Signed says whether a message bears a DKIM-Signature. One that does not needs
// no holding: all that the message stage would find out is known from its header.
func Signed(h smtp.Header) bool {
	return slices.ContainsFunc(h, func(f smtp.Field) bool { return fieldIs(f.Name, "DKIM-Signature") })
}

// signature is what one DKIM-Signature field says (RFC 6376 §3.5).
type signature struct {
	domain, selector, identity, algorithm string
	length                                bool // l= is there
	names                                 int  // in h=
}

// readSignature reads tags as the dkim package does; whether they are right is
// its business.
func readSignature(value string) (s signature) {
	for tag := range strings.SplitSeq(value, ";") {
		name, v, _ := strings.Cut(tag, "=")
		switch strings.TrimSpace(name) {
		case "d":
			s.domain = squeeze(v)
		case "s":
			s.selector = squeeze(v)
		case "i":
			s.identity = squeeze(v)
		case "a":
			s.algorithm, _, _ = strings.Cut(squeeze(v), "-")
		case "l":
			s.length = true
		case "h":
			s.names = strings.Count(v, ":") + 1
		}
	}
	return s
}

// squeeze takes out white space, folding included.
func squeeze(s string) string { return strings.Join(strings.Fields(s), "") }

// verifyDKIM verifies the first signatures of a message that has some.
func verifyDKIM(ctx context.Context, r Resolver, msg Message) policy.DKIM {
	var sigs []signature
	signed := map[string]bool{"dkim-signature": true} // names of fields, in lower case
	names := 0
	for _, h := range msg.Header {
		if len(sigs) < maxSignatures && fieldIs(h.Name, "DKIM-Signature") {
			s := readSignature(h.Value)
			sigs, names = append(sigs, s), names+s.names
			for name := range strings.SplitSeq(keyTag(h.Value, "h"), ":") {
				signed[strings.ToLower(squeeze(name))] = true
			}
		}
	}
	all := func(result policy.Result, reason string) policy.DKIM {
		out := policy.DKIM{Result: result, Domains: []string{}}
		for _, s := range sigs {
			out.Signatures = append(out.Signatures, s.found(result, reason))
		}
		return out
	}
	if msg.Whole == nil {
		return all(policy.TempError, "the message was not kept")
	}
	// NOT: by msg.Header, which leaves out what is no field. The package does not.
	fields := headerFields(msg)
	switch {
	case names*len(fields) > maxHeaderFields, names*pickWork(fields) > maxHeaderOctets, foldWork(fields) > maxHeaderOctets:
		return all(policy.Neutral, "the header section is too laborious to verify")
	case disguised(fields, signed):
		return all(policy.PermError, "a line of the header section is nearly a field that was signed")
	}

	whole := &messageReader{ctx: ctx, r: io.NewSectionReader(msg.Whole, 0, msg.Size)}
	var reader io.Reader = whole
	if !hasBody(msg) {
		reader = io.MultiReader(whole, strings.NewReader("\r\n")) // header alone: RFC 5322 §2.1 lets the empty line go
	}
	keys := &keyring{ctx: ctx, resolver: r, sigs: sigs, records: map[string]string{}}
	verifs, err := dkim.VerifyWithOptions(reader, &dkim.VerifyOptions{LookupTXT: keys.lookup, MaxVerifications: maxSignatures})
	switch {
	case errors.Is(whole.cut, errBlank):
		return all(policy.Neutral, "too many empty lines in a row to verify")
	case whole.cut != nil:
		return all(policy.TempError, "the message could not be read in full")
	case err != nil && !errors.Is(err, dkim.ErrTooManySignatures), !sameSignatures(sigs, verifs):
		return all(policy.PermError, "the header section cannot be read")
	}
	out := policy.DKIM{Result: policy.None, Domains: []string{}}
	for i, s := range sigs {
		err := verifs[i].Err
		if err != nil && strings.HasPrefix(err.Error(), notVerified) && verifyMisread(fields, i, s, keys.record(s)) {
			err = nil
		}
		result, reason := s.judge(err, keys)
		out.Signatures = append(out.Signatures, s.found(result, reason))
		if better(result, out.Result) {
			out.Result = result
		}
		if result == policy.Pass {
			if d, ok := domainName(s.domain); ok && !slices.Contains(out.Domains, d) {
				out.Domains = append(out.Domains, d)
			}
		}
	}
	return out
}

// sameSignatures says whether the package saw the signatures that we saw. It
// takes fields for signatures whose names have odd white space: an attacker's
// result would else be put down to the domain of the next field.
func sameSignatures(sigs []signature, verifs []*dkim.Verification) bool {
	return slices.EqualFunc(sigs, verifs, func(s signature, v *dkim.Verification) bool {
		return v.Domain == s.domain || v.Domain == "" && v.Err != nil
	})
}

// found is the signature as a fact.
func (s signature) found(result policy.Result, reason string) policy.DKIMSignature {
	domain, ok := domainName(s.domain)
	if !ok {
		domain = printable(s.domain, maxName)
	}
	return policy.DKIMSignature{Domain: domain, Selector: printable(s.selector, maxName), Result: result, Reason: printable(reason, maxReason)}
}

// judge turns the package's verdict on s into a result word, and sets right what
// the package does not look at.
func (s signature) judge(err error, keys *keyring) (policy.Result, string) {
	_, agent, _ := cutLast(s.identity, '@')
	if s.identity == "" {
		agent = s.domain
	}
	switch {
	case err == nil && keys.isStrict(s) && !strings.EqualFold(agent, s.domain):
		return policy.PermError, "the key is for the domain itself alone (t=s), and i= is below it"
	case err == nil:
		return policy.Pass, ""
	}
	reason := strings.TrimPrefix(err.Error(), "dkim: ")
	switch {
	case dkim.IsTempFail(err):
		return policy.TempError, "the key cannot be looked up"
	case dkim.IsPermFail(err):
		// The package compares i= with d= by letter case. That it could not
		// verify for this reason is no fault of the signature's.
		if reason == "domain mismatch" && isSubdomain(agent, s.domain) {
			return policy.Neutral, "i= and d= differ in case: not verified"
		}
		return policy.PermError, reason
	case s.length:
		return policy.Neutral, "signed in part only (l=): whatever follows could have been added"
	}
	return policy.Fail, reason
}

// better says whether a is the better result of two signatures. Temperror comes
// right behind pass: it might have been one.
func better(a, b policy.Result) bool {
	order := [...]policy.Result{policy.None, policy.PermError, policy.Fail, policy.Neutral, policy.TempError, policy.Pass}
	return slices.Index(order[:], a) > slices.Index(order[:], b)
}

// keyring looks keys up for the dkim package, which calls it from several
// goroutines.
type keyring struct {
	ctx      context.Context //nolint:containedctx // the package's callback has none
	resolver Resolver
	sigs     []signature

	mu      sync.Mutex
	records map[string]string // the one of each key, by its name
}

const domainKey = "._domainkey."

func (s signature) keyName() string { return s.selector + domainKey + s.domain }

// lookup returns the key record of a name. The package understands errors that
// say of themselves that they are temporary, and takes all others for final.
func (k *keyring) lookup(name string) ([]string, error) {
	selector, domain, _ := strings.Cut(name, domainKey)
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(domain, "."))
	if err != nil {
		ascii = domain
	}
	query := selector + domainKey + ascii
	if !askable(query) {
		return nil, errNotFound
	}
	txts, err := k.resolver.LookupTXT(k.ctx, query)
	switch {
	case isNotFound(err):
		return nil, errNotFound
	case err != nil:
		return nil, errTemporary
	}
	txts = k.choose(name, txts)
	if len(txts) == 1 {
		if len(txts[0]) > maxKeyRecord {
			return nil, errNotFound
		}
		// The package passes over spaces in the key, but not over tabs.
		txts[0] = strings.ReplaceAll(txts[0], "\t", " ")
		k.mu.Lock()
		defer k.mu.Unlock()
		k.records[name] = txts[0]
	}
	return txts, nil
}

// choose picks the record for the algorithm of the signature where a selector
// has several. RFC 6376 §3.6.2.2 leaves that undefined; people do it to publish
// an Ed25519 key beside the RSA one.
func (k *keyring) choose(name string, txts []string) []string {
	if len(txts) < 2 {
		return txts
	}
	var fit []string
	for _, s := range k.sigs {
		if s.keyName() != name {
			continue
		}
		for _, txt := range txts {
			algorithm := squeeze(keyTag(txt, "k"))
			if algorithm == "" {
				algorithm = "rsa"
			}
			if algorithm == s.algorithm && keyTag(txt, "p") != "" && !slices.Contains(fit, txt) {
				fit = append(fit, txt)
			}
		}
	}
	if len(fit) == 1 {
		return fit
	}
	return txts
}

// record is the key record of a signature; empty: none was found.
func (k *keyring) record(s signature) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.records[s.keyName()]
}

// isStrict says whether the key of a signature is for d= itself alone (t=s).
func (k *keyring) isStrict(s signature) bool {
	return slices.Contains(strings.Split(squeeze(keyTag(k.record(s), "t")), ":"), "s")
}

// keyTag returns the value of a tag of a key record, or of a signature.
func keyTag(txt, tag string) string {
	for t := range strings.SplitSeq(txt, ";") {
		if name, v, ok := strings.Cut(t, "="); ok && strings.TrimSpace(name) == tag {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

var errBlank = errors.New("too many empty lines in a row")

// messageReader ends when the message does, when reading fails, when ctx is over
// or after maxBlank; cut tells the difference. NOT: an error. The package would come back at
// once and leave two goroutines behind for each signature.
type messageReader struct {
	ctx context.Context //nolint:containedctx // of one verification
	r   io.Reader
	cut error

	blank int // octets of line ends since the last that is not white space
}

func (m *messageReader) Read(p []byte) (int, error) {
	if m.cut == nil {
		m.cut = m.ctx.Err()
	}
	if m.cut != nil {
		return 0, io.EOF
	}
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		m.cut, err = err, io.EOF
	}
	for _, c := range p[:n] {
		switch c {
		case '\r', '\n':
			if m.blank++; m.blank > maxBlank {
				m.cut = errBlank
				return 0, io.EOF
			}
		case ' ', '\t':
		default:
			m.blank = 0
		}
	}
	return n, err
}

// hasBody says whether an empty line ends the header section of a message.
func hasBody(msg Message) bool {
	buf := make([]byte, 4096)
	const end = "\r\n\r\n"
	for at := int64(0); at < msg.Size; at += int64(len(buf) - len(end) + 1) {
		n, err := msg.Whole.ReadAt(buf, at)
		if bytes.Contains(buf[:n], []byte(end)) || at == 0 && bytes.HasPrefix(buf[:n], []byte("\r\n")) {
			return true
		}
		if err != nil {
			return false
		}
	}
	return false
}
