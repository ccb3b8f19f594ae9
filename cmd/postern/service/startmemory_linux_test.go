package service

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestProgramPages(t *testing.T) {
	const program = "/usr/bin/postern"
	for line, want := range map[string]uintptr{
		"00400000-0129d000 r-xp 00000000 fd:01 42 /usr/bin/postern":             0x129d000,
		"0129d000-021b3000 r--p 00e9d000 fd:01 42             /usr/bin/postern": 0x21b3000,
		"021b3000-0224c000 rw-p 01db3000 fd:01 42 /usr/bin/postern":             0,
		"00400000-0129d000 r-xs 00000000 fd:01 42 /usr/bin/postern":             0,
		"00400000-0129d000 r-xp 00000000 fd:01 42 /usr/lib/libc.so.6":           0,
		"00400000-0129d000 r-xp 00000000 fd:01 42 /usr/bin/postern (deleted)":   0,
		"7ffe0000-7ffe1000 r-xp 00000000 00:00 0 [vdso]":                        0,
		"021b3000-0224c000 r--p 00000000 00:00 0":                               0,
		"VmFlags: rd ex mr mw me":                                               0,
	} {
		if begin, end := programPages(line, program); end != want || (begin != 0) != (want != 0) {
			t.Errorf("%s: %x-%x, want the end %x", line, begin, end, want)
		}
	}
}

// The start's pages are given back, and the process goes on.
func TestForgetStart(t *testing.T) {
	before := fileResident(t)
	forgetStart()
	if after := fileResident(t); after >= before {
		t.Errorf("%d KiB of files are resident, and %d were before", after, before)
	}
	if total := len(strings.Repeat("still runs", 1000)); total != 10000 {
		t.Error(total)
	}
}

// fileResident is how much of files is mapped, in KiB.
func fileResident(t *testing.T) int {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "RssFile:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile")
	return 0
}
