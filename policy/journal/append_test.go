package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"testing"

	"postern/policy"
	"postern/policy/journal/jsonline"
)

// fill gives every field below v a value that no other has.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for i := range 12 {
			v.SetMapIndex(reflect.ValueOf(fmt.Sprint("stage", i*7%12)), reflect.ValueOf(float64(*n+i)/1e4))
		}
	case reflect.String:
		v.SetString(fmt.Sprintf(`<value "%d">`, *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic("fill: " + v.Kind().String())
	}
}

// TestAppendJSON: what is written by hand is what encoding/json writes, whether
// every field has a value or none.
func TestAppendJSON(t *testing.T) {
	check := func(name string, v any, by jsonline.Appender) {
		t.Helper()
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
		if got := append(by.AppendJSON(nil), '\n'); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s:\n%s%s", name, got, want.Bytes())
		}
	}
	var empty, full Record
	n := 0
	fill(reflect.ValueOf(&full.Facts).Elem(), &n)
	fill(reflect.ValueOf(&full.Took).Elem(), &n)
	fill(reflect.ValueOf(&full.Recipients).Elem(), &n)
	fill(reflect.ValueOf(&full.Candidate).Elem(), &n)
	for name, r := range map[string]*Record{"empty": &empty, "full": &full} {
		check(name+" facts", &r.Facts, Facts{&r.Facts})
		check(name+" took", map[string]float64(r.Took), r.Took)
		check(name+" recipients", []Recipient(r.Recipients), r.Recipients)
	}
	check("candidate", full.Candidate, full.Candidate)
	check("empty candidate", &Candidate{}, &Candidate{})
	check("empty recipient", []Recipient{{}}, Recipients{{}})
	f := policy.Facts{}.Transaction("id")
	check("facts of a transaction", &f, Facts{&f})
	text, err := Facts{&f}.MarshalText()
	if err != nil || !bytes.Equal(text, Facts{&f}.AppendJSON(nil)) {
		t.Errorf("%s, %v", text, err)
	}
}

// BenchmarkTransactionLine is what the log line of a message costs.
func BenchmarkTransactionLine(b *testing.B) {
	f := policy.Facts{}.Transaction("0123456789ab")
	f.Client = policy.Client{IP: "192.0.2.1", Port: 54321, Name: "client.example"}
	f.Mail = policy.MailFrom{From: "alice@good.example", Domain: "good.example"}
	f.SPF = policy.SPF{Result: policy.Pass, Domain: "good.example", Identity: "mailfrom", Reason: "ip4:192.0.2.0/24 matched"}
	r := Record{
		Facts: f, Took: Took{"mail": 0.0001, "rcpt": 0.0002, "header": 0.0001, "data": 0.001, "backend": 0.0005, "end_of_data": 0.0004},
		Recipients: Recipients{{Address: "bob@local.example", Disposition: "pass", Reply: "250 2.1.5 OK", Taken: true}},
	}
	for name, h := range map[string]slog.Handler{"by hand": jsonline.NewHandler(io.Discard, slog.LevelInfo), "reflected": slog.NewJSONHandler(io.Discard, nil)} {
		b.Run(name, func(b *testing.B) {
			log := slog.New(h)
			facts := any(&r.Facts)
			if name == "by hand" {
				facts = Facts{&r.Facts}
			}
			b.ReportAllocs()
			for b.Loop() {
				log.LogAttrs(b.Context(), slog.LevelInfo, "transaction", slog.String("id", r.Facts.ID), slog.Any("took", r.Took),
					slog.Any("recipients", r.Recipients), slog.Any("tags", r.Tags), slog.Any("facts", facts))
			}
		})
	}
}
