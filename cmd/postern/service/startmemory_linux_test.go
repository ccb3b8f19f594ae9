package service

import (
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
	before := programResident(t)
	if before == 0 {
		t.Fatal("no page of the program is resident, while it runs")
	}
	forgetStart()
	if after := programResident(t); after >= before {
		t.Errorf("%d KiB of the program are resident, and %d were before", after, before)
	}
}

// programResident is how much of the program is mapped where it cannot be written, in KiB.
func programResident(t *testing.T) (total int) {
	t.Helper()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(maps)) {
		word, value, _ := strings.Cut(line, " ")
		if strings.Contains(word, "-") {
			begin, _ := programPages(line, program)
			ours = begin != 0
		}
		if ours && word == "Rss:" {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
	}
	return total
}
