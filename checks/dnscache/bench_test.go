package dnscache

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"postern/configs"
)

func benchResolver(b *testing.B, answer response) *Resolver {
	return newTest(b, Options{Servers: []string{serve(b, func(_ string, query []byte) [][]byte { return [][]byte{answer.to(query)} })}})
}

var spfAnswer = response{records: []record{txt(86400, "v=spf1 include:_spf.mail.example ip4:192.0.2.0/24 ip6:2001:db8::/32 -all")}}

func BenchmarkHitTXT(b *testing.B) {
	r := benchResolver(b, spfAnswer)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.LookupTXT(ctx, "example.org"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHitNegative(b *testing.B) {
	r := benchResolver(b, response{rcode: 3, soa: soa(900, 900)})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.LookupTXT(ctx, "example.org"); err == nil {
			b.Fatal("found")
		}
	}
}

func BenchmarkHitIPAddr(b *testing.B) {
	r := newTest(b, Options{Servers: []string{"192.0.2.1"}, Dial: pipe(func(_, _ string, query []byte) [][]byte {
		if asked(query).rrtype == typeA {
			return [][]byte{response{records: []record{a(86400, 192, 0, 2, 1), a(86400, 192, 0, 2, 2)}}.to(query)}
		}
		return [][]byte{response{soa: soa(86400, 86400)}.to(query)}
	})})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.LookupIPAddr(ctx, "mail.example.org"); err != nil {
			b.Fatal(err)
		}
	}
}

// Hits on a thousand names; run with -cpu 1,2.
func BenchmarkHitsParallel(b *testing.B) {
	r := benchResolver(b, spfAnswer)
	ctx := context.Background()
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("domain%d.example", i)
		if _, err := r.LookupTXT(ctx, names[i]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := r.LookupTXT(ctx, names[i%len(names)]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// One query to a server on loopback, by UDP; the server is in the same process.
func BenchmarkMiss(b *testing.B) {
	r := benchResolver(b, spfAnswer)
	ctx := context.Background()
	names := make([]string, 200000)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.example", i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := r.LookupTXT(ctx, names[i%len(names)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkParse(b *testing.B) {
	q := pack(question{"example.org", typeTXT}, true, true)
	msg := spfAnswer.to(q.wire)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(msg, q.question); err != nil {
			b.Fatal(err)
		}
	}
}

// What an entry costs in memory, beside what is counted for it.
func BenchmarkEntryBytes(b *testing.B) {
	const n = 50000
	kinds := map[string]func(i int) *entry{
		"txt": func(i int) *entry {
			return &entry{kind: kindFound, ttl: 60, expires: 1 << 62, text: []string{fmt.Sprintf("v=spf1 include:_spf%d.mail.example ip4:192.0.2.0/24 ip6:2001:db8::/32 -all", i)}}
		},
		"a": func(i int) *entry {
			return &entry{kind: kindFound, ttl: 60, expires: 1 << 62, ips: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})}}
		},
		"nxdomain": func(i int) *entry {
			q := fmt.Sprintf("domain%d.example", i)
			return &entry{kind: kindNXDomain, ttl: 60, expires: 1 << 62, err: errNotFound(q, textNXDomain)}
		},
	}
	for name, make := range kinds {
		b.Run(name, func(b *testing.B) {
			var real, counted float64
			for b.Loop() {
				k, err := newCache(configs.DNSCache{Entries: 10 * n, MaxTTL: time.Hour}, 1<<40)
				if err != nil {
					b.Fatal(err)
				}
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				for i := range n {
					q := question{fmt.Sprintf("domain%d.example", i), typeTXT}
					s := k.of(q.name)
					s.mu.Lock()
					s.put(q, make(i), 0)
					s.mu.Unlock()
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				_, sum, _ := held(k)
				real, counted = float64(after.HeapAlloc-before.HeapAlloc)/n, float64(sum)/n
				runtime.KeepAlive(k)
			}
			b.ReportMetric(real, "B/entry")
			b.ReportMetric(counted, "counted-B/entry")
			b.ReportMetric(0, "ns/op")
		})
	}
}
