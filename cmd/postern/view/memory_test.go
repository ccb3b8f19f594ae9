package view

import (
	"testing"

	"postern/policy"
	"postern/policy/audit"
)

func TestKnown(t *testing.T) {
	for _, x := range []struct {
		levels map[string]int64
		want   string
	}{
		{nil, ""},
		{map[string]int64{"none": 4}, "0 % of mail came from senders that are known"},
		{map[string]int64{"spf": 1}, "100 % of mail came from senders that are known, by level: spf 100 %"},
		{map[string]int64{"none": 130, "iprev": 205, "spf": 600, "tls": 65}, "87 % of mail came from senders that are known, by level: tls 7 %, spf 60 %, iprev 21 %"},
	} {
		if got := known(&audit.SenderReport{Identity: x.levels}); got != x.want {
			t.Errorf("%v: %q, want %q", x.levels, got, x.want)
		}
	}
}

func TestRemembered(t *testing.T) {
	for _, x := range []struct {
		past policy.Past
		rate policy.Rate
		want string
	}{
		{policy.Past{Result: policy.Skipped}, policy.Rate{Result: policy.Skipped}, ""},
		{policy.Past{Result: policy.None}, policy.Rate{Result: policy.None}, "never seen before; nothing within the hour"},
		{policy.Past{Result: policy.Pass, Days: 1, Delivered: 3}, policy.Rate{Result: policy.Skipped}, "known for 1 day, 3 delivered, 0 refused"},
		{policy.Past{Result: policy.Skipped}, policy.Rate{Result: policy.Pass, Messages: 7, Refused: 1, Unknown: 1, Domain: 9, Surge: 2}, "within the hour 7 messages of this client, 1 refused, 1 unknown recipient; 9 of the domain, 2 times its usual"},
		{policy.Past{Result: policy.TempError}, policy.Rate{Result: policy.None}, "nothing within the hour; the store did not tell: rules that hang on it do not match"},
	} {
		if got := remembered(&policy.Facts{Past: x.past, Rate: x.rate}); got != x.want {
			t.Errorf("%q, want %q", got, x.want)
		}
	}
}
