package view

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern/configs"
)

// Terminal is where somebody looks, or does not: a pipe and a file get plain lines, of any length.
type Terminal struct {
	Width  int  // columns; 0: nobody looks
	Colour bool // words may be coloured
}

// Looked says what is at the other end of w. Colours are left out where NO_COLOR has any value
// (no-color.org), and on a terminal that has none.
func Looked(w io.Writer) Terminal {
	f, ok := w.(*os.File)
	if !ok {
		return Terminal{}
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return Terminal{}
	}
	t := Terminal{Width: 80, Colour: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		t.Width = int(size.Col)
	}
	return t
}

// The colours. Each stands with a word that says the same.
const (
	green  = "32"
	yellow = "33"
	red    = "31"
	faint  = "2"
	bold   = "1"
)

// Good is for what is as it should be. Like Care and Bad it paints a word that says as much by itself.
func (t Terminal) Good(text string) string { return t.paint(green, text) }

// Care is for what wants an eye.
func (t Terminal) Care(text string) string { return t.paint(yellow, text) }

// Bad is for what is wrong.
func (t Terminal) Bad(text string) string { return t.paint(red, text) }

// Head is for what stands above other lines.
func (t Terminal) Head(text string) string { return t.paint(bold, text) }

// paint colours a text that has been made printable.
func (t Terminal) paint(colour, text string) string {
	if !t.Colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// fit cuts a printable text off where a terminal's line ends, if somebody looks at one.
func (t Terminal) fit(s string, room int) string {
	if t.Width == 0 || configs.Cells(s) <= room {
		return s
	}
	n := 0
	for i, r := range s {
		if n += configs.CellsOf(r); n > room-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// Bar shows how far something has come, on one line of a terminal that is written over and taken
// away in the end. Where nobody looks, nothing is shown.
type Bar struct {
	w     io.Writer
	t     Terminal
	now   func() time.Time
	began time.Time
	last  time.Time
	shown bool
}

// The pace of a bar.
const (
	barPatience = 400 * time.Millisecond // what takes no longer has none
	barEvery    = 100 * time.Millisecond
)

// NewBar is a bar on w, which is what the user looks at besides the output: standard error.
func NewBar(w io.Writer) *Bar { return newBar(w, Looked(w), time.Now) }

func newBar(w io.Writer, t Terminal, now func() time.Time) *Bar {
	return &Bar{w: w, t: t, now: now, began: now()}
}

// Show says that done of total are done, and what is being done now.
func (b *Bar) Show(done, total int64, what string) {
	now := b.now()
	if b.t.Width == 0 || total <= 0 || now.Sub(b.began) < barPatience || b.shown && now.Sub(b.last) < barEvery {
		return
	}
	b.last, b.shown = now, true
	const cells = 20
	done = min(max(done, 0), total)
	full := int(float64(done) / float64(total) * cells)
	percent := int(float64(done) / float64(total) * 100)
	text := fmt.Sprintf("[%s%s] %3d %%  %s", strings.Repeat("#", full), strings.Repeat(".", cells-full), percent, configs.Printable(what))
	_, _ = fmt.Fprintf(b.w, "\r\x1b[K%s", b.t.fit(text, b.t.Width-1)) // without the bar nothing is missed
}

// Clear takes the bar away, before something else is written or in the end.
func (b *Bar) Clear() {
	if b.shown {
		_, _ = io.WriteString(b.w, "\r\x1b[K")
		b.shown = false
	}
}
