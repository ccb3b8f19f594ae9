package configs

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	kinds := map[string]func(string) bool{"name": isName, "filter": isFilterName, "key": isKeyPrefix, "program": isProgramName, "hostname": isHostname}
	for s, good := range map[string]string{
		"mx": "name filter key program hostname", "m": "name filter key program hostname", "0": "name key program hostname",
		"": "", "mx1_a": "name filter key program hostname", "Mx": "name key program hostname", "mx.": "name key program hostname", ".mx": "key",
		"mx-1": "name key program hostname", "mx-": "name key program", "-mx": "key", "_mx": "key hostname",
		"postfix/smtpd": "key program", "/postfix": "key", "postern:": "key", "a b": "", "{a}": "", "a\n": "", "mä": "", "m\xff": "", "m\x00": "",
		"a..b": "name key program", "mx-1.example.test": "name key program hostname", "a.-b": "name key program",
		strings.Repeat("a", 32): "name filter key program hostname", strings.Repeat("a", 33): "name key program hostname",
		strings.Repeat("a", 63): "name key program hostname", strings.Repeat("a", 64): "name key program", strings.Repeat("a", 65): "",
	} {
		for kind, is := range kinds {
			if want := strings.Contains(" "+good+" ", " "+kind+" "); is(s) != want {
				t.Errorf("%q as %s: %v", s, kind, !want)
			}
		}
	}
	if long := strings.Repeat("a.", 126); !isHostname(long+"a") || isHostname(long+"aa") {
		t.Errorf("%s is of 252 octets", long)
	}
}
