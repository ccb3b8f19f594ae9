package checks

import (
	"testing"

	"postern/checks/dnstest"
	"postern/configs"
)

func TestExamineDNSBL(t *testing.T) {
	zone, err := dnstest.Parse(`
2.0.0.127.good.example.     A 127.0.0.2
2.0.0.127.good.example.     A 127.0.0.10
test.names.example.         A 127.0.1.2
*.all.example.              A 127.0.0.2
*.public.example.           A 127.255.255.254
; SERVFAIL 2.0.0.127.ill.example
; SERVFAIL 1.0.0.127.ill.example
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		zone                    configs.DNSBLZone
		codes, others           int
		refused, failed, counts bool
	}{
		{zone: configs.DNSBLZone{Zone: "good.example"}, codes: 2, counts: true},
		{zone: configs.DNSBLZone{Zone: "good.example", Codes: []string{"127.0.0.3-127.0.0.9"}}, codes: 2},
		{zone: configs.DNSBLZone{Zone: "names.example", Of: "helo"}, codes: 1, counts: true},
		{zone: configs.DNSBLZone{Zone: "all.example"}, codes: 1, others: 1, counts: true},
		{zone: configs.DNSBLZone{Zone: "public.example"}, codes: 1, others: 1, refused: true},
		{zone: configs.DNSBLZone{Zone: "ill.example"}, failed: true},
		{zone: configs.DNSBLZone{Zone: "gone.example"}},
	} {
		x, err := ExamineDNSBL(t.Context(), zone, c.zone)
		if err != nil || x.Zone != c.zone.Zone || len(x.Listed.Codes) != c.codes || len(x.Unlisted.Codes) != c.others ||
			x.Listed.Refused != c.refused || (x.Listed.Err != nil) != c.failed || x.Counts != c.counts {
			t.Errorf("%+v: %+v %v", c.zone, x, err)
		}
	}
	if _, err := ExamineDNSBL(t.Context(), zone, configs.DNSBLZone{Zone: "a b"}); err == nil {
		t.Error("no zone, and no error")
	}
}
