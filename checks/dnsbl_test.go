package checks

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
)

// askedLists is one MAIL command from a client with lists configured.
func askedLists(t *testing.T, r Resolver, host string, zones ...configs.DNSBLZone) policy.DNSBL {
	t.Helper()
	f := transaction(host, "helo.example", "user@from.example")
	only(Deps{Resolver: r, Config: configs.Checks{DNSBL: configs.DNSBLCheck{Zones: zones}}}, "dnsbl").Run(t.Context(), policy.Mail, f, Message{}, nil)
	return f.DNSBL
}

const listZone = `
7.2.0.192.black.example         A 127.0.0.2
7.2.0.192.grey.example          A 127.0.0.4
7.2.0.192.grey.example          A 127.0.0.9
7.2.0.192.white.example         A 127.0.5.2
7.2.0.192.limited.example       A 127.255.255.254
7.2.0.192.closed.example        A 127.0.0.1
7.2.0.192.parked.example        A 203.0.113.5
8.2.0.192.white.example         A 127.0.5.2
; SERVFAIL broken.example
; SERVFAIL 7.2.0.192.broken.example
; SERVFAIL 8.2.0.192.broken.example
; SERVFAIL 6.2.0.192.in-addr.arpa
helo.example.names.example      A 127.0.1.2
from.example.names.example      A 127.0.1.3
client.example.names.example    A 127.0.1.4
7.2.0.192.in-addr.arpa          PTR client.example.
client.example                  A 192.0.2.7
5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.black.example A 127.0.0.2
`

func TestListsAreWeighed(t *testing.T) {
	black := configs.DNSBLZone{Zone: "black.example", Weight: 3}
	grey := configs.DNSBLZone{Zone: "GREY.example.", Weight: 2, Codes: []string{"127.0.0.8 - 127.0.0.10"}}
	white := configs.DNSBLZone{Zone: "white.example", Weight: -4}
	broken := configs.DNSBLZone{Zone: "broken.example", Weight: 5}
	limited := configs.DNSBLZone{Zone: "limited.example", Weight: 5}
	for name, tc := range map[string]struct {
		host  string
		zones []configs.DNSBLZone
		want  policy.DNSBL
	}{
		"nothing configured":         {"192.0.2.7", nil, policy.DNSBL{Result: policy.None}},
		"one to look on with":        {"192.0.2.7", []configs.DNSBLZone{{Zone: "black.example"}}, policy.DNSBL{Result: policy.None, Zones: []string{"black.example"}}},
		"in the order of config":     {"192.0.2.7", []configs.DNSBLZone{grey, black}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: 5, Zones: []string{"grey.example", "black.example"}}},
		"an allow list takes off":    {"192.0.2.7", []configs.DNSBLZone{black, white}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: -1, Zones: []string{"black.example", "white.example"}}},
		"allowed alone":              {"192.0.2.8", []configs.DNSBLZone{black, white}, policy.DNSBL{Result: policy.Pass, Score: -4, Zones: []string{"white.example"}}},
		"not on any":                 {"192.0.2.9", []configs.DNSBLZone{black, white}, policy.DNSBL{Result: policy.None}},
		"the other codes":            {"192.0.2.7", []configs.DNSBLZone{{Zone: "grey.example", Codes: []string{"127.0.0.5"}, Weight: 1}}, policy.DNSBL{Result: policy.None}},
		"a broken list lists nobody": {"192.0.2.7", []configs.DNSBLZone{broken}, policy.DNSBL{Result: policy.TempError}},
		"and hides no other":         {"192.0.2.7", []configs.DNSBLZone{broken, black}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: 3, Zones: []string{"black.example"}}},
		"asked too often":            {"192.0.2.7", []configs.DNSBLZone{limited}, policy.DNSBL{Result: policy.TempError}},
		"not for us":                 {"192.0.2.7", []configs.DNSBLZone{{Zone: "closed.example", Weight: 5}}, policy.DNSBL{Result: policy.TempError}},
		"nor by other codes":         {"192.0.2.7", []configs.DNSBLZone{{Zone: "closed.example", Weight: 5, Codes: []string{"127.0.0.2-127.0.0.9"}}}, policy.DNSBL{Result: policy.TempError}},
		"unless it is said":          {"192.0.2.7", []configs.DNSBLZone{{Zone: "closed.example", Weight: 5, Codes: []string{"127.0.0.1"}}}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: 5, Zones: []string{"closed.example"}}},
		"not even then":              {"192.0.2.7", []configs.DNSBLZone{{Zone: "limited.example", Weight: 5, Codes: []string{"127.0.0.0-127.255.255.255"}}}, policy.DNSBL{Result: policy.TempError}},
		"a parked domain":            {"192.0.2.7", []configs.DNSBLZone{{Zone: "parked.example", Weight: 1}}, policy.DNSBL{Result: policy.None}},
		"IPv6 by nibbles":            {"2001:db8::25", []configs.DNSBLZone{black}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: 3, Zones: []string{"black.example"}}},
		"of HELO":                    {"192.0.2.7", []configs.DNSBLZone{{Zone: "names.example", Of: "helo", Codes: []string{"127.0.1.2"}, Weight: 1}}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: 1, Zones: []string{"names.example"}}},
		"of MAIL FROM":               {"192.0.2.7", []configs.DNSBLZone{{Zone: "names.example", Of: "mail_from", Codes: []string{"127.0.1.3"}, Weight: 1}}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: 1, Zones: []string{"names.example"}}},
		"of the reverse name":        {"192.0.2.7", []configs.DNSBLZone{{Zone: "names.example", Of: "iprev", Codes: []string{"127.0.1.4"}, Weight: 1}}, policy.DNSBL{Result: policy.Fail, Listed: true, Score: 1, Zones: []string{"names.example"}}},
		"without a reverse name":     {"192.0.2.8", []configs.DNSBLZone{{Zone: "names.example", Of: "iprev", Weight: 1}}, policy.DNSBL{Result: policy.None}},
	} {
		got := askedLists(t, parseZone(t, listZone), tc.host, tc.zones...)
		if !slices.Equal(got.Zones, tc.want.Zones) || got.Result != tc.want.Result || got.Score != tc.want.Score || got.Listed != tc.want.Listed {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, tc.want)
		}
	}
}

// A list that cannot be asked makes a temperror of what it might have turned, and
// of nothing else.
func TestListsInTrouble(t *testing.T) {
	white := configs.DNSBLZone{Zone: "white.example", Weight: -4}
	broken := func(weight int) configs.DNSBLZone { return configs.DNSBLZone{Zone: "broken.example", Weight: weight} }
	for name, tc := range map[string]struct {
		host   string
		zones  []configs.DNSBLZone
		result policy.Result
		score  int
	}{
		"an allow list beside it is no pass":             {"192.0.2.8", []configs.DNSBLZone{broken(5), white}, policy.TempError, -4},
		"an allow list in trouble hides no other":        {"192.0.2.8", []configs.DNSBLZone{broken(-1), white}, policy.Pass, -4},
		"nobody knows whether it is allowed":             {"192.0.2.7", []configs.DNSBLZone{broken(-1)}, policy.TempError, 0},
		"one to look on with is missed by nobody":        {"192.0.2.7", []configs.DNSBLZone{broken(0)}, policy.None, 0},
		"the reverse name to be asked for cannot be had": {"192.0.2.6", []configs.DNSBLZone{{Zone: "names.example", Of: "iprev", Weight: 1}}, policy.TempError, 0},
	} {
		if got := askedLists(t, parseZone(t, listZone), tc.host, tc.zones...); got.Result != tc.result || got.Score != tc.score || got.Listed {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A list that knows its customers by a label of the name: it is asked by that, and
// nobody else hears of it.
func TestListWithAKey(t *testing.T) {
	const secret = "s3cr3tlabel"
	file := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(" S3cr3tLabel\n")
	zone := configs.DNSBLZone{Zone: "zen.dq.example", Weight: 2, ZoneKeyFile: file}
	answers := parseZone(t, `
7.2.0.192.s3cr3tlabel.zen.dq.example A 127.0.0.2
2.0.0.127.s3cr3tlabel.zen.dq.example A 127.0.0.2
; SERVFAIL 1.0.0.127.s3cr3tlabel.zen.dq.example
`)
	server, stop := answers.Serve()
	defer stop()
	r, err := dnscache.New(dnscache.Options{Servers: []string{server}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var f *policy.Facts
	var trace dnscache.Trace
	set := only(Deps{Resolver: r, Config: configs.Checks{DNSBL: configs.DNSBLCheck{Zones: []configs.DNSBLZone{zone}}}}, "dnsbl")
	for _, host := range []string{"192.0.2.7", "192.0.2.8", "127.0.0.1"} { // an entry, none, and an error
		f = transaction(host, "helo.example", "user@from.example")
		set.Run(dnscache.WithTransaction(t.Context(), &dnscache.Transaction{Trace: &trace}), policy.Mail, f, Message{}, nil)
		if want := map[string]policy.Result{"192.0.2.7": policy.Fail, "192.0.2.8": policy.None, "127.0.0.1": policy.TempError}[host]; f.DNSBL.Result != want {
			t.Errorf("%s: %+v", host, f.DNSBL)
		}
	}
	x, err := ExamineDNSBL(t.Context(), r, zone)
	if err != nil || len(x.Listed.Codes) != 1 || x.Unlisted.Err == nil {
		t.Errorf("%+v, %v", x, err)
	}
	seen := fmt.Sprintf("%+v %+v %v %v", trace.Answers(), f.DNSBL, x, x.Unlisted.Err)
	if strings.Contains(strings.ToLower(seen), secret) || !strings.Contains(seen, "7.2.0.192.zen.dq.example") {
		t.Errorf("seen: %s", seen)
	}

	// What is no label is said, and not shown; a list whose file is gone is in
	// trouble, and lists nobody silently.
	for _, text := range []string{"", "two labels", "s3cr3tlabel.x", "s3cr3tlabel\ns3cr3tlabel", strings.Repeat("s3cr3tlabel", 6), "s3cr3tlabel\x00"} {
		write(text)
		if key, err := CheckDNSBLZone(zone); key != "zone_key_file" || err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %s: %v", text, key, err)
		}
	}
	if got := askedLists(t, answers, "192.0.2.7", zone); got.Result != policy.TempError {
		t.Errorf("%+v", got)
	}
}

// explodes panics where it is asked for one zone.
type explodes struct{ *dnstest.Zone }

func (r explodes) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host == "7.2.0.192.grey.example" {
		panic("out of luck")
	}
	return r.Zone.LookupNetIP(ctx, network, host)
}

func TestAPanicOverOneListEndsNothing(t *testing.T) {
	got := askedLists(t, explodes{parseZone(t, listZone)}, "192.0.2.7",
		configs.DNSBLZone{Zone: "grey.example", Weight: 1}, configs.DNSBLZone{Zone: "black.example", Weight: 1})
	if !got.Listed || got.Score != 1 {
		t.Errorf("%+v", got)
	}
}

func TestListsThatMakeNoSense(t *testing.T) {
	for _, tc := range []struct {
		zone configs.DNSBLZone
		key  string
	}{
		{configs.DNSBLZone{Zone: ""}, "zone"},
		{configs.DNSBLZone{Zone: "not a zone"}, "zone"},
		{configs.DNSBLZone{Zone: "bl.example", Of: "sender"}, "of"},
		{configs.DNSBLZone{Zone: "bl.example", Codes: []string{"192.0.2.1"}}, "codes[0]"},
		{configs.DNSBLZone{Zone: "bl.example", Codes: []string{"127.0.0.2", "127.0.0.9-127.0.0.2"}}, "codes[1]"},
		{configs.DNSBLZone{Zone: "bl.example", Codes: []string{"::1"}}, "codes[0]"},
		{configs.DNSBLZone{Zone: "bl.example", Codes: []string{""}}, "codes[0]"},
	} {
		if key, err := CheckDNSBLZone(tc.zone); err == nil || key != tc.key {
			t.Errorf("%+v: %s: %v", tc.zone, key, err)
		}
	}
	if _, err := CheckDNSBLZone(configs.DNSBLZone{Zone: "bl.example", Of: "iprev", Codes: []string{"127.0.0.2-127.0.0.11", "127.1.0.0"}}); err != nil {
		t.Error(err)
	}
}

// A range of codes, however it is written, holds no error codes and nothing
// outside 127.0.0.0/8.
func FuzzDNSBLCodes(f *testing.F) {
	for _, s := range []string{"127.0.0.2", "127.0.0.2-127.0.0.11", "127.0.0.0 - 127.255.255.255", "192.0.2.1", "127.0.0.9-127.0.0.1", "-", "::ffff:127.0.0.1"} {
		f.Add(s, uint32(0x7f000002))
	}
	f.Fuzz(func(t *testing.T, s string, code uint32) {
		r, err := parseCodes(s)
		if err != nil {
			return
		}
		if r.last.Less(r.first) || r.first.As4()[0] != 127 || r.last.As4()[0] != 127 {
			t.Fatalf("%q: %v", s, r)
		}
		ip := netip.AddrFrom4([4]byte{byte(code >> 24), byte(code >> 16), byte(code >> 8), byte(code)})
		l := dnsList{codes: []codeRange{r}}
		if got := l.judge(ip); got == listingYes {
			b := ip.As4()
			if b[0] != 127 || b[1] == 255 && b[2] == 255 || ip.Less(r.first) || r.last.Less(ip) {
				t.Fatalf("%q lists %v", s, ip)
			}
		}
	})
}

func TestIprev(t *testing.T) {
	z := parseZone(t, `
1.2.0.192.in-addr.arpa  PTR wrong.example.
1.2.0.192.in-addr.arpa  PTR Right.Example.
wrong.example           A 203.0.113.1
right.example           A 192.0.2.1
2.2.0.192.in-addr.arpa  PTR wrong.example.
3.2.0.192.in-addr.arpa  PTR gone.example.
7.2.0.192.in-addr.arpa  PTR no_name!.example.
4.2.0.192.in-addr.arpa  PTR slow.example.
; TIMEOUT slow.example
; SERVFAIL 5.2.0.192.in-addr.arpa
6.2.0.192.in-addr.arpa  TXT "no name"
5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR six.example.
six.example             AAAA 2001:db8::25
`)
	for host, want := range map[string]policy.Iprev{
		"192.0.2.1":        {Result: policy.Pass, Name: "right.example", Reverse: "right.example"},
		"::ffff:192.0.2.1": {Result: policy.Pass, Name: "right.example", Reverse: "right.example"},
		"192.0.2.2":        {Result: policy.Fail, Reverse: "wrong.example"},
		"192.0.2.3":        {Result: policy.Fail, Reverse: "gone.example"},
		"192.0.2.4":        {Result: policy.TempError, Reverse: "slow.example"},
		"192.0.2.5":        {Result: policy.TempError},
		"192.0.2.6":        {Result: policy.PermError},
		"192.0.2.7":        {Result: policy.Fail}, // it has a name that is none
		"192.0.2.99":       {Result: policy.PermError},
		"2001:db8::25":     {Result: policy.Pass, Name: "six.example", Reverse: "six.example"},
	} {
		f := transaction(host, "c.example", "")
		only(Deps{Resolver: z}, "iprev").Run(t.Context(), policy.Mail, f, Message{}, nil)
		if f.Iprev != want {
			t.Errorf("%s: %+v, want %+v", host, f.Iprev, want)
		}
		if f.Client.Name != "" {
			t.Error("a check writes its own field alone")
		}
	}
}

// A reverse zone may hold any octets and any number of names.
type weirdPTR struct {
	*dnstest.Zone
	names []string
}

func (r weirdPTR) LookupAddr(context.Context, string) ([]string, error) { return r.names, nil }

func TestIprevTrustsNoReverseZone(t *testing.T) {
	z := parseZone(t, "good.example A 192.0.2.1")
	many := slices.Repeat([]string{"no.example."}, 10)
	for _, names := range [][]string{{"a\r\nb.example."}, {"x y.example."}, {"."}, {""}, append(many, "good.example.")} {
		f := transaction("192.0.2.1", "c.example", "")
		only(Deps{Resolver: weirdPTR{z, names}}, "iprev").Run(t.Context(), policy.Mail, f, Message{}, nil)
		if f.Iprev.Result != policy.Fail || f.Iprev.Name != "" {
			t.Errorf("%q: %+v", names, f.Iprev)
		}
	}
}
