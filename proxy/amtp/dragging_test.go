package amtp_test

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A server that reads what it asked for as slowly as each time-out allows is let go all the same.
func TestHandOverHasACeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse()
		h.parcels["SEMA b@rcpt.example:1"] = "From: a@master.com\r\n\r\n" + strings.Repeat("a line of text\r\n", 1<<18)
		client := h.call(t, "192.0.2.1:4000")
		go func() { _, _ = io.WriteString(client, "SEMA b@rcpt.example:1\r\n") }()
		began := time.Now()
		for block := make([]byte, 32<<10); ; {
			if _, err := io.ReadAtLeast(client, block, len(block)); err != nil {
				break
			}
			time.Sleep(time.Minute)
		}
		if took := time.Since(began); took < 59*time.Minute || took > 62*time.Minute {
			t.Errorf("it was let go after %v", took)
		}
		synctest.Wait()
		if len(h.answers) != 1 || h.answers[0] != "" || h.ended != 1 {
			t.Errorf("answers %q, %d ended", h.answers, h.ended)
		}
	})
}
