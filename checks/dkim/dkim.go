// Package dkim verifies the DKIM signatures of one message (RFC 6376, with
// RFC 8301 for what is too weak and RFC 8463 for Ed25519). A message goes in, an
// outcome for each signature comes out; it asks the DNS by the function that it
// is given, and keeps nothing but what key records were read as, see Keys.
//
// The body is read once, whatever the number of signatures: there are two
// canonicalizations of a body and one hash, so that two sums are enough for all
// signatures. Of the header section each field is canonicalized once. So what a
// hostile message can cost grows with its size, and with no square of it.
package dkim

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"postern/policy"
	"postern/proxy/reuse"
)

const (
	// MaxSignatures is how many signatures of a message are verified: those on
	// top, since each hop signs above what it got.
	MaxSignatures = 8
	// blockSize is how much of a body is read at a time, in octets.
	blockSize = 64 << 10
)

// ErrNoKey is what a Lookup returns where the DNS says that there is no such
// record (NXDOMAIN or NODATA). All its other errors are taken for trouble that
// may be over soon (RFC 6376 §6.1.2).
var ErrNoKey = errors.New("no key record")

// ErrBusy is what a Body may end with where there is no time to verify it.
var ErrBusy = errors.New("too many messages are being verified")

// Lookup returns the TXT records of a name, the strings of each joined
// (RFC 6376 §3.6.2.2). It may be called by several goroutines at once.
type Lookup func(ctx context.Context, name string) ([]string, error)

// Message is what is verified, octet for octet as it was received but for the
// dots of SMTP. Lines end in CRLF; a CR or LF by itself is an octet like others.
type Message struct {
	Header []byte    // the header section, without the empty line below it
	Body   io.Reader // what stands below the empty line; nil: nothing
}

// Outcome is what became of one signature.
type Outcome struct {
	Domain   string // d=, as it was written, without white space
	Selector string // s=, likewise
	Result   policy.Result
	Reason   string // in words; empty for a pass. It may quote the message
}

// Verify verifies the first MaxSignatures signatures of msg, top to bottom.
// Their results are pass, fail, neutral, temperror and permerror (RFC 8601
// §2.7.1). A signature that is known to be wrong is a fail whether or not its
// key can be looked up; temperror is left for those that might have passed.
// When the body cannot be read to its end, or ctx ends, those signatures are
// temperror as well.
func Verify(ctx context.Context, msg Message, lookup Lookup, now time.Time) []Outcome {
	return (*Keys)(nil).Verify(ctx, msg, lookup, now)
}

// Verify is Verify, with the same outcomes.
func (k *Keys) Verify(ctx context.Context, msg Message, lookup Lookup, now time.Time) []Outcome {
	section := readSection(msg.Header)
	sigs := section.signatures(MaxSignatures)
	for _, s := range sigs {
		s.check(now)
	}
	if section.disguised(sigs) {
		for _, s := range sigs {
			s.end(policy.PermError, "a line of the header section is nearly a field that was signed")
		}
	}
	k.fetch(ctx, sigs, lookup)
	for _, s := range sigs {
		if s.open() && s.key != nil && ctx.Err() == nil {
			s.verifyHeader(section)
		}
	}
	verifyBody(ctx, sigs, msg.Body)

	out := make([]Outcome, len(sigs))
	for i, s := range sigs {
		switch {
		case s.result != "":
		case s.headerGood && s.bodyGood:
			s.result = policy.Pass
		default:
			s.result, s.reason = policy.TempError, s.trouble
		}
		out[i] = Outcome{Domain: s.domain, Selector: s.selector, Result: s.result, Reason: s.reason}
	}
	return out
}

// fetch looks the keys of the signatures up, each name once and all names
// side by side.
func (k *Keys) fetch(ctx context.Context, sigs []*signature, lookup Lookup) {
	byName := make(map[string][]*signature, len(sigs))
	var names []string
	for _, s := range sigs {
		if !s.open() {
			continue
		}
		name := s.keyName()
		if byName[name] == nil {
			names = append(names, name)
		}
		byName[name] = append(byName[name], s)
	}
	fetch := func(name string) {
		txts, err := lookup(ctx, name)
		for _, s := range byName[name] {
			s.useKey(k, txts, err)
		}
	}
	if len(names) == 1 { // by far the most messages: no goroutine for it
		fetch(names[0])
		return
	}
	var all sync.WaitGroup
	panics := make(chan string, len(names))
	for _, name := range names {
		all.Go(func() {
			// A panic in a goroutine would end the process, not the check.
			defer func() {
				if p := recover(); p != nil {
					panics <- fmt.Sprintf("%v\n%s", p, debug.Stack())
				}
			}()
			fetch(name)
		})
	}
	all.Wait()
	select {
	case p := <-panics:
		panic(p) // for the caller, as with one name
	default:
	}
}

// verifyBody reads the body and compares its sums with those of the signatures
// that are still open. It reads nothing where there are none.
func verifyBody(ctx context.Context, sigs []*signature, body io.Reader) {
	var sums [relaxed + 1]*bodySum
	wanted := false
	for _, s := range sigs {
		if s.open() && sums[s.bodyForm] == nil {
			sums[s.bodyForm], wanted = newBodySum(s.bodyForm), true
		}
	}
	if !wanted {
		return
	}
	if body == nil {
		body = strings.NewReader("")
	}
	err := readBody(ctx, body, sums[:])
	for _, s := range sigs {
		if !s.open() {
			continue
		}
		switch {
		case err == nil:
			s.verifyBody(sums[s.bodyForm])
		case errors.Is(err, ErrBusy):
			s.trouble = ErrBusy.Error()
		default:
			s.trouble = "the message could not be read in full"
		}
	}
}

var blocks reuse.Pool[[blockSize]byte]

// readBody hands the body to the sums, and says why if it did not come to its end.
func readBody(ctx context.Context, body io.Reader, sums []*bodySum) error {
	block := blocks.Take()
	defer blocks.Put(block)
	for {
		n, err := body.Read(block[:])
		for _, s := range sums {
			if s != nil {
				s.write(block[:n])
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return ctx.Err()
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// bodySum is the hash of a body in one of its canonical forms.
type bodySum struct {
	form   canonicalBody
	hash   hash.Hash
	length int64 // octets of the canonical body
	sum    []byte
}

func newBodySum(f form) *bodySum {
	s := &bodySum{hash: sha256.New()}
	s.form = canonicalBody{form: f, emit: func(p []byte) {
		s.length += int64(len(p))
		s.hash.Write(p)
	}}
	return s
}

func (s *bodySum) write(p []byte) { s.form.write(p) }

// finish returns the sum and the length of the canonical body in octets.
func (s *bodySum) finish() (sum []byte, length int64) {
	if s.sum == nil {
		s.form.finish()
		s.sum = s.hash.Sum(nil)
	}
	return s.sum, s.length
}

// verifyBody compares the body with what the signature says of it (RFC 6376
// §3.7, §6.1.3).
func (s *signature) verifyBody(body *bodySum) {
	sum, length := body.finish()
	switch {
	case s.length >= 0 && s.length < length:
		s.end(policy.Neutral, "signed in part only (l=): whatever follows could have been added")
	case s.length > length:
		s.end(policy.PermError, "l= is more than the body has")
	case subtle.ConstantTimeCompare(sum, s.bodyHash) != 1:
		s.end(policy.Fail, "body hash did not verify")
	default:
		s.bodyGood = true
	}
}
