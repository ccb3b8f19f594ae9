package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"postern/checks/memo"
	"postern/policy"
	"postern/proxy/smtp"
)

const (
	// minKeyBits is what RFC 8301 §3.2 asks of an RSA key.
	minKeyBits = 1024
	// maxKeyBits and, for keys above smallKeyBits, maxExponent keep a key that takes
	// long to multiply from being published. RFC 8301 §3.2 asks for 4096 bits.
	maxKeyBits   = 4096
	smallKeyBits = 2048
	maxExponent  = 1<<16 + 1
	// maxKeyRecord bounds a key record, in octets: an RSA key of 4096 bits takes
	// some 740.
	maxKeyRecord = 2048
	// maxKeys bounds the records of one selector that are looked into. An answer of the
	// DNS may hold hundreds, and each signature of a message has a selector of its own.
	maxKeys = 16

	domainKey = "._domainkey."
)

// publicKey verifies signatures over a SHA-256 sum.
type publicKey interface {
	verify(sum, sig []byte) bool
}

type rsaKey struct{ *rsa.PublicKey }

func (k rsaKey) verify(sum, sig []byte) bool {
	return rsa.VerifyPKCS1v15(k.PublicKey, crypto.SHA256, sum, sig) == nil
}

type ed25519Key ed25519.PublicKey

// verify is PureEdDSA over the sum (RFC 8463 §3).
func (k ed25519Key) verify(sum, sig []byte) bool {
	return ed25519.Verify(ed25519.PublicKey(k), sum, sig)
}

// keyName is where the key of the signature is published, as A-labels in lower
// case (RFC 6376 §3.6.2.1, RFC 8616 §4); empty: no name can be made of d= and s=.
func (s *signature) keyName() string {
	domain, ok := asciiDomain(s.domain)
	if !ok {
		return ""
	}
	selector := strings.ToLower(s.selector)
	if ascii, ok := asciiDomain(selector); ok {
		selector = ascii
	}
	if name := selector + domainKey + domain; smtp.Askable(name) {
		return name
	}
	return ""
}

// Keys remembers what key records were read as, by their texts, see memo.Texts. nil remembers
// nothing.
type Keys memo.Texts[reading]

// reading is what a text is read as: a key record, or the reason why it is none.
type reading struct {
	keyRecord
	reason string
}

// NewKeys returns an empty Keys.
func NewKeys() *Keys { return (*Keys)(memo.NewTexts[reading]()) }

func (k *Keys) read(txt string) reading { return (*memo.Texts[reading])(k).Read(txt, readKey) }

// useKey takes the answer of the DNS for the name of the signature's key.
func (s *signature) useKey(keys *Keys, txts []string, err error) {
	switch {
	case errors.Is(err, ErrNoKey), err == nil && len(txts) == 0:
		s.end(policy.PermError, "no key for signature")
		return
	case err != nil:
		s.trouble = "the key cannot be looked up"
		return
	}
	record := s.chooseKey(keys, txts)
	if record.reason == "" {
		s.key, record.reason = record.keyFor(s)
	}
	if record.reason != "" {
		s.end(policy.PermError, record.reason)
	}
}

// chooseKey picks the record for the algorithm of the signature where a selector
// has several. RFC 6376 §3.6.2.2 leaves that undefined; people do it to publish
// an Ed25519 key beside the RSA one.
func (s *signature) chooseKey(keys *Keys, txts []string) reading {
	switch n := len(txts); {
	case n == 1:
		return keys.read(txts[0])
	case n > maxKeys:
		return reading{reason: "the selector has more than " + strconv.Itoa(maxKeys) + " records"}
	}
	var fit []reading
	seen := make([]string, 0, len(txts))
	for _, txt := range txts {
		if slices.Contains(seen, txt) {
			continue
		}
		seen = append(seen, txt)
		if k := keys.read(txt); k.reason == "" && k.algorithm == s.algorithm && k.data != "" {
			fit = append(fit, k)
		}
	}
	if len(fit) != 1 {
		return reading{reason: "the selector has several keys, and not one for the signature"}
	}
	return fit[0]
}

// keyRecord is a key record (RFC 6376 §3.6.1).
type keyRecord struct {
	algorithm string // k=, rsa where there is none
	data      string // p= in base64; empty: the key was revoked
	// Of h=, s= and t=, what is asked of them. NOT: the lists, which take sixteen times the memory of
	// their text where that is colons.
	sha256, email, ownOnly bool
	// public is the key out of data, or a reason why there is none: found out for
	// the first signature that wants it.
	public func() (publicKey, string)
}

// readKey reads a key record.
func readKey(txt string) (k reading) {
	if len(txt) > maxKeyRecord {
		return reading{reason: "key record too long"}
	}
	tags, err := readTags(txt)
	if err != nil {
		return reading{reason: "malformed key record: " + err.Error()}
	}
	// lists says whether a tag has one of those values, or otherwise, where it is not there.
	lists := func(name string, otherwise bool, values ...string) bool {
		v, ok := tags.get(name)
		if !ok {
			return otherwise
		}
		for value := range strings.SplitSeq(v, ":") {
			if slices.Contains(values, value) {
				return true
			}
		}
		return false
	}
	if v, ok := tags.get("v"); ok && (v != "DKIM1" || tags[0].name != "v") {
		return reading{reason: "incompatible key version"}
	}
	k.keyRecord = keyRecord{algorithm: "rsa", sha256: lists("h", true, "sha256"), email: lists("s", true, "*", "email"), ownOnly: lists("t", false, "s")}
	if v, ok := tags.get("k"); ok && v != "" {
		k.algorithm = v
	}
	data, ok := tags.get("p")
	if !ok {
		k.reason = "key record has no p="
		return k
	}
	k.data = data
	algorithm := k.algorithm
	k.public = sync.OnceValues(func() (publicKey, string) { return readPublic(algorithm, data) })
	return k
}

// keyFor returns the key where it may be used for that signature (RFC 6376
// §6.1.2), or a reason.
func (k keyRecord) keyFor(s *signature) (publicKey, string) {
	switch {
	case k.data == "":
		return nil, "key was revoked"
	case k.algorithm != s.algorithm:
		return nil, "inappropriate key algorithm"
	case !k.sha256:
		return nil, "inappropriate hash algorithm"
	case !k.email:
		return nil, "inappropriate service"
	case k.ownOnly:
		if domain, _ := asciiDomain(s.domain); s.agent != domain {
			return nil, "the key is for the domain itself alone (t=s), and i= is below it"
		}
	}
	return k.public()
}

// readPublic reads a key of one of the algorithms that signatures are verified by.
func readPublic(algorithm, data string) (publicKey, string) {
	der, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil, "malformed key"
	}
	if algorithm == "ed25519" {
		if len(der) != ed25519.PublicKeySize {
			return nil, "malformed Ed25519 key: " + strconv.Itoa(len(der)) + " octets"
		}
		return ed25519Key(der), ""
	}
	return readRSA(der)
}

// readRSA reads an RSA key as a SubjectPublicKeyInfo or as an RSAPublicKey
// (erratum 3017 of RFC 6376: both are about).
func readRSA(der []byte) (publicKey, string) {
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		public, err = x509.ParsePKCS1PublicKey(der)
	}
	key, ok := public.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, "malformed RSA key"
	}
	switch n := key.N.BitLen(); {
	case n < minKeyBits:
		return nil, "key too short: " + strconv.Itoa(n) + " bits"
	case n > maxKeyBits:
		return nil, "key too long: " + strconv.Itoa(n) + " bits"
	case n > smallKeyBits && key.E > maxExponent:
		return nil, "the exponent of the key is too large"
	}
	return rsaKey{key}, ""
}

// KeyFault says why no signature verifies by the key of a selector, whoever makes it: the records
// cannot be read, the key was revoked, or is too short. Empty: nothing is wrong with it.
func KeyFault(txts []string) string {
	faults := ""
	for _, txt := range txts[:min(len(txts), maxKeys)] {
		k := readKey(txt)
		reason := k.reason
		if reason == "" {
			s := &signature{algorithm: k.algorithm}
			if k.algorithm != "rsa" && k.algorithm != "ed25519" {
				reason = "a key of an algorithm that nobody verifies: " + k.algorithm
			} else {
				k.ownOnly = false // t=s is about a signature
				_, reason = k.keyFor(s)
			}
		}
		if reason == "" {
			return ""
		}
		faults = reason
	}
	return faults
}
