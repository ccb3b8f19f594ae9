package journal

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/policy/journal/jsonline"
)

// What the tags of a record and of all that is in it say is written, and nothing else: whatever a
// field holds, and whoever adds the next one.
func TestRecordsAreWrittenWhole(t *testing.T) {
	for seed := range uint64(1000) {
		f := filler{t: t, Rand: rand.New(rand.NewPCG(seed, 0)), empty: float64(seed%5) / 5} // 0: every field has something
		var r Record
		f.fill(reflect.ValueOf(&r).Elem())
		got, err := r.Line()
		if err != nil {
			t.Fatal(err)
		}
		if want := byTags(t, &r); string(got) != want {
			t.Fatalf("record %d: %s", seed, difference(string(got), want))
		}
	}
	if got, want := marshal(t, &Record{}), byTags(t, &Record{}); got != want {
		t.Errorf("the empty record: %s", difference(got, want))
	}
}

// A number that JSON does not have must not cost the record.
func TestRecordsWithoutANumber(t *testing.T) {
	r := sample("one")
	r.Took.Data, r.Checks[0].Took = math.NaN(), math.Inf(-1)
	var back Record
	if err := json.Unmarshal([]byte(marshal(t, r)), &back); err != nil || back.Took.Data != 0 || back.Checks[0].Took != 0 || back.ID != "one" {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

// byTags is the line of a record as reflection makes it.
func byTags(t *testing.T, r *Record) string {
	t.Helper()
	line, err := jsonline.Marshal(struct {
		V int `json:"v"`
		*Record
	}{Version, r})
	if err != nil {
		t.Fatal(err)
	}
	return string(line) + "\n"
}

// difference shows where two lines part.
func difference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-60)
	return "got  ..." + got[from:min(len(got), i+60)] + "...\nwant ..." + want[from:min(len(want), i+60)]
}

// filler puts something into every exported field.
type filler struct {
	t *testing.T
	*rand.Rand
	empty float64 // so many of all fields are left as they are
}

// odd is what texts are made of.
var odd = []string{"a", "example.org", "<&>", `"`, `\`, "\n\t\b\f\r", "\x00\x1f", "\x7f", "\u0085", "é", "日", "\u2028\u2029", "\u202e", "\ufffd", "\U0001f4e7", "\U000e0041", "\xff", "\xe2\x80", " "}

func (f *filler) fill(v reflect.Value) {
	if f.Float64() < f.empty {
		return
	}
	switch v.Kind() {
	case reflect.String:
		var text strings.Builder
		for range f.IntN(6) {
			text.WriteString(odd[f.IntN(len(odd))])
		}
		v.SetString(text.String() + "x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(f.Int64()>>f.IntN(63) | 1)
		if f.IntN(2) == 0 {
			v.SetInt(-v.Int())
		}
	case reflect.Float64:
		v.SetFloat(math.Ldexp(f.Float64()+.1, f.IntN(160)-80))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 0, 3))
		for i := range 1 + f.IntN(3) {
			element := reflect.New(v.Type().Elem()).Elem()
			f.fill(element)
			if element.Kind() == reflect.Struct {
				if name, named := element.Type().FieldByName("Name"); named && name.Tag.Get("json") == "-" { // a filter's, by which it stands in an object
					element.FieldByName("Name").SetString("name_" + strconv.Itoa(9-i))
				}
			}
			v.Set(reflect.Append(v, element))
		}
		if f.Float64() < f.empty {
			v.SetLen(0)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			at := time.Unix(f.Int64N(1<<37), f.Int64N(1e9)>>f.IntN(30)).In(time.FixedZone("", (f.IntN(48)-24)*1800))
			v.Set(reflect.ValueOf(at))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i))
			}
		}
	default:
		f.t.Fatalf("the record has a %v now, which this test does not know how to fill", v.Type())
	}
}

// A copy stays as it was, whatever becomes of the record and of its lists; and it takes nothing from
// the record that was copied to the same place before.
func TestCopiesOfRecords(t *testing.T) {
	var c Record
	for seed := range uint64(200) {
		f := filler{t: t, Rand: rand.New(rand.NewPCG(seed, 1)), empty: float64(seed%4) / 4}
		var r Record
		f.fill(reflect.ValueOf(&r).Elem())
		if err := r.Seal(); err != nil {
			t.Fatal(err)
		}
		want := byTags(t, &r)
		r.CopyTo(&c)
		clone := r.Clone()
		if c.sealed != nil || clone.sealed != nil {
			t.Fatal("a copy has the line of its record")
		}
		r.Release()
		clear(r.Recipients)
		clear(r.Checks)
		clear(r.Tags)
		clear(r.DNS)
		r = Record{}
		for _, copied := range []*Record{&c, clone} {
			if got := marshal(t, copied); got != want {
				t.Fatalf("record %d: %s", seed, difference(got, want))
			}
		}
	}
}
