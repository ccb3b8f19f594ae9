package policy

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestTheContractsNames: rules can read every fact that the documentation
// names, at the stage where it becomes known.
func TestTheContractsNames(t *testing.T) {
	for stage, names := range map[Stage]string{
		Connect: "client.ip client.port listener",
		Helo:    "helo.name helo.domain",
		Mail: "client.name tls.version tls.cipher tls.peer.verified tls.peer.names tls.peer.fingerprint " +
			"mail.from mail.domain mail.size mail.smtputf8 mail.requiretls submitter.address submitter.domain submitter.result " +
			"spf.result spf.domain spf.identity spf.reason spf_helo.result iprev.result iprev.name mx.result " +
			"dnsbl.listed dnsbl.score dnsbl.zones dns.healthy",
		Rcpt:    "rcpt.address rcpt.domain",
		Header:  "header.from_domain header.author header.from_count header.count pra.result pra.address pra.domain pra.matches_submitter",
		Message: "dkim.result dkim.domains dkim.unknown dmarc.result dmarc.policy dmarc.domain message.size",
	} {
		for name := range strings.FieldsSeq(names) {
			f := vocabulary[name]
			if f == nil {
				t.Errorf("no fact %s", name)
			} else if f.stage != stage {
				t.Errorf("%s is known at %s, want %s", name, f.stage, stage)
			}
		}
	}
}

// TestFactsTags: each field has one name, in JSON as in rules; each stage exists;
// each result is a word of RFC 8601 §2.7 or skipped.
func TestFactsTags(t *testing.T) {
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if rule := f.Tag.Get("expr"); rule != "-" && rule != name && typ != reflect.TypeFor[DKIMSignature]() {
				t.Errorf("%s.%s: %q in JSON, %q in rules", typ.Name(), f.Name, name, rule)
			}
			if s, ok := f.Tag.Lookup("stage"); ok {
				if _, ok := ParseStage(s); !ok {
					t.Errorf("%s.%s: no stage %q", typ.Name(), f.Name, s)
				}
			}
			if _, tagged := f.Tag.Lookup("results"); f.Type == reflect.TypeFor[Result]() && f.Tag.Get("expr") != "-" && typ != reflect.TypeFor[DKIMSignature]() && !tagged {
				t.Errorf("%s.%s: a result without its words", typ.Name(), f.Name)
			}
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[Facts]())
	for _, f := range vocabulary {
		for _, word := range f.Words {
			switch Result(word) {
			case None, Neutral, Pass, Fail, SoftFail, TempError, PermError, Skipped:
			default:
				if f.Result {
					t.Errorf("%s: %q is no result word", f.Name, word)
				}
			}
		}
	}
}

// TestFactsSurviveJSON: what the journal keeps is judged as what was live.
func TestFactsSurviveJSON(t *testing.T) {
	chain, f := fiftyRules(t)
	f.TLS.Peer.Names = []string{"mx3.partner.example"}
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var again Facts
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*f, again) {
		t.Errorf("got %+v, want %+v", again, *f)
	}
	if v, w := chain.Decide(Message, f), chain.Decide(Message, &again); !reflect.DeepEqual(v, w) || v.Rule != "rule-3-3" {
		t.Errorf("live %+v, kept %+v", v, w)
	}
}

func TestTransactionForgets(t *testing.T) {
	_, f := fiftyRules(t)
	fresh := f.Transaction("t2")
	if fresh.ID != "t2" || fresh.Client.IP != f.Client.IP || !reflect.DeepEqual(fresh.TLS, f.TLS) || fresh.Helo != f.Helo {
		t.Errorf("the connection was forgotten: %+v", fresh)
	}
	if fresh.Mail != (MailFrom{}) || fresh.Rcpt != (RcptTo{}) || fresh.SPF.Result != Skipped || fresh.Client.Name != "" {
		t.Errorf("the transaction was kept: %+v", fresh)
	}
}

func TestWords(t *testing.T) {
	if (Client{IP: "2001:db8::1"}).Addr().String() != "2001:db8::1" || (Client{IP: "pigeon"}).Addr().IsValid() {
		t.Error("Addr")
	}
	for i, name := range stageNames {
		if s, ok := ParseStage(name); !ok || s != Stage(i) || s.String() != name {
			t.Errorf("stage %s", name)
		}
	}
	data, err := json.Marshal(struct {
		S Stage
		D Disposition
	}{Header, DispositionDefer})
	if err != nil || string(data) != `{"S":"header","D":"defer"}` {
		t.Errorf("%s, %v", data, err)
	}
}
