// Package leaktest fails tests that leave goroutines behind. goleak itself waits for less
// than half a second; what is about to end here has the time of a busy machine.
package leaktest

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long a goroutine may take to end.
const patience = time.Minute

// Main is the TestMain of a package whose tests leave none behind.
func Main(m *testing.M) { goleak.VerifyTestMain(tests{m}) }

// tests are those of a package.
type tests struct{ *testing.M }

// Run runs them, and waits for what still ends after the last one.
func (m tests) Run() int {
	code := m.M.Run()
	_ = find()
	return code
}

// None fails a test that has left goroutines behind.
func None(t testing.TB) {
	t.Helper()
	if err := find(); err != nil {
		t.Error(err)
	}
}

// find says which goroutines do not end.
func find() error {
	err := goleak.Find()
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
		err = goleak.Find()
	}
	return err
}
