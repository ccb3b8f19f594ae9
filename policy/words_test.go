package policy

import "testing"

// A stage and a disposition are read as they are written, and nothing else is taken for one.
func TestWordsAreReadAsWritten(t *testing.T) {
	for want := Connect; want <= Message; want++ {
		text, _ := want.MarshalText()
		var got Stage
		if err := got.UnmarshalText(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for i := range dispositionNames {
		want := Disposition(i)
		text, _ := want.MarshalText()
		var got Disposition
		if err := got.UnmarshalText(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "Mail", "none", "reject "} {
		if err := new(Stage).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is a stage", text)
		}
		if err := new(Disposition).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is a disposition", text)
		}
	}
}
