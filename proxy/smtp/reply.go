package smtp

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Reply is an SMTP reply (RFC 5321 §4.2).
type Reply struct {
	Code     int    // 2yz to 5yz
	Enhanced string // "7.1", no class: that is Code's first digit, so the two cannot disagree (RFC 3463 §2); empty: none
	Text     string // lines separated by "\n"; no CR
}

// IsZero says that r is no reply at all.
func (r Reply) IsZero() bool { return r.Code == 0 }

// Positive says whether the code is 2yz.
func (r Reply) Positive() bool { return r.Code >= 200 && r.Code < 300 }

// Intermediate says whether the code is 3yz.
func (r Reply) Intermediate() bool { return r.Code >= 300 && r.Code < 400 }

// Transient says whether the code is 4yz.
func (r Reply) Transient() bool { return r.Code >= 400 && r.Code < 500 }

// Permanent says whether the code is 5yz.
func (r Reply) Permanent() bool { return r.Code >= 500 && r.Code < 600 }

// WithID is r with the id at its end under which the log and the journal know the
// session or transaction.
func (r Reply) WithID(id string) Reply {
	r.Text += " (" + id + ")"
	return r
}

// Offers says whether the reply to EHLO lists a keyword (RFC 5321 §4.1.1.1).
func (r Reply) Offers(keyword string) bool {
	for line := range strings.SplitSeq(r.Text, "\n") {
		if word, _, _ := strings.Cut(line, " "); strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}

// String renders the reply on one line, for logs: "550 5.7.1 Not allowed.".
func (r Reply) String() string {
	if r.IsZero() {
		return ""
	}
	b := make([]byte, 0, 16+len(r.Text))
	b = strconv.AppendInt(b, int64(r.Code), 10)
	if r.Enhanced != "" {
		b = append(b, ' ', byte('0'+r.Code/100), '.')
		b = append(b, r.Enhanced...)
	}
	b = append(b, ' ')
	for i := range len(r.Text) {
		if c := r.Text[i]; c == '\n' {
			b = append(b, " / "...)
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// maxReplyLine is the size of a reply line in octets, CRLF included, that
// every client must be able to take (RFC 5321 §4.5.3.1.5).
const maxReplyLine = 512

// AppendReply appends r as it goes on the wire (RFC 5321 §4.2.1): a line for
// each line of its text, the enhanced status code on every one (RFC 2034 §4),
// which a 3yz reply has none of. A line that would exceed 512 octets is split, at a
// blank if there is one. Tabs become blanks, other control characters and octets
// above 127 become "?".
//
// A Reply whose code is none of 200 to 599 is a fault of ours, and goes out as
// 451 4.3.0.
func AppendReply(dst []byte, r Reply) []byte {
	if r.Code < 200 || r.Code > 599 {
		r = Reply{451, "3.0", "Internal error."}
	}
	prefix := len("250 ")
	if r.Intermediate() {
		r.Enhanced = ""
	}
	if r.Enhanced != "" {
		prefix += len("2.") + len(r.Enhanced) + len(" ")
	}
	text := strings.TrimRight(r.Text, "\n")
	for {
		line, rest, more := strings.Cut(text, "\n")
		if room := maxReplyLine - len("\r\n") - prefix; len(line) > room {
			cut := strings.LastIndexByte(line[:room+1], ' ')
			if cut <= 0 {
				cut = room
			}
			line, rest, more = line[:cut], strings.TrimPrefix(text[cut:], " "), true
		}
		dst = appendReplyLine(dst, r, line, more)
		if !more {
			return dst
		}
		text = rest
	}
}

func appendReplyLine(dst []byte, r Reply, line string, more bool) []byte {
	dst = strconv.AppendInt(dst, int64(r.Code), 10)
	if more {
		dst = append(dst, '-')
	} else {
		dst = append(dst, ' ')
	}
	if r.Enhanced != "" {
		dst = append(dst, byte('0'+r.Code/100), '.')
		dst = append(dst, r.Enhanced...)
		if line != "" {
			dst = append(dst, ' ')
		}
	}
	for i := range len(line) {
		c := line[i]
		switch {
		case c == '\t':
			c = ' '
		case isControl(c) || c >= utf8.RuneSelf:
			c = '?'
		}
		dst = append(dst, c)
	}
	return append(dst, '\r', '\n')
}

// What may be wrong with a reply that a server sent.
var (
	ErrReplySyntax  = errors.New("smtp: malformed reply")
	ErrReplyLineEnd = errors.New("smtp: reply line does not end in CRLF")
	ErrReplyTooLong = errors.New("smtp: reply too long")
)

// Bounds of a reply that ReadReply takes: four times the longest line that RFC
// 5321 §4.5.3.1.5 allows, and more lines than any EHLO reply has.
const (
	maxReadLine  = 2048  // octets, CRLF included
	maxReadLines = 128   // lines
	maxReadReply = 65536 // octets altogether
)

// ReplyReader reads the replies of one server, one after another. Of the short texts that
// it says again and again it keeps one copy. The zero ReplyReader is ready.
type ReplyReader struct {
	said [16]string // each at one of the two places that its octets come to
}

// maxSaid is how long a text may be that a ReplyReader keeps, in octets: what it keeps
// is for a connection that may be idle.
const maxSaid = 64

// text is b as a string.
func (rr *ReplyReader) text(b []byte) string {
	if len(b) > maxSaid {
		return string(b)
	}
	sum := uint32(2166136261) // FNV-1a
	for _, c := range b {
		sum = (sum ^ uint32(c)) * 16777619
	}
	place := sum ^ sum>>16
	first, second := &rr.said[place%uint32(len(rr.said))], &rr.said[(place+1)%uint32(len(rr.said))]
	switch string(b) {
	case *first:
		return *first
	case *second:
		return *second
	}
	*first, *second = string(b), *first
	return *first
}

// ReadReply is Read for a single reply.
func ReadReply(br *bufio.Reader) (Reply, error) { return new(ReplyReader).Read(br) }

// Read reads one reply of a server (RFC 5321 §4.2). The code is 200 to 599 and the same on all
// lines; a line without text may leave out the blank too. The enhanced status
// code is taken out of the text only if it stands in the first line and has
// the class of the reply code (RFC 2034 §4); if not, the text stays as it is.
// Tabs in the text become blanks, other control characters and what is not
// UTF-8 become "?".
//
// ErrReplySyntax, ErrReplyLineEnd and ErrReplyTooLong (a line above 2048
// octets, more than 128 lines, more than 64 KiB) leave the connection out of
// step: close it. io.EOF: there was no reply at all; io.ErrUnexpectedEOF: it
// broke off. Other errors are those of the reader. The buffer of br must hold
// 2048 octets.
func (rr *ReplyReader) Read(br *bufio.Reader) (Reply, error) {
	var r Reply
	var first string // most replies have one line, and then this is all
	var all []string // those with more
	total := 0
	for n := 0; ; n++ {
		line, err := br.ReadSlice('\n')
		total += len(line)
		switch {
		case err == io.EOF && total > 0:
			return Reply{}, io.ErrUnexpectedEOF
		case err == bufio.ErrBufferFull, len(line) > maxReadLine, n >= maxReadLines, total > maxReadReply:
			return Reply{}, ErrReplyTooLong
		case err != nil:
			return Reply{}, err
		case len(line) < 2 || line[len(line)-2] != '\r':
			return Reply{}, ErrReplyLineEnd
		}
		line = line[:len(line)-2]
		code, more, text, ok := rr.parseLine(line)
		if !ok || n > 0 && code != r.Code {
			return Reply{}, ErrReplySyntax
		}
		r.Code = code
		if n == 0 {
			first = text
		} else {
			if n == 1 {
				all = append(make([]string, 0, 16), first)
			}
			all = append(all, text)
		}
		if !more {
			break
		}
	}
	r.Enhanced = enhancedCode(r.Code, first)
	if all == nil {
		r.Text = cutEnhanced(first, r)
		return r, nil
	}
	for i, text := range all {
		all[i] = cutEnhanced(text, r)
	}
	r.Text = strings.Join(all, "\n")
	return r, nil
}

// parseLine splits a line without its CRLF. The text is clean.
func (rr *ReplyReader) parseLine(line []byte) (code int, more bool, text string, ok bool) {
	if len(line) < 3 {
		return 0, false, "", false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, "", false
		}
		code = code*10 + int(c-'0')
	}
	if code < 200 || code > 599 {
		return 0, false, "", false
	}
	if len(line) == 3 {
		return code, false, "", true
	}
	switch line[3] {
	case '-':
		more = true
	case ' ':
	default:
		return 0, false, "", false
	}
	return code, more, rr.cleanText(line[4:]), true
}

// cleanText makes a string of b that may stand in a log.
func (rr *ReplyReader) cleanText(b []byte) string {
	clean := true
	for _, c := range b {
		clean = clean && !isControl(c) && c < utf8.RuneSelf
	}
	if clean {
		return rr.text(b)
	}
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || 0x7f <= r && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, string(b))
}

// enhancedCode returns subject and detail of the enhanced status code that text
// begins with (RFC 3463 §2), or "" if there is none of the class of code.
func enhancedCode(code int, text string) string {
	if code/100 == 3 || len(text) < len("2.0.0") || text[0] != byte('0'+code/100) || text[1] != '.' {
		return ""
	}
	s, _, _ := strings.Cut(text[2:], " ")
	subject, detail, _ := strings.Cut(s, ".")
	if !isNumber(subject) || !isNumber(detail) {
		return ""
	}
	return s
}

// cutEnhanced removes the enhanced status code of r from the front of a line.
func cutEnhanced(text string, r Reply) string {
	if r.Enhanced == "" || enhancedCode(r.Code, text) != r.Enhanced {
		return text
	}
	return strings.TrimPrefix(text[2+len(r.Enhanced):], " ")
}

// isNumber says whether s is one to three digits.
func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 3
}
