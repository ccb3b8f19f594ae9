package service

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// forgetPages unmaps the pages of the program itself, which the kernel maps sixteen at a
// time where one is needed. They stay in its page cache.
//
// NOT: a mapping that may be written, or that has pages of its own ("Anonymous", or some in "Swap") and not
// those of the file, as where a loader has relocated it: what stands there would be lost.
// Where anything cannot be told, the mapping stays as it is.
func forgetPages() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // nothing was written
	var begin, end uintptr           // of the mapping that is looked at; 0: it may not be forgotten
	ours, own := false, false        // it is of the program; it has pages of its own in memory
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		switch word, value, _ := strings.Cut(line, " "); {
		case strings.Contains(word, "-"):
			before := ours
			if ours = strings.HasSuffix(line, program); before && !ours {
				return // the program's stand together, and the kernel looks at each page of what is read further on
			}
			begin, end = programPages(line, program)
		case word == "Anonymous:":
			own = strings.TrimSpace(value) != "0 kB"
		case word == "Swap:" && begin != 0 && !own && strings.TrimSpace(value) == "0 kB":
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, begin, end-begin, syscall.MADV_DONTNEED) // advice, and no more
		}
	}
}

// programPages returns the addresses of a mapping, by its line in /proc/self/smaps, where it
// is one of that program's file and cannot be written.
func programPages(line, program string) (begin, end uintptr) {
	var mode, offset, device, inode string
	fields := strings.Fields(line)
	if _, err := fmt.Sscanf(line, "%x-%x %s %s %s %s", &begin, &end, &mode, &offset, &device, &inode); err != nil ||
		!strings.HasPrefix(mode, "r-") || !strings.HasSuffix(mode, "p") || len(fields) != 6 || fields[5] != program {
		return 0, 0
	}
	return begin, end
}
