package journal

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/configs"
	"postern/policy"
)

func compile(t testing.TB, rules ...configs.Rule) *policy.Chain {
	t.Helper()
	chain, err := policy.Compile(configs.Policy{Rules: rules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestLive(t *testing.T) {
	taken := func(address string, undecided bool) Recipient {
		return Recipient{Address: address, Disposition: "pass", Undecided: undecided, Taken: true}
	}
	delivered := func(change func(*Record)) *Record {
		r := sample("x") // one recipient, bob
		r.Disposition, r.Rule = "tag", "doubtful"
		if change != nil {
			change(r)
		}
		return r
	}
	for name, c := range map[string]struct {
		r    *Record
		i    int
		want Opinion
	}{
		"the message's verdict is its recipient's": {delivered(nil), 0, Opinion{Disposition: "tag", Rule: "doubtful"}},
		"refused before any recipient": {
			&Record{Reached: "mail", Disposition: "reject", Rule: "spf-fail"}, 0, Opinion{Disposition: "reject", Rule: "spf-fail", TagsUnknown: true},
		},
		"another one of the message": {
			delivered(func(r *Record) { r.Recipients = append(r.Recipients, taken("eve@local.example", true)) }), 1,
			Opinion{Disposition: "tag", Rule: "doubtful", TagsUnknown: true},
		},
		"refused at RCPT beside it": {
			delivered(func(r *Record) {
				r.Recipients = append(r.Recipients, Recipient{Address: "eve@local.example", Disposition: "reject", Rule: "no-eve"})
			}), 1,
			Opinion{Disposition: "reject", Rule: "no-eve"},
		},
		"passed at RCPT for good": {
			delivered(func(r *Record) { r.Recipients[0] = Recipient{Disposition: "pass", Rule: "postmaster", Taken: true} }), 0,
			Opinion{Disposition: "pass", Rule: "postmaster"},
		},
		"not taken by the backend": {
			delivered(func(r *Record) { r.Recipients[0].Taken = false }), 0, Opinion{},
		},
		"gone before the message": {
			delivered(func(r *Record) { r.Reached, r.Undecided = "rcpt", true }), 0, Opinion{},
		},
		"gone before the message, but decided": {
			delivered(func(r *Record) { r.Reached, r.Recipients[0].Undecided = "rcpt", false }), 0, Opinion{Disposition: "pass", TagsUnknown: true},
		},
		"gone in the middle of the message": {
			delivered(func(r *Record) { r.Reached, r.Undecided = "header", true }), 0, Opinion{},
		},
		"beside one whose refusal is only observed": {
			delivered(func(r *Record) {
				r.Disposition, r.Rule, r.Observed = "reject", "no-bob", true
				r.Recipients = []Recipient{{Address: "bob@local.example", Disposition: "reject", Rule: "no-bob", Taken: true}, taken("eve@local.example", false)}
			}), 1,
			Opinion{Disposition: "pass", TagsUnknown: true},
		},
	} {
		if d := cmp.Diff(c.want, c.r.Live(c.i)); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
}

func TestDiffers(t *testing.T) {
	tag, pass := Opinion{Disposition: "tag", Rule: "a"}, Opinion{Disposition: "pass"}
	unsure := pass
	unsure.TagsUnknown = true
	reject := Opinion{Disposition: "reject", Rule: "a", TagsUnknown: true}
	for _, c := range []struct {
		a, b Opinion
		want bool
	}{{tag, tag, false}, {tag, pass, true}, {tag, unsure, false}, {reject, unsure, true}, {reject, Opinion{Disposition: "reject", Rule: "b"}, true}} {
		if got := c.a.Differs(c.b); got != c.want || c.b.Differs(c.a) != c.want {
			t.Errorf("%+v and %+v: %t", c.a, c.b, got)
		}
	}
}

func TestJudgeCandidate(t *testing.T) {
	r := sample("x")
	r.Recipients = []Recipient{
		{Address: "bob@local.example", Disposition: "pass", Undecided: true, Taken: true},
		{Address: "eve@other.example", Disposition: "pass", Undecided: true, Taken: true},
		{Address: "postmaster", Disposition: "reject", Rule: "nobody"},
	}
	active, candidate := r.JudgeCandidate(compile(t,
		configs.Rule{Name: "other", When: `rcpt.domain == "other.example"`, Do: "reject"},
	))
	if active != "pass" || candidate != "reject" {
		t.Errorf("%s, %s", active, candidate)
	}
	if r.Candidate.Disposition != "pass" || len(r.Candidate.Policy) != 12 || r.Recipients[0].Candidate != nil {
		t.Errorf("%+v, %+v", r.Candidate, r.Recipients[0].Candidate)
	}
	for i, want := range []Disposition{"pass", "reject", "pass"} {
		if got := r.CandidateOpinion(i).Disposition; got != want {
			t.Errorf("recipient %d: %s, want %s", i, got, want)
		}
	}

	// What nobody looked for is no disagreement.
	r = sample("x")
	active, candidate = r.JudgeCandidate(compile(t, configs.Rule{Name: "unsigned", When: `dkim.result != "pass"`, Do: "reject"}))
	if active != candidate || r.Candidate.Disposition != Undetermined || len(r.Candidate.Missing) != 1 || r.Candidate.Missing[0] != "dkim.result" {
		t.Errorf("%s, %s, %+v", active, candidate, r.Candidate)
	}
	if (&Record{}).CandidateOpinion(0).Known() {
		t.Error("a record without a candidate has its opinion")
	}
}

// TestRecordsOfBeforeACheck: a record that was written before there was a check
// says nothing about it, and is judged by the rest alone.
func TestRecordsOfBeforeACheck(t *testing.T) {
	line := marshal(t, sample("x"))
	old := strings.Replace(line, `"mx":{"result":"pass"},`, "", 1)
	if old == line {
		t.Fatalf("no mx in %s", line)
	}
	var r Record
	if err := json.Unmarshal([]byte(old), &r); err != nil {
		t.Fatal(err)
	}
	known := r.Measured()
	if slices.Contains(known.Names(), "mx.result") || !slices.Contains(known.Names(), "spf.result") {
		t.Errorf("known: %q", known.Names())
	}
	nullMX := configs.Rule{Name: "null-mx", When: `mx.result == "fail"`, Do: "reject"}
	if got := r.Judge(compile(t, nullMX), 0, known); got.Disposition != Undetermined || !slices.Equal(got.Missing, []string{"mx.result"}) {
		t.Errorf("%+v", got)
	}
	// NOT: taken for an unknown sender's, or for one that was looked at.
	if got := r.Judge(compile(t, configs.Rule{Name: "seen", When: `mx.result != "pass"`, Do: "reject"}), 0, known); got.Disposition != Undetermined {
		t.Errorf("%+v", got)
	}
	above := configs.Rule{Name: "known", When: `client.ip != ""`, Do: "reject"}
	if got := r.Judge(compile(t, above, nullMX), 0, known); got.Disposition != "reject" || got.Rule != "known" {
		t.Errorf("%+v", got)
	}
}

// TestHashesAreNotJudged: a rule about a person has no verdict where a hash
// stands for the person, on other recipients as well.
func TestHashesAreNotJudged(t *testing.T) {
	h := &hasher{key: []byte("0123456789abcdef")}
	r := sample("x")
	r.Recipients = append(r.Recipients, Recipient{Address: "eve@local.example"}, Recipient{Address: "postmaster@local.example"})
	r = h.record(r)
	chain := compile(t, configs.Rule{Name: "bob", When: `rcpt.address == "bob@local.example"`, Do: "reject"})
	known := r.Measured()
	for i, want := range []Disposition{Undetermined, Undetermined, "pass"} {
		if got := r.Judge(chain, i, known); got.Disposition != want {
			t.Errorf("recipient %d: %+v, want %s", i, got, want)
		}
	}
}

func TestDomainOf(t *testing.T) {
	for address, want := range map[string]string{"a@b.example": "b.example", "postmaster": "", "": "", `"x@y"@z.example`: "z.example"} {
		if got := DomainOf(address); got != want {
			t.Errorf("%s: %q", address, got)
		}
	}
}

// BenchmarkCandidate is what a candidate costs the session for a message: on top
// of the hand-over, and of what it wants measured.
func BenchmarkCandidate(b *testing.B) {
	chain, err := policy.Compile(policy.BuiltIn(), nil)
	if err != nil {
		b.Fatal(err)
	}
	r := sample("x")
	b.ReportAllocs()
	for b.Loop() {
		r.JudgeCandidate(chain)
	}
}
