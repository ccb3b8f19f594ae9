package policy

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/policy/expr"
)

// What overrides call the trouble of each check, and of which domain.
func TestTroubleOfChecks(t *testing.T) {
	const anything = ` in ["fail", "softfail", "neutral", "permerror", "temperror"]`
	const broken = ` in ["fail", "permerror", "temperror"]`
	want := [][3]string{
		{"network", "", ""}, // there is nothing to be excused in where a client is
		{"submitter", "submitter.result" + anything, "submitter.domain"},
		{"spf", "spf.result" + anything, "mail.domain"},
		{"spf_helo", "spf_helo.result" + anything, "mail.domain"},
		{"iprev", "iprev.result" + broken, "mail.domain"},
		{"mx", "mx.result" + broken, "mail.domain"},
		{"dnsbl", "dnsbl.listed", "mail.domain"},
		{"past", "", ""}, // there is nothing to be excused in what is remembered
		{"rate", "", ""},
		{"hold", "", ""},
		{"pra", "pra.result" + anything, "pra.domain"},
		{"dkim", `dkim.result in ["fail", "neutral", "permerror", "temperror"]`, "header.from_domain"},
		{"dmarc", "dmarc.result" + broken, "header.from_domain"},
	}
	var got [][3]string
	for _, c := range checksKnown {
		got = append(got, [3]string{c.name, c.trouble, c.identity})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	also := []alsoFact{{by: "pra", condition: `submitter.address != "" and not pra.matches_submitter`}}
	if got := checkOf["submitter"].also; !reflect.DeepEqual(got, also) {
		t.Errorf("besides: %+v", got)
	}
}

// Every word that the tags write is one that there is: a misspelt one would be
// silently nothing.
func TestTagsOfFactsAreKnown(t *testing.T) {
	for _, f := range vocabulary {
		for _, key := range []string{"given"} {
			if name := f.Tag().Get(key); name != "" && vocabulary[name] == nil {
				t.Errorf("%s: %s:%q is no fact", f.Name, key, name)
			}
		}
		for _, key := range []string{"by", "of"} {
			if name := f.Tag().Get(key); name != "" && checkOf[name] == nil && name != "client" {
				t.Errorf("%s: %s:%q is no check", f.Name, key, name)
			}
		}
		if text := f.troubled(); text != "" {
			if _, faults := (expr.Language{Facts: words}).Condition(expr.Source{Text: text}); faults != nil {
				t.Errorf("%s: %v", f.Name, faults)
			}
		}
	}
	turns := map[int]string{}
	for _, c := range checksKnown {
		for _, name := range c.needs {
			if checkOf[name] == nil {
				t.Errorf("%s needs %q, which is no check", c.name, name)
			}
		}
		if other := turns[c.speaks]; other != "" && c.speaks != last {
			t.Errorf("%s and %s speak at the same time", c.name, other)
		}
		turns[c.speaks] = c.name
		for _, r := range c.replies {
			for _, reply := range []string{r.reply.Enhanced, r.failed.Enhanced, r.broken.Enhanced} {
				if _, ok := cutClass("5." + reply); reply != "" && !ok {
					t.Errorf("%s: %q is no status code", c.name, reply)
				}
			}
		}
	}
}

func TestReasonOfAResult(t *testing.T) {
	f := Facts{
		SPF: SPF{Reason: "ip4 matched"}, Iprev: Iprev{Name: "mx.example"}, DNSBL: DNSBL{Zones: []string{"a.example", "b.example"}},
		DMARC: DMARC{Policy: "reject", Domain: "example.org"},
		DKIM:  DKIM{Signatures: []DKIMSignature{{Domain: "a.example", Selector: "s", Result: Pass}, {Domain: "b.example", Selector: "t", Result: Fail, Reason: "body"}}},
	}
	for name, want := range map[string]string{
		"spf": "ip4 matched", "iprev": "mx.example", "dnsbl": "a.example b.example", "dmarc": "p=reject of example.org",
		"dkim": "a.example/s pass; b.example/t fail body", "pra": "", "unheard": "",
	} {
		if got := f.Reason(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
