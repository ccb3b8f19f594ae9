package amtp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"net/netip"
	"strings"
	"time"

	"postern/proxy/smtp"
)

// The form in which messages travel between servers (-01, 4): three pseudo-tags, each on a line of its own, around the
// sections. They are no XML: nothing is escaped. A line that looks like one of them is one only where the form has it:
// the header section ends at the first line </HEAD>, which no field can be, and the body at the last line of all.
const (
	tagRelay    = "<RELAY>"
	tagRelayEnd = "</RELAY>"
	tagHead     = "<HEAD>"
	tagHeadEnd  = "</HEAD>"
	tagBody     = "<BODY>"
	tagBodyEnd  = "</BODY>"
	crlf        = "\r\n"
)

// sectionLimit and fieldsLimit bound a header section, in octets and in fields, where nobody says less.
const (
	sectionLimit = 1 << 20
	fieldsLimit  = 1000
)

// What may be wrong with a message that was fetched.
var (
	ErrForm    = errors.New("amtp: the message has not the form of the drafts, section 4")
	ErrRelayed = errors.New("amtp: the message came over a relay, whose address proves nothing about its author")
	ErrFrom    = errors.New("amtp: From is not one plain address")
)

// order is that of the fields in HEAD (-01, 4.2): those not named here come before MIME's, which are last.
var order = []string{"From", sendFrom, "Date", "Message-ID", "To", "Subject"}

// Encode writes a message of RFC 5322 in the form of the drafts. It says in Send From which server, at which
// address, hands it over.
func Encode(w io.Writer, message io.Reader, server string, at netip.Addr, now time.Time) error {
	br := bufio.NewReaderSize(message, 32<<10)
	section, err := readSection(br)
	if err != nil {
		return err
	}
	h, bad := smtp.ParseHeader(section)
	if bad > 0 {
		return ErrForm
	}
	b := []byte(tagHead + crlf)
	for i, name := range order {
		if name == sendFrom {
			b = fmt.Appendf(b, "%s: %s (%s); %s; Version: 2.0\r\n", name, server, at, now.Format(time.RFC1123Z))
			continue
		}
		for _, f := range h {
			if strings.EqualFold(f.Name, name) {
				f.Name = order[i]
				if name == "Message-ID" {
					f.Name = messageID
				}
				b = appendField(b, f)
			}
		}
	}
	for _, mime := range []bool{false, true} {
		for _, f := range h {
			if isMIME(f.Name) == mime && !ordered(f.Name) {
				b = appendField(b, f)
			}
		}
	}
	b = append(b, tagHeadEnd+crlf+tagBody+crlf...)
	if _, err := w.Write(b); err != nil {
		return err
	}
	last := &lastOctet{}
	if _, err := io.Copy(io.MultiWriter(w, last), br); err != nil {
		return err
	}
	end := tagBodyEnd + crlf
	if last.any && last.octet != '\n' {
		end = crlf + end // the form is made of lines
	}
	_, err = io.WriteString(w, end)
	return err
}

// lastOctet remembers the last octet written.
type lastOctet struct {
	any   bool
	octet byte
}

func (l *lastOctet) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.any, l.octet = true, p[len(p)-1]
	}
	return len(p), nil
}

func isMIME(name string) bool {
	return strings.EqualFold(name, "MIME-Version") || len(name) > 8 && strings.EqualFold(name[:8], "Content-")
}

func ordered(name string) bool {
	for _, o := range order {
		if strings.EqualFold(o, name) {
			return true
		}
	}
	return false
}

// readSection reads a header section and the empty line behind it, which is left out. A message may be all header.
func readSection(br *bufio.Reader) (section []byte, err error) {
	for {
		line, err := br.ReadSlice('\n')
		if string(line) == crlf || string(line) == "\n" {
			return section, nil
		}
		if section = append(section, line...); len(section) > sectionLimit {
			return nil, ErrForm
		}
		switch {
		case errors.Is(err, io.EOF):
			return section, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// Message is a message that was fetched, as it is in RFC 5322.
type Message struct {
	From smtp.Path
	// Head is its header section, with the empty line at its end. What Send From says is a Received field in it.
	Head []byte
	// Lasting is Head without what is different each time that the message is fetched.
	Lasting []byte
	// Body is what comes behind it. It ends with io.EOF where the whole was there; else with another error, ErrForm where
	// the form was broken, and then there is no message.
	Body io.Reader
}

// Decode reads a message in the form of the drafts. No pseudo-tag is in what it returns, unless it was text.
func Decode(r io.Reader, domain string) (*Message, error) { return decode(r, domain, 0, 0) }

func decode(r io.Reader, domain string, size, fields int) (*Message, error) {
	if size <= 0 || size > sectionLimit {
		size = sectionLimit
	}
	if fields <= 0 {
		fields = fieldsLimit
	}
	br := bufio.NewReaderSize(r, 32<<10)
	line, err := formLine(br)
	if err == nil && line == tagRelay {
		if line, err = formLine(br); err == nil && line != tagRelayEnd {
			return nil, ErrRelayed
		}
		line, err = formLine(br)
	}
	if err == nil && line != tagHead {
		err = ErrForm
	}
	if err != nil {
		return nil, err
	}
	var section []byte
	for {
		if line, err = formLine(br); err != nil {
			return nil, err
		}
		if line == tagHeadEnd {
			break
		}
		section = append(append(section, line...), crlf...)
		if len(section) > size {
			return nil, ErrForm
		}
	}
	if smtp.CountFields(section) > fields {
		return nil, ErrForm
	}
	if line, err = formLine(br); err != nil || line != tagBody {
		return nil, errors.Join(ErrForm, err)
	}
	m := &Message{Body: &bodyReader{br: br}}
	return m, m.readHead(section, domain)
}

// formLine reads a line without its CRLF.
func formLine(br *bufio.Reader) (string, error) {
	line, err := smtp.ReadLine(br, lineLimit)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrForm
	}
	return string(line), err
}

// readHead turns the fields of HEAD into those of RFC 5322.
func (m *Message) readHead(section []byte, domain string) error {
	if i, _ := smtp.HeaderEnd(section); i >= 0 {
		return ErrForm // an empty line: what is below it would be text to everybody else
	}
	named := nameFields(section)
	h, at, bad := smtp.ParseHeaderExtents(section)
	if bad > 0 {
		return ErrForm
	}
	var trace []byte // stands on top (RFC 5321 §4.4)
	froms, sends := 0, 0
	for i, f := range h {
		value := strings.TrimSpace(f.Value)
		switch name := named[at[i].Start]; {
		case name == sendFrom:
			received, ok := receivedOf(value)
			if sends++; !ok || sends > 1 {
				return ErrForm
			}
			trace = appendField(trace, smtp.Field{Name: "Received", Value: received})
			continue
		case name == messageID:
			if f.Name = "Message-ID"; !strings.HasPrefix(value, "<") {
				f.Value = " <" + value + "@" + domain + ">"
			}
		case strings.EqualFold(f.Name, "From"):
			froms++
			from, err := smtp.ParseMailbox(value, false)
			if err != nil {
				return ErrFrom
			}
			m.From = from
		case strings.EqualFold(f.Name, "Date"):
			if t, ok := draftDate(value); ok {
				f.Value = " " + t.Format(time.RFC1123Z)
			}
		}
		m.Lasting = appendField(m.Lasting, f)
	}
	if froms != 1 {
		return ErrFrom
	}
	m.Head = append(append(trace, m.Lasting...), crlf...)
	return nil
}

// The names of fields that the drafts write with a blank.
const (
	sendFrom  = "Send From"
	messageID = "Message id"
)

// nameFields makes names of those two, by a hyphen in place of the blank, and says where they begin. A field that bears
// the hyphen itself is another one.
func nameFields(section []byte) map[int]string {
	at := map[int]string{}
	for pos := 0; pos < len(section); {
		line := section[pos:]
		for _, name := range []string{sendFrom, messageID} {
			if n := len(name); len(line) > n && line[n] == ':' && strings.EqualFold(string(line[:n]), name) {
				line[strings.IndexByte(name, ' ')] = '-'
				at[pos] = name
			}
		}
		i := bytes.IndexByte(line, '\n')
		if i < 0 {
			break
		}
		pos += i + 1
	}
	return at
}

// receivedOf makes of what Send From says, "server (address); date; Version: 2.0", what a Received field says (RFC
// 5321 §4.4).
func receivedOf(value string) (string, bool) {
	value = strings.ReplaceAll(value, crlf, "")
	parts := strings.Split(value, ";")
	if len(parts) < 2 {
		return "", false
	}
	server, address, ok := strings.Cut(strings.TrimSpace(parts[0]), " ")
	at, err := netip.ParseAddr(strings.Trim(address, " ()"))
	name, err2 := smtp.ASCIIDomain(server)
	date, good := anyDate(strings.TrimSpace(parts[1]))
	if !ok || err != nil || err2 != nil || !good {
		return "", false
	}
	literal := at.Unmap().WithZone("").String()
	if strings.Contains(literal, ":") {
		literal = "IPv6:" + literal
	}
	return fmt.Sprintf(" by %s ([%s]) with AMTP;\r\n\t%s", name, literal, date.Format(time.RFC1123Z)), true
}

// anyDate reads a date of RFC 5322, or one as the drafts write it.
func anyDate(s string) (time.Time, bool) {
	if t, err := mail.ParseDate(s); err == nil {
		return t, true
	}
	return draftDate(s)
}

// draftDate reads a date as the drafts write it: "06 June 2003 15:55:12 o'clock IST".
func draftDate(s string) (time.Time, bool) {
	t, err := time.Parse("02 January 2006 15:04:05 o'clock MST", s)
	return t, err == nil
}

// bodyReader is a body up to its closing tag, which is the last line.
type bodyReader struct {
	br    *bufio.Reader
	held  []byte // the line that may be the last: it is not read before another one has come
	whole bool   // held begins where a line does
	open  bool   // held does not end a line
	ready []byte
	spare []byte // the buffer that ready is not in
	err   error
}

// Read returns the next octets of the body.
func (b *bodyReader) Read(p []byte) (int, error) {
	for len(b.ready) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.next()
	}
	n := copy(p, b.ready)
	b.ready = b.ready[n:]
	return n, nil
}

// next moves on by a line, or by what of a long one is there: the last line is a short one.
func (b *bodyReader) next() {
	part, err := b.br.ReadSlice('\n')
	switch {
	case err == nil, errors.Is(err, bufio.ErrBufferFull):
		b.ready, b.held, b.spare = b.held, append(b.spare[:0], part...), b.held
		b.whole, b.open = !b.open, err != nil
	case errors.Is(err, io.EOF) && len(part) == 0 && b.whole && string(b.held) == tagBodyEnd+crlf:
		b.err = io.EOF
	case errors.Is(err, io.EOF):
		b.err = ErrForm
	default:
		b.err = err
	}
}
