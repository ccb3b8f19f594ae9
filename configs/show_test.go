package configs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// roundTrip loads what show prints, which must say the same.
func roundTrip(t *testing.T, c *Config) {
	t.Helper()
	for _, all := range []bool{false, true} {
		text, err := c.YAML(all)
		if err != nil {
			t.Fatal(err)
		}
		again := mustLoad(t, string(text))
		if !again.Equal(c) {
			b, _ := again.YAML(true)
			a, _ := c.YAML(true)
			t.Errorf("all %v: shown as\n%s\nit reads as\n%s\ninstead of\n%s", all, text, b, a)
		}
		says(t, again, c)
	}
}

func TestShowPrintsWhatDiffers(t *testing.T) {
	if text, err := Default().YAML(false); err != nil || text != nil {
		t.Errorf("the defaults differ from themselves: %s %v", text, err)
	}
	c := mustLoad(t, "log: {level: debug, format: json}\nlimits: {message_size: 1048576B}\nlisteners: [{address: \":25\"}]\ntls: {min_version: \"1.3\"}\n")
	text, err := c.YAML(false)
	if err != nil {
		t.Fatal(err)
	}
	want := `listeners:
  - name: mx
    address: :25
    protocol: smtp
    tls: starttls
tls:
  min_version: "1.3"
limits:
  message_size: 1MiB
log:
  level: debug
`
	if d := cmp.Diff(want, string(text)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}
