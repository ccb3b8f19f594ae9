package backend

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"postern/proxy/smtp"
)

func TestParseCapabilities(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Capabilities
		x, f       []string
	}{
		{name: "nothing", text: "mta.test"},
		{name: "the greeting is no keyword", text: "DSN at your service"},
		{
			name: "Postfix",
			text: "mx.test\nPIPELINING\nSIZE 10240000\nETRN\nSTARTTLS\nXCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT\n" +
				"XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT\nENHANCEDSTATUSCODES\n8BITMIME\nDSN\nSMTPUTF8\nCHUNKING",
			want: Capabilities{
				Pipelining: true, HasSize: true, Size: 10240000, StartTLS: true,
				EnhancedStatusCodes: true, EightBitMIME: true, DSN: true, SMTPUTF8: true, Chunking: true,
			},
			x: []string{"NAME", "ADDR", "PROTO", "HELO", "REVERSE_NAME", "PORT", "LOGIN", "DESTADDR", "DESTPORT"},
			f: []string{"NAME", "ADDR", "PROTO", "HELO", "SOURCE", "PORT", "IDENT"},
		},
		{
			name: "any case, odd blanks", text: "x\n pipelining \nSize\t5\nLimits mailmax=10  RCPTMAX=x RCPTDOMAINMAX=1 OTHER=2\nXclient",
			want: Capabilities{Pipelining: true, Limits: Limits{MailMax: 10, RcptDomainMax: 1}}, x: []string{},
		},
		{name: "sizes", text: "x\nSIZE", want: Capabilities{HasSize: true}},
		{name: "no size", text: "x\nSIZE -5", want: Capabilities{HasSize: true}},
		{name: "more than there is", text: "x\nSIZE 99999999999999999999", want: Capabilities{HasSize: true}},
		{name: "AUTH=", text: "x\nAUTH=PLAIN\nREQUIRETLS\nBINARYMIME\nSUBMITTER", want: Capabilities{RequireTLS: true, BinaryMIME: true, Submitter: true}},
	} {
		got := parseCapabilities(tc.text)
		if !got.equal(tc.want) || !slices.Equal(got.XClient, tc.x) || !slices.Equal(got.XForward, tc.f) ||
			(got.XClient == nil) != (tc.x == nil) {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
}

// Whatever a backend says, what is made of it is bounded, and two such sets
// have a common part that both cover.
func FuzzCapabilities(f *testing.F) {
	f.Add("x\nPIPELINING\nSIZE 1000\nLIMITS RCPTMAX=5\nXCLIENT ADDR", "x\n8BITMIME\nSIZE 0")
	f.Add("x\nSIZE 18446744073709551616\nLIMITS MAILMAX=-1\nXFORWARD\n\n\n", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		c, d := parseCapabilities(a), parseCapabilities(b)
		if c.Size < 0 || c.Limits.MailMax < 0 || len(c.XClient) > 20 || len(c.XForward) > 20 {
			t.Fatalf("%+v", c)
		}
		both := c.intersect(d)
		if !both.equal(d.intersect(c)) || !both.intersect(c).equal(both) || !c.intersect(c).equal(c) {
			t.Fatalf("%+v and %+v make %+v", c, d, both)
		}
		if !c.covers(both) || !d.covers(both) || !c.covers(c) {
			t.Fatalf("%+v is not covered", both)
		}
	})
}

// The replies of broken and hostile servers: each is read to a reply or an
// error, and EHLO makes of it what it can.
func TestHostileReplies(t *testing.T) {
	p, err := os.ReadFile("testdata/backend-replies-fuzz.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(p) {
		var c struct{ Name, B64 string }
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		octets, err := base64.StdEncoding.DecodeString(c.B64)
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReaderSize(bytes.NewReader(octets), readBuffer)
		for {
			r, err := smtp.ReadReply(br)
			if err != nil {
				break
			}
			if r.Code < 200 || r.Code > 599 {
				t.Errorf("%s: %+v", c.Name, r)
			}
			if k := parseCapabilities(r.Text); k.Size < 0 {
				t.Errorf("%s: %+v", c.Name, k)
			}
		}
		n++
	}
	if n < 200 {
		t.Errorf("%d cases", n)
	}
}
