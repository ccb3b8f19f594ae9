package checks

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
	"postern/policy"
)

// fake is a check that writes to the field of another.
func fake(name string, result func(*policy.Facts) *policy.Result, run func(ctx context.Context, f *policy.Facts)) Check {
	return Check{
		Name: name, Stage: policy.Mail, waits: true,
		result: func(f *policy.Facts, _ *policy.Recipient) *policy.Result { return result(f) },
		Run:    func(ctx context.Context, f *policy.Facts, _ Message) { run(ctx, f) },
	}
}

func iprevResult(f *policy.Facts) *policy.Result { return &f.Iprev.Result }
func spfResult(f *policy.Facts) *policy.Result   { return &f.SPF.Result }

func setOf(d Deps, cs ...Check) *Set {
	s := NewSet(d, func(string) bool { return false })
	for _, c := range cs {
		s.byStage[c.Stage] = append(s.byStage[c.Stage], c)
	}
	return s
}

// resolverOf is the resolver that Postern has, before a name server of a zone.
func resolverOf(t *testing.T, z *dnstest.Zone) *dnscache.Resolver {
	t.Helper()
	addr, stop := z.Serve()
	t.Cleanup(stop)
	r, err := dnscache.New(dnscache.Options{Servers: []string{addr}, Timeout: time.Minute, Total: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestChecksOfAStageRunSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(result func(*policy.Facts) *policy.Result) func(context.Context, *policy.Facts) {
			return func(ctx context.Context, f *policy.Facts) {
				select {
				case <-time.After(time.Second):
					*result(f) = policy.Pass
				case <-ctx.Done():
				}
			}
		}
		set := setOf(Deps{}, fake("iprev", iprevResult, slow(iprevResult)), fake("spf", spfResult, slow(spfResult)))
		f := transaction("192.0.2.1", "client.example", "a@example.com")
		start := time.Now()
		ran := set.Run(t.Context(), policy.Mail, f, Message{}, nil)
		if took := time.Since(start); took != time.Second {
			t.Errorf("two checks of a second took %v", took)
		}
		for _, r := range ran {
			if r.Took != time.Second || r.Result != policy.Pass {
				t.Errorf("%+v", r)
			}
		}
		if len(ran) != 2 || ran[0].Name != "iprev" || ran[1].Name != "spf" {
			t.Errorf("%+v", ran)
		}
	})
}

// Of checks that find their answers in the cache each has its turn, in the
// session's own goroutine; what the first of them did, the next can see.
func TestChecksThatNeedNotWaitTakeTurns(t *testing.T) {
	turn := 0
	takes := func(want int, result func(*policy.Facts) *policy.Result) func(context.Context, *policy.Facts) {
		return func(ctx context.Context, f *policy.Facts) {
			if *result(f) = policy.Pass; turn != want { // the race detector watches
				t.Errorf("turn %d, want %d", turn, want)
			}
			turn++
			if ctx.Err() != nil {
				t.Error(ctx.Err())
			}
		}
	}
	first, second := fake("iprev", iprevResult, takes(0, iprevResult)), fake("spf", spfResult, takes(1, spfResult))
	first.waits, second.waits = false, false
	set := setOf(Deps{Resolver: resolverOf(t, parseZone(t, ""))}, first, second)
	for range 2 {
		turn = 0
		set.Run(t.Context(), policy.Mail, transaction("192.0.2.1", "client.example", "a@example.com"), Message{}, nil)
		if turn != 2 {
			t.Errorf("%d turns", turn)
		}
	}
}

// A check whose answers are not in the cache runs a second time, with all that it
// asks for; what it asked for is told of once.
func TestACheckThatWouldHaveWaitedRunsAgain(t *testing.T) {
	z := parseZone(t, `
one.example TXT "1"
two.example TXT "2"
`)
	r := resolverOf(t, z)
	runs := 0
	c := fake("spf", spfResult, func(ctx context.Context, f *policy.Facts) {
		runs++
		_, err1 := r.LookupTXT(ctx, "one.example")
		_, err2 := r.LookupTXT(ctx, "two.example")
		_, err3 := r.LookupTXT(ctx, "one.example")
		if f.SPF.Result = policy.Pass; err1 != nil || err2 != nil || err3 != nil {
			f.SPF.Result = policy.TempError
		}
	})
	c.waits = false
	set := setOf(Deps{Resolver: r}, c)
	for _, want := range []struct {
		runs   int
		source dnscache.Source
	}{{2, dnscache.SourceNetwork}, {1, dnscache.SourceCache}} {
		runs = 0
		var trace dnscache.Trace
		f := transaction("192.0.2.1", "client.example", "a@example.com")
		set.Run(dnscache.WithTransaction(t.Context(), &dnscache.Transaction{Trace: &trace}), policy.Mail, f, Message{}, nil)
		answers := trace.Answers()
		if f.SPF.Result != policy.Pass || runs != want.runs || len(answers) != 3 || answers[1].Source != want.source {
			t.Errorf("%s after %d runs: %+v", f.SPF.Result, runs, answers)
		}
	}
}

// The time that a check may take runs while it works as it does while it waits.
func TestACheckThatWorksTooLongLeavesTemperror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		works := func(ctx context.Context, f *policy.Facts) {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond) // of work
			}
			f.SPF.Result = policy.Pass
		}
		set := setOf(Deps{Timeout: 3 * time.Second}, fake("spf", spfResult, works))
		f := transaction("192.0.2.1", "client.example", "a@example.com")
		start := time.Now()
		if set.Run(t.Context(), policy.Mail, f, Message{}, nil); f.SPF.Result != policy.TempError || time.Since(start).Round(time.Second) != 3*time.Second {
			t.Errorf("%s after %v", f.SPF.Result, time.Since(start))
		}
		// An end that the caller has set comes first.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f = transaction("192.0.2.1", "client.example", "a@example.com")
		start = time.Now()
		if set.Run(ctx, policy.Mail, f, Message{}, nil); f.SPF.Result != policy.TempError || time.Since(start).Round(time.Second) != time.Second {
			t.Errorf("%s after %v", f.SPF.Result, time.Since(start))
		}
	})
}

func TestACheckThatRunsOutOfTimeLeavesTemperror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := func(ctx context.Context, f *policy.Facts) {
			<-ctx.Done()
			f.SPF.Result = policy.Fail // concluded from what it could not read
		}
		set := setOf(Deps{Timeout: 3 * time.Second}, fake("spf", spfResult, waits))
		f := transaction("192.0.2.1", "client.example", "a@example.com")
		start := time.Now()
		set.Run(t.Context(), policy.Mail, f, Message{}, nil)
		if f.SPF.Result != policy.TempError || time.Since(start) != 3*time.Second {
			t.Errorf("%s after %v", f.SPF.Result, time.Since(start))
		}
	})
}

func TestTheLimitIsTwentySecondsUnlessSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := setOf(Deps{}, fake("spf", spfResult, func(ctx context.Context, _ *policy.Facts) { <-ctx.Done() }))
		start := time.Now()
		set.Run(t.Context(), policy.Mail, transaction("192.0.2.1", "client.example", "a@example.com"), Message{}, nil)
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("%v", took)
		}
	})
}

func TestAClientThatGoesAwayEndsItsChecks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	set := setOf(Deps{}, fake("spf", spfResult, func(ctx context.Context, _ *policy.Facts) { cancel(); <-ctx.Done() }))
	f := transaction("192.0.2.1", "client.example", "a@example.com")
	set.Run(ctx, policy.Mail, f, Message{}, nil)
	if f.SPF.Result != policy.TempError {
		t.Errorf("%s", f.SPF.Result)
	}
}

func TestAPanicIsLoggedAndLeavesTemperror(t *testing.T) {
	var log bytes.Buffer
	d := Deps{Log: slog.New(slog.NewTextHandler(&log, nil))}
	begins := fake("iprev", iprevResult, nil)
	begins.begin = func(*policy.Facts, Message) bool { panic("while beginning") }
	set := setOf(d, begins, fake("spf", spfResult, func(context.Context, *policy.Facts) { panic("while asking") }))
	f := transaction("192.0.2.1", "client.example", "a@example.com")
	ran := set.Run(t.Context(), policy.Mail, f, Message{}, nil)
	if f.SPF.Result != policy.TempError || f.Iprev.Result != policy.TempError {
		t.Errorf("spf %s, iprev %s", f.SPF.Result, f.Iprev.Result)
	}
	for i, want := range []string{"while beginning", "while asking"} {
		if !strings.Contains(log.String(), want) || ran[i].Result != policy.TempError {
			t.Errorf("%+v; log: %s", ran[i], log.String())
		}
	}
}

// broken is a log that cannot be written.
type broken struct{ slog.Handler }

func (broken) Enabled(context.Context, slog.Level) bool { return true }

func (broken) Handle(context.Context, slog.Record) error { panic("the log is broken") }

// Whatever ends a stage, no check of it is left behind that still writes.
func TestAPanicInTheLogWaitsForTheOtherChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := setOf(Deps{Log: slog.New(broken{slog.DiscardHandler})},
			fake("spf", spfResult, func(context.Context, *policy.Facts) { panic("while asking") }),
			fake("iprev", iprevResult, func(_ context.Context, f *policy.Facts) {
				time.Sleep(time.Second)
				f.Iprev.Result = policy.Pass
			}))
		f := transaction("192.0.2.1", "client.example", "a@example.com")
		defer func() {
			if p := recover(); p != "the log is broken" || f.Iprev.Result != policy.Pass {
				t.Errorf("%v; iprev %s", p, f.Iprev.Result)
			}
		}()
		set.Run(t.Context(), policy.Mail, f, Message{}, nil)
	})
}

func TestNoCheckThatRanStaysSkipped(t *testing.T) {
	set := setOf(Deps{}, fake("spf", spfResult, func(context.Context, *policy.Facts) {}))
	f := transaction("192.0.2.1", "client.example", "a@example.com")
	set.Run(t.Context(), policy.Mail, f, Message{}, nil)
	if f.SPF.Result != policy.TempError {
		t.Errorf("%s", f.SPF.Result)
	}
}

func TestASetHoldsWhatIsWantedAndWhatThatNeeds(t *testing.T) {
	set := only(Deps{}, "dmarc")
	for name, want := range map[string]bool{"dmarc": true, "dkim": true, "spf": true, "pra": false, "iprev": false, "nonsense": false} {
		if set.Wants(name) != want {
			t.Errorf("Wants(%q) is %v", name, !want)
		}
	}
	for stage, want := range map[policy.Stage]bool{policy.Connect: false, policy.Mail: true, policy.Header: false, policy.Message: true} {
		if set.HasStage(stage) != want {
			t.Errorf("HasStage(%s) is %v", stage, !want)
		}
	}
	if all := NewSet(Deps{}, nil); !all.Wants("pra") || !all.Wants("dnsbl") {
		t.Error("nil does not want all")
	}
}

// The names are contract: policy knows them, metrics count them.
func TestEveryCheckSaysWhatItIs(t *testing.T) {
	var names []string
	f := transaction("192.0.2.1", "client.example", "")
	for _, c := range All(Deps{}) {
		names = append(names, c.Name)
		if c.Doc == "" || c.Run == nil || *c.result(f, &f.Recipient) != policy.Skipped {
			t.Errorf("%s: %+v, result before it ran %q", c.Name, c, *c.result(f, &f.Recipient))
		}
		*c.result(f, &f.Recipient) = policy.Fail
		if policy.Measured(f, policy.Message).Without(c.Name+".result") == policy.Measured(f, policy.Message) {
			t.Errorf("%s: its result is not the one in its facts", c.Name)
		}
	}
	if got := strings.Join(names, " "); got != "network submitter spf spf_helo iprev mx dnsbl past rate hold pra dkim dmarc" {
		t.Error(got)
	}
}

func TestHealthIsAskedForAtMail(t *testing.T) {
	f := transaction("192.0.2.1", "client.example", "")
	f.DNS.Healthy = false
	NewSet(Deps{}, func(string) bool { return false }).Run(t.Context(), policy.Mail, f, Message{}, nil)
	if !f.DNS.Healthy {
		t.Error("without a Healthy function our resolver is not healthy")
	}
	sick := NewSet(Deps{Healthy: func() bool { return false }}, func(string) bool { return false })
	if sick.Run(t.Context(), policy.Mail, f, Message{}, nil); f.DNS.Healthy {
		t.Error("Healthy was not asked")
	}
}

// A session without SUBMITTER, lists, and a domain to ask about costs no
// look-up: the resolver is nil, and would panic.
func TestWhatIsTriviallyNoneAsksNobody(t *testing.T) {
	set := only(Deps{}, "mx", "spf", "spf_helo", "submitter", "dnsbl", "pra", "dkim")
	f := transaction("192.0.2.1", "[192.0.2.1]", "user@localhost")
	var ran []Ran
	for _, st := range []policy.Stage{policy.Mail, policy.Header, policy.Message} {
		ran = append(ran, set.Run(t.Context(), st, f, held("Subject: x\r\n\r\n"), nil)...)
	}
	for _, r := range ran {
		want := policy.None
		if r.Name == "pra" || r.Name == "mx" { // which no message should be without
			want = policy.PermError
		}
		if r.Result != want || r.Took != 0 {
			t.Errorf("%+v, want %s", r, want)
		}
	}
	if len(ran) != 7 {
		t.Errorf("%d checks ran", len(ran))
	}
}
