package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

// hostile are facts as someone with bad intentions would have them.
func hostile() *Facts {
	return known(func(f *Facts) {
		f.Helo.Name = "\r\n.\r\nMAIL FROM:<>\x00\xff"
		f.Mail.From = strings.Repeat("ä", 3000) + "\n"
		f.SPF.Explanation = "${spf.result}\r\n250 OK"
		f.SPF.Result = "a word that there is not"
		f.TLS.Peer.Names = []string{"\r\n", "", "*"}
		f.DNSBL.Score = -1 << 63
	})
}

// FuzzRule: whatever stands in a condition, it compiles or the faults point
// into it; and what compiles is judged without a fault of ours.
func FuzzRule(f *testing.F) {
	for _, seed := range []string{
		`spf.result == "fail" and not in_list("forwarders", client.ip)`,
		`tls.peer.verified and "mx.partner.example" in tls.peer.names`,
		`any(tls.peer.names, # endsWith ".example" and len(#) > 3) or none(dkim.domains, true)`,
		`dnsbl.score in [-1, 2] or 1 < dnsbl.score <= 0x10`,
		`mail.from matches "(a+)+$" ? true : nil ?? [1:2]`,
		`let a = {"x": 1}; a?.x | filter(.y) ; #`,
		"spf[`result`] not in ['fail'] // x\n/* y */ || !(client.ip in ['192.0.2.0/24'])",
		`(((((((((((true)))))))))))`, `- - -1 == 1`, `"\u00fc" != lower(upper("\xff"))`, `if true {1} else if false {2} else {3}`, `::len(1)`,
	} {
		f.Add(seed)
	}
	lists, err := NewLists([]configs.List{{Name: "forwarders", Entries: []string{"192.0.2.0/24", "*.example"}}}, nil, time.Now)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, when string) {
		chain, err := Compile(configs.Policy{Rules: []configs.Rule{
			{Name: "first", When: "spf.result == \"fail\"", Do: "reject", WhenPosition: at},
			{Name: "fuzzed", When: when, Do: "tag", Header: "X-Postern-Tag: x", WhenPosition: at},
		}}, lists)
		if err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				var fault *configs.Fault
				if !errors.As(e, &fault) || fault.Text == "" {
					t.Fatalf("%q: %v", when, e)
				}
				line := fault.Position.Line - at.Line
				lines := strings.Split(when, "\n")
				if line < 0 || line >= len(lines) || fault.Position.Column < at.Column || fault.Position.Column-at.Column > len(lines[line])+1 {
					t.Fatalf("%q: a fault outside: %v", when, fault)
				}
			}
			return
		}
		for _, facts := range []*Facts{known(nil), hostile()} {
			v := chain.Decide(Message, facts)
			if !v.Decided || v.Reply.Enhanced == "3.0" {
				t.Fatalf("%q: %+v", when, v)
			}
			if e := chain.Explain(facts); e.Disposition != v.Disposition || e.Rule != v.Rule {
				t.Fatalf("%q: %+v, explained %+v", when, v, e)
			}
		}
		chain.Warnings()
		chain.Plan()
	})
}

// FuzzTemplate: whatever stands in a reply or a header, and whatever the facts
// are, one clean line comes out.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"550 5.7.1 Not allowed.", "550", "550 ", "550 5.7.1", "554 ${spf.explanation}", "550 5.7.1 ${helo.name} ${tls.peer.names}${mail.from}", "${", "550 $${}", "X-Tag: ${spf.result}", "X-Tag:${mail.from}",
		"550 5.7.1 a\r\nb", "from: x", "550 ${spf}", "550 \xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range []configs.Rule{
			{Name: "r", When: "true", At: "message", Do: "reject", Reply: text, ReplyPosition: at},
			{Name: "r", When: "true", At: "message", Do: "tag", Header: text, HeaderPosition: at},
		} {
			chain, err := Compile(configs.Policy{Rules: []configs.Rule{r}}, nil)
			if err != nil {
				continue
			}
			v := chain.Decide(Message, hostile())
			lines := []string{v.Reply.Text}
			for _, tag := range v.Tags {
				if n := len(tag.Name) + len(":\r\n") + len(tag.Value); n > chain.TagsSize() {
					t.Errorf("%q gives %d octets, of at most %d", text, n, chain.TagsSize())
				}
				lines = append(lines, tag.Name, tag.Value)
				if IsReserved(tag.Name) || strings.Contains(tag.Name, ":") {
					t.Errorf("%q writes %s", text, tag.Name)
				}
			}
			for _, line := range lines {
				if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) || len(line) > maxHeaderValue+1 {
					t.Errorf("%q gives %q", text, line)
				}
			}
			if r.Do == "reject" && (!v.Reply.Permanent() || v.Reply.Enhanced == "" || v.Reply.Text == "" || len(v.Reply.Text) > maxReplyText) {
				t.Errorf("%q gives %+v", text, v.Reply)
			}
		}
	})
}

// FuzzList: whatever stands in a list's file, it is refused with a position or
// can be looked up.
func FuzzList(f *testing.F) {
	for _, seed := range []string{
		"203.0.113.0/24  # mail team, until 2027-03-01", "*.example.org", ".example.org", "bob@example.org", "2001:db8::/32\n::1\n\n# x", "0.0.0.0/0", "a@b@c.example", "::ffff:0:0/96", "1.2.3.4.5", "\ufeffexample.org\r",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		lists, err := NewLists([]configs.List{{Name: "l", File: "forwarders.txt"}}, readFile(content), func() time.Time { return day("2026-01-01") })
		if err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				var fault *configs.Fault
				if !errors.As(e, &fault) || fault.Position.Line < 1 || fault.Position.Line > strings.Count(content, "\n")+1 {
					t.Fatalf("%q: %v", content, e)
				}
			}
			return
		}
		for e := range lists.of("l").Entries(lists.now) {
			value := e.Value
			switch {
			case strings.Contains(value, "@"):
			case strings.HasPrefix(value, "*."):
				value = "sub" + value[1:]
			case strings.HasPrefix(value, "."):
				value = "sub" + value
			default:
				value, _, _ = strings.Cut(value, "/")
			}
			if !lists.Contains("l", value) {
				t.Errorf("%q has %q and not %q", content, e.Value, value)
			}
		}
	})
}
