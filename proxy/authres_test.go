package proxy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"postern/configs"
	"postern/policy"
	"postern/proxy/fields"
	"postern/proxy/smtp"
)

// authField is an Authentication-Results field as a reader of RFC 8601 §2.2
// understands it.
type authField struct {
	ID      string       `json:"authserv_id"`
	Results []authResult `json:"results"`
}

type authResult struct {
	Method     string         `json:"method"`
	Result     string         `json:"result"`
	Properties []authProperty `json:"properties"`
}

type authProperty struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// authReader reads the field to the letter, so that what it takes anybody takes.
type authReader struct{ rest string }

// cfws skips white space and comments; false for a comment that does not end.
func (p *authReader) cfws() bool {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t\r\n")
		if !strings.HasPrefix(p.rest, "(") {
			return true
		}
		depth, i := 0, 0
		for ; i < len(p.rest); i++ {
			switch p.rest[i] {
			case '\\':
				i++
			case '(':
				depth++
			case ')':
				depth--
			}
			if depth == 0 {
				break
			}
		}
		if depth != 0 || i >= len(p.rest) {
			return false
		}
		p.rest = p.rest[i+1:]
	}
}

// word reads a token (RFC 2045 §5.1) or, if quoted is allowed, a quoted-string;
// more are the specials that may stand in it too.
func (p *authReader) word(quoted bool, more string) (string, bool) {
	if quoted && strings.HasPrefix(p.rest, `"`) {
		var b strings.Builder
		for i := 1; i < len(p.rest); i++ {
			switch c := p.rest[i]; c {
			case '"':
				p.rest = p.rest[i+1:]
				return b.String(), true
			case '\\':
				if i++; i < len(p.rest) {
					b.WriteByte(p.rest[i])
				}
			case '\r', '\n':
				return "", false
			default:
				b.WriteByte(c)
			}
		}
		return "", false
	}
	i := 0
	for i < len(p.rest) && p.rest[i] > ' ' && p.rest[i] <= '~' && (strings.IndexByte(more, p.rest[i]) >= 0 || strings.IndexByte(`()<>@,;:\"/[]?=`, p.rest[i]) < 0) {
		i++
	}
	w := p.rest[:i]
	p.rest = p.rest[i:]
	return w, i > 0
}

func (p *authReader) char(c byte) bool {
	if p.cfws() && strings.HasPrefix(p.rest, string(c)) {
		p.rest = p.rest[1:]
		return p.cfws()
	}
	return false
}

func parseAuthResults(field string) (a authField, err error) {
	name, value, _ := strings.Cut(strings.TrimSuffix(field, "\r\n"), ":")
	bad := func(what string, p *authReader) error { return fmt.Errorf("%s at %q in %q", what, p.rest, field) }
	p := &authReader{rest: value}
	if !strings.EqualFold(name, "Authentication-Results") || !p.cfws() {
		return a, bad("no field", p)
	}
	var ok bool
	if a.ID, ok = p.word(true, ""); !ok || !p.cfws() {
		return a, bad("no authserv-id", p)
	}
	if v, _ := p.word(false, ""); strings.Trim(v, "0123456789") != "" || !p.cfws() {
		return a, bad("no version", p)
	}
	for p.rest != "" {
		if !p.char(';') {
			return a, bad("no semicolon", p)
		}
		var r authResult
		if r.Method, ok = p.word(false, ""); !ok {
			return a, bad("no method", p)
		}
		if r.Method == "none" && p.rest == "" {
			break
		}
		if !p.char('=') {
			return a, bad("no result", p)
		}
		if r.Result, ok = p.word(false, ""); !ok || !p.cfws() {
			return a, bad("no result", p)
		}
		for p.rest != "" && p.rest[0] != ';' {
			key, ok := p.word(false, "")
			if !ok || !p.char('=') {
				return a, bad("no property", p)
			}
			v, ok := p.word(true, "@")
			if !ok || !p.cfws() {
				return a, bad("no value", p)
			}
			if key == "reason" {
				continue
			}
			kind, name, ok := strings.Cut(key, ".")
			if !ok {
				return a, bad("no ptype", p)
			}
			r.Properties = append(r.Properties, authProperty{strings.ToLower(kind), strings.ToLower(name), v})
		}
		a.Results = append(a.Results, r)
	}
	return a, nil
}

// TestSuiteAuthresParse shows that the reader of these tests reads as others do,
// so that what it makes of our own fields means something.
func TestSuiteAuthresParse(t *testing.T) {
	var f struct {
		Cases []struct {
			authField
			Header, Error string
		}
	}
	readSuite(t, "testdata/authres/parse-dev.json", &f)
	s := newScore(t, "authres/parse-dev", nil)
	for _, tt := range f.Cases {
		got, err := parseAuthResults(tt.Header)
		wrong := ""
		switch {
		case (err != nil) != (tt.Error != ""):
			wrong = fmt.Sprintf("%v, want %q", err, tt.Error)
		case err == nil && !reflect.DeepEqual(got, tt.authField):
			wrong = fmt.Sprintf("got %+v, want %+v", got, tt.authField)
		}
		s.count(tt.Header, wrong)
	}
}

// localRig is a rig that is called as in the suites.
func localRig(t testing.TB, o rigOptions) *rig {
	o.config = func(c *configs.Config) { c.Hostname = "mx.local.example" }
	return newRig(t, o)
}

// topFields cuts the fields that we put on a message off its text.
func topFields(text string) (ours []string, rest string) {
	for {
		end := 0
		for {
			i := strings.Index(text[end:], "\r\n")
			if i < 0 {
				return ours, text
			}
			if end += i + 2; end == len(text) || text[end] != ' ' && text[end] != '\t' {
				break
			}
		}
		name, _, _ := strings.Cut(text[:end], ":")
		switch name {
		case "Received", "Authentication-Results", "Received-SPF", "X-Postern-Tag":
		default:
			return ours, text
		}
		if name == "Received" && len(ours) > 0 || name == "Authentication-Results" && len(ours) != 1 {
			return ours, text // those below are not ours
		}
		ours, text = append(ours, text[:end]), text[end:]
	}
}

func TestSuiteAuthresForged(t *testing.T) {
	var f struct {
		Cases []struct {
			ID, Header string
			Remove     bool
		}
	}
	readSuite(t, "testdata/authres/forged-dev.json", &f)
	s := newScore(t, "authres/forged-dev", nil)
	for _, by := range []string{"DATA", "BDAT"} {
		r := localRig(t, rigOptions{})
		c := r.connect("192.0.2.1")
		c.ehlo()
		for _, tt := range f.Cases {
			header, from := octets(tt.Header)+"\r\n", "From: alice@good.example\r\n\r\ntext\r\n"
			got := c.deliver(by, header+from)
			wrong := ""
			if code(got) != "250" {
				s.count(tt.ID, got)
				continue
			}
			ms := r.sink.Messages()
			text := string(ms[len(ms)-1].Text)
			want := from
			if !tt.Remove {
				want = header + from
			}
			above, found := strings.CutSuffix(text, want)
			switch {
			case !found:
				wrong = fmt.Sprintf("want %q below our fields, got %q", want, text)
			case strings.Contains(above, header):
				wrong = fmt.Sprintf("the field is still there: %q", text)
			case !strings.Contains(above, "\r\nAuthentication-Results: mx.local.example;"):
				wrong = fmt.Sprintf("our own field is missing: %q", text)
			}
			if by == "DATA" {
				s.count(tt.ID, wrong)
			} else if wrong != "" {
				t.Errorf("%s by BDAT: %s", tt.ID, wrong)
			}
		}
		r.close()
	}
}

// deliver sends a message by DATA, dot-stuffed here, or as one BDAT, and returns
// the last reply.
func (c *client) deliver(by, text string) string {
	c.t.Helper()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	if by == "BDAT" {
		c.say(fmt.Sprintf("BDAT %d LAST\r\n", len(text)) + text)
		return c.hear()
	}
	c.cmd("DATA", "354 ")
	c.say(stuff(text) + ".\r\n")
	return c.hear()
}

// stuff does dot-stuffing, and ends the last line.
func stuff(text string) string {
	text = strings.ReplaceAll(text, "\r\n.", "\r\n..")
	if strings.HasPrefix(text, ".") {
		text = "." + text
	}
	if !strings.HasSuffix(text, "\r\n") && text != "" {
		text += "\r\n"
	}
	return text
}

func TestSuiteAuthresInjection(t *testing.T) {
	var f struct {
		Cases []struct{ ID, Where, Value string }
	}
	readSuite(t, "testdata/authres/injection-dev.json", &f)
	s := newScore(t, "authres/injection-dev", nil)
	for _, tt := range f.Cases {
		value := octets(tt.Value)
		helo, mail, from, zone := "client.example", "<alice@good.example>", "alice@good.example", rigZone
		switch tt.Where {
		case "EHLO":
			helo = value
		case "MAIL FROM":
			mail = value
		case "From":
			from = value
		case "PTR":
			zone = "1.2.0.192.in-addr.arpa. PTR " + strings.ReplaceAll(value, ";", `\;`) + ".\n" + strings.ReplaceAll(value, ";", `\;`) + ". A 192.0.2.1\n"
		}
		r := localRig(t, rigOptions{zone: zone, policy: &openPolicy})
		c := r.connect("192.0.2.1")
		wrong := ""
		c.say("EHLO " + helo + "\r\n")
		if got := c.hear(); code(got) != "250" {
			// Refused: then one reply, and none of what was said in a field.
			if code(got) != "501" {
				wrong = got
			}
			c.cmd("EHLO client.example", "250")
		}
		c.cmd("MAIL FROM:"+mail, "250 ")
		c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
		c.cmd("DATA", "354 ")
		c.say("From: " + from + "\r\n\r\n.\r\n")
		c.expect("250 ")
		ours, _ := topFields(string(r.sink.Messages()[0].Text))
		for _, field := range ours {
			if !strings.HasPrefix(field, "Authentication-Results") {
				continue
			}
			a, err := parseAuthResults(field)
			if err != nil {
				wrong = err.Error()
			} else if w := differs(a, &r.last().Facts); w != "" {
				wrong = w
			}
		}
		if len(ours) < 2 {
			wrong = fmt.Sprintf("fields %q", ours)
		}
		s.count(tt.ID, wrong)
		r.close()
	}
}

// differs says how a field of ours differs from the facts it was made of.
func differs(a authField, f *policy.Facts) string {
	var want []authResult
	add := func(method string, r policy.Result, props ...string) {
		if r == policy.Skipped || r == "" {
			return
		}
		w := authResult{Method: method, Result: string(r)}
		for i := 0; i < len(props); i += 3 {
			if props[i+2] != "" {
				w.Properties = append(w.Properties, authProperty{props[i], props[i+1], visible(props[i+2])})
			}
		}
		want = append(want, w)
	}
	if f.Mail.From == "" {
		add("spf", f.SPF.Result, "smtp", "helo", f.Helo.Name)
	} else {
		add("spf", f.SPF.Result, "smtp", "mailfrom", f.Mail.Domain)
		if f.Helo.Domain != "" {
			add("spf", f.SPFHelo.Result, "smtp", "helo", f.Helo.Name)
		}
	}
	add("iprev", f.Iprev.Result, "policy", "iprev", f.Client.IP)
	for _, sig := range f.DKIM.Signatures {
		add("dkim", sig.Result, "header", "d", sig.Domain, "header", "s", sig.Selector)
	}
	if len(f.DKIM.Signatures) == 0 {
		add("dkim", f.DKIM.Result)
	}
	add("dmarc", f.DMARC.Result, "header", "from", f.Header.FromDomain)
	if !reflect.DeepEqual(a.Results, want) {
		return fmt.Sprintf("the field says %+v, the facts %+v", a.Results, want)
	}
	return ""
}

// commentLimit is how long a value from elsewhere may be, in octets.
const commentLimit = 300

// visible is what is left of a text of elsewhere in a value: printable ASCII,
// and not too much of it.
func visible(v string) string {
	b, width := []byte(nil), 0
	for i := 0; i < len(v) && (width < commentLimit-1 || !strings.ContainsAny(v, `()<>,;:\"/[]?= `) && ascii(v) && len(v) <= commentLimit); i++ {
		c := v[i]
		switch {
		case c < ' ' || c > '~':
			c = '?'
		case c == '"' || c == '\\':
			width++
		}
		width++
		b = append(b, c)
	}
	return string(b)
}

func ascii(v string) bool {
	return strings.IndexFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// TestFieldsOfHostileFacts: whatever stands in the facts, each field is one
// field, of printable ASCII, with balanced parentheses and quotes, and says the
// results that the checks have found.
func TestFieldsOfHostileFacts(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[()"\\\r\n\t;=, a@.]{0,40}`), rapid.Just(""), rapid.Just(strings.Repeat("(\\", 400)),
		rapid.Just("x\r\nBcc: y"), rapid.SampledFrom([]string{"good.example", "a;dkim=pass", "[IPv6:::1]"}))
	result := rapid.SampledFrom([]policy.Result{policy.None, policy.Pass, policy.Fail, policy.SoftFail, policy.Neutral, policy.TempError, policy.PermError, policy.Skipped})
	rapid.Check(t, func(t *rapid.T) {
		f := &policy.Facts{ID: "0123456789ab"}
		draw := func() string { return text.Draw(t, "text") }
		f.Client.IP = rapid.SampledFrom([]string{"192.0.2.1", "2001:db8::1"}).Draw(t, "ip")
		f.Client.Name, f.Helo.Name, f.Helo.Domain = draw(), draw(), draw()
		f.Mail.From, f.Mail.Domain = draw(), draw()
		f.SPF.Result, f.SPF.Reason = result.Draw(t, "spf"), draw()
		f.SPFHelo.Result, f.SPFHelo.Reason = result.Draw(t, "spf_helo"), draw()
		f.Iprev.Result, f.Iprev.Name = result.Draw(t, "iprev"), draw()
		f.MX.Result, f.MX.Reason = result.Draw(t, "mx"), draw() // no method of RFC 8601: it stands in no field
		f.Submitter.Address, f.Submitter.Result, f.Submitter.Reason = draw(), result.Draw(t, "submitter"), draw()
		f.PRA.Address, f.PRA.Result, f.PRA.Reason = draw(), result.Draw(t, "pra"), draw()
		f.DKIM.Result, f.DMARC.Result, f.Header.FromDomain = result.Draw(t, "dkim"), result.Draw(t, "dmarc"), draw()
		for range rapid.IntRange(0, 3).Draw(t, "signatures") {
			f.DKIM.Signatures = append(f.DKIM.Signatures, policy.DKIMSignature{
				Domain: draw(), Selector: draw(), Result: result.Draw(t, "signature"), Reason: draw(),
			})
		}
		field := string(fields.AppendAuthResults(nil, "mx.test", f))
		a, err := parseAuthResults(field)
		if err != nil {
			t.Fatal(err)
		}
		if w := differs(a, f); w != "" {
			t.Fatalf("%s\n%q", w, field)
		}
		spf := string(fields.AppendReceivedSPFs(nil, "mx.test", f, true))
		h, bad := smtp.ParseHeader([]byte(field + spf))
		if bad != 0 {
			t.Fatalf("%d lines are no fields: %q", bad, field+spf)
		}
		want := 1
		for _, r := range []policy.Result{f.SPF.Result, f.PRA.Result} {
			if r != policy.Skipped {
				want++
			}
		}
		if f.Mail.From != "" && f.Helo.Domain != "" && f.SPFHelo.Result != policy.Skipped {
			want++
		}
		if f.Submitter.Address != "" && f.Submitter.Result != policy.Skipped {
			want++
		}
		if len(h) != want {
			t.Fatalf("%d fields, want %d: %q", len(h), want, field+spf)
		}
		for _, x := range h {
			if w := unbalanced(x.Value); w != "" {
				t.Fatalf("%s: %q", w, x.Value)
			}
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(field+spf, "\r\n"), "\r\n") {
			if len(line) > 998 {
				t.Fatalf("a line of %d octets", len(line))
			}
			for i := range len(line) {
				if c := line[i]; c != '\t' && (c < ' ' || c > '~') {
					t.Fatalf("octet %#x in %q", c, line)
				}
			}
		}
	})
}

// unbalanced looks for parentheses and quotes that do not end.
func unbalanced(v string) string {
	depth, quoted := 0, false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == '\\' && (quoted || depth > 0):
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			depth++
		case c == ')' && !quoted:
			if depth--; depth < 0 {
				return "a parenthesis too many"
			}
		}
	}
	if depth != 0 || quoted {
		return "a parenthesis or a quote does not end"
	}
	return ""
}
