package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	dir := t.TempDir()
	line := func(id string, padding int) string {
		return fmt.Sprintf(`{"v":1,"time":"2026-11-21T10:00:00Z","id":%q,"error":%q}`+"\n", id, strings.Repeat("x", padding))
	}
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tail := func(n int, want string) {
		t.Helper()
		records, err := Tail(dir, n)
		var ids []string
		for i := range records {
			ids = append(ids, records[i].ID)
		}
		if got := strings.Join(ids, " "); err != nil || got != want {
			t.Errorf("%q %v, not %q", got, err, want)
		}
	}
	tail(5, "")
	put("2026-11-19.jsonl.gz", "not looked at")
	put("2026-11-20.jsonl", line("a", 0)+line("b", 0))
	put("2026-11-21.jsonl", line("c", 0)+"no record\n\n"+line("d", 0)+`{"v":1,"id":"torn`)
	put("2026-11-21.txt", line("z", 0))
	tail(5, "d c b a")
	tail(3, "d c b")
	tail(1, "d")
	// A large file is read at its end only, from a whole line on.
	put("2026-11-22.jsonl", line("e", 100)+line("f", maxTail*2/3)+line("g", maxTail/2)+line("h", 0))
	tail(2, "h g")
	if _, err := Tail(filepath.Join(dir, "none"), 1); err == nil {
		t.Error("there is no such folder, and no error")
	}
}
