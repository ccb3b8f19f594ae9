package smtptest

import (
	"testing"

	"golang.org/x/tools/txtar"
)

func TestFirstDifference(t *testing.T) {
	for _, tt := range []struct{ story, want, got, say string }{
		{"none", "a\nb\n", "a\nb\n", ""},
		{"in a line", "a\nb\nc\n", "a\nx\nc\n", "line 2:\na\n--- want\nb\nc\n\n--- got\nx\nc\n"},
		{"lines that are missing", "a\nb\n", "a\n", "line 2:\na\n--- want\nb\n\n--- got\n"},
		{"lines too many", "a\n", "a\nb\n", "line 2:\na\n--- want\n\n--- got\nb\n"},
	} {
		if say := firstDifference(tt.want, tt.got); say != tt.say {
			t.Errorf("%s: %q, want %q", tt.story, say, tt.say)
		}
	}
}

func TestStoriesHaveFourSections(t *testing.T) {
	a := txtarOf("about\n", "zone", "config", "dialogue", "backend")
	s, err := newStory("n", a)
	if err != nil || s.Comment != "about\n" || s.Zone != "zone" || s.Config != "config" || s.Dialogue != "dialogue" || s.Backend != "backend" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := newStory("n", txtarOf("", "dialog")); err == nil {
		t.Error("a misspelt section was taken")
	}
}

// txtarOf makes an archive of files that contain their name.
func txtarOf(comment string, names ...string) *txtar.Archive {
	a := &txtar.Archive{Comment: []byte(comment)}
	for _, n := range names {
		set(a, n, n)
	}
	return a
}
