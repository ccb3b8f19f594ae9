package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
)

// certificateSoon is when somebody should look why nothing was renewed: those who
// renew by themselves do so a month ahead.
const certificateSoon = 14 * 24 * time.Hour

// pairs looks at what clients meet after STARTTLS.
func (d *patient) pairs(_ context.Context, r *Report) {
	cfg := d.Config.TLS
	if !service.OffersTLS(d.Config) {
		r.on("tls", "", d.Config.At("listeners").String()).Warn("say tls: starttls on the listeners, and name a certificate", "no listener offers TLS: mail comes in the clear")
		return
	}
	r.on("tls", "", d.Config.At("tls.min_version").String()).OK("TLS %s and newer; sessions are resumed by tickets, whose keys change daily and lie in memory only", cfg.MinVersion)
	if len(cfg.Certificates) == 0 {
		r.on("certificate", "", d.Config.At("tls").String()).Warn("name one in tls.certificates: senders with MTA-STS or DANE do not deliver without",
			"none is configured: one is made in memory at each start, which nobody can verify")
		return
	}
	roots := d.roots()
	for i, pair := range d.Certificates.Pairs() {
		name := "" // the others are chosen by theirs
		if i == 0 {
			name = d.Settings.Hostname
		}
		files := cfg.Certificates[i]
		judgePair(r, files, certificatesOf(pair), roots, name, d.now)
		d.forTheGroup(r.on("certificate", files.Certificate, files.Position.String()), files.Key)
	}
}

// roots are the system's; without them nobody's chain can be judged.
func (d *patient) roots() *x509.CertPool {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool()
	}
	return roots
}

// certificatesOf are those of a pair's file, the leaf first.
func certificatesOf(pair *tls.Certificate) (chain []*x509.Certificate) {
	for _, der := range pair.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil { // the leaf could be, when it was loaded
			chain = append(chain, c)
		}
	}
	return chain
}

// judgePair looks at one certificate: chain as in its file, and the name that clients
// will look for; empty: any.
func judgePair(r *Report, file configs.Certificate, chain []*x509.Certificate, roots *x509.CertPool, name string, now time.Time) {
	it := r.on("certificate", file.Certificate, file.Position.String()).leading(file.Certificate + " ")
	told := len(r.Findings)
	leaf := chain[0]
	left := leaf.NotAfter.Sub(now)
	switch {
	case left <= 0:
		it.Fault("renew it; Postern reads the files again by itself when they change", "ended on %s", leaf.NotAfter.Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		it.Fault("look at the clock of this machine, and at the file", "begins only on %s", leaf.NotBefore.Format("2006-01-02 15:04 MST"))
	case left < certificateSoon:
		it.Warn("see why nothing was renewed", "ends on %s, in %s", leaf.NotAfter.Format(time.DateOnly), view.Counted(int(left.Hours()/24), "day"))
	}
	if name != "" && leaf.VerifyHostname(name) != nil {
		it.Warn("it is the first pair, which clients meet that ask for no name: senders that verify (MTA-STS) look for the MX record's name",
			"does not name %s, but %s", name, namesOf(leaf))
	} else if name == "" && len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		it.Warn("it is chosen by the name that a client asks for, so nobody ever meets it", "names no host")
	}
	if trusted, err := chainTo(chain, roots, now); err != nil {
		advice := "senders that verify (MTA-STS) do not deliver to it; the others do"
		if !errors.Is(err, errOwnRoot) {
			advice = "the file holds the certificate and then the intermediate ones: fullchain.pem, not cert.pem. Senders that verify (MTA-STS) do not deliver"
		}
		it.Warn(advice, "has no chain to a root that this machine knows: %v", err)
	} else if len(r.Findings) == told {
		it.OK("names %s, until %s (%s), %s, chain to %s", namesOf(leaf), leaf.NotAfter.Format(time.DateOnly), view.Counted(int(left.Hours()/24), "day"), keyOf(leaf), trusted)
	}
	if weak := weakKey(leaf); weak != "" {
		it.Warn("make a new key: ECDSA P-256, or RSA with 2048 bits", "has %s", weak)
	}
	if advice, seen := exposed(file.Key); seen != "" {
		it.Fault(advice, "%s", seen)
	}
}

// exposed says what is wrong with the file of a key, as far as the machine can tell,
// and what to do; nothing, if it is well.
func exposed(file string) (advice, seen string) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return "the next reload will fail", fmt.Sprintf("has lost its key: %v", err)
	case info.Mode().Perm()&0o004 != 0:
		return userAlone(file) + "; who could read it may have: think of a new key", fmt.Sprintf("has a key that everybody on this machine can read (%v)", info.Mode().Perm())
	case info.Mode().Perm()&0o022 != 0:
		return userAlone(file), fmt.Sprintf("has a key that others than its owner can replace (%v)", info.Mode().Perm())
	}
	return "", ""
}

// userAlone is the advice on a secret that others can get at.
func userAlone(file string) string {
	return "chown it to the user that the proxy runs as, and chmod 0600 " + file
}

// forTheGroup warns of a secret that may be read by the group whose members are let in to read
// the journal.
func (d *patient) forTheGroup(it topic, file string) {
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&0o044 != 0o040 {
		return // the certificate was told of already, or it is well
	}
	if of, ok := info.Sys().(*syscall.Stat_t); ok && int(of.Gid) == d.journalReaders() {
		it.Warn(userAlone(file), "%s can be read by its group (%v), whose members may read the journal, and need no key for that", file, info.Mode().Perm())
	}
}

// journalReaders is the group of the journal: that of its folder, or of the proxy's user, who
// we are where we do not run as root; -1: it is not known.
func (d *patient) journalReaders() int {
	if info, err := os.Stat(d.Config.Journal.Path); err == nil {
		if of, ok := info.Sys().(*syscall.Stat_t); ok {
			return int(of.Gid)
		}
	}
	if gid := os.Getegid(); gid != 0 {
		return gid
	}
	return -1
}

// chainTo returns the root that the chain leads to, or why it leads to none that is
// known. Dates are told apart.
func chainTo(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (string, error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	leaf := chain[0]
	at := now
	if at.After(leaf.NotAfter) || at.Before(leaf.NotBefore) {
		at = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Intermediates: between, Roots: roots, CurrentTime: at})
	if err == nil {
		last := chains[0]
		return issuerName(last[len(last)-1]), nil
	}
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		return "", err
	}
	// Which link is missing: that of the last one that the file leads to.
	last := leaf
	for range chain {
		i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return c != last && last.CheckSignatureFrom(c) == nil })
		if i < 0 {
			break
		}
		last = chain[i]
	}
	switch {
	case string(last.RawIssuer) == string(last.RawSubject) && last == leaf:
		return "", errOwnRoot
	case string(last.RawIssuer) == string(last.RawSubject):
		return "", fmt.Errorf("%w: %s", errOwnRoot, issuerName(last))
	}
	return "", fmt.Errorf("%q, who signed %q, is not in the file", last.Issuer.String(), issuerName(last))
}

// errOwnRoot is a chain that is whole, and nobody else's.
var errOwnRoot = errors.New("it is signed by a root of its own")

func issuerName(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	if name := c.Subject.String(); name != "" {
		return name
	}
	return namesOf(c)
}

// namesOf are the names that a certificate is for (RFC 6125: not its common name).
func namesOf(c *x509.Certificate) string {
	const few = 6
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0:
		return "no host"
	case len(names) > few:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}

func keyOf(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

// weakKey says what is wrong with a key that others would refuse.
func weakKey(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Sprintf("an RSA key of %d bits, which many refuse", k.N.BitLen())
		}
	case ed25519.PublicKey:
		return "an Ed25519 key, which many MTAs cannot use"
	}
	return ""
}
