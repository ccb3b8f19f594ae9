package view

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

// Each result of each check that has words of its own is a sentence, with nothing of the format left in it.
func TestWordsAreSentences(t *testing.T) {
	f := journaltest.Delivery(1, "a.example", policy.Pass).Facts
	for check, results := range meanings {
		if titles[check] == "" {
			t.Errorf("%s has no title", check)
		}
		for r := range results {
			for name, facts := range map[string]*policy.Facts{"full": &f, "empty": {}} {
				s := says(facts, check, r)
				if !strings.HasSuffix(s, ".") || strings.Contains(s, "%!") || strings.Contains(s, "%s") || strings.Contains(s, "  ") {
					t.Errorf("%s %s of %s facts: %q", check, r, name, s)
				}
			}
		}
	}
	if s := says(&f, "milter", policy.Fail); s != "It was not as it should be." {
		t.Errorf("a check without words: %q", s)
	}
	if s := says(&f, "spf", "odd"); s != "It found odd." {
		t.Errorf("a result without words: %q", s)
	}
}

// Whatever became of a transaction, the story says it, and the path ends where it ended.
func TestEveryEndIsTold(t *testing.T) {
	chain, err := policy.Compile(policy.BuiltIn(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, outcome := range journal.Outcomes {
		for _, disposition := range journal.Dispositions {
			for st := policy.Connect; st <= policy.Message; st++ {
				r := journaltest.Delivery(1, "a.example", policy.Fail)
				r.Outcome, r.Disposition, r.Stage, r.Reached, r.Reply = outcome, disposition, st.String(), st.String(), "550 5.7.1 no"
				p := NewTransaction(r, chain, "here", "").Plain()
				name := fmt.Sprint(outcome, " ", disposition, " ", st)
				ends := 0
				for _, s := range p.Path {
					if s.State == stepStopped {
						ends++
					}
				}
				if want := 1; outcome == journal.OutcomeDelivered && ends != 0 || outcome != journal.OutcomeDelivered && ends != want {
					t.Errorf("%s: it ends %d times", name, ends)
				}
				if len(p.Story) < 3 || p.Headline == "" {
					t.Errorf("%s: %q", name, p.Story)
				}
				for _, s := range append(p.Story, p.Changes...) {
					if !strings.HasSuffix(s, ".") || strings.Contains(s, "  ") || strings.Contains(s, "()") || strings.Contains(s, " ,") {
						t.Errorf("%s: %q", name, s)
					}
				}
			}
		}
	}
}

// The limits that sentences name are keys of the configuration, and their replies are those that there are.
func TestLimitsAreKeys(t *testing.T) {
	replies, err := os.ReadFile("../../../deploy/replies.md")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := os.ReadFile("../../../configs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range limits {
		if !strings.Contains(string(replies), " "+l.text) {
			t.Errorf("nobody says %q", l.text)
		}
		for _, key := range regexp.MustCompile(`limits\.\w+`).FindAllString(l.is, -1) {
			if !strings.Contains(string(keys), "| `"+key+"` |") {
				t.Errorf("%s is no key", key)
			}
		}
	}
}
