package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/checks/memory"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// How many transactions TestReplayEqualsLive makes. Half of the policies are drawn by
// the same seed each time, so that what they come to is no matter of chance; the
// others are new.
const (
	replayPolicies     = 40
	replayTransactions = 250 // through each
	replaySeed         = 3
)

const replayZone = rigZone + `
list.example.    TXT "v=spf1 include:good.example ip4:198.51.100.0/24 ?all"
broken.example.  TXT "v=spf1 ip4:300.0.0.0 -all"
soft.example.    MX  0 .
list.example.    A   198.51.100.9
2.2.0.192.in-addr.arpa. PTR other.example.
`

// conditions are what rules of generated policies ask, by what they read.
var conditions = []string{
	`client.ip == "192.0.2.66"`, `client.ip in ["198.51.100.0/24", "192.0.2.7"]`, `listener == "mx"`,
	`helo.name contains "bad"`, `helo.domain == ""`,
	`spf.result == "fail"`, `spf.result in ["softfail", "neutral"]`, `spf.result == "temperror"`, `spf.result == "pass" and mail.domain == "good.example"`,
	`spf_helo.result == "fail"`, `iprev.result != "pass"`, `mx.result == "fail"`, `client.name endsWith ".good.example"`, `mail.from == ""`, `mail.size > 500`,
	`submitter.address != ""`, `submitter.result == "fail"`, `in_list("friends", client.ip)`, `in_list("friends", mail.domain)`,
	`rcpt.address matches "(?i)^postmaster"`, `rcpt.domain == "second.example"`, `rcpt.address startsWith "bob" and spf.result == "fail"`, `hold.tries > 1`, `hold.released or hold.age > 20`,
	`header.from_domain == "bad.example"`, `header.count > 3`, `pra.result == "fail"`, `pra.address == ""`,
	`submitter.address != "" and not pra.matches_submitter`, `header.from_domain != mail.domain and spf.result != "pass"`,
	`message.size > 700`, `dkim.result == "none" and message.size < 200`, `spf.result == "fail" and not (dkim.result == "pass")`, `true`,
}

// generatePolicy draws rules that compile, behind those that are given.
func generatePolicy(rnd *rand.Rand, lists *policy.Lists, given ...configs.Rule) (configs.Policy, *policy.Chain) {
	for {
		p := configs.Policy{Mode: "enforce", Rules: slices.Clone(given)}
		// Most policies have nothing that comes late, or all is decided late.
		from := conditions[:[]int{5, 24, 30, len(conditions)}[rnd.IntN(4)]]
		for i := range 1 + rnd.IntN(7) {
			r := configs.Rule{Name: fmt.Sprint("r", i), When: from[rnd.IntN(len(from))], Do: []string{"reject", "defer", "pass", "hold", "tag", "tag"}[rnd.IntN(6)]}
			if rnd.IntN(4) == 0 {
				r.When = fmt.Sprintf("(%s) and not (%s)", r.When, from[rnd.IntN(len(from))])
			}
			if r.Do == "hold" {
				r.For = time.Duration(rnd.IntN(3)) * 10 * time.Second
			}
			if r.Do == "tag" {
				r.Header = fmt.Sprintf("X-Tag-%d: ${client.ip} ${helo.name}", i)
			}
			p.Rules = append(p.Rules, r)
		}
		if chain, err := policy.Compile(p, lists); err == nil {
			return p, chain
		}
	}
}

// TestReplayEqualsLive sends generated mail through whole sessions, by generated policies, and
// reads the journal afterwards: the same policy gives the same verdicts, each of
// them; and what a candidate said of live mail is what a replay through it says.
func TestReplayEqualsLive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	sum, drawn := map[string]int{}, map[string]int{}
	t.Run("policies", func(t *testing.T) {
		for n := range replayPolicies {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				into, seed := drawn, seed
				if n < replayPolicies/2 {
					into, seed = sum, replaySeed
				}
				var given []configs.Rule
				if n%8 == 0 { // few policies that are drawn refuse connections
					given = []configs.Rule{{Name: "connect", When: conditions[0], Do: "reject"}}
				}
				counts := replayOne(t, rand.New(rand.NewPCG(seed, uint64(n))), n%4 == 3, given...)
				mu.Lock()
				defer mu.Unlock()
				for what, n := range counts {
					into[what] += n
				}
			})
		}
	})
	t.Logf("%v, drawn anew %v", sum, drawn)
	if n := sum["transactions"] + drawn["transactions"]; !t.Failed() && n < replayPolicies*replayTransactions {
		t.Errorf("only %d transactions", n)
	}
	for _, what := range []string{"pass", "tag", "hold", "defer", "reject", "unjudged", "several recipients", "candidate undetermined", "candidate differs", "reached header", "reached rcpt", "reached connect"} {
		if sum[what] == 0 {
			t.Errorf("no %s: the generator is one-sided", what)
		}
	}
}

// replayOne runs transactions through one policy and judges its journal.
func replayOne(t *testing.T, rnd *rand.Rand, observe bool, given ...configs.Rule) map[string]int {
	listed := []configs.List{{Name: "friends", Entries: []string{"192.0.2.64/30", "list.example", "*.good.example"}}}
	lists, err := policy.NewLists(listed, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	p, chain := generatePolicy(rnd, lists, given...)
	_, candidate := generatePolicy(rnd, lists)
	if observe {
		p.Mode = "observe"
	}
	r := newRig(t, rigOptions{zone: replayZone, policy: &p, config: func(c *configs.Config) {
		c.Lists = listed
		c.Limits.Errors = 1000
	}})
	zone, err := dnstest.Parse(replayZone)
	if err != nil {
		t.Fatal(err)
	}
	// Some seconds pass with each look at the clock, and now and then the store fails.
	// The checks of a stage look side by side.
	var looks atomic.Int64
	now := func() time.Time { return time.Unix(1_800_000_000+2*looks.Add(1), 0) }
	store := &failing{Store: memory.NewProcess(now)}
	r.set.Memory = memory.New(store, memory.Options{Timeout: time.Minute})
	defer r.set.Memory.Close()
	r.set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: zone, Memory: r.set.Memory, Now: now}, func(n string) bool {
		return chain.Needs(n) || n != "dkim" && n != "dmarc" // DKIM is measured for this policy only, so the candidate misses it at times
	})
	r.set.Candidate = candidate
	dir := t.TempDir()
	w, err := journal.New(configs.Journal{Path: dir, RotateSize: 64 << 10}, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	live := 0
	r.srv.record = func(rec *journal.Record) { live++; w.Write(rec) } // one session at a time
	for live < replayTransactions {
		store.fail.Store(int32(rnd.IntN(20))) // the second of these is reading, the third writing
		if list := waiting(t, store); rnd.IntN(4) == 0 && len(list) > 0 {
			_, _ = store.Release(t.Context(), []string{list[0].ID}) // it is there
		}
		replaySession(r, rnd)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}

	counts := map[string]int{}
	rules := ""
	for _, rule := range p.Rules {
		rules += fmt.Sprintf("%s: %s -> %s\n", rule.Name, rule.When, rule.Do)
	}
	stats, err := journal.Records(dir, journal.Query{}, func(rec *journal.Record) error {
		counts["transactions"]++
		counts["reached "+rec.Reached]++
		if len(rec.Recipients) > 1 {
			counts["several recipients"]++
		}
		equalVerdicts(t, rec, chain, candidate, counts)
		return nil
	})
	if err != nil || stats.Bad > 0 || counts["transactions"] != live {
		t.Errorf("%d transactions, and in the journal %d: %+v, %v", live, counts["transactions"], stats, err)
	}
	if t.Failed() {
		t.Logf("observe %t\n%s", observe, rules)
	}
	return counts
}

// equalVerdicts compares what a record says of both policies with what they say now.
func equalVerdicts(t *testing.T, rec *journal.Record, chain, candidate *policy.Chain, counts map[string]int) {
	t.Helper()
	known := rec.Measured()
	whole := chain.Judge(&rec.Facts, known)
	if !rec.Undecided {
		tags := ""
		for _, tag := range whole.Tags {
			tags += tag.Name + ":" + tag.Value + "\n"
		}
		stands := rec.Reached == "message" && len(rec.Recipients) == 1 && !whole.Refuses()
		switch {
		case !whole.Determined():
			t.Fatalf("undetermined, for want of %q: %+v", whole.Missing.Names(), rec)
		case !whole.Refuses() && (whole.MissingTags != policy.FactSet{} || rec.Reached != "message") && !rec.Disposition.Refuses():
			// Tags of rules that were never reached.
		case journal.Concluded(whole.Disposition) != rec.Disposition, whole.Rule != rec.Rule, whole.Rule != "" && whole.Stage.String() != rec.RuleStage:
			t.Fatalf("live %s by %s at %s, replayed %+v\n%+v", rec.Disposition, rec.Rule, rec.Stage, whole, rec)
		case whole.Refuses() && !rec.Observed && !strings.Contains(rec.Reply, whole.Reply.Text):
			t.Fatalf("live %q, replayed %+v", rec.Reply, whole.Reply)
		case stands && strings.Join(rec.Tags, "\n") != strings.ReplaceAll(strings.TrimSuffix(tags, "\n"), ":  ", ": "):
			t.Fatalf("live %q, replayed %q", rec.Tags, tags)
		}
	}
	for i := range rec.Units() {
		was := rec.Live(i)
		switch is := rec.Judge(chain, i, known); {
		case !was.Known():
			counts["unjudged"]++
		case !is.Known() || was.Differs(is) || was.Refuses() != is.Refuses():
			t.Fatalf("recipient %d: live %+v, replayed %+v\n%+v", i, was, is, rec)
		default:
			counts[string(was.Disposition)]++
		}
		then, now := rec.CandidateOpinion(i), rec.Judge(candidate, i, known)
		if fmt.Sprint(then) != fmt.Sprint(now) {
			t.Fatalf("recipient %d: the candidate said %+v, replayed %+v\n%+v", i, then, now, rec)
		}
		switch {
		case !now.Known():
			counts["candidate undetermined"]++
		case was.Known() && was.Differs(now):
			counts["candidate differs"]++
		}
		if i < len(rec.Recipients) {
			rc, f := rec.Recipients[i], rec.Facts
			f.Rcpt = policy.RcptTo{Address: rc.Address, Domain: journal.DomainOf(rc.Address)}
			if rc.Hold != nil {
				f.Hold = *rc.Hold
			}
			at := policy.Rcpt
			if rc.Final {
				counts["final"]++
				at, _ = policy.ParseStage(rec.Reached)
			}
			if v := chain.Decide(at, &f); journal.Concluded(v.Disposition) != rc.Disposition || v.Rule != rc.Rule || v.Decided == rc.Undecided {
				t.Fatalf("at %s live %+v, replayed %+v", at, rc, v)
			}
		}
	}
}

// replaySession is a client of any kind: it sends some transactions, well or badly.
func replaySession(r *rig, rnd *rand.Rand) {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	ip := pick("192.0.2.1", "192.0.2.2", "192.0.2.66", "198.51.100.9", "2001:db8::1")
	c := r.dialFrom(ip, Listener{Name: pick("mx", "other"), TLS: "starttls"})
	defer func() {
		_ = c.conn.Close()
		<-c.done
	}()
	ask := func(line string) (reply string, ok bool) {
		if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
			return "", false
		}
		return readReply(c.br)
	}
	if greeting, ok := readReply(c.br); !ok || !strings.HasPrefix(greeting, "220") {
		return
	}
	if reply, ok := ask("EHLO " + pick("mail.good.example", "bad.example", "soft.example", "[192.0.2.1]", "laptop")); !ok || !strings.HasPrefix(reply, "250") {
		return
	}
	for range 1 + rnd.IntN(4) {
		domain := pick("good.example", "bad.example", "soft.example", "none.example", "tmp.example", "list.example", "broken.example")
		mail := "MAIL FROM:<" + pick("ann", "bob", "a.very.long.name") + "@" + domain + ">"
		if rnd.IntN(8) == 0 {
			mail = "MAIL FROM:<>"
		}
		mail += pick("", "", " SIZE=100", " SIZE=5000", " SUBMITTER=ann@"+pick(domain, "good.example", "bad.example"))
		if reply, ok := ask(mail); !ok {
			return
		} else if !strings.HasPrefix(reply, "250") {
			continue
		}
		taken := false
		for range 1 + rnd.IntN(3) {
			reply, ok := ask("RCPT TO:<" + pick("bob", "Postmaster", "carol", "bob.smith") + "@" + pick("local.example", "local.example", "Second.example") + ">")
			if !ok {
				return
			}
			taken = taken || strings.HasPrefix(reply, "250")
		}
		switch end := rnd.IntN(8); {
		case end == 0:
			return // gone
		case end == 1 || !taken:
			if _, ok := ask("RSET"); !ok {
				return
			}
			continue
		}
		if reply, ok := ask("DATA"); !ok || !strings.HasPrefix(reply, "354") {
			return
		}
		text := pick("", "From: Ann <ann@"+domain+">\r\n", "From: x@bad.example\r\n", "Sender: ann@good.example\r\nFrom: y@soft.example\r\n")
		text += strings.Repeat("X-Filler: yes\r\n", rnd.IntN(5)) + "\r\n" + strings.Repeat("A line of text.\r\n", rnd.IntN(60))
		if rnd.IntN(10) == 0 {
			_, _ = io.WriteString(c.conn, text) // and gone
			return
		}
		if _, ok := ask(text + "."); !ok {
			return
		}
	}
	if rnd.IntN(2) == 0 {
		ask("QUIT")
	}
}

// readReply reads a reply; not ok: the connection has ended.
func readReply(br *bufio.Reader) (string, bool) {
	all := ""
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return all, false
		}
		all += line
		if len(line) < 4 || line[3] == ' ' {
			return all, true
		}
	}
}
