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
