package journal

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// A sealed record has one line for all: what the log shows of it is a part of that.
func TestTheLogShowsParts(t *testing.T) {
	r := sample("one")
	for _, m := range r.Tail().Members {
		if m.JSON != nil {
			t.Error("a record that is not sealed has a line")
		}
	}
	r.Candidate = &Candidate{Disposition: "tag"}
	if err := r.Seal(); err != nil {
		t.Fatal(err)
	}
	line, err := r.Line()
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, m := range r.Tail().Members {
		shown[m.Name] = m.String()
		if !bytes.Contains(line, []byte(`,"`+m.Name+`":`+shown[m.Name]+",")) && m.Name != "tags" {
			t.Errorf("%s is %s, which is no part of %s", m.Name, shown[m.Name], line)
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
