package configs

import (
	"testing"
	"time"
)

func TestUnits(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"50ms": 50 * time.Millisecond, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "14d": 14 * day, "1d12h": 36 * time.Hour,
		"0s": 0, "1.5s": 1500 * time.Millisecond, "0d": 0,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "5", "5x", "-5s", "+5s", "1d-5s", "d", "1d5", "-1d", "1.5d", "106752d", "99999999999d", "106751d24h", "5 s", "1w", "1d1d", "٣s"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
	for text, want := range map[string]Size{
		"0B": 0, "512B": 512, "256KiB": 256 << 10, "50MiB": 50 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40,
		"1KB": 1000, "1kB": 1000, "1MB": 1e6, "1GB": 1e9, "1TB": 1e12, "50 MiB": 50 << 20,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "50", "B", "KiB", "-1B", "+1B", "1.5MiB", "50mib", "9223372036854775807KiB", "8388608TiB", "1  KiB", "1b"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

// What config show writes is short, and means what was said.
func TestDurationsAreWrittenShort(t *testing.T) {
	for said, want := range map[string]string{
		"0s": "0s", "30s": "30s", "60s": "1m", "100s": "1m40s", "70s": "1m10s", "110s": "1m50s", "600s": "10m", "610s": "10m10s",
		"3600s": "1h", "3610s": "1h0m10s", "90m": "1h30m", "80m": "1h20m", "60m": "1h", "1h100s": "1h1m40s", "36h": "1d12h", "24h": "1d", "240h": "10d",
		"24h30m": "24h30m", "1500ms": "1.5s", "100ms": "100ms", "60.5s": "1m0.5s", "0.1us": "100ns",
	} {
		d, err := ParseDuration(said)
		if got := FormatDuration(d); err != nil || got != want {
			t.Errorf("%s is written %s, not %s (%v)", said, got, want, err)
		}
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"14d", "1h30m", "1d12h", "106751d", "0.1us", "1d1h1m1s", "100s", "90m", "23h59m50s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if again, err := ParseDuration(FormatDuration(d)); d < 0 || err != nil || again != d {
			t.Errorf("%q is %v, written %q, read again %v %v", s, d, FormatDuration(d), again, err)
		}
	})
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"1B", "50MiB", "7 GB", "8388607TiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if again, err := ParseSize(n.String()); n < 0 || err != nil || again != n {
			t.Errorf("%q is %d, written %q, read again %d %v", s, n, n, again, err)
		}
	})
}
