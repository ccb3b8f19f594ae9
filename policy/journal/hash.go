package journal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"postern/checks/dnscache"
	"postern/policy"
	"postern/proxy/smtp"
)

// hashMark begins a local part that is a hash.
const hashMark = "~"

// Bounds of the key that local parts are hashed with.
const (
	minKey = 16
	maxKey = 4 << 10
)

// readKey reads the secret of journal.hash_key.
func readKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	key, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, fmt.Errorf("journal: %s: %w", file, err)
	}
	key = bytes.TrimSpace(key)
	if len(key) < minKey || len(key) > maxKey {
		return nil, fmt.Errorf("journal: %s: a key has %d to %d octets, this has %d: make one with openssl rand -hex 32", file, minKey, maxKey, len(key))
	}
	return key, nil
}

// hasher replaces local parts by keyed hashes. The same local part has the same
// hash, whatever its case and its domain, so that a person can still be followed
// through the journal by who has the key, and by nobody else.
type hasher struct {
	key []byte
}

func (h *hasher) local(local string) string {
	mac := hmac.New(sha256.New, h.key)
	mac.Write([]byte(strings.ToLower(local)))
	return hashMark + hex.EncodeToString(mac.Sum(nil)[:8])
}

// roles stay as they are: they are no persons, rules speak of them by name, and
// nobody who searches for a fault should have to hash them first (RFC 2142).
var roles = []string{"postmaster", "abuse"}

// address hashes the local part of an address.
func (h *hasher) address(a string) string {
	local, _, _ := smtp.CutAddress(a)
	if a == "" || slices.Contains(roles, strings.ToLower(local)) {
		return a
	}
	return h.local(local) + a[len(local):]
}

// addressText finds what looks like an address in a text: in replies of the
// backend, which like to repeat it, and in reasons. It is made for the first such text.
var addressText = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?:"(?:[^"\\]|\\.)*"|[^\s<>"@,:;()\[\]]+)@[\pL\pN\[]`)
})

// text hashes the local parts of addresses in a text.
func (h *hasher) text(s string) string {
	if !strings.Contains(s, "@") {
		return s
	}
	return addressText().ReplaceAllStringFunc(s, func(found string) string {
		before, _, _ := smtp.CutAddress(found)
		if local := strings.Trim(before, `"`); !slices.Contains(roles, strings.ToLower(local)) {
			return h.local(local) + found[len(before):]
		}
		return found
	})
}

// hashed are the texts of the facts in which local parts may stand; lookedUp the
// addresses among them that checks ask the DNS about: those of senders.
var (
	hashed    = policy.Texts(func(t *policy.Text) bool { return t.Address || t.Private })
	addresses = policy.Texts(func(t *policy.Text) bool { return t.Address })
	lookedUp  = policy.Texts(func(t *policy.Text) bool { return t.Address && t.Stage != policy.Rcpt })
)

// record returns a copy of r without local parts.
func (h *hasher) record(r *Record) *Record {
	c := *r
	c.Hashed, c.sealed = true, nil
	locals := h.locals(r)
	c.Facts.Rewrite(hashed, func(t *policy.Text, s string) string {
		if t.Address {
			return h.address(s)
		}
		return h.text(s)
	})
	for _, s := range []*string{&c.Reply, &c.BackendReply, &c.Error} {
		*s = h.text(*s)
	}
	c.Facts.Hold.Notice = "" // whoever guesses the addresses could tell by it that they are these
	c.Tags = slices.Clone(r.Tags)
	for i := range c.Tags {
		c.Tags[i] = h.text(c.Tags[i])
	}
	c.Recipients = slices.Clone(r.Recipients)
	for i := range c.Recipients {
		rc := &c.Recipients[i]
		rc.Address, rc.Reply = h.address(rc.Address), h.text(rc.Reply)
		if rc.Hold != nil {
			hold := *rc.Hold
			hold.Notice = ""
			rc.Hold = &hold
		}
		rc.Service = slices.Clone(rc.Service)
		for k := range rc.Service {
			s := &rc.Service[k]
			s.Text, s.Reason = h.text(s.Text), h.text(s.Reason)
		}
	}
	c.DNS = slices.Clone(r.DNS)
	for i := range c.DNS {
		h.answer(&c.DNS[i], locals)
	}
	return &c
}

// locals returns the local parts that may stand in names that were looked up,
// since an SPF record may ask for them (RFC 7208 §7.2, %{l}).
func (h *hasher) locals(r *Record) []string {
	var locals []string
	f := r.Facts
	f.Rewrite(lookedUp, func(_ *policy.Text, a string) string {
		if local, _, ok := smtp.CutAddress(a); ok && local != "" && !slices.Contains(roles, strings.ToLower(local)) {
			locals = append(locals, strings.ToLower(local))
		}
		return a
	})
	return locals
}

// answer takes local parts out of a name that was looked up: as they are (%{l}),
// before an @ (%{s}), and with their labels reversed (%{lr}). A label that happens
// to be the same word is lost with them.
func (h *hasher) answer(a *dnscache.Answer, locals []string) {
	before := "." + strings.ToLower(a.Name) + "."
	name := before
	for _, local := range locals {
		labels := strings.Split(local, ".")
		slices.Reverse(labels)
		for _, written := range []string{local, strings.Join(labels, ".")} {
			for _, end := range []string{".", "@", `\@`} {
				name = strings.ReplaceAll(name, "."+written+end, "."+h.local(local)+end)
			}
		}
	}
	if name != before {
		a.Name = strings.Trim(name, ".")
	}
}
