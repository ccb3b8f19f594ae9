package memory

import (
	"testing"
	"time"
)

func TestSurge(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		days      int
		delivered int64 // those of this hour included
		domain    int64
		want      int64
	}{
		{0, 500, 500, 0},    // new: there is no usual
		{10, 239 + 1, 1, 1}, // one an hour, as ever
		{10, 239 + 100, 100, 100},
		{10, 239 + 99, 99, 99},
		{10, 24 + 50, 50, 497}, // one in ten hours
		{10, 400, 400, 95600},  // nothing was delivered before
		{10, 300, 0, 0},
		{10, 200, 400, 95600}, // half of them are refused by others
		{36, 1 << 50, 1 << 50, 1<<31 - 1},
	} {
		r := Recalled{Past: Past{First: now.AddDate(0, 0, -x.days), Delivered: x.delivered}, Domain: x.domain}
		if got := r.Surge(now); got != x.want {
			t.Errorf("%d of %d in %d days: %d, want %d", x.domain, x.delivered, x.days, got, x.want)
		}
	}
	if got := (Recalled{Domain: 400}).Surge(now); got != 0 {
		t.Errorf("of a domain that nobody knows: %d", got)
	}
}
