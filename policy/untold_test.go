package policy

import (
	"testing"

	"postern/configs"
)

// A rule that hangs on files of networks which cannot be read does not match, whichever way it
// is written.
func TestRulesWithoutTheFilesOfNetworks(t *testing.T) {
	for when, want := range map[string]bool{
		`client.country == "DE"`:                            false,
		`client.country != "DE"`:                            false,
		`not (client.asn in [64500])`:                       false,
		`client.as_name == ""`:                              false,
		`client.country != "DE" or helo.domain == ""`:       true,
		`network.result == "temperror"`:                     true,
		`network.result == "temperror" and client.asn == 0`: false,
		`client.ip == "192.0.2.1" and not client.pregreet`:  true,
		`client.ip == "192.0.2.1" and client.country != ""`: false,
	} {
		chain := compile(t, "a: "+when+" -> reject")
		f := Facts{Client: Client{IP: "192.0.2.1"}, Network: Network{Result: TempError}}
		f.Begin("x")
		known := Measured(&f, Message)
		decided, judged := chain.Decide(Message, &f), chain.Judge(&f, known)
		if decided.Refuses() != want || judged.Disposition != decided.Disposition || !judged.Determined() {
			t.Errorf("%s: decided %s, judged %s, which misses %q", when, decided.Disposition, judged.Disposition, judged.Missing.Names())
		}
	}
}

// What the files say is known at connect, and a record without it says nothing of them.
func TestNetworkIsKnownAtConnect(t *testing.T) {
	chain := compile(t, `a: client.asn == 64500 and client.country == "DE" -> reject`)
	f := Facts{Client: Client{IP: "192.0.2.1", ASN: 64500, Country: "DE"}, Network: Network{Result: Pass}}
	if v := chain.Decide(Connect, &f); !v.Refuses() || v.Stage != Connect {
		t.Errorf("%+v", v)
	}
	next := f.Transaction("y")
	if v := chain.Decide(Connect, &next); !v.Refuses() {
		t.Error("the transaction has forgotten the network of its connection")
	}
	old := Facts{}.Transaction("z")
	if j := chain.Judge(&old, Measured(&old, Message)); j.Determined() || len(j.Missing.Names()) != 2 {
		t.Errorf("of a record that never looked: %+v", j.Missing.Names())
	}
}

func TestCountriesAreTwoLetters(t *testing.T) {
	for _, text := range []string{"de", "DEU", "Germany"} {
		if _, err := Compile(configs.Policy{Rules: []configs.Rule{{Name: "a", When: `client.country == "` + text + `"`, Do: "reject"}}}, nil); err == nil {
			t.Errorf("a rule that compares with %q is taken", text)
		}
	}
}
