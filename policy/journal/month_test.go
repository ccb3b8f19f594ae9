package journal

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"postern/policy"
)

// A month of a university, of ten million transactions, takes gigabytes and minutes:
//
//	go test ./policy/journal -run TestMonth -timeout 2h -args -month.records 10000000 -month.folder DIR
//
// leaves it in DIR, to be searched with postern find.
var (
	monthRecords = flag.Int("month.records", 20_000, "how many transactions the made-up month has")
	monthFolder  = flag.String("month.folder", "", "where to leave it; empty: nowhere")
)

const monthDays = 30

// monthRecord is the i-th transaction of a day: senders and clients of whom few send much and
// many send little, one in ten refused.
func monthRecord(r *rand.Rand, day time.Time, i, of int) *Record {
	x := sample(fmt.Sprintf("%02d%010d", day.Day(), i))
	x.Time = day.Add(time.Duration(float64(24*time.Hour) * float64(i) / float64(of)))
	x.Session = fmt.Sprintf("s%02d%09d", day.Day(), i/2)
	domain := fmt.Sprintf("d%d.example", int(r.ExpFloat64()*2000))
	x.Facts.Mail.From, x.Facts.Mail.Domain = fmt.Sprintf("user%d@%s", r.IntN(50), domain), domain
	x.Facts.PRA.Address, x.Facts.PRA.Domain, x.Facts.Header.FromDomain = x.Facts.Mail.From, domain, domain
	n := int(r.ExpFloat64() * 4000)
	x.Facts.Client.IP = netip.AddrFrom4([4]byte{198, byte(18 + n>>16&1), byte(n >> 8), byte(n)}).String()
	x.Facts.Client.Name = "mail." + domain
	x.Facts.SPF.Reason, x.Facts.SPF.Domain = fmt.Sprintf("matched ip4:%s of %s", x.Facts.Client.IP, domain), domain
	x.DNS[0].Name, x.DNS[1].Answer[0] = domain, "mail."+domain+"."
	x.BackendReply = fmt.Sprintf("250 2.0.0 Ok: queued as 4R%08XzA", r.Uint32())
	x.Recipients[0].Address = fmt.Sprintf("student%d@uni.example", r.IntN(40_000))
	// What differs each time is what does not shrink.
	for _, step := range []*float64{&x.Took.Mail, &x.Took.Rcpt, &x.Took.Header, &x.Took.Data, &x.Took.Backend, &x.Took.EndOfData} {
		*step = float64(r.IntN(50_000_000)) / 1e9
	}
	for j := range x.Checks {
		x.Checks[j].Took = float64(r.IntN(50_000_000)) / 1e9
	}
	for j := range x.DNS {
		x.DNS[j].Took, x.DNS[j].TTL = time.Duration(r.IntN(50_000_000)), r.IntN(86400)
	}
	x.Facts.Client.Port, x.Bytes = 1024+r.IntN(60_000), 1000+r.Int64N(200_000)
	x.Facts.Message.Size, x.Facts.Mail.Size = x.Bytes, x.Bytes
	x.Facts.DKIM.Signatures = []policy.DKIMSignature{{Domain: domain, Selector: fmt.Sprintf("s%d", r.IntN(20260000)), Result: policy.Pass, Reason: "good signature"}}
	x.Facts.TLS.Peer.Fingerprint = fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
	if r.IntN(10) == 0 {
		x.Disposition, x.Rule, x.RuleStage, x.Outcome = "reject", []string{"spf-fail", "spf-fail", "dmarc-reject", "dnsbl"}[r.IntN(4)], "rcpt", OutcomeRefused
		x.Facts.SPF.Result, x.Reply, x.BackendReply, x.Backend = policy.Fail, "550 5.7.23 SPF validation failed. ("+x.ID+")", "", ""
		x.Recipients[0].Disposition, x.Recipients[0].Rule, x.Recipients[0].Undecided, x.Recipients[0].Reply = "reject", x.Rule, false, x.Reply
	}
	return x
}

// writeDay writes a day as the writer and its tidying do: plain files that are compressed when
// they are full.
func writeDay(dir string, day time.Time, records int, rotate int64) error {
	r := rand.New(rand.NewPCG(uint64(day.Unix()), 1))
	for part, i := 1, 0; i < records; part++ {
		path := filepath.Join(dir, fmt.Sprintf("%s.%04d.jsonl", dayOf(day), part))
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		w, size := bufio.NewWriterSize(f, 1<<20), int64(0)
		for ; i < records && size < rotate; i++ {
			line, err := monthRecord(r, day, i, records).Line()
			if err != nil {
				return err
			}
			n, err := w.Write(line)
			if err != nil {
				return err
			}
			size += int64(n)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		if err := compress(context.Background(), path); err != nil {
			return err
		}
	}
	return nil
}

// TestMonth: a month is searched without its text being read.
func TestMonth(t *testing.T) {
	dir, rotate := *monthFolder, int64(256<<20)
	if dir == "" {
		dir, rotate = t.TempDir(), 1<<20
	}
	var wg sync.WaitGroup
	free := make(chan struct{}, 2)
	perDay := *monthRecords / monthDays
	for d := range monthDays {
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			if err := writeDay(dir, time.Date(2026, 11, 1+d, 0, 0, 0, 0, time.UTC), perDay, rotate); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var packed, indexes int64
	for _, name := range names(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(name) == indexSuffix {
			indexes += info.Size()
		} else {
			packed += info.Size()
		}
	}
	t.Logf("%d records in %d MiB, with indexes of %d MiB: %.1f %%", perDay*monthDays, packed>>20, indexes>>20, 100*float64(indexes)/float64(packed))
	last := monthRecord(rand.New(rand.NewPCG(1, 2)), time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC), perDay-1, perDay)
	for name, f := range map[string]Filter{
		"an id":                 {ID: last.ID},
		"a session":             {Session: last.Session},
		"a sender":              {Sender: "user7@d77.example"},
		"refusals of one":       {Recipient: "student4711@uni.example", Refused: true},
		"a network in a week":   {Client: netip.MustParsePrefix("198.18.3.0/28"), Query: Query{Since: last.Time.AddDate(0, 0, -7)}},
		"a sender, and refused": {Sender: "d3.example", Disposition: "reject", Rule: "dnsbl"},
		"nobody":                {ID: "nobody"},
	} {
		began, n := time.Now(), int64(0)
		found, err := Search(t.Context(), dir, f, func(*Record) error { n++; return nil })
		if err != nil || found.Indexed > 0 {
			t.Fatalf("%s: %+v, %v", name, found, err)
		}
		t.Logf("%s: %d found in %v; %d lines were looked at", name, n, time.Since(began).Round(time.Millisecond), found.Lines)
		if found.Lines > n+n/10+10 {
			t.Errorf("%s: %d lines were looked at for %d", name, found.Lines, n)
		}
		if (f.ID == last.ID) != (n == 1) && f.ID != "" {
			t.Errorf("%s: %d found", name, n)
		}
	}
}
