package page

import (
	"slices"
	"strings"
	"testing"

	"postern/policy"
	"postern/policy/journal"
)

// Other people's filters are shown with how they do, how long they take and what they say.
func TestFiltersOnThePage(t *testing.T) {
	r := newRig(t, open+`
milters: [{name: rspamd, address: "127.0.0.1:11332"}]
policy_services: [{name: postgrey, address: "127.0.0.1:10023"}, {name: idle, address: "127.0.0.1:10024"}]
checks: {geo: {files: [gone.mmdb]}}
policy:
  rules:
    - {name: away, when: 'service.postgrey.action == "temperror" or service.idle.action == "temperror"', do: defer}
    - {name: far, when: 'milter.rspamd.action == "temperror" or client.country == "XX"', do: defer}
`, nil)
	asked := func(result policy.Result, took float64) *journal.Record {
		rec := refusal(1, "bad.example")
		rec.Checks = append(rec.Checks, journal.Check{Name: "milter.rspamd", Result: "none", Took: took},
			journal.Check{Name: "service.postgrey", Result: result, Took: 0.002}, journal.Check{Name: "service.idle", Result: policy.Skipped})
		return rec
	}
	r.happened(asked("dunno", 0.010), asked("dunno", 0.020), asked(policy.TempError, 0.5))
	var o overview
	r.get("/api/overview", &o)
	if len(o.Filters) != 3 {
		t.Fatalf("%+v", o.Filters)
	}
	for i, want := range []struct{ name, kind, word string }{{"postgrey", "policy service", "no answer"}, {"idle", "policy service", "not asked"}, {"rspamd", "milter", "answers"}} {
		if f := o.Filters[i]; f.Name != want.name || f.Kind != want.kind || f.Word != want.word {
			t.Errorf("%+v, not %+v", f, want)
		}
	}
	if f := o.Filters[2]; f.Half == nil || *f.Half < 0.019 || *f.Half > 0.021 || f.Last == nil || *f.Last != 0.5 || len(f.Results) != 1 || f.Results[0] != (counted{"none", 3}) {
		t.Errorf("%+v", f)
	}
	if f := o.Filters[1]; f.Half != nil || f.Last != nil {
		t.Errorf("nobody asked it: %+v", f)
	}
	shown := map[string]state{}
	for _, s := range o.States {
		shown[s.Name] = s
	}
	if s := shown["Filters"]; s.Word != "no answer" || !strings.HasPrefix(s.Says, "postgrey: ") {
		t.Errorf("%+v", s)
	}
	if s := shown["Networks"]; s.Word != "not read" || !strings.Contains(s.Says, "gone.mmdb") {
		t.Errorf("%+v", s)
	}
}

// One that is left alone gives no answer, and its times are those of the questions that it was tried to ask it. One to
// which the message could not be shown, which is our own trouble, does as it did before.
func TestAFilterThatNobodyTriedToAsk(t *testing.T) {
	type heard struct {
		times   int
		result  policy.Result
		unasked policy.Unasked
		took    float64
	}
	for word, c := range map[string]struct {
		heard []heard
		last  float64
	}{
		"answers":   {[]heard{{1, "none", "", 0.25}, {1, policy.TempError, policy.UnaskedUnkept, 0}}, 0.25},
		"no answer": {[]heard{{1, "none", "", 0.25}, {3, policy.TempError, policy.UnaskedUnreached, 5}, {filterTimes, policy.TempError, policy.UnaskedAlone, 0.000001}}, 5},
	} {
		t.Run(word, func(t *testing.T) {
			r, counts := newRig(t, open+"milters: [{name: rspamd, address: \"127.0.0.1:11332\", add_fields: true}]\n", nil), map[policy.Result]int{}
			for _, h := range c.heard {
				rec := refusal(1, "bad.example")
				rec.Facts.Milter = policy.Milters{{Name: "rspamd", Action: h.result, Unasked: h.unasked}}
				rec.Checks = []journal.Check{{Name: "milter.rspamd", Result: h.result, Took: h.took}}
				counts[h.result] += h.times
				for range h.times {
					r.page.Record(rec)
				}
			}
			var o overview
			r.get("/api/overview", &o)
			f := o.Filters[0]
			if f.Word != word || f.Half == nil || *f.Half != c.last || f.Last == nil || *f.Last != c.last {
				t.Errorf("%+v", f)
			}
			for result, n := range counts {
				if !slices.Contains(f.Results, counted{string(result), uint64(n)}) {
					t.Errorf("%s was not counted %d times: %+v", result, n, f.Results)
				}
			}
		})
	}
}

// One that answers again has done so since then, and what times are kept is bounded.
func TestAFilterThatComesBack(t *testing.T) {
	r := newRig(t, open+"milters: [{name: rspamd, address: \"127.0.0.1:11332\", add_fields: true}]\n", nil)
	for i := range 3 * filterTimes {
		rec := refusal(1, "bad.example")
		result := policy.Result("none")
		if i < filterTimes {
			result = policy.TempError
		}
		rec.Checks = []journal.Check{{Name: "milter.rspamd", Result: result, Took: float64(i)}}
		r.page.Record(rec)
	}
	var o overview
	r.get("/api/overview", &o)
	if f := o.Filters[0]; f.Word != "answers" || *f.Last != 3*filterTimes-1 || *f.Half < 2*filterTimes {
		t.Errorf("%+v, half %v, last %v", f, *f.Half, *f.Last)
	}
	if !slices.ContainsFunc(o.States, func(s state) bool { return s.Name == "Filters" && s.Word == "answer" }) {
		t.Errorf("%+v", o.States)
	}
}
