package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	library "github.com/expr-lang/expr"
	"pgregory.net/rapid"

	"postern/configs"
	"postern/policy/expr"
)

// genFacts draws facts from few enough values that rules often match.
func genFacts(t *rapid.T) *Facts {
	f := Facts{}.Transaction("p")
	v := reflect.ValueOf(&f).Elem()
	for _, name := range words.Names() {
		fact := vocabulary[name]
		at := fact.In(v)
		switch fact.Kind {
		case expr.Bool:
			at.SetBool(rapid.Bool().Draw(t, name))
		case expr.Number:
			at.SetInt(rapid.Int64Range(-2, 3).Draw(t, name))
		case expr.Text:
			at.SetString(rapid.SampledFrom(textsFor(fact)).Draw(t, name))
		case expr.Texts:
			at.Set(reflect.ValueOf(rapid.SliceOfN(rapid.SampledFrom(textsFor(fact)), 0, 3).Draw(t, name)))
		}
	}
	return &f
}

// textsFor returns some values that a text fact may have.
func textsFor(f *fact) []string {
	switch {
	case f.Words != nil:
		return f.Words
	case f.Form == "ip":
		return []string{"192.0.2.1", "198.51.100.7", "2001:db8::1"}
	case f.Form == "country":
		return []string{"", "DE", "FR", "US"}
	case f.Form != "":
		return []string{"", "example.org", "mx.example.org", "example.com"}
	default:
		return []string{"", "Bob@example.org", "bob@example.org", "alice@example.com", "é"}
	}
}

// generator writes random conditions of the language, among them all of its
// operators and functions. Only facts of the given stages are used.
type generator struct {
	t      *rapid.T
	latest Stage
	skip   bool // what is of one recipient alone
}

func (g generator) pick(kinds ...expr.Kind) *fact {
	var fit []*fact
	for _, name := range words.Names() {
		if f := vocabulary[name]; f.stage <= g.latest && slices.Contains(kinds, f.Kind) && (!g.skip || name != "rcpt.address" && f.by != "hold") {
			fit = append(fit, f)
		}
	}
	return rapid.SampledFrom(fit).Draw(g.t, "fact")
}

func (g generator) condition(depth int) string {
	choices := 9
	if depth == 0 {
		choices = 6
	}
	draw := func(from ...string) string { return rapid.SampledFrom(from).Draw(g.t, "word") }
	quoted := func(f *fact) string { return fmt.Sprintf("%q", rapid.SampledFrom(textsFor(f)).Draw(g.t, "literal")) }
	list := func(f *fact) string {
		all := make([]string, rapid.IntRange(1, 11).Draw(g.t, "length"))
		for i := range all {
			all[i] = quoted(f)
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	switch rapid.IntRange(0, choices).Draw(g.t, "kind of condition") {
	case 0:
		f := g.pick(expr.Text)
		return fmt.Sprintf("%s %s %s", f.Name, draw("==", "!="), strings.Replace(quoted(f), `""`, fmt.Sprintf("%q", textsFor(f)[1]), 1))
	case 1:
		f := g.pick(expr.Text)
		return fmt.Sprintf("%s %s %s", f.Name, draw("in", "not in"), list(f))
	case 2:
		f := g.pick(expr.Number)
		n := rapid.IntRange(-2, 3).Draw(g.t, "number")
		if rapid.Bool().Draw(g.t, "turned") {
			return fmt.Sprintf("%d %s %s", n, draw("==", "!=", "<", "<=", ">", ">="), f.Name)
		}
		return fmt.Sprintf("%s %s %d", f.Name, draw("==", "!=", "<", "<=", ">", ">="), n)
	case 3:
		f := g.pick(expr.Text)
		if g.latest >= Mail && rapid.Bool().Draw(g.t, "list fact") {
			f = g.pick(expr.Texts)
			body := draw(`# endsWith ".org"`, `# == "example.com"`, `len(# ) > 5 and not (# contains "mx")`, `in_list("forwarders", #)`)
			return draw(
				fmt.Sprintf("%q in %s", "mx.example.org", f.Name),
				fmt.Sprintf("any(%s, %s)", f.Name, body), fmt.Sprintf("all(%s, %s)", f.Name, body), fmt.Sprintf("none(%s, %s)", f.Name, body),
				fmt.Sprintf("len(%s) %s 1", f.Name, draw("==", ">", "<=")),
			)
		}
		return draw(
			fmt.Sprintf(`%s contains "example"`, f.Name), fmt.Sprintf(`%s startsWith "b"`, f.Name), fmt.Sprintf(`%s endsWith ".org"`, f.Name),
			fmt.Sprintf(`%s matches "^[a-z]+@"`, f.Name), fmt.Sprintf(`lower(%s) == "bob@example.org"`, f.Name),
			fmt.Sprintf(`upper(%s) != %s`, f.Name, f.Name), fmt.Sprintf(`len(%s) > 3`, f.Name), fmt.Sprintf(`%s == %s`, f.Name, g.pick(expr.Text).Name),
		)
	case 4:
		return fmt.Sprintf("in_list(%q, %s)", "forwarders", g.pick(expr.Text).Name)
	case 5:
		if g.latest >= Mail {
			return draw(g.pick(expr.Bool).Name, "true", "false", g.pick(expr.Bool).Name+" == "+g.pick(expr.Bool).Name)
		}
		return draw("true", "false")
	case 6:
		return fmt.Sprintf("not (%s)", g.condition(depth-1))
	case 7:
		return fmt.Sprintf("%s and %s", g.bracketed(depth-1), g.bracketed(depth-1))
	default:
		return fmt.Sprintf("(%s or %s)", g.bracketed(depth-1), g.bracketed(depth-1))
	}
}

func (g generator) bracketed(depth int) string { return "(" + g.condition(depth) + ")" }

func propertyLists(t testing.TB) *Lists {
	lists, err := NewLists([]configs.List{{Name: "forwarders", Entries: []string{"192.0.2.0/24", "*.example.org", "alice@example.com"}}}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return lists
}

// exprEnv returns facts as expr-lang wants them: maps of plain types.
func exprEnv(f *Facts, lists *Lists) map[string]any {
	env := map[string]any{"in_list": lists.Contains}
	v := reflect.ValueOf(f).Elem()
	for _, name := range words.Names() {
		parts := strings.Split(name, ".")
		in := env
		for _, p := range parts[:len(parts)-1] {
			if in[p] == nil {
				in[p] = map[string]any{}
			}
			in = in[p].(map[string]any)
		}
		at := vocabulary[name].In(v)
		switch vocabulary[name].Kind {
		case expr.Bool:
			in[parts[len(parts)-1]] = at.Bool()
		case expr.Number:
			in[parts[len(parts)-1]] = at.Int()
		case expr.Text:
			in[parts[len(parts)-1]] = at.String()
		case expr.Texts:
			in[parts[len(parts)-1]] = at.Interface()
		}
	}
	return env
}

// TestConditionsMeanWhatExprSays holds our evaluation against that of the
// library whose language it is.
func TestConditionsMeanWhatExprSays(t *testing.T) {
	lists := propertyLists(t)
	trues, total := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text := generator{t: t, latest: Message}.condition(3)
		f := genFacts(t)
		language := expr.Language{Facts: words, Lists: lists}
		x, faults := language.Condition(expr.Source{Text: text, Position: at})
		if faults != nil {
			t.Fatalf("%s: %v", text, faults)
		}
		ours := x.Holds(expr.On(f))
		env := exprEnv(f, lists)
		program, err := library.Compile(text, library.Env(env), library.AsBool())
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		theirs, err := library.Run(program, env)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if ours != theirs {
			t.Fatalf("%s: we say %t, expr says %t", text, ours, theirs)
		}
		total++
		if ours {
			trues++
		}
	})
	if trues == 0 || trues == total {
		t.Errorf("%d of %d conditions were true: the generator is one-sided", trues, total)
	}
}

// genPolicy draws a policy that compiles.
func genPolicy(t *rapid.T, lists *Lists) (*Chain, configs.Policy) {
	var p configs.Policy
	floor := Connect
	for i := range rapid.IntRange(1, 8).Draw(t, "rules") {
		g := generator{t: t, latest: Stage(rapid.IntRange(int(Connect), int(Message)).Draw(t, "latest"))}
		if max(g.latest, floor) > Rcpt {
			g.skip = true // one reply for all
		}
		r := configs.Rule{Name: fmt.Sprint("r", i), When: g.condition(2)}
		r.Do = rapid.SampledFrom(slices.DeleteFunc(slices.Clone(dispositionNames[:]), func(do string) bool { return g.skip && do == "hold" })).Draw(t, "do")
		if r.Do == "hold" {
			floor = Rcpt
			r.For = time.Duration(rapid.IntRange(0, 2).Draw(t, "for")) * time.Second
		}
		if r.Do == "tag" {
			r.Header = "X-Postern-Tag: " + r.Name + " ${client.ip}"
		} else {
			floor = max(floor, g.latest)
		}
		p.Rules = append(p.Rules, r)
	}
	chain, err := Compile(p, lists)
	if err != nil {
		t.Fatalf("%+v: %v", p.Rules, err)
	}
	return chain, p
}

// TestDecidedEarlyIsDecided: the verdict at the stage where the chain says that
// it has decided is that of the whole chain read at the end, whatever the later
// facts turn out to be; and that is the first rule that matches, from the top.
func TestDecidedEarlyIsDecided(t *testing.T) {
	lists := propertyLists(t)
	early := 0
	rapid.Check(t, func(t *rapid.T) {
		chain, p := genPolicy(t, lists)
		full := genFacts(t)
		end := chain.Decide(Message, full)
		if !end.Decided {
			t.Fatal("undecided at the end")
		}

		// The naive reading, rule by rule.
		var want Verdict
		for i, r := range p.Rules {
			if s := expr.On(full); !chain.rules[i].holds(s, chain.silent(s)) { // see TestWhatTheStoreDidNotTell
				continue
			}
			want.Rule = r.Name
			want.Disposition, _ = ParseDisposition(r.Do)
			if want.Disposition != DispositionTag {
				break
			}
			want.Tags = append(want.Tags, chain.rules[i].header.expand(expr.On(full)))
		}
		if end.Rule != want.Rule || end.Disposition != want.Disposition || !slices.Equal(end.Tags, want.Tags) {
			t.Fatalf("%+v: got %+v, want %+v", p.Rules, end, want)
		}

		for st := Connect; st <= Message; st++ {
			// What is not known yet is something else altogether.
			known := *genFacts(t)
			from, to := reflect.ValueOf(full).Elem(), reflect.ValueOf(&known).Elem()
			for _, f := range vocabulary {
				if f.stage <= st {
					f.In(to).Set(f.In(from))
				}
			}
			v := chain.Decide(st, &known)
			if v.Stage > st {
				t.Fatalf("at %s, decided at %s", st, v.Stage)
			}
			if v.Refuses() && !v.Decided {
				t.Fatalf("a refusal that is not decided: %+v", v)
			}
			if st >= chain.Last() {
				if !reflect.DeepEqual(v, end) {
					t.Fatalf("at %s, the last stage: %+v, at the end %+v", st, v, end)
				}
			}
			if !v.Decided {
				continue
			}
			// The tags above a refusal may not be known yet; no message bears them.
			if refusal := withoutTags(v); v.Refuses() != end.Refuses() || v.Refuses() && !reflect.DeepEqual(refusal, withoutTags(end)) {
				t.Fatalf("at %s: %+v, at the end %+v\n%+v", st, v, end, p.Rules)
			}
			if v.Disposition == DispositionPass && v.Rule != "" && (v.Rule != end.Rule || v.Disposition != end.Disposition) {
				t.Fatalf("at %s passed by %s, at the end %s by %s", st, v.Rule, end.Disposition, end.Rule)
			}
			if st < Message {
				early++
			}
		}
	})
	if early == 0 {
		t.Error("nothing was ever decided before the end")
	}
}

func withoutTags(v Verdict) Verdict {
	v.Tags = nil
	return v
}

// TestStagesNeverGoBack: a rule is decided no earlier than its facts and than
// every deciding rule above it are.
func TestStagesNeverGoBack(t *testing.T) {
	lists := propertyLists(t)
	rapid.Check(t, func(t *rapid.T) {
		chain, _ := genPolicy(t, lists)
		floor := Connect
		for i, step := range chain.Plan() {
			if step.Stage < step.Own || step.Stage < floor {
				t.Fatalf("rule %d: %+v, floor %s", i, step, floor)
			}
			if step.Do != "tag" {
				floor = step.Stage
			}
		}
	})
}

// TestExplainAgrees: Explain tells of the verdict that Decide gives, and each
// change that it proposes has the effect that it says.
func TestExplainAgrees(t *testing.T) {
	lists := propertyLists(t)
	proposed := 0
	rapid.Check(t, func(t *rapid.T) {
		chain, p := genPolicy(t, lists)
		f := genFacts(t)
		before := *f
		v, e := chain.Decide(Message, f), chain.Explain(f)
		if !reflect.DeepEqual(before, *f) {
			t.Fatal("Explain changed the facts")
		}
		if e.Disposition != v.Disposition || e.Rule != v.Rule || e.Stage != v.Stage || e.Reply != v.Reply.String() {
			t.Fatalf("Explain says %+v, Decide %+v", e, v)
		}
		for _, change := range e.Changes {
			if change.Becomes.Refuses() == v.Refuses() {
				t.Fatalf("%+v turns nothing", change)
			}
			proposed++
			for _, fc := range change.Facts {
				fact := vocabulary[fc.Fact]
				if len(change.Facts) > 1 || fact == nil || fact.Kind != expr.Text || fc.To[0] == "anything else" {
					continue
				}
				changed := *f
				fact.In(reflect.ValueOf(&changed).Elem()).SetString(strings.Trim(fc.To[0], `"`))
				// Conditions on other parts of the same fact move with it, which the
				// search leaves out: so only facts that are compared and no more.
				if strings.Count(allConditions(p), fact.Name) != strings.Count(allConditions(p), fact.Name+" ==") {
					continue
				}
				if got := chain.Decide(Message, &changed); got.Disposition != change.Becomes {
					t.Fatalf("%s = %s: got %s, Explain said %s\n%+v", fc.Fact, fc.To[0], got.Disposition, change.Becomes, p.Rules)
				}
			}
		}
	})
	if proposed == 0 {
		t.Error("no change was ever proposed")
	}
}

func allConditions(p configs.Policy) string {
	var all []string
	for _, r := range p.Rules {
		all = append(all, r.When)
	}
	return strings.Join(all, "\n")
}

// TestWarningsAreTrue: a rule that Warnings calls dead decides nothing, whatever
// facts come.
func TestWarningsAreTrue(t *testing.T) {
	lists := propertyLists(t)
	called := 0
	rapid.Check(t, func(t *rapid.T) {
		chain, p := genPolicy(t, lists)
		dead := map[string]bool{}
		for _, w := range chain.Warnings() {
			for _, r := range p.Rules {
				if strings.HasPrefix(w.Text, fmt.Sprintf("rule %q never", r.Name)) || strings.HasPrefix(w.Text, fmt.Sprintf("rule %q can never", r.Name)) {
					dead[r.Name] = true
					called++
				}
			}
		}
		for range 20 {
			f := genFacts(t)
			for _, r := range chain.Explain(f).Rules {
				if dead[r.Rule] && (r.Outcome == "decided" || r.Outcome == "matched") {
					t.Fatalf("rule %s %s, and was called dead\n%+v\n%+v", r.Rule, r.Outcome, p.Rules, f)
				}
			}
		}
	})
	if called == 0 {
		t.Error("no rule was ever called dead")
	}
}

// TestConcurrentDecisions shares one chain among goroutines, while its lists
// get new content.
func TestConcurrentDecisions(t *testing.T) {
	chain, f := fiftyRules(t)
	fresh, _ := NewLists([]configs.List{{Name: "forwarders", Entries: []string{"203.0.113.0/24"}}}, nil, time.Now)
	done := make(chan Verdict)
	for range 4 {
		go func() {
			facts := *f
			facts.Client.Port = rand.IntN(65536)
			var v Verdict
			for range 200 {
				v = chain.Decide(Message, &facts)
			}
			done <- v
		}()
	}
	for range 50 {
		if err := chain.lists.Replace(fresh); err != nil {
			t.Error(err)
		}
	}
	for range 4 {
		if v := <-done; v.Disposition != DispositionPass {
			t.Errorf("got %+v", v)
		}
	}
}
