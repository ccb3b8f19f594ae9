package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/cmd/postern/service"
)

// The bounds of a policy (RFC 8461 §3.3 leaves them to us).
const (
	maxTransportPolicy = 64 << 10 // octets
	maxPatterns        = 100
	maxPolicyAge       = 31557600 // seconds: RFC 8461 §3.2
)

// transportPolicy compares the domain's policy for senders (MTA-STS, RFC 8461) with what is served: a
// policy that does not fit keeps mail away from us, and nobody here sees it.
func (d *patient) transportPolicy(ctx context.Context, r *Report, domain string) {
	it := r.on("mta-sts", domain, "")
	txts, err := d.Resolver.LookupTXT(ctx, "_mta-sts."+domain)
	ids := slices.DeleteFunc(slices.Clone(txts), func(t string) bool { return !strings.HasPrefix(t, "v=STSv1;") })
	switch {
	case err != nil && !isNoSuch(err):
		it.Warn("see the name servers above", "whether %s has an MTA-STS policy could not be looked up: %s", domain, dnsWhy(err))
		return
	case len(ids) == 0:
		it.OK("%s has no MTA-STS policy: senders encrypt if they can, and verify nothing", domain)
		return
	case len(ids) > 1:
		it.Warn("leave one", "_mta-sts.%s has several records, so that senders take it that there is no policy", domain)
		return
	}
	p, err := fetchTransportPolicy(ctx, d.web, domain)
	if err != nil {
		it.Warn("serve it at https://mta-sts."+domain+policyPath+", as text/plain, with a certificate for that name, without a redirect. Senders that know an older policy go on with that",
			"%s announces an MTA-STS policy that cannot be fetched: %v", domain, err)
		return
	}
	d.judgeTransportPolicy(ctx, it, p, domain)
}

// judgeTransportPolicy compares a policy with MX records and certificates.
func (d *patient) judgeTransportPolicy(ctx context.Context, it topic, p *transportPolicy, domain string) {
	say := it.Warn // testing: senders tell of it, and deliver
	if p.mode == "enforce" {
		say = it.Fault
	}
	if p.mode == "none" {
		it.OK("%s has an MTA-STS policy of mode none: it asks for nothing", domain)
		return
	}
	told := len(it.report.Findings)
	mx, err := d.Resolver.LookupMX(ctx, domain)
	if err != nil {
		it.Warn("see the name servers above", "the MX record of %s could not be looked up: %s", domain, dnsWhy(err))
	}
	for _, host := range hosts(mx) {
		if !p.names(host) {
			say("name it in the policy (mx: "+host+") and change the id of _mta-sts."+domain, "the MTA-STS policy of %s (mode %s) does not name its MX host %s, but %s", domain, p.mode, host, strings.Join(p.mx, ", "))
		}
	}
	name := d.Settings.Hostname
	if slices.ContainsFunc(hosts(mx), func(h string) bool { return strings.EqualFold(h, name) }) {
		if why := d.unverified(name); why != "" {
			say("serve a certificate for "+name+" that leads to a public root: senders that obey the policy do not deliver without", "%s has an MTA-STS policy of mode %s, and the certificate of %s %s", domain, p.mode, name, why)
		}
	}
	const day = 86400
	if p.maxAge < day {
		it.Warn("say max_age: 604800 or more", "the MTA-STS policy of %s is kept by senders for %d s only: whoever can forge an answer once an hour is rid of it", domain, p.maxAge)
	}
	if len(it.report.Findings) == told {
		it.OK("the MTA-STS policy of %s (mode %s) names its MX hosts, and the certificate that is served fits", domain, p.mode)
	}
}

// unverified says why a sender that verifies would not take the certificate that is served
// under a name; empty: it would.
func (d *patient) unverified(name string) string {
	if !service.OffersTLS(d.Config) {
		return "is not there: no listener offers TLS"
	}
	pair := d.Certificates.Served(name)
	if len(d.Config.TLS.Certificates) == 0 || pair == nil || pair.Leaf == nil {
		return "is one that is made in memory, which nobody can verify"
	}
	if pair.Leaf.VerifyHostname(name) != nil {
		return "does not name it, but " + namesOf(pair.Leaf)
	}
	if d.now.After(pair.Leaf.NotAfter) {
		return "ended on " + pair.Leaf.NotAfter.Format(time.DateOnly)
	}
	if _, err := chainTo(certificatesOf(pair), d.roots(), d.now); err != nil {
		return fmt.Sprintf("has no chain to a root that this machine knows: %v", err)
	}
	return ""
}

const policyPath = "/.well-known/mta-sts.txt"

// transportPolicy is a policy of RFC 8461 §3.2.
type transportPolicy struct {
	mode   string // enforce, testing, none
	mx     []string
	maxAge int // seconds
}

// names says whether a host fits a pattern of the policy (RFC 8461 §4.1): a wildcard stands for
// one whole label, the leftmost.
func (p *transportPolicy) names(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.ContainsFunc(p.mx, func(pattern string) bool {
		if parent, ok := strings.CutPrefix(pattern, "*."); ok {
			_, rest, dotted := strings.Cut(host, ".")
			return dotted && rest == parent
		}
		return pattern == host
	})
}

// fetchTransportPolicy fetches and reads the policy of a domain. Redirects are not followed and the
// certificate must be good (RFC 8461 §3.3), since whoever could forge either could forge a policy.
func fetchTransportPolicy(ctx context.Context, web *http.Client, domain string) (*transportPolicy, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+policyPath, nil)
	if err != nil {
		return nil, err
	}
	resp, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "text/plain") {
		return nil, fmt.Errorf("it is served as %q, not as text/plain", resp.Header.Get("Content-Type"))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxTransportPolicy+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxTransportPolicy {
		return nil, fmt.Errorf("it has more than %d KiB", maxTransportPolicy>>10)
	}
	return parseTransportPolicy(string(text))
}

// parseTransportPolicy reads the lines of a policy; keys that are not known are passed over.
func parseTransportPolicy(text string) (*transportPolicy, error) {
	p := &transportPolicy{maxAge: -1}
	version := ""
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		if key, value = strings.TrimSpace(key), strings.TrimSpace(value); !ok {
			if key == "" {
				continue
			}
			return nil, fmt.Errorf("%q is no line of a policy", line)
		}
		switch key {
		case "version":
			version = value
		case "mode":
			p.mode = value
		case "mx":
			if p.mx = append(p.mx, strings.ToLower(value)); len(p.mx) > maxPatterns {
				return nil, fmt.Errorf("it has more than %d lines mx", maxPatterns)
			}
		case "max_age":
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 || n > maxPolicyAge {
				return nil, fmt.Errorf("max_age %q is no number of seconds up to a year", value)
			}
			p.maxAge = n
		}
	}
	switch {
	case version != "STSv1":
		return nil, fmt.Errorf("it does not say version: STSv1, but %q", version)
	case p.mode != "enforce" && p.mode != "testing" && p.mode != "none":
		return nil, fmt.Errorf("mode %q is none of enforce, testing, none", p.mode)
	case p.maxAge < 0:
		return nil, errors.New("it has no max_age")
	case p.mode != "none" && len(p.mx) == 0:
		return nil, errors.New("it has no line mx")
	}
	return p, nil
}

// webClient fetches policies: by the name servers of the configuration, with the system's roots,
// without redirects, within the time of one wait.
func (d *patient) webClient() *http.Client {
	dialer := net.Dialer{Timeout: doctorWait}
	return &http.Client{
		Timeout:       doctorWait,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, TLSHandshakeTimeout: doctorWait, ResponseHeaderTimeout: doctorWait,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				addrs, err := d.Resolver.LookupNetIP(ctx, "ip", host)
				if err != nil {
					return nil, err
				}
				for _, a := range addrs[:min(len(addrs), 4)] {
					var conn net.Conn
					if conn, err = dialer.DialContext(ctx, network, net.JoinHostPort(a.Unmap().String(), port)); err == nil {
						return conn, nil
					}
				}
				return nil, err
			},
		},
	}
}

func hosts(mx []*net.MX) (names []string) {
	for _, m := range mx {
		names = append(names, strings.TrimSuffix(strings.ToLower(m.Host), "."))
	}
	return names
}
