package journal

import (
	"errors"
	"testing"
	"time"

	"postern/configs"
)

func TestMoment(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 23, 9, 30, 0, 0, zone)
	for text, want := range map[string][2]string{
		"24h":                  {"2026-11-22 09:30:00", "2026-11-22 09:30:00"},
		"1d12h":                {"2026-11-21 21:30:00", "2026-11-21 21:30:00"},
		"2h ago":               {"2026-11-23 07:30:00", "2026-11-23 07:30:00"},
		"now":                  {"2026-11-23 09:30:00", "2026-11-23 09:30:00"},
		"today":                {"2026-11-23 00:00:00", "2026-11-24 00:00:00"},
		"Yesterday":            {"2026-11-22 00:00:00", "2026-11-23 00:00:00"},
		"2026-11-01":           {"2026-11-01 00:00:00", "2026-11-02 00:00:00"},
		"2026-11-01 14:30":     {"2026-11-01 14:30:00", "2026-11-01 14:30:00"},
		"2026-11-01T14:30:10":  {"2026-11-01 14:30:10", "2026-11-01 14:30:10"},
		"2026-11-01T14:30:10Z": {"2026-11-01 15:30:10", "2026-11-01 15:30:10"},
		"14:30":                {"2026-11-23 14:30:00", "2026-11-23 14:30:00"},
		"":                     {},
		"1":                    {},
		"tomorrow":             {},
		"2026-02-30":           {},
		"-1h":                  {},
	} {
		from, to, err := Moment(text, now)
		if err != nil {
			if want[0] != "" {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if got := [2]string{from.In(zone).Format(time.DateTime), to.In(zone).Format(time.DateTime)}; got != want {
			t.Errorf("%q is %q, not %q", text, got, want)
		}
	}
}

func TestAnIDIsFoundInWhatSomebodyPasted(t *testing.T) {
	const id = "7k2m9d0x4qzr"
	for _, pasted := range []string{
		id, "7K2M9D0X4QZR", "(" + id + ")", "(" + id + ").", " " + id + "\r\n", "<" + id + ">", `"` + id + `"`,
		"550 5.7.23 SPF validation failed. (" + id + ")",
		"host mx.example.org[192.0.2.1] said: 550 5.7.23 SPF validation failed. (7K2M9D0X4QZR) (in reply to RCPT TO command)",
		"(0123456789ab) 451 4.4.3 (" + id + ")",
		"id=" + id + ",",
	} {
		if got := IDIn(pasted); got != id {
			t.Errorf("%q: %q", pasted, got)
		}
	}
	if got := IDIn("(nosuchid)."); got != "nosuchid" {
		t.Error(got)
	}
}

// What is asked for in words that cannot be meant is said by the word, and never searched.
func TestAskInWords(t *testing.T) {
	now := time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC)
	for want, a := range map[string]Ask{
		`disposition "passed": it is one of pass, tag, hold, defer, reject, none`:                      {Disposition: "passed"},
		`outcome "gone": it is one of delivered, refused, backend_refused, failed, abandoned, unknown`: {Outcome: "gone"},
		`client "example.org" is no address, and no network such as 192.0.2.0/24 or 2001:db8::/32`:     {Client: "example.org"},
		`until 2026-11-20 is before since today: that is no time at all`:                               {Since: "today", Until: "2026-11-20"},
		`since "soon" ` + errMoment.Error():                                                            {Since: "soon"},
	} {
		_, err := a.Filter(configs.Journal{}, now)
		var word *AskError
		if !errors.As(err, &word) || err.Error() != want {
			t.Errorf("%+v: %v, not %s", a, err, want)
		}
	}
	f, err := Ask{From: "a.example", Client: "::ffff:192.0.2.7", Since: "yesterday", Until: "yesterday", Refused: true}.Filter(configs.Journal{}, now)
	if err != nil || f.Sender != "a.example" || f.Client.String() != "192.0.2.7/32" || !f.Refused ||
		f.Since.Format(time.DateTime) != "2026-11-22 00:00:00" || f.Until.Format(time.DateTime) != "2026-11-23 00:00:00" {
		t.Errorf("%+v, %v", f, err)
	}
}

// What somebody writes into a form is a time or none, and its end is not before its begin.
func FuzzMoment(f *testing.F) {
	now := time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC)
	for _, s := range []string{"24h", "today", "2026-11-21", "2026-11-21 14:30", "14:30", "1d12h ago", "9999999999h", "-1h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, err := Moment(s, now)
		if err == nil && (to.Before(from) || to.Sub(from) > 24*time.Hour) {
			t.Fatalf("%q is from %v to %v", s, from, to)
		}
	})
}
