package smtp

import "strconv"

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
