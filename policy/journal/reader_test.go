package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// schema returns the JSON names of a record, dotted.
func schema(r *Record) []string {
	var names []string
	var walk func(t reflect.Type, prefix string)
	walk = func(t reflect.Type, prefix string) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range t.NumField() {
			if t.Field(i).Anonymous {
				walk(t.Field(i).Type, prefix)
				continue
			}
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			names = append(names, prefix+name)
			walk(t.Field(i).Type, prefix+name+".")
		}
	}
	walk(reflect.TypeOf(r), "")
	return names
}

func TestReaderTakesWhatItFinds(t *testing.T) {
	dir := t.TempDir()
	good := func(id string) string { return marshal(t, sample(id)) }
	later := strings.Replace(good("later"), `"facts":{`, `"mood":{"of":["the","day"]},"facts":{"weather":"fine",`, 1)
	torn := gz(t, good("whole")+good("torn"))
	for name, content := range map[string][]byte{
		"2026-11-20.0002.jsonl":    []byte(good("b")),
		"2026-11-20.0001.jsonl.gz": gz(t, good("a")),
		"2026-11-20.0010.jsonl":    []byte(good("c")),
		"2026-11-20.jsonl":         []byte(good("d") + "\n" + `[]` + "\n" + `{"v":1}` + "\n" + `{"v":"x"}` + "\n" + strings.Repeat("x", 3<<20) + "\n" + later + strings.Replace(good("newer"), fmt.Sprintf(`"v":%d`, Version), fmt.Sprintf(`"v":%d`, Version+1), 1) + `{"v":1,"id":"to`),
		// Compressed half, when the machine stopped: the plain one counts.
		"2026-11-20.jsonl.gz": []byte("half"),
		"2026-11-21.jsonl":    []byte(strings.TrimSuffix(good("unended"), "\n")),
		"2026-11-19.jsonl.gz": torn[:len(torn)-20],
		"2026-11-17.jsonl.gz": []byte("no gzip"),
		"2026-13-99.jsonl":    []byte(good("no day")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ids, s := read(t, dir, Query{})
	if want := []string{"a", "b", "c", "d", "later", "unended"}; !slices.Equal(slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "whole" || id == "torn" }), want) {
		t.Errorf("read %q, want %q", ids, want)
	}
	// [], {"v":1}, {"v":"x"}, the long one and the torn one; the empty line is none.
	if s.Bad != 5 || s.Newer != 1 || s.Files != 7 || len(s.Unreadable) != 2 {
		t.Errorf("%+v", s)
	}
	if _, err := Find(t.Context(), dir, "nobody"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "not all files could be read") {
		t.Error(err)
	}
	stop := errors.New("enough")
	n := 0
	if _, err := Records(dir, Query{}, func(*Record) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("went on after %v: %d", err, n)
	}
	if _, err := Records(filepath.Join(dir, "none"), Query{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Find(t.Context(), filepath.Join(dir, "none"), "a"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// FuzzReader: whatever is in a file, reading ends, stays in its bounds, and
// finds the good record that stands behind the rest.
func FuzzReader(f *testing.F) {
	f.Add([]byte(marshal(f, sample("a"))))
	f.Add([]byte("{\"v\":1,\"id\":\"x\"}\n{\"v\":1,"))
	f.Add([]byte("\n\n\x00{}\n[1]\nnull\n\"v\"\n"))
	f.Add([]byte(`{"v":1,"id":"x","recipients":[{"candidate":{}}],"facts":{"spf":{"result":"odd"}},"took":{"a":1e999}}`))
	last := marshal(f, sample("last"))
	f.Fuzz(func(t *testing.T, content []byte) {
		var s, decoded Stats
		var r Record
		records := 0
		failed, err := s.readLines(strings.NewReader(string(content)+"\n"+last), func(line []byte) error {
			if len(line) > maxLine {
				t.Fatalf("a line of %d octets", len(line))
			}
			if decoded.Decode(line, &r) {
				records++
				r.Measured()
				for i := range r.Units() {
					r.Live(i)
					r.CandidateOpinion(i)
				}
			}
			return nil
		})
		if failed != nil || err != nil {
			t.Fatal(failed, err)
		}
		if records == 0 || r.ID != "last" {
			t.Fatalf("%d records, the last is %q", records, r.ID)
		}
		lines := int64(1) // the last; empty ones do not count
		for line := range bytes.SplitSeq(content, []byte("\n")) {
			if len(line) > 0 {
				lines++
			}
		}
		if s.Lines != lines {
			t.Fatalf("%d lines, want %d", s.Lines, lines)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	line := []byte(marshal(b, sample("0123456789ab")))
	var s Stats
	var r Record
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if !s.Decode(line, &r) {
			b.Fatal("bad")
		}
	}
}

// BenchmarkFind reads a day of 20,000 messages for one that is not there.
func BenchmarkFind(b *testing.B) {
	dir := b.TempDir()
	line := marshal(b, sample("0123456789ab"))
	if err := os.WriteFile(filepath.Join(dir, "2026-11-21.jsonl"), []byte(strings.Repeat(line, 20000)), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(20000 * len(line)))
	for b.Loop() {
		if _, err := Find(b.Context(), dir, "nobody"); !errors.Is(err, ErrNotFound) {
			b.Fatal(err)
		}
	}
}

// Records of the first version say what they would say now.
func TestRecordsOfTheFirstVersionAreRead(t *testing.T) {
	for _, x := range []struct {
		line, stage, rule string
		disposition       Disposition
	}{
		{`"reached":"message","stage":"rcpt","rule":"soft","disposition":"tag","outcome":"delivered"`, "message", "rcpt", "tag"},
		{`"reached":"rcpt","stage":"mail","rule":"spf-fail","disposition":"reject","outcome":"refused"`, "mail", "mail", "reject"},
		{`"reached":"message","stage":"mail","disposition":"pass","outcome":"backend_refused"`, "message", "mail", "pass"},
		{`"reached":"rcpt","stage":"rcpt","disposition":"pass","outcome":"abandoned"`, "rcpt", "rcpt", "pass"},
		{`"reached":"helo","stage":"connect","disposition":"pass","outcome":"refused","reply":"552 5.3.4 Message too large"`, "mail", "", NotAsked},
		{`"reached":"helo","stage":"helo","rule":"no-dyn","disposition":"reject","outcome":"refused"`, "helo", "helo", "reject"},
	} {
		var s Stats
		var r Record
		if !s.Decode([]byte(`{"v":1,"id":"x",`+x.line+`}`), &r) {
			t.Fatalf("%s: not read", x.line)
		}
		if r.Stage != x.stage || r.RuleStage != x.rule || r.Disposition != x.disposition {
			t.Errorf("%s: %s, %s, %s", x.line, r.Stage, r.RuleStage, r.Disposition)
		}
		// And those of now as they are.
		if !s.Decode([]byte(fmt.Sprintf(`{"v":%d,"id":"x",%s}`, Version, x.line)), &r) || r.RuleStage != "" || r.Stage != strings.Split(x.line, `"`)[7] {
			t.Errorf("%s: %+v", x.line, r.Stage)
		}
	}
}
