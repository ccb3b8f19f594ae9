package smtp

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseMail(t *testing.T) {
	for _, tt := range []struct {
		story, arg string
		want       Path
		params     []Param
	}{
		{"the usual", "FROM:<a@b.example>", Path{"a", "b.example"}, nil},
		{"the null reverse-path (RFC 5321 §4.5.5)", "FROM:<>", Path{}, nil},
		{"keywords are case-insensitive", "from:<a@b.example> size=10", Path{"a", "b.example"}, []Param{{"SIZE", "10", true}}},
		{"a blank after the colon", "FROM: <a@b.example>", Path{"a", "b.example"}, nil},
		{"and one before", "FROM :<a@b.example>", Path{"a", "b.example"}, nil},
		{"two blanks between parameters", "FROM:<a@b.example>  SIZE=1  RET=HDRS", Path{"a", "b.example"}, []Param{{"SIZE", "1", true}, {"RET", "HDRS", true}}},
		{"a parameter without a value", "FROM:<a@b.example> SMTPUTF8", Path{"a", "b.example"}, []Param{{"SMTPUTF8", "", false}}},
		{"a value keeps its case", "FROM:<> ENVID=QQ+3D", Path{}, []Param{{"ENVID", "QQ+3D", true}}},
		{"a quoted local part is unquoted", `FROM:<"a b"@c.example>`, Path{"a b", "c.example"}, nil},
		{"an @ in it does not end it", `FROM:<"a@b.example"@c.example>`, Path{"a@b.example", "c.example"}, nil},
		{"nor does a bracket", `FROM:<"a>b"@c.example> SIZE=1`, Path{"a>b", "c.example"}, []Param{{"SIZE", "1", true}}},
		{"quoted-pairs", `FROM:<"a\"b\\c\d"@c.example>`, Path{`a"b\cd`, "c.example"}, nil},
		{"a local part that is empty but for its quotes", `FROM:<""@c.example>`, Path{"", "c.example"}, nil},
		{"a source route is dropped (RFC 5321 appendix C)", "FROM:<@x.example,@y.example:a@b.example>", Path{"a", "b.example"}, nil},
		{"an IPv4 literal", "FROM:<a@[192.0.2.1]>", Path{"a", "[192.0.2.1]"}, nil},
		{"an IPv6 literal", "FROM:<a@[ipv6:2001:DB8::1]>", Path{"a", "[ipv6:2001:DB8::1]"}, nil},
		{"a single label", "FROM:<a@localhost>", Path{"a", "localhost"}, nil},
		{"an underscore, which host names have", "FROM:<a@my_host.example>", Path{"a", "my_host.example"}, nil},
		{"UTF-8 with SMTPUTF8 (RFC 6531)", "FROM:<ü@bücher.example> BODY=8BITMIME smtputf8", Path{"ü", "bücher.example"}, []Param{{"BODY", "8BITMIME", true}, {"SMTPUTF8", "", false}}},
		{"UTF-8 in quotes", `FROM:<"ü ü"@b.example> SMTPUTF8`, Path{"ü ü", "b.example"}, []Param{{"SMTPUTF8", "", false}}},
		{"UTF-8 in a value", "FROM:<> SMTPUTF8 SUBMITTER=ü@b.example", Path{}, []Param{{"SMTPUTF8", "", false}, {"SUBMITTER", "ü@b.example", true}}},
		{"no brackets", "FROM:a@b.example", Path{"a", "b.example"}, nil},
		{"no brackets, and a parameter", "FROM: a@b.example SIZE=1", Path{"a", "b.example"}, []Param{{"SIZE", "1", true}}},
		{"blanks within the brackets", "FROM:< a@b.example > SIZE=1", Path{"a", "b.example"}, []Param{{"SIZE", "1", true}}},
		{"nothing but a blank", "FROM:< >", Path{}, nil},
		{"a domain that ends in a dot", "FROM:<a@b.example.>", Path{"a", "b.example"}, nil},
		{"without brackets", "FROM:a@b.example.", Path{"a", "b.example"}, nil},
		{"and in UTF-8", "FROM:<a@bücher.example.> SMTPUTF8", Path{"a", "bücher.example"}, []Param{{"SMTPUTF8", "", false}}},
		{"a dot at the front", "FROM:<.a@b.example>", Path{".a", "b.example"}, nil},
		{"at the end", "FROM:<a.@b.example>", Path{"a.", "b.example"}, nil},
		{"and two side by side", "FROM:<a..b@c.example>", Path{"a..b", "c.example"}, nil},
		{"a bounce address with the recipient in it (VERP), above 64 octets",
			"FROM:<bounces+" + strings.Repeat("x", 80) + "=c.example@b.example>", Path{"bounces+" + strings.Repeat("x", 80) + "=c.example", "b.example"}, nil},
	} {
		from, params, err := ParseMail(tt.arg)
		if from != tt.want || !slices.Equal(params, tt.params) || err != nil {
			t.Errorf("%s: ParseMail(%q) = %+v, %v, %v", tt.story, tt.arg, from, params, err)
		}
	}
}

func TestParseMailRefuses(t *testing.T) {
	const noForm, badParam, badSender, needsUTF8 = "501 5.5.4 Syntax", "501 5.5.4 ", "501 5.1.7 ", "550 5.6.7 "
	for _, tt := range []struct{ story, arg, reply string }{
		{"nothing", "", noForm},
		{"another keyword", "TO:<a@b.example>", noForm},
		{"no colon", "FROM<a@b.example>", noForm},
		{"no brackets and no address", "FROM:", badSender},
		{"only the closing bracket", "FROM:a@b.example>", badSender},
		{"a name before the brackets", "FROM:Alice <a@b.example>", badSender},
		{"two addresses", "FROM:a@b.example,c@d.example", badSender},
		{"two addresses, apart", "FROM:<a@b.example> <c@d.example>", badParam},
		{"a second one as a parameter", "FROM:a@b.example c@d.example", badParam},
		{"a blank in the middle", "FROM:<a @b.example>", badSender},
		{"two dots behind the domain", "FROM:<a@b.example..>", badSender},
		{"a dot for a domain", "FROM:<a@.>", badSender},
		{"dots for a local part", "FROM:<..@b.example>", badSender},
		{"two at signs", "FROM:<a@b@c.example>", badSender},
		{"no closing bracket", "FROM:<a@b.example", badSender},
		{"bare postmaster is for RCPT", "FROM:<postmaster>", badSender},
		{"no domain", "FROM:<a>", badSender},
		{"an empty domain", "FROM:<a@>", badSender},
		{"an empty local part", "FROM:<@b.example>", badSender},
		{"a route that leads nowhere", "FROM:<@b.example:>", badSender},
		{"a route without its @", "FROM:<@x.example,y.example:a@b.example>", badSender},
		{"a route that does not end", "FROM:<@x.example", badSender},
		{"a route with another separator", "FROM:<@x.example;a@b.example>", badSender},
		{"a literal that does not end", "FROM:<a@[192.0.2.1>", badSender},
		{"Latin-1 in the domain", "FROM:<a@b\xfc.example> SMTPUTF8", badSender},
		{"and in quotes", "FROM:<\"\xfc\"@b.example> SMTPUTF8", badSender},
		{"an empty label", "FROM:<a@b..example>", badSender},
		{"a hyphen at the edge of a label", "FROM:<a@-b.example>", badSender},
		{"a label that DNS cannot hold", "FROM:<a@" + strings.Repeat("b", 64) + ".example>", badSender},
		{"a domain of 255 octets", "FROM:<a@" + strings.Repeat("b.", 122) + "example.com>", ""},
		{"and one of 256", "FROM:<a@" + strings.Repeat("b.", 122) + "xexample.com>", badSender},
		{"a local part above every reason", "FROM:<" + strings.Repeat("a", 257) + "@b.example>", badSender},
		{"a quoted string that does not end", `FROM:<"a@b.example>`, badSender},
		{"text after a quoted string", `FROM:<"a"b@c.example>`, badSender},
		{"a backslash before UTF-8", `FROM:<"\ü"@c.example> SMTPUTF8`, badSender},
		{"a literal that is no address", "FROM:<a@[256.0.0.1]>", badSender},
		{"IPv6 without its tag", "FROM:<a@[::1]>", badSender},
		{"IPv4 with the tag of IPv6", "FROM:<a@[IPv6:192.0.2.1]>", badSender},
		{"a zone", "FROM:<a@[IPv6:fe80::1%eth0]>", badSender},
		{"a header injection that had to be quoted", "FROM:<\"a\r\nX: y\"@b.example>", badSender},
		{"UTF-8 without SMTPUTF8", "FROM:<ü@b.example>", needsUTF8},
		{"in the domain", "FROM:<a@bücher.example> SIZE=1", needsUTF8},
		{"in a value", "FROM:<> SUBMITTER=ü@b.example", "501 5.5.4 Parameter needs SMTPUTF8."},
		{"Latin-1 with SMTPUTF8", "FROM:<\xfc@b.example> SMTPUTF8", badSender},
		{"Latin-1 in a value", "FROM:<> SMTPUTF8 X=\xfc", badParam},
		{"C1 control characters", "FROM:<a\u0085@b.example> SMTPUTF8", badSender},
		{"a U-label that is none", "FROM:<a@\u0301x.example> SMTPUTF8", badSender},
		{"no blank before the parameters", "FROM:<a@b.example>SIZE=1", badParam},
		{"an empty value", "FROM:<a@b.example> SUBMITTER=", badParam},
		{"an equals sign in a value", "FROM:<a@b.example> SUBMITTER=a=b@c.example", badParam},
		{"a keyword that is none", "FROM:<a@b.example> -X=1", badParam},
		{"no keyword at all", "FROM:<a@b.example> =1", badParam},
		{"a parameter twice, in whatever case", "FROM:<a@b.example> SIZE=1 size=2", "501 5.5.4 Parameter given twice."},
		{"more parameters than there are", "FROM:<>" + manyParams(33), "501 5.5.4 Too many parameters."},
		{"as many as we count", "FROM:<>" + manyParams(32), ""},
	} {
		_, _, err := ParseMail(tt.arg)
		got := ""
		if se, ok := err.(*SyntaxError); ok {
			got = se.Reply.String()
		}
		if (tt.reply == "") != (err == nil) || !strings.HasPrefix(got, tt.reply) {
			t.Errorf("%s: ParseMail(%q): %v; want %q", tt.story, tt.arg, err, tt.reply)
		}
	}
}

func manyParams(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(" X" + string(rune('A'+i%26)) + string(rune('A'+i/26)) + "=1")
	}
	return b.String()
}

func TestParseRcpt(t *testing.T) {
	for _, tt := range []struct {
		story, arg string
		utf8       bool
		want       Path
		reply      string
	}{
		{"the usual", "TO:<a@b.example>", false, Path{"a", "b.example"}, ""},
		{"postmaster without a domain (RFC 5321 §4.5.1)", "TO:<Postmaster>", false, Path{"Postmaster", ""}, ""},
		{"with one", "to:<postmaster@b.example>", false, Path{"postmaster", "b.example"}, ""},
		{"a route", "TO:<@x.example:a@b.example>", false, Path{"a", "b.example"}, ""},
		{"UTF-8 after MAIL with SMTPUTF8", "TO:<ü@b.example>", true, Path{"ü", "b.example"}, ""},
		{"UTF-8 without", "TO:<ü@b.example>", false, Path{}, "553 5.6.7 "},
		{"in a parameter without", "TO:<a@b.example> ORCPT=utf-8;ü", false, Path{}, "501 5.5.4 "},
		{"the null path", "TO:<>", false, Path{}, "501 5.1.3 "},
		{"postmaster in quotes", `TO:<"postmaster">`, false, Path{}, "501 5.1.3 "},
		{"postmaster at nowhere", "TO:<postmaster@>", false, Path{}, "501 5.1.3 "},
		{"root without a domain", "TO:<root>", false, Path{"root", ""}, ""},
		{"and without brackets", "TO:root NOTIFY=NEVER", false, Path{"root", ""}, ""},
		{"a name that the MTA may read as another host's", "TO:<a%b.example>", false, Path{}, "501 5.1.3 "},
		{"likewise", "TO:<b.example!a>", false, Path{}, "501 5.1.3 "},
		{"a local part in quotes alone", `TO:<"root">`, false, Path{}, "501 5.1.3 "},
		{"no brackets", "TO:a@b.example", false, Path{"a", "b.example"}, ""},
		{"the other keyword", "FROM:<a@b.example>", false, Path{}, "501 5.5.4 Syntax: RCPT"},
		{"a bad parameter", "TO:<a@b.example> NOTIFY=", false, Path{}, "501 5.5.4 "},
	} {
		to, _, err := ParseRcpt(tt.arg, tt.utf8)
		got := ""
		if se, ok := err.(*SyntaxError); ok {
			got = se.Reply.String()
		}
		if to != tt.want || (tt.reply == "") != (err == nil) || !strings.HasPrefix(got, tt.reply) {
			t.Errorf("%s: ParseRcpt(%q) = %+v, %v; want %+v, %q", tt.story, tt.arg, to, err, tt.want, tt.reply)
		}
	}
}

func TestPathComesOutAsItWentIn(t *testing.T) {
	for _, tt := range []struct{ in, mailbox, address string }{
		{"<>", "", ""},
		{"<a@B.Example>", "a@B.Example", "a@b.example"},
		{`<"a b"@c>`, `"a b"@c`, `"a b"@c`},
		{`<"ab"@c>`, "ab@c", "ab@c"},
		{`<""@c>`, `""@c`, `""@c`},
		{`<"\"\\\@"@c>`, `"\"\\@"@c`, `"\"\\@"@c`},
		{`<".a"@c>`, `".a"@c`, `".a"@c`},
		{"<@r:a@c>", "a@c", "a@c"},
		{"<A+b@[IPv6:FE80::1]>", "A+b@[IPv6:FE80::1]", "A+b@[ipv6:fe80::1]"},
		{"<ü@BÜCHER.example>", "ü@BÜCHER.example", "ü@xn--bcher-kva.example"},
		{"<Postmaster>", "Postmaster", "Postmaster"},
		{"root", "root", "root"},
		{" a@c.example.", "a@c.example", "a@c.example"},
		{"< a..b@c >", `"a..b"@c`, `"a..b"@c`},
	} {
		var p Path
		var err error
		if p, _, err = ParseMail("FROM:" + tt.in + " SMTPUTF8"); err != nil {
			p, _, err = ParseRcpt("TO:"+tt.in, true)
		}
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if p.String() != tt.mailbox || p.Angle() != "<"+tt.mailbox+">" || Address(p) != tt.address {
			t.Errorf("%s came out as %s, %s, %s", tt.in, p, p.Angle(), Address(p))
		}
	}
}

func TestParseMailbox(t *testing.T) {
	for _, tt := range []struct {
		in   string
		utf8 bool
		code int
	}{
		{"bob@good.example", false, 250},
		{`"john doe"@good.example`, false, 250},
		{"bob@[192.0.2.1]", false, 250},
		{"", false, 501},
		{"bob", false, 501},
		{"postmaster", false, 501},
		{"<bob@good.example>", false, 501},
		{"bob@good.example ", false, 501},
		{"@r:bob@good.example", false, 501},
		{"b\xc3\xb6b@good.example", true, 250},
		{"b\xc3\xb6b@good.example", false, 550},
		{"b\xf6b@good.example", true, 501},
	} {
		if _, err := ParseMailbox(tt.in, tt.utf8); replyCode(err) != tt.code {
			t.Errorf("ParseMailbox(%q, %v): %v; want %d", tt.in, tt.utf8, err, tt.code)
		}
	}
}

// TestAddressSuite: what is valid in SMTP is taken, what is not is refused, and
// what is taken comes out as the same address.
func TestAddressSuite(t *testing.T) {
	var suite struct {
		Cases []struct{ ID, Address, Category, Diagnosis string }
	}
	readJSON(t, "addresses-dev.json", &suite)
	// Known deviations. The limits of RFC 5321 §4.5.3.1.1 and §4.5.3.1.3 are
	// what must be taken at least; see maxLocal.
	longer := map[string]bool{"39": true, "59": true}
	taken := 0
	for _, c := range suite.Cases {
		want := false
		switch c.Category {
		case "ISEMAIL_VALID_CATEGORY", "ISEMAIL_RFC5321", "ISEMAIL_DNSWARN":
			want = true
		}
		p, err := ParseMailbox(octetString(c.Address), false)
		if longer[c.ID] == (want == (err == nil)) {
			t.Errorf("%s %q is %s: %v (deviation listed: %v)", c.ID, c.Address, c.Diagnosis, err, longer[c.ID])
		}
		if err != nil {
			continue
		}
		taken++
		if again, err := ParseMailbox(p.String(), false); again != p || err != nil {
			t.Errorf("%s %q came out as %q", c.ID, c.Address, p)
		}
	}
	if taken < 20 {
		t.Errorf("only %d addresses taken", taken)
	}
	for id := range longer {
		t.Logf("conformance deviation: addresses-dev: %s: a local part or a domain beyond what must be taken at least (RFC 5321 §4.5.3.1)", id)
	}
	logConformance(t, "addresses-dev", len(suite.Cases), len(longer))
}

// TestSubmitterSuite: the parameter as the grammar sees it (RFC 4405 §4).
func TestSubmitterSuite(t *testing.T) {
	var suite struct {
		Parameter []struct {
			ID, Line  string
			Expect    []int
			Submitter *string
		}
	}
	readJSON(t, "submitter-dev.json", &suite)
	run := 0
	for _, c := range suite.Parameter {
		switch c.ID {
		case "unknown-parameter", "on-rcpt": // for the session to refuse
			continue
		}
		run++
		submitter, err := submitterOf(octetString(c.Line))
		if c.Submitter == nil {
			if err == nil {
				t.Errorf("%s: %q gave %q", c.ID, c.Line, submitter)
			} else if code := replyCode(err); code != 0 && !slices.Contains(c.Expect, code) {
				t.Errorf("%s: %q refused with %d", c.ID, c.Line, code)
			}
			continue
		}
		if err != nil || submitter != *c.Submitter {
			t.Errorf("%s: %q gave %q, %v; want %q", c.ID, c.Line, submitter, err, *c.Submitter)
		}
	}
	if run < 12 {
		t.Errorf("only %d cases", run)
	}
	logConformance(t, "submitter-dev/parameter", run, 0)
}

// logConformance prints a suite's line of the table of `make conformance`.
func logConformance(t *testing.T, suite string, cases, deviations int) {
	t.Helper()
	if !t.Failed() {
		t.Logf("conformance: %s cases=%d passed=%d deviations=%d", suite, cases, cases-deviations, deviations)
	}
}

// submitterOf returns the decoded SUBMITTER of a MAIL line.
func submitterOf(line string) (string, error) {
	_, arg, err := ParseCommand([]byte(line))
	if err != nil {
		return "", err
	}
	_, params, err := ParseMail(arg)
	if err != nil {
		return "", err
	}
	for _, p := range params {
		if p.Key != "SUBMITTER" {
			continue
		}
		s, err := DecodeXtext(p.Value)
		if err != nil {
			return "", err
		}
		m, err := ParseMailbox(s, false)
		return m.String(), err
	}
	return "", nil
}

func TestParamString(t *testing.T) {
	for want, p := range map[string]Param{"SMTPUTF8": {Key: "SMTPUTF8"}, "SIZE=1": {"SIZE", "1", true}, "X=": {"X", "", true}} {
		if got := p.String(); got != want {
			t.Errorf("%+v is %q", p, got)
		}
	}
}

// TestPathRoundTrip: any local part and any domain, however they must be
// quoted, come back from the wire as they were.
func TestPathRoundTrip(t *testing.T) {
	domains := []string{"b.example", "x", "[192.0.2.1]", "[IPv6:::1]", "bücher.example", "a_b.c-d.e"}
	rapid.Check(t, func(t *rapid.T) {
		p := Path{
			Local: rapid.OneOf(
				rapid.StringMatching(`[ -~]{0,64}`),
				rapid.StringMatching(`[ -~äß漢😀"\\]{0,20}`),
			).Draw(t, "local"),
			Domain: rapid.SampledFrom(domains).Draw(t, "domain"),
		}
		got, _, err := ParseMail("FROM:" + p.Angle() + " SMTPUTF8")
		if got != p || err != nil {
			t.Fatalf("%+v went out as %s and came back as %+v, %v", p, p.Angle(), got, err)
		}
		if got, err = ParseMailbox(p.String(), true); got != p || err != nil {
			t.Fatalf("%+v as a mailbox came back as %+v, %v", p, got, err)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"<a@b.example> SIZE=1", "<>", "<@x,@y:a@b>", `<"a\"b"@[IPv6:::1]>`, "<postmaster>", "<ü@bücher.example> SMTPUTF8", " <a@b>  X=Y Z", "ü@.", "<a@.>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(p Path, params []Param, err error, again func(string) (Path, []Param, error)) {
			if err != nil {
				if code := replyCode(err); code < 500 {
					t.Fatalf("%q: error without its reply: %v", s, err)
				}
				return
			}
			wire := p.Angle()
			for _, q := range params {
				wire += " " + q.String()
			}
			if strings.ContainsFunc(wire, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("%q: control characters in %q", s, wire)
			}
			p2, params2, err := again(wire)
			if p2 != p || !slices.Equal(params, params2) || err != nil {
				t.Fatalf("%q went on as %q, which is %+v %v, not %+v %v (%v)", s, wire, p2, params2, p, params, err)
			}
			Address(p)
		}
		mail := func(s string) (Path, []Param, error) { return ParseMail("FROM:" + s) }
		from, params, err := mail(s)
		check(from, params, err, mail)
		for _, utf8 := range []bool{false, true} {
			rcpt := func(s string) (Path, []Param, error) { return ParseRcpt("TO:"+s, utf8) }
			to, params, err := rcpt(s)
			check(to, params, err, rcpt)
			if err == nil && !utf8 && !isASCII(to.Angle()) {
				t.Fatalf("%q: UTF-8 without SMTPUTF8", s)
			}
		}
	})
}
