package checks

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
	"postern/policy"
)

// Facts, and the trace of what was asked for them, stay until their transaction ends or longer,
// the header section that they were read from does not: a text of theirs that is a part of it
// would keep all of it in memory while the message streams.
func TestFactsKeepNothingOfTheHeaderSection(t *testing.T) {
	const section = 200 << 10 // octets
	signer := dnstest.NewSigner()
	zone := parseZone(t, askedZone+signer.Record("d.example")+"sub.d.example. A 192.0.2.3\nother.d.example. A 192.0.2.3\n")
	for _, authors := range []string{"From: a@d.example\r\n", "From: a@other.d.example, b@sub.d.example\r\n", "From: a@d.example\r\nSender: b@sub.d.example\r\n"} {
		raw, err := signer.Sign([]byte(authors+strings.Repeat("X: "+strings.Repeat("y", 900)+"\r\n", section/900)+"\r\nText\r\n"), "d.example")
		if err != nil {
			t.Fatal(err)
		}
		set := NewSet(Deps{Resolver: resolverOf(t, zone)}, nil)
		each := octetsKept(func() any {
			f := transaction("192.0.2.1", "client.d.example", "a@d.example")
			asks := dnscache.Transaction{Trace: new(dnscache.Trace)}
			ctx := dnscache.WithTransaction(t.Context(), &asks)
			set.Run(ctx, policy.Mail, f, Message{}, nil)
			msg := held(strings.Clone(string(raw)))
			f.Header = HeaderFacts(msg)
			set.Run(ctx, policy.Header, f, msg, nil)
			set.Run(ctx, policy.Message, f, msg, nil)
			if f.PRA.Domain == "" && !strings.Contains(authors, ",") || f.DKIM.Result != policy.Pass || f.DMARC.Domain != "d.example" || len(asks.Trace.Answers()) == 0 {
				t.Fatalf("not everything was found out: %+v %+v %+v", f.PRA, f.DKIM, f.DMARC)
			}
			return []any{f, asks.Trace}
		})
		if each > section/4 {
			t.Errorf("%s: the facts of a message keep %d octets, where its header section has %d", strings.TrimSpace(authors), each, section)
		}
	}
}

// What a domain publishes is as large as its owner likes. The trace has the names that its SPF
// record leads to, and the facts the beginning of its explanation, none of them the whole
// record.
func TestFactsKeepNothingOfALargeRecord(t *testing.T) {
	const record = 50 << 10 // octets, with a TTL of 0: nothing else keeps it
	long := func(name, text string) string {
		return name + " 0 TXT \"" + text + "\"" + strings.Repeat(" \""+strings.Repeat(" ", 250)+"\"", record/250) + "\n"
	}
	var zone strings.Builder
	zone.WriteString("example. SOA ns.example. h.example. 1 3600 600 86400 0\n")
	for i := range 6 {
		zone.WriteString(long(fmt.Sprintf("s%d.example.", i), fmt.Sprintf("v=spf1 include:s%d.example -all exp=why.example", i+1)))
	}
	zone.WriteString("s6.example. 0 TXT \"v=spf1 -all\"\n" + long("why.example.", "Ask the postmaster"))
	set := NewSet(Deps{Resolver: resolverOf(t, parseZone(t, zone.String()))}, func(name string) bool { return name == "spf" })
	each := octetsKept(func() any {
		f := transaction("192.0.2.1", "client.example", "a@s0.example")
		asks := dnscache.Transaction{Trace: new(dnscache.Trace)}
		set.Run(dnscache.WithTransaction(t.Context(), &asks), policy.Mail, f, Message{}, nil)
		if f.SPF.Result != policy.Fail || !strings.HasPrefix(f.SPF.Explanation, "Ask the postmaster") || len(asks.Trace.Answers()) < 8 {
			t.Fatalf("%+v %+v", f.SPF, asks.Trace.Answers())
		}
		return []any{f, asks.Trace}
	})
	if each > record/4 {
		t.Errorf("the facts of a message keep %d octets, where a record has %d", each, record)
	}
}

// A question may be under way for long after the transactions that wanted its answer have
// ended, and what was found out for them is not kept with it.
func TestAQuestionKeepsNothingOfTransactionsThatHaveEnded(t *testing.T) {
	zone := parseZone(t, "example. SOA ns.example. h.example. 1 3600 600 86400 300\n; TIMEOUT _dmarc.d.example TXT\n"+
		"d.example. 0 TXT \"v=spf1 ?all\""+strings.Repeat(" \""+strings.Repeat(" ", 250)+"\"", 50)+"\n")
	set := NewSet(Deps{Resolver: resolverOf(t, zone)}, func(name string) bool { return name == "spf" || name == "dmarc" })
	each := octetsKept(func() any {
		f := transaction("192.0.2.1", "client.d.example", "a@d.example")
		set.Run(dnscache.WithTransaction(t.Context(), new(dnscache.Transaction)), policy.Mail, f, Message{}, nil)
		if f.SPF.Result != policy.Neutral {
			t.Fatalf("%+v", f.SPF)
		}
		return nil
	})
	if each > 6<<10 {
		t.Errorf("a transaction that has ended keeps %d octets", each)
	}
}

// octetsKept is what a transaction keeps in memory, by what judge returns of it or without.
func octetsKept(judge func() any) int64 {
	const transactions = 20
	judge() // what is made once
	kept := make([]any, transactions)
	before := heapInUse()
	for i := range kept {
		kept[i] = judge()
	}
	each := (heapInUse() - before) / transactions
	runtime.KeepAlive(kept)
	return each
}

// heapInUse is what can be reached, in octets.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // for what pools keep
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
