package checks

import (
	"runtime"
	"strings"
	"testing"

	"postern/checks/dnstest"
	"postern/policy"
)

// Facts stay until their transaction ends, the header section that they were read from does
// not: a text of theirs that is a part of it would keep all of it in memory while the message
// streams.
func TestFactsKeepNothingOfTheHeaderSection(t *testing.T) {
	const section, messages = 200 << 10, 20 // octets of a header section, and how many facts are kept
	signer := dnstest.NewSigner()
	for _, authors := range []string{"From: a@d.example\r\n", "From: a@d.example, b@sub.d.example\r\n", "From: a@d.example\r\nSender: b@sub.d.example\r\n"} {
		raw, err := signer.Sign([]byte(authors+strings.Repeat("X: "+strings.Repeat("y", 900)+"\r\n", section/900)+"\r\nText\r\n"), "d.example")
		if err != nil {
			t.Fatal(err)
		}
		zone := parseZone(t, askedZone+signer.Record("d.example"))
		set := NewSet(Deps{Resolver: resolverOf(t, zone)}, nil)
		judge := func() *policy.Facts {
			f := transaction("192.0.2.1", "client.d.example", "a@d.example")
			set.Run(t.Context(), policy.Mail, f, Message{}, nil)
			msg := held(strings.Clone(string(raw)))
			f.Header = HeaderFacts(msg)
			set.Run(t.Context(), policy.Header, f, msg, nil)
			set.Run(t.Context(), policy.Message, f, msg, nil)
			if f.PRA.Domain == "" && !strings.Contains(authors, ",") || f.DKIM.Result != policy.Pass || f.DMARC.Domain != "d.example" {
				t.Fatalf("not everything was found out: %+v %+v %+v", f.PRA, f.DKIM, f.DMARC)
			}
			return f
		}
		judge() // what is made once
		kept := make([]*policy.Facts, messages)
		before := heapInUse()
		for i := range kept {
			kept[i] = judge()
		}
		if each := (heapInUse() - before) / messages; each > section/4 {
			t.Errorf("%s: the facts of a message keep %d octets, where its header section has %d", strings.TrimSpace(authors), each, section)
		}
		runtime.KeepAlive(kept)
	}
}

// heapInUse is what can be reached, in octets.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // for what pools keep
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
