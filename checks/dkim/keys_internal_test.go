package dkim

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"runtime"
	"strings"
	"testing"
)

// A key that is remembered is not read again, and serves the next signature as it is.
func TestARememberedKeyIsReadOnce(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, minKeyBits)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	txt := "v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der)
	use := func(keys *Keys) publicKey {
		s := &signature{algorithm: "rsa"}
		if s.useKey(keys, []string{strings.Clone(txt)}, nil); s.key == nil {
			t.Fatal("the key is not used")
		}
		return s.key
	}
	keys := NewKeys()
	if use(keys) != use(keys) {
		t.Error("a remembered key was read again")
	}
	if use(nil) == use(nil) || use(keys) == use(NewKeys()) {
		t.Error("the key of nobody is remembered")
	}
}

// What is kept of a record is not a multiple of it, whatever it holds.
func TestAKeyRecordOfColonsTakesNoMemory(t *testing.T) {
	colons := strings.Repeat(":", maxKeyRecord-len("h=;p=x"))
	for _, tag := range []string{"h", "s", "t"} {
		txt := tag + "=" + colons + ";p=x"
		const readings = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range readings {
			readKey(txt)
		}
		runtime.ReadMemStats(&after)
		if octets := (after.TotalAlloc - before.TotalAlloc) / readings; octets > maxKeyRecord {
			t.Errorf("%s=: reading takes %d octets", tag, octets)
		}
	}
}
