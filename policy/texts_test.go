package policy

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// These are the texts that the journal hashes, and those that it copies.
func TestTextsOfFacts(t *testing.T) {
	var address, private, header []string
	note := func(names *[]string) func(*Text, string) string {
		return func(t *Text, s string) string {
			*names = append(*names, t.Name)
			return s
		}
	}
	f := Facts{}
	f.DKIM.Domains, f.DKIM.Unknown, f.DKIM.Signatures = []string{"a"}, []string{"a"}, []DKIMSignature{{"a", "b", Pass, "c"}}
	fillTexts(&f)
	f.Rewrite(Texts(func(t *Text) bool { return t.Address }), note(&address))
	f.Rewrite(Texts(func(t *Text) bool { return t.Private }), note(&private))
	f.Rewrite(Texts(func(t *Text) bool { return t.Stage >= Header }), note(&header))
	for _, tc := range []struct {
		got  []string
		want string
	}{
		{address, "client.user mail.from submitter.address rcpt.address pra.address"},
		{private, "submitter.reason spf.reason spf.explanation spf_helo.reason mx.reason pra.reason dkim.signatures.reason"},
		{header, "header.from_domain pra.address pra.domain pra.reason dkim.domains dkim.unknown dkim.signatures.domain dkim.signatures.selector dkim.signatures.reason dmarc.domain"},
	} {
		if d := cmp.Diff(tc.want, strings.Join(tc.got, " ")); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
	}
}

// fillTexts puts something into every text that is empty.
func fillTexts(f *Facts) {
	for i := range allTexts {
		if v := reflect.ValueOf(f).Elem().FieldByIndex(allTexts[i].path); v.Kind() == reflect.String {
			v.SetString("x")
		}
	}
}

func TestRewriteLeavesTheOriginal(t *testing.T) {
	f := Facts{DKIM: DKIM{Domains: []string{"a"}, Signatures: []DKIMSignature{{Reason: "r"}}}, PRA: PRA{Address: "p"}}
	c := f
	c.Rewrite(Texts(func(*Text) bool { return true }), func(_ *Text, s string) string { return s + s })
	if f.DKIM.Domains[0] != "a" || f.DKIM.Signatures[0].Reason != "r" || f.PRA.Address != "p" {
		t.Errorf("%+v", f)
	}
	if c.DKIM.Domains[0] != "aa" || c.DKIM.Signatures[0].Reason != "rr" || c.PRA.Address != "pp" {
		t.Errorf("%+v", c)
	}
}
