package expr

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"postern/configs"
)

// facts are what the tests of the language read; those of mail are in package policy.
type facts struct {
	ID   string `expr:"-"`
	Peer struct {
		IP    string   `expr:"ip" form:"ip"`
		Port  int      `expr:"port"`
		Names []string `expr:"names" form:"domain" stage:"late"`
	} `expr:"peer" stage:"early"`
	Seal struct {
		Result string `expr:"result" results:"pass fail"`
		Trust  bool   `expr:"trust"`
	} `expr:"seal"`
	Text string `expr:"text"`
}

type lists map[string][]string

func (l lists) Has(list string) bool             { return l[list] != nil }
func (l lists) Names() []string                  { return []string{"known"} }
func (l lists) Contains(list, value string) bool { return slices.Contains(l[list], value) }

var language = Language{Facts: Describe(reflect.TypeFor[facts]()), Lists: lists{"known": {"x", "y"}}}

func example() *facts {
	f := &facts{Text: "x"}
	f.Peer.IP, f.Peer.Port, f.Peer.Names, f.Seal.Result = "192.0.2.1", 25, []string{"a.example", "b.example"}, "fail"
	return f
}

func TestDescribe(t *testing.T) {
	v := language.Facts
	if got := strings.Join(v.Names(), " "); got != "peer.ip peer.names peer.port seal.result seal.trust text" {
		t.Errorf("got %s", got)
	}
	if !v.Has("peer") || !v.Has("text") || v.Has("ID") || v.Has("ee") || v.Fact("peer") != nil {
		t.Error("what is a fact, what is a group?")
	}
	names := v.Fact("peer.names")
	if names.Inherited("stage") != "late" || v.Fact("peer.port").Inherited("stage") != "early" || v.Fact("text").Inherited("stage") != "" || names.Tag().Get("form") != "domain" {
		t.Error("tags")
	}
	if f := v.Fact("seal.result"); !f.Result || f.Group != "seal" || f.Kind != Text || !slices.Equal(f.Words, []string{"pass", "fail"}) {
		t.Errorf("got %+v", f)
	}
	defer func() {
		if recover() == nil {
			t.Error("a field that no expression can read was taken")
		}
	}()
	Describe(reflect.TypeFor[struct {
		F float64 `expr:"f"`
	}]())
}

// An expression's value, and what it is where only some facts are known.
func TestCondition(t *testing.T) {
	known := Set{}
	known.Add(language.Facts.Fact("seal.result"))
	known.Add(language.Facts.Fact("text"))
	for text, want := range map[string]struct {
		holds bool
		judge Truth
		reads string
	}{
		`true`:                  {true, Yes, ""},
		`seal.result == "fail"`: {true, Yes, "seal.result"},
		`peer.port > 24`:        {true, Unknown, "peer.port"},
		`peer.port > 24 or seal.result == "fail"`:  {true, Yes, "peer.port seal.result"},
		`peer.port > 24 and seal.result == "pass"`: {false, No, "peer.port seal.result"},
		`seal.trust or not (text == "x")`:          {false, Unknown, "seal.trust text"},
		`not seal.trust and text == "x"`:           {true, Unknown, "seal.trust text"},
		`in_list("known", text)`:                   {true, Yes, "text"},
		`any(peer.names, # startsWith "b")`:        {true, Unknown, "peer.names"},
		`peer.ip in ["192.0.2.0/24"] and good`:     {true, Unknown, "peer.ip seal.result"},
	} {
		let, faults := language.Let(Source{Text: `seal.result != "pass"`})
		if faults != nil {
			t.Fatal(faults)
		}
		with := language
		with.Lets = map[string]*Expression{"good": let}
		x, faults := with.Condition(Source{Text: text})
		if faults != nil {
			t.Errorf("%s: %v", text, faults)
			continue
		}
		var reads []string
		for _, name := range with.Facts.Names() {
			if _, noted := x.Facts[name]; noted != x.Reads().Has(with.Facts.Fact(name)) {
				t.Errorf("%s: does it read %s?", text, name)
			} else if noted {
				reads = append(reads, name)
			}
		}
		if f := example(); x.Holds(On(f)) != want.holds || x.Judge(On(f), known) != want.judge || strings.Join(reads, " ") != want.reads {
			t.Errorf("%s: %t, %v, reads %q", text, x.Holds(On(f)), x.Judge(On(f), known), reads)
		}
		if x.Constant() != (text == "true") || x.Judge(On(example()), x.Reads()) == Unknown {
			t.Errorf("%s: constant %t", text, x.Constant())
		}
	}
}

// letsOfEveryKind are written values and facts that have a name.
func letsOfEveryKind(t testing.TB) Language {
	with := language
	with.Lets = map[string]*Expression{}
	for name, text := range map[string]string{
		"truth": "true", "number": "25", "word": `"fail"`, "texts": `["x", "fail", "192.0.2.0/24"]`, "networks": `["192.0.2.0/24", "::1"]`, "numbers": "[1, 25]",
		"trusted": "seal.trust", "port": "peer.port", "sealed": "seal.result", "names": "peer.names", "found": `any(peer.names, # == "a.example")`,
	} {
		x, faults := language.Let(Source{Text: text})
		if faults != nil {
			t.Fatal(name, faults)
		}
		with.Lets[name] = x
	}
	return with
}

// What stands in a let means what it would mean if it stood in its place.
func TestLetsOfEveryKind(t *testing.T) {
	with := letsOfEveryKind(t)
	for text, holds := range map[string]bool{
		`text in texts`: true, `peer.ip in networks`: true, `peer.port in numbers`: true, `"z" in texts`: false, `lower(text) in texts`: true,
		`any(texts, # == text)`: true, `all(texts, # != text)`: false, `any(peer.names, # in texts)`: false, `len(texts) == 3`: true,
		`"a.example" in names`: true, `word == sealed`: true, `sealed in ["pass", "fail"]`: true, `port == number`: true, `port in numbers`: true, `-number == -25`: true,
		`truth and not trusted`: true, `found == truth`: true, `"failed" startsWith word`: true, `text matches word`: false, `in_list("known", word)`: false,
	} {
		x, faults := with.Condition(Source{Text: text})
		if faults != nil || x.Holds(On(example())) != holds {
			t.Errorf("%s: %v", text, faults)
		}
	}
	where := configs.Position{File: "f", Line: 3, Column: 9}
	for text, want := range map[string]string{
		`not (seal.result in texts)`: `3:29: seal.result is never "x": it is pass or fail`,
		`peer.ip in texts`:           `3:20: "x" is no IP address; peer.ip is one`,
		`text in numbers`:            `3:14: text is a text and numbers is a list of numbers: it is never in it`,
	} {
		_, faults := with.Condition(Source{Text: text, Position: where})
		if len(faults) == 0 || fmt.Sprintf("%d:%d: %s", faults[0].Position.Line, faults[0].Position.Column, faults[0].Text) != want {
			t.Errorf("%s: %v", text, faults)
		}
	}
}

// A fault of a let is told once, where it is, and not of each that uses it.
func TestFaultsPointIntoTheText(t *testing.T) {
	where := configs.Position{File: "f", Line: 3, Column: 9}
	bad, faults := language.Let(Source{Text: "text == 1", Position: where})
	if len(faults) != 1 || faults[0].Position != (configs.Position{File: "f", Line: 3, Column: 14}) {
		t.Errorf("got %v", faults)
	}
	with := language
	with.Lets = map[string]*Expression{"bad": bad}
	for text, want := range map[string]string{
		"bad or seal.trust":           "",
		"seal.trust and\n seel.trust": `4:10: unknown name seel.trust (did you mean seal.trust?)`,
		`seal.result == "fial"`:       `3:24: seal.result is never "fial" (did you mean fail?): it is pass or fail`,
		`in_list("knwon", text)`:      `3:17: unknown list "knwon" (did you mean known?); there is known`,
		`seal.truts`:                  `3:14: seal has no truts (did you mean seal.trust?); there is seal.result or seal.trust`,
		`text`:                        `3:9: text is a text, not a condition: compare it, as in text == "..."`,
	} {
		_, faults := with.Condition(Source{Text: text, Position: where})
		var got []string
		for _, f := range faults {
			got = append(got, fmt.Sprintf("%d:%d: %s", f.Position.Line, f.Position.Column, f.Text))
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%q\n got %q\nwant %q", text, got, want)
		}
	}
}

// What an unless adds is what Guarded shows.
func TestGuarded(t *testing.T) {
	no, _ := language.Let(Source{Text: `text == "x"`})
	with := language
	with.Lets = map[string]*Expression{"no": no}
	for text, shown := range map[string]string{
		`seal.result == "fail"`:               `seal.result == "fail" and not no`,
		`seal.result == "fail" or seal.trust`: `(seal.result == "fail" or seal.trust) and not no`,
		"seal.result == \"fail\" // or not":   "seal.result == \"fail\" // or not\n and not no",
	} {
		if got := Guarded(text, []string{"no"}); got != shown {
			t.Errorf("%q is shown as %q", text, got)
		}
		guarded, faults := with.Condition(Source{Text: text, Unless: []string{"no"}})
		written, more := with.Condition(Source{Text: shown})
		if faults != nil || more != nil {
			t.Fatal(faults, more)
		}
		for _, sought := range []string{"x", "z"} {
			f := example()
			f.Text = sought
			if a, b := guarded.Holds(On(f)), written.Holds(On(f)); a != b || a != (sought == "z") {
				t.Errorf("%q with %s: %t, as it is shown %t", text, sought, a, b)
			}
		}
	}
	if got := Guarded("true\n", nil); got != "true" {
		t.Errorf("got %q", got)
	}
}

func TestNamesIn(t *testing.T) {
	for text, want := range map[string]string{
		`seal.result == "text" and forged`: "forged seal seal.result",
		`seal["result"] in ["x"]`:          "seal seal.result",
		`text ==`:                          "",
		`text == "` + strings.Repeat("x", MaxLength) + `"`: "",
	} {
		if got := strings.Join(slices.Compact(slices.Sorted(slices.Values(NamesIn(text)))), " "); got != want {
			t.Errorf("%.40s: got %q, want %q", text, got, want)
		}
	}
	for _, name := range []string{"a", "_1", "forged"} {
		if !IsName(name) || IsWord(name) {
			t.Errorf("%s is a name", name)
		}
	}
	for _, name := range []string{"", "1a", "a.b", "ä", "a-b"} {
		if IsName(name) {
			t.Errorf("%s is no name", name)
		}
	}
	if !IsWord("len") || !IsWord("matches") {
		t.Error("words of the language")
	}
}

// FuzzCondition: what compiles has a value, and the same one where all is known; what
// does not says why.
func FuzzCondition(f *testing.F) {
	for _, seed := range []string{`seal.result == "fail"`, `any(peer.names, # != text) or not (peer.port in [1, 2])`, `peer.ip in ["192.0.2.0/24", "::1"]`, `len(text) > 1 and lower(text) matches "^a+$"`, `((`, "text == \"\\xff\"", `text in texts and port in numbers or any(texts, # in names) and found`} {
		f.Add(seed)
	}
	language := letsOfEveryKind(f)
	f.Fuzz(func(t *testing.T, text string) {
		x, faults := language.Condition(Source{Text: text})
		if faults != nil {
			return
		}
		s := On(example())
		if got := x.Judge(s, x.Reads()); (got == Yes) != x.Holds(s) || got == Unknown {
			t.Errorf("%q: %t, judged %d", text, x.Holds(s), got)
		}
		for _, p := range x.Parts {
			for _, o := range p.Operands() {
				if o.Show(s) == "" || !o.Reads().Within(x.Reads()) {
					t.Errorf("%q: %s is shown as nothing, or reads what the whole does not", text, o.Text)
				}
			}
		}
	})
}
