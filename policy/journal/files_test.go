package journal

import "testing"

func TestParseFileName(t *testing.T) {
	for name, want := range map[string]file{
		"2026-11-21.jsonl":              {day: "2026-11-21", part: lastPart},
		"2026-11-21.jsonl.gz":           {day: "2026-11-21", part: lastPart, compressed: true},
		"2026-11-21.0002.jsonl":         {day: "2026-11-21", part: 2},
		"2026-11-21.0001.jsonl.gz":      {day: "2026-11-21", part: 1, compressed: true},
		"2026-11-21.123456789.jsonl.gz": {day: "2026-11-21", part: 123456789, compressed: true},
	} {
		want.name = name
		if got, ok := parseFileName(name); !ok || got != want {
			t.Errorf("%s: %+v %v", name, got, ok)
		}
	}
	for _, name := range []string{
		"", ".jsonl", "2026-11-21", "2026-11-21.gz", "2026-11-21.json", "2026-13-21.jsonl", "2026-1-21.jsonl", "2026-11-21.jsonl.gz.gz",
		"2026-11-21.1.jsonl", "2026-11-21.+001.jsonl", "2026-11-21.1234567890.jsonl", "2026-11-21..jsonl", "2026-11-21.0001.0002.jsonl",
		"2026-11-21.0001.jsonl.tmp", "a2026-11-21.jsonl", "2026-11-21 .jsonl", "2026-11-21.0001.index",
	} {
		if f, ok := parseFileName(name); ok {
			t.Errorf("%q: %+v", name, f)
		}
	}
}
