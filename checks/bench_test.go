package checks

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/policy"
)

// warm is the real resolver with everything in its cache that the benchmark
// asks for, once it has asked for it.
func warm(b *testing.B, text string) *dnscache.Resolver {
	b.Helper()
	addr, stop := parseZone(b, text).Serve()
	b.Cleanup(stop)
	return resolverFor(b, addr)
}

func resolverFor(b *testing.B, addr string) *dnscache.Resolver {
	b.Helper()
	r, err := dnscache.New(dnscache.Options{Servers: []string{addr}, Timeout: time.Second, Total: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Close)
	return r
}

// eightIncludes is a domain whose record includes eight others.
func eightIncludes() string {
	record, others := "eight.example. TXT \"v=spf1", ""
	for i := range 8 {
		record += fmt.Sprintf(" include:i%d.example", i)
		others += fmt.Sprintf("i%d.example. TXT \"v=spf1 ip4:192.0.2.%d ip4:198.51.100.%d/31 ip6:2001:db8:%d::/48 ~all\"\n", i, i+100, 2*i, i)
	}
	return record + " -all\"\n" + others
}

// The first mail from a domain with eight includes, from a name server on
// loopback: what it costs in queries, and in time beside the network's.
func BenchmarkColdSPF(b *testing.B) {
	z := parseZone(b, eightIncludes())
	addr, stop := z.Serve()
	defer stop()
	f := transaction("192.0.2.1", "client.example", "user@eight.example")
	n := 0
	for b.Loop() {
		only(Deps{Resolver: resolverFor(b, addr)}, "spf").Run(b.Context(), policy.Mail, f, Message{}, nil)
		n++
	}
	if f.SPF.Result != policy.Fail {
		b.Fatalf("%+v", f.SPF)
	}
	b.ReportMetric(float64(z.Queries())/float64(n), "queries/op")
}

// The work of one MAIL command once names are cached: spf alone, and all checks
// of the stage.
func BenchmarkMailStage(b *testing.B) {
	text := eightIncludes() + `
ip4.example.      TXT "v=spf1 ip4:203.0.113.0/24 ip4:198.51.100.0/24 ip4:192.0.2.1 -all"
include.example.  TXT "v=spf1 mx include:ip4.example -all"
include.example.  MX  10 mx.include.example.
mx.include.example. A 203.0.113.99
macro.example.    TXT "v=spf1 exists:%{i}._spf.%{d} -all"
192.0.2.1._spf.macro.example. A 127.0.0.2
1.2.0.192.in-addr.arpa. PTR client.example.
client.example.   A   192.0.2.1
client.example.   TXT "v=spf1 a -all"
`
	r := warm(b, text)
	run := func(name, domain string, checks ...string) {
		b.Run(name, func(b *testing.B) {
			d := Deps{Resolver: r, Config: configs.Checks{Submitter: configs.SubmitterCheck{Match: "address"}}}
			set := only(d, checks...)
			f := transaction("192.0.2.1", "client.example", "user@"+domain)
			set.Run(b.Context(), policy.Mail, f, Message{}, nil)
			if f.SPF.Result != policy.Pass && domain != "eight.example" {
				b.Fatalf("%+v", f.SPF)
			}
			b.ReportAllocs()
			for b.Loop() {
				set.Run(b.Context(), policy.Mail, f, Message{}, nil)
			}
		})
	}
	run("spf/ip4", "ip4.example", "spf")
	run("spf/include+mx", "include.example", "spf")
	run("spf/macro", "macro.example", "spf")
	run("spf/eight-includes", "eight.example", "spf")
	run("all-checks", "include.example", "iprev", "mx", "spf", "spf_helo", "submitter", "dnsbl")
}

// The Purported Responsible Address out of a header section of 2 KiB.
func BenchmarkPRA(b *testing.B) {
	var raw strings.Builder
	for i := range 8 {
		fmt.Fprintf(&raw, "Received: from relay%d.example (relay%d.example [192.0.2.%d])\r\n\tby mx.example with ESMTPS id abcdef%d;\r\n\tTue, 1 Jul 2003 10:52:37 +0200\r\n", i, i, i, i)
	}
	for raw.Len() < 1900 {
		raw.WriteString("X-Filler: some text that nobody reads, as there is in every message\r\n")
	}
	raw.WriteString("From: \"Doe, John\" (home) <john.doe@example.com>\r\nTo: b@example.net\r\nSubject: x\r\n")
	h := readHeader(raw.String())
	b.ReportAllocs()
	for b.Loop() {
		if m, _, ok := FindPRA(h); !ok || m.Domain != "example.com" {
			b.Fatal(m)
		}
	}
}
