package service

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"postern/configs"
	"postern/policy"
)

// Warnings are what is legal and hardly meant.
func (p *Parts) Warnings(now time.Time) []configs.Fault {
	warnings := append(p.ConfigurationWarnings(), p.Certificates.warnings(now, p.Config.Hostname)...)
	return append(warnings, p.holdWarnings()...)
}

// ConfigurationWarnings are those of what the configuration says, and not of what lies on
// the disk: the doctor looks closer at that.
func (p *Parts) ConfigurationWarnings() []configs.Fault {
	warnings := p.Rules.warnings()
	warnings = append(warnings, p.neverThere(p.Rules.Chain)...)
	if p.candidate.Chain != nil {
		warnings = append(warnings, p.candidate.warnings()...)
		warnings = append(warnings, p.neverThere(p.candidate.Chain)...)
	}
	warnings = append(warnings, stateWarnings(p.Config)...)
	warnings = append(warnings, p.networkWarnings()...)
	warnings = append(warnings, p.filterWarnings()...)
	return append(warnings, backendWarnings(p.Config)...)
}

// stateWarnings tells of a store that is reached over a network in the clear.
func stateWarnings(cfg *configs.Config) (warnings []configs.Fault) {
	c := &cfg.State
	if i := slices.IndexFunc(c.Servers, func(s string) bool { return !OnThisMachine(s) }); i >= 0 && c.TLS == "off" {
		warnings = append(warnings, configs.Warning(cfg.At(fmt.Sprintf("state.servers[%d]", i)),
			"state.servers: what is remembered, and the password if there is one, goes to %s in the clear: write tls: verify, or see that nobody else is on the way", c.Servers[i]))
	}
	return warnings
}

// networkWarnings tells of files of networks that cannot be read.
func (p *Parts) networkWarnings() (warnings []configs.Fault) {
	if p.networks == nil {
		return nil
	}
	for i, fault := range p.networks.Faults() {
		if fault != "" {
			warnings = append(warnings, configs.Warning(p.Config.At(fmt.Sprintf("checks.geo.files[%d]", i)),
				"checks.geo.files: %s; until it can be read, rules that hang on client.asn, client.as_name or client.country do not match", fault))
		}
	}
	return warnings
}

// Holds says whether messages are held until their end, for a rule or for one of the
// candidate's.
func (p *Parts) Holds() bool {
	return p.Settings.Checks.AddsFields() || p.Rules.Chain.HoldsMessage() || p.candidate.Chain != nil && p.candidate.Chain.HoldsMessage()
}

// holdWarnings tries the folder for messages that are held until their end, where a rule
// has them held: what does not stay in memory would be deferred, today and tomorrow.
func (p *Parts) holdWarnings() []configs.Fault {
	if !p.Holds() {
		return nil
	}
	f, err := os.CreateTemp("", "postern-")
	if err == nil {
		_ = f.Close() // nothing was written
		err = os.Remove(f.Name())
	}
	if err != nil {
		return []configs.Fault{configs.Warning(configs.Position{}, "large messages cannot be held until their end and are deferred: %v (the folder is $TMPDIR, or /tmp)", err)}
	}
	return nil
}

// neverThere tells of rules that wait for a fact which the rest of the configuration
// never makes.
func (p *Parts) neverThere(chain *policy.Chain) (warnings []configs.Fault) {
	cfg := p.Config
	certificates := cfg.TLS.ClientCertificates
	for _, x := range []struct {
		absent bool
		why    string
		facts  []string
	}{
		{certificates.Mode == "none", "no client is asked for a certificate: tls.client_certificates.mode", []string{"tls.peer.verified", "tls.peer.names", "tls.peer.fingerprint"}},
		{certificates.Mode != "none" && certificates.CA == "", "there are no roots to verify a client by: tls.client_certificates.ca", []string{"tls.peer.verified"}},
		{len(cfg.Checks.Geo.Files) == 0, "there are no files to look it up in, so that the rule never matches: checks.geo.files", []string{"client.asn", "client.as_name", "client.country", "network.result"}},
		{len(cfg.Checks.DNSBL.Zones) == 0, "there are no lists to ask: checks.dnsbl.zones", []string{"dnsbl.listed", "dnsbl.score", "dnsbl.zones", "dnsbl.result"}},
	} {
		for _, fact := range x.facts {
			if name, at, reads := chain.Reader(fact); x.absent && reads {
				warnings = append(warnings, configs.Warning(at, "rule %q reads %s, and %s", name, fact, x.why))
				break
			}
		}
	}
	return warnings
}

// backendWarnings tells of backends by which mail ends where nobody looks, or an
// MTA relays for the world.
func backendWarnings(cfg *configs.Config) (warnings []configs.Fault) {
	// Somebody who only tries Postern names no listener in a file.
	if at := cfg.At("listeners"); len(cfg.Backends) == 0 && len(cfg.Listeners) > 0 && at.Line > 0 {
		warnings = append(warnings, configs.Warning(at, "there are listeners and no backends: mail for any recipient is accepted, and stays in the folder Maildir"))
	}
	for _, b := range cfg.Backends {
		// By XFORWARD an MTA logs the client, and goes on to judge us.
		if b.Identity != "none" && b.Identity != "xforward" || !slices.ContainsFunc(b.Addresses, OnThisMachine) {
			continue
		}
		warnings = append(warnings, configs.Warning(b.Position,
			"backend %s takes every client for a program on this machine (identity: %s), and most MTAs relay for those: use xclient or proxy-v2, or see that it relays nothing for 127.0.0.1", b.Name, b.Identity))
	}
	return warnings
}

// OnThisMachine says whether a backend's address is reached without leaving the machine.
func OnThisMachine(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
