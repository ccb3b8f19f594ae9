package configs

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of octets.
type Size int64

// The units of a Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

// day is the unit that time.ParseDuration lacks. A day of a clock change is one too.
const day = 24 * time.Hour

var (
	errDuration = errors.New("is no duration: write a number and a unit, such as 500ms, 30s, 5m, 1h30m or 14d")
	errSize     = errors.New("is no size: write a number and a unit, such as 512B, 256KiB, 50MiB or 1GB")
)

// ParseDuration reads what time.ParseDuration reads, and days: "14d",
// "1d12h". A bare number is refused, since nobody can tell its unit, and so is
// a negative one.
func ParseDuration(s string) (time.Duration, error) {
	days, rest, found := strings.Cut(s, "d")
	if !found {
		days, rest = "", s
	}
	var total time.Duration
	if found {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > uint64(math.MaxInt64/day) {
			return 0, errDuration
		}
		total = time.Duration(n) * day
	}
	if rest != "" {
		// ParseDuration takes "0" and signs, we take neither.
		if c := rest[len(rest)-1]; c >= '0' && c <= '9' || rest[0] == '-' || rest[0] == '+' {
			return 0, errDuration
		}
		d, err := time.ParseDuration(rest)
		if err != nil || total > math.MaxInt64-d {
			return 0, errDuration
		}
		total += d
	}
	if s == "" {
		return 0, errDuration
	}
	return total, nil
}

// FormatDuration writes d as short as ParseDuration reads it: 14d, 1h30m, 500ms.
func FormatDuration(d time.Duration) string {
	if d >= day && d%time.Hour == 0 {
		s := strconv.FormatInt(int64(d/day), 10) + "d"
		if h := d % day; h > 0 {
			s += strconv.FormatInt(int64(h/time.Hour), 10) + "h"
		}
		return s
	}
	s := d.String()
	// Units that are nothing are left out; the 0s of 40s is no such unit.
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeUnits has the larger unit of each kind first, as String wants them. KB
// and its like count by thousands, as the SI has it, KiB by 1024.
var sizeUnits = []struct {
	name string
	size Size
}{
	{"TiB", GiB << 10}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// ParseSize reads a whole number and a unit: B, KiB, MiB, GiB, TiB (by 1024), KB,
// MB, GB, TB (by 1000). A space may stand between them. A bare number is refused.
func ParseSize(s string) (Size, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(digits, " "), 10, 63)
		if err != nil || n > uint64(math.MaxInt64/u.size) {
			return 0, errSize
		}
		return Size(n) * u.size, nil
	}
	return 0, errSize
}

// String writes the size in the largest unit that leaves no rest.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if s != 0 && s%u.size == 0 {
			return fmt.Sprintf("%d%s", s/u.size, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}
