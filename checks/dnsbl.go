package checks

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/policy"
	"postern/proxy/smtp"
)

// DNSBL asks the DNS lists that are configured, side by side, about the
// client's address or about a name (RFC 5782). A list in
// trouble lists nobody, and the result says so where no other does.
func (d Deps) DNSBL() Check {
	lists := make([]dnsList, 0, len(d.Config.DNSBL.Zones))
	for _, z := range d.Config.DNSBL.Zones {
		// CheckDNSBLZone has had its say before anything listens. A file can have gone
		// since: such a list is in trouble, and NOT: one that lists nobody.
		l, _, err := newDNSList(z)
		l.broken = err != nil
		lists = append(lists, l)
	}
	return Check{
		Doc:    "The DNS lists of checks.dnsbl, weighted (RFC 5782).",
		stands: true,
		begin: func(f *policy.Facts, _ Message) bool {
			f.DNSBL = policy.DNSBL{Result: policy.None, Zones: []string{}}
			return len(lists) == 0
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) { f.DNSBL = askLists(ctx, d.Resolver, lists, f) },
	}
}

// askLists asks every list. Fail: a list that blocks has an entry, whatever
// others would have said. Temperror: none has, and one that could not be asked
// might. Pass: lists that allow have one.
func askLists(ctx context.Context, r Resolver, lists []dnsList, f *policy.Facts) policy.DNSBL {
	found := make([]listing, len(lists))
	// What iprev finds is not known yet: the checks of a stage run side by side.
	// A list of reverse names looks for itself, once for all of them.
	reverse := sync.OnceValues(func() (string, policy.Result) {
		found := iprev(ctx, r, f.Client)
		return found.Name, found.Result
	})
	var wg sync.WaitGroup
	for i := range lists {
		wg.Go(func() {
			// A panic in a goroutine would end the process, not the check.
			defer func() {
				if recover() != nil {
					found[i] = listingTrouble
				}
			}()
			name, ok := lists[i].query(f, reverse)
			switch {
			case !ok || lists[i].broken:
				found[i] = listingTrouble
			case name != "":
				found[i] = lists[i].ask(ctx, r, name)
			}
		})
	}
	wg.Wait()

	sum := policy.DNSBL{Result: policy.None, Zones: []string{}}
	var missing, missed, allowed bool // lists that block and that allow did not answer
	for i, l := range lists {
		switch found[i] {
		case listingTrouble:
			missing = missing || l.weight > 0
			missed = missed || l.weight < 0
		case listingYes:
			sum.Score += l.weight
			sum.Zones = append(sum.Zones, l.zone)
			switch { // a weight of 0 is for looking on: the zone is named, and that is all
			case l.weight > 0:
				sum.Listed = true
			case l.weight < 0:
				allowed = true
			}
		}
	}
	switch {
	case sum.Listed:
		sum.Result = policy.Fail
	case missing:
		sum.Result = policy.TempError
	case allowed:
		sum.Result = policy.Pass
	case missed:
		sum.Result = policy.TempError
	}
	return sum
}

// listing is what one list says.
type listing uint8

const (
	listingNo listing = iota
	listingYes
	listingTrouble
)

// dnsList is one zone, ready to be asked.
type dnsList struct {
	zone   string // as it is shown
	key    string // a secret label before it; empty: none
	broken bool
	weight int
	of     string
	codes  []codeRange // none: the default
}

// CheckDNSBLZone says what is wrong with a configured list, for check-config,
// and which of its keys says it: "zone", "of" or "codes[1]".
func CheckDNSBLZone(z configs.DNSBLZone) (key string, err error) {
	_, key, err = newDNSList(z)
	return key, err
}

func newDNSList(z configs.DNSBLZone) (l dnsList, key string, err error) {
	zone, ok := domainName(z.Zone)
	if !ok {
		return l, "zone", fmt.Errorf("%q is no DNS zone", z.Zone)
	}
	l = dnsList{zone: zone, weight: z.Weight, of: z.Of}
	if z.ZoneKeyFile != "" {
		if l.key, err = readZoneKey(z.ZoneKeyFile); err != nil {
			return l, "zone_key_file", err
		}
	}
	switch l.of {
	case "":
		l.of = "client"
	case "client", "helo", "mail_from", "iprev":
	default:
		return l, "of", fmt.Errorf("%q is not client, helo, mail_from or iprev", z.Of)
	}
	for i, c := range z.Codes {
		r, err := parseCodes(c)
		if err != nil {
			return l, fmt.Sprintf("codes[%d]", i), err
		}
		l.codes = append(l.codes, r)
	}
	return l, "", nil
}

// query is the name to ask for; empty: there is nothing to ask about. Not ok:
// what to ask about could not be found out.
func (l *dnsList) query(f *policy.Facts, reverse func() (string, policy.Result)) (name string, ok bool) {
	subject := ""
	switch l.of {
	case "client":
		if ip := f.Client.Addr(); ip.IsValid() {
			subject = reversedIP(ip)
		}
	case "helo":
		subject = f.Helo.Domain
	case "mail_from":
		subject = f.Mail.Domain
	case "iprev":
		var result policy.Result
		if subject, result = reverse(); result == policy.TempError {
			return "", false
		}
	}
	if l.of != "client" {
		subject, _ = checkable(subject)
	}
	if name := l.name(subject); subject != "" && len(name) <= smtp.MaxDomain {
		return name, true
	}
	return "", true
}

// name is what the list is asked for.
func (l *dnsList) name(subject string) string {
	if l.key != "" {
		subject += "." + l.key
	}
	return subject + "." + l.zone
}

// lookup asks for a name of the list's, and leaves its key out of what is recorded.
func (l *dnsList) lookup(ctx context.Context, r Resolver, name string) ([]netip.Addr, error) {
	if l.key != "" {
		ctx = dnscache.WithSecret(ctx, l.key)
	}
	return r.LookupNetIP(ctx, "ip4", name)
}

// readZoneKey reads the key of a list: one label. No error says what is in the file.
func readZoneKey(file string) (string, error) {
	const maxLabel = 63 // RFC 1035 §2.3.4
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // nothing was written
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	key := strings.ToLower(strings.TrimSpace(string(text)))
	foreign := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}
	if key == "" || len(key) > maxLabel || strings.ContainsFunc(key, foreign) {
		return "", fmt.Errorf("%s: a key is one label of a name: 1 to %d letters, digits and hyphens, and nothing else in the file", file, maxLabel)
	}
	return key, nil
}

func (l *dnsList) ask(ctx context.Context, r Resolver, name string) listing {
	addrs, err := l.lookup(ctx, r, name)
	if err != nil {
		if dnscache.IsNotFound(err) {
			return listingNo
		}
		return listingTrouble
	}
	found := listingNo
	for _, a := range addrs {
		switch l.judge(a.Unmap()) {
		case listingYes:
			return listingYes
		case listingTrouble:
			found = listingTrouble
		}
	}
	return found
}

// judge reads one return code. 127.255.255.0/24 is how lists say that we asked
// wrongly (too often, through a public resolver), and so is 127.0.0.1 at several of
// them, which RFC 5782 §2.1 advises against as a listing: taken for one it would
// refuse all mail. A list that lists by 127.0.0.1 all the same is believed where the
// configuration names the code. What is outside 127.0.0.0/8 is a parked domain or a resolver
// that invents answers (RFC 5782 §2.3).
func (l *dnsList) judge(code netip.Addr) listing {
	if !code.Is4() || code.As4()[0] != 127 {
		return listingNo
	}
	if b := code.As4(); b[1] == 255 && b[2] == 255 {
		return listingTrouble
	}
	for _, r := range l.codes {
		if r.first.Compare(code) <= 0 && code.Compare(r.last) <= 0 {
			return listingYes
		}
	}
	switch {
	case code == loopback:
		return listingTrouble
	case len(l.codes) == 0:
		return listingYes
	}
	return listingNo
}

// loopback is what some lists answer to those whom they do not serve.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// codeRange is a range of return codes, both ends in it.
type codeRange struct{ first, last netip.Addr }

// parseCodes reads "127.0.0.2" or "127.0.0.2-127.0.0.11".
func parseCodes(s string) (codeRange, error) {
	from, to, ranged := strings.Cut(strings.TrimSpace(s), "-")
	if !ranged {
		to = from
	}
	first, err1 := netip.ParseAddr(strings.TrimSpace(from))
	last, err2 := netip.ParseAddr(strings.TrimSpace(to))
	if err1 != nil || err2 != nil || !first.Is4() || !last.Is4() ||
		first.As4()[0] != 127 || last.As4()[0] != 127 || last.Less(first) {
		return codeRange{}, fmt.Errorf("%q is no return code or range within 127.0.0.0/8", s)
	}
	return codeRange{first, last}, nil
}

// reversedIP is an address as lists are asked for it: octets of IPv4, nibbles of
// IPv6, last first (RFC 5782 §2.1, §2.4).
func reversedIP(ip netip.Addr) string {
	ip = ip.Unmap()
	if ip.Is4() {
		b := ip.As4()
		return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).String()
	}
	const hex = "0123456789abcdef"
	b := make([]byte, 0, 64)
	a := ip.As16()
	for i := len(a) - 1; i >= 0; i-- {
		b = append(b, hex[a[i]&15], '.', hex[a[i]>>4], '.')
	}
	return string(b[:len(b)-1])
}
