package journal

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"postern/policy/journal/jsonline"
)

// ready is what the log shows of a record and is more than a word.
func ready(r *Record) map[string]string {
	shown := map[string]string{}
	for _, a := range r.AppendAttrs(nil) {
		if part, ok := a.Value.Any().(*jsonline.Ready); ok {
			shown[a.Key] = part.String()
		}
	}
	return shown
}

// A sealed record has one line for all: what the log shows of it is a part of that.
func TestTheLogShowsParts(t *testing.T) {
	r := sample("one")
	if shown := ready(r); shown["facts"] != "null" || len(shown) != 4 {
		t.Errorf("a record that is not sealed has a line: %q", shown)
	}
	r.Candidate = &Candidate{Disposition: "tag"}
	if err := r.Seal(); err != nil {
		t.Fatal(err)
	}
	line, err := r.Line()
	if err != nil {
		t.Fatal(err)
	}
	shown := ready(r)
	for name, text := range shown {
		if !bytes.Contains(line, []byte(`,"`+name+`":`+text+",")) && name != "tags" {
			t.Errorf("%s is %s, which is no part of %s", name, text, line)
		}
	}
	e, err := r.handOver()
	if err != nil || !bytes.Equal(e.line, line) {
		t.Errorf("handed over was %s, %v", e.line, err)
	}
	r.Release() // somebody else has it
	if again, err := r.handOver(); err != nil || again == e || !bytes.Equal(again.line, line) {
		t.Errorf("the second time: %s, %v", again.line, err)
	}
	if shown["tags"] != "null" || shown["took"] != `{"backend":0.001,"data":0.03,"end_of_data":0.004,"header":0.02,"mail":0.012,"rcpt":0.001}` || shown["candidate"] != `{"disposition":"tag"}` || len(shown) != 5 {
		t.Errorf("got %q", shown)
	}

	h := &hasher{key: []byte("0123456789abcdef")}
	hashed, err := h.record(r).Line()
	if err != nil || bytes.Contains(hashed, []byte("ann@")) || !bytes.Contains(line, []byte("ann@")) {
		t.Errorf("the line of a hashed record is %s, %v", hashed, err)
	}
}

// Each step is found by the name that it has in JSON.
func TestStepsByName(t *testing.T) {
	all := reflect.TypeFor[Took]()
	for i := range all.NumField() {
		name, _, _ := strings.Cut(all.Field(i).Tag.Get("json"), ",")
		var took Took
		*took.Of(name) = 1
		if reflect.ValueOf(took).Field(i).Float() != 1 {
			t.Errorf("%s is counted elsewhere: %+v", name, took)
		}
	}
}
