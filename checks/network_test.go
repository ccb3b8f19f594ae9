package checks

import (
	"net/netip"
	"testing"

	"postern/checks/network"
	"postern/policy"
)

// files stand in for those of a configuration.
type files map[string]network.Found

func (f files) Lookup(a netip.Addr) (network.Found, bool) {
	if f == nil {
		return network.Found{}, false
	}
	return f[a.String()], true
}

func TestNetwork(t *testing.T) {
	known := files{"192.0.2.1": {ASN: 64500, Name: "Example", Country: "DE"}}
	for _, c := range []struct {
		name     string
		networks Networks
		client   string
		want     policy.Client
		result   policy.Result
	}{
		{"known", known, "192.0.2.1", policy.Client{ASN: 64500, ASName: "Example", Country: "DE"}, policy.Pass},
		{"unknown", known, "192.0.2.2", policy.Client{}, policy.None},
		{"a file cannot be read", files(nil), "192.0.2.1", policy.Client{}, policy.TempError},
		{"no files", nil, "192.0.2.1", policy.Client{}, policy.TempError},
	} {
		f := transaction(c.client, "client.example", "")
		f.Client.ASN, f.Client.Country = 1, "XX"
		ran := NewSet(Deps{Networks: c.networks}, func(name string) bool { return name == "network" }).Run(t.Context(), policy.Connect, f, Message{}, nil)
		c.want.IP = f.Client.IP
		if f.Client.Port = 0; f.Client != c.want || f.Network.Result != c.result || len(ran) != 1 || ran[0].Result != c.result {
			t.Errorf("%s: %+v %s %+v", c.name, f.Client, f.Network.Result, ran)
		}
	}
}

// Where nothing is configured nothing is done for a connection, though the journal wants all
// that is cheap.
func TestNetworkCostsNothingWithoutFiles(t *testing.T) {
	none := func(string) bool { return false }
	if NewSet(Deps{Uses: Journal}, none).HasStage(policy.Connect) {
		t.Error("without files something runs at connect")
	}
	if !NewSet(Deps{Uses: Journal, Networks: files{}}, none).Wants("network") {
		t.Error("with files the journal does not have what they say")
	}
}
