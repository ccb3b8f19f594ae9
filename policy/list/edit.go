package list

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/configs"
)

// NewEntry is a line that shall stand in a list's file.
type NewEntry struct {
	Value         string
	Owner, Reason string // of the comment; may be empty
	Until         string // the last day, 2027-03-01; empty: it does not end
}

// Line is the entry as the file has it, without the end of the line. An error says what is wrong
// with it, by the law of the files; it must not have ended at now.
func (e NewEntry) Line(now time.Time) (string, error) {
	var comment []string
	for _, text := range []string{e.Owner, e.Reason} {
		if text = strings.TrimSpace(text); text != "" {
			comment = append(comment, text)
		}
	}
	for _, text := range append(comment, e.Value, e.Until) {
		if configs.Printable(text) != text || strings.ContainsAny(text, "\t\r\n") {
			return "", fmt.Errorf("%q has characters that cannot stand on a line", text)
		}
	}
	value := strings.TrimSpace(e.Value)
	if value == "" || strings.ContainsAny(value, "# ") {
		return "", fmt.Errorf("%q is no entry: write one address, network, domain or mail address", e.Value)
	}
	if given, err := expiry(strings.Join(comment, ", ")); err != nil || given != forever {
		return "", errors.New("owner and reason do not say until when: --until does")
	}
	if e.Until != "" {
		day, err := time.Parse(time.DateOnly, e.Until)
		if err != nil {
			return "", fmt.Errorf("until %s: a date is written 2027-03-01", e.Until)
		}
		if !now.Before(day.AddDate(0, 0, 1)) {
			return "", fmt.Errorf("until %s: that day is over, and the entry would count for nothing", e.Until)
		}
		comment = append(comment, "until "+e.Until)
	}
	line := value
	if comment != nil {
		line += "    # " + strings.Join(comment, ", ")
	}
	_, _, _, err := parseLine(line)
	return line, err
}

// FindInFile returns the lines of a list's file, counted from 1, that have the same entry as
// value, however they write it.
func FindInFile(text []byte, value string) (numbers []int, lines []string, err error) {
	want, _, some, err := parseLine(value)
	if err != nil || !some {
		return nil, nil, err
	}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimRight(bytes.TrimPrefix(line, []byte("\ufeff")), "\r\n")
		if k, _, ok, err := parseLine(string(line)); err == nil && ok && k == want {
			numbers, lines = append(numbers, number), append(lines, string(line))
		}
	}
	return numbers, lines, nil
}

// AppendToFile puts a line at the end of a list's file, with the line ends that the file has.
func AppendToFile(text []byte, line string) []byte {
	end := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		end = "\r\n"
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(bytes.Clone(text), end...)
	}
	return append(bytes.Clone(text), line+end...)
}

// CutFromFile takes lines out, counted from 1. All others stay, octet for octet.
func CutFromFile(text []byte, numbers []int) []byte {
	var out []byte
	number := 0
	for line := range bytes.Lines(text) {
		if number++; len(numbers) > 0 && numbers[0] == number {
			numbers = numbers[1:]
			continue
		}
		out = append(out, line...)
	}
	return out
}
