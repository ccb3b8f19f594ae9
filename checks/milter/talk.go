package milter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// The stages of macros (SMFIM_*).
const (
	macrosConnect uint32 = iota
	macrosHelo
	macrosMail
	macrosRcpt
	macrosData
	macrosEnd
	macrosEndHeader
)

// usual are the macros that a filter gets which asks for none: those that Postfix sends, as far
// as they can be known before the MTA has the message, and what is known of the client.
var usual = map[uint32][]string{
	macrosConnect: {"j", "{daemon_name}", "{daemon_addr}", "v", "_", "{client_addr}", "{client_name}", "{client_port}", "{client_ptr}"},
	macrosHelo:    {"{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}"},
	macrosMail:    {"i", "{mail_addr}"},
	macrosRcpt:    {"i", "{rcpt_addr}"},
	macrosData:    {"i"},
	macrosEnd:     {"i"},
}

// define sends the macros of a stage, before the command that they belong to. What there is
// nothing to say of is not sent.
func (t *talk) define(code byte, stage, leftOut uint32, rcpt string) {
	if t.steps&leftOut != 0 {
		return
	}
	names := usual[stage]
	if t.macros != nil {
		names = t.macros[stage]
	}
	var pairs []string
	for _, name := range names {
		if value := t.macro(name, rcpt); value != "" {
			pairs = append(pairs, name, value)
		}
	}
	if pairs != nil {
		t.out = appendPacket(t.out, cmdMacros, []byte{code}, texts(pairs...))
	}
}

// macro is the value of a macro, empty where there is nothing to say. What belongs to a login
// is never there.
func (t *talk) macro(name, rcpt string) string {
	m := t.message
	switch strings.Trim(name, "{}") {
	case "j":
		return m.Hostname
	case "daemon_name":
		return m.Daemon
	case "daemon_addr":
		return m.Server
	case "i":
		return m.ID
	case "v":
		return "Postern"
	case "_":
		return m.origin()
	case "client_addr":
		if m.Client != nil && m.Client.To4() == nil {
			return "IPv6:" + m.address()
		}
		return m.address()
	case "client_name":
		return m.clientName()
	case "client_port":
		return strconv.Itoa(int(m.Port))
	case "client_ptr":
		if m.Reverse == "" {
			return "unknown"
		}
		return m.Reverse
	case "tls_version":
		return m.TLSVersion
	case "cipher":
		return m.Cipher
	case "cipher_bits":
		return m.cipherBits()
	case "cert_subject":
		return m.CertSubject
	case "mail_addr":
		return m.From
	case "rcpt_addr":
		return rcpt
	}
	return ""
}

// origin is the client in the words of Sendmail: its published name, its address, and whether
// the name does not lead back to it.
func (m *Message) origin() string {
	switch {
	case m.Reverse == "":
		return m.clientName() + " [" + m.address() + "]"
	case !strings.EqualFold(m.Name, m.Reverse):
		return m.Reverse + " [" + m.address() + "] (may be forged)"
	}
	return m.Reverse + " [" + m.address() + "]"
}

func (m *Message) address() string {
	if m.Client == nil {
		return "unknown"
	}
	return m.Client.String()
}

// cipherBits is the length of the key of the cipher that its name tells.
func (m *Message) cipherBits() string {
	switch {
	case strings.Contains(m.Cipher, "_AES_128_"):
		return "128"
	case strings.Contains(m.Cipher, "_AES_256_"), strings.Contains(m.Cipher, "_CHACHA20_"):
		return "256"
	}
	return ""
}

// clientName is the client's confirmed name, or unknown.
func (m *Message) clientName() string {
	if m.Name == "" {
		return "unknown"
	}
	return m.Name
}

// judge has the message judged.
func (t *talk) judge() (v Verdict, err error) {
	early, err := t.before()
	switch {
	case err != nil:
		return v, err
	case early != nil:
		return *early, nil // what comes later would change nothing
	}
	return t.finish()
}

// before says all but the end; a verdict that is not nil came before it.
func (t *talk) before() (*Verdict, error) {
	m := t.message
	t.define(cmdConnect, macrosConnect, noConnect, "")
	if v, err := t.step(cmdConnect, noConnect, silentConnect, false, m.connect()); v != nil || err != nil {
		return v, err
	}
	t.define(cmdHelo, macrosHelo, noHelo, "")
	if v, err := t.step(cmdHelo, noHelo, silentHelo, false, texts(m.Helo)); v != nil || err != nil {
		return v, err
	}
	t.define(cmdMail, macrosMail, noMail, "")
	if v, err := t.step(cmdMail, noMail, silentMail, false, texts(append([]string{"<" + m.From + ">"}, m.FromArgs...)...)); v != nil || err != nil {
		return v, err
	}
	for _, r := range m.Recipients {
		t.define(cmdRcpt, macrosRcpt, noRcpt, r.Address)
		if v, err := t.step(cmdRcpt, noRcpt, silentRcpt, false, texts(append([]string{"<" + r.Address + ">"}, r.Args...)...)); v != nil || err != nil {
			if v != nil {
				v.Reason = printable("said of the recipient "+r.Address, maxReason)
			}
			return v, err
		}
	}
	t.define(cmdData, macrosData, noData, "")
	if v, err := t.step(cmdData, noData, silentData, false); v != nil || err != nil {
		return v, err
	}
	for _, f := range m.Header {
		value := f.Value
		if t.steps&leadingSpace == 0 {
			value = strings.TrimPrefix(value, " ")
		}
		if v, err := t.step(cmdHeader, noHeader, silentHeader, true, texts(f.Name, value)); v != nil || err != nil {
			return v, err
		}
	}
	t.skipped = false
	t.define(cmdEndHeader, macrosEndHeader, noEndHeader, "")
	if v, err := t.step(cmdEndHeader, noEndHeader, silentEndHead, false); v != nil || err != nil {
		return v, err
	}
	return t.body()
}

// connect is what CONNECT says. A client without a name has its address in place of it, as
// Sendmail and Postfix have it.
func (m *Message) connect() []byte {
	name := m.Name
	if name == "" {
		name = "[" + m.address() + "]"
	}
	b := texts(name)
	family := byte('4')
	switch {
	case m.Client == nil:
		return append(b, 'U')
	case m.Client.To4() == nil:
		family = '6'
	}
	b = binary.BigEndian.AppendUint16(append(b, family), m.Port)
	return append(b, texts(m.Client.String())...)
}

// body sends the body, a piece at a time.
func (t *talk) body() (*Verdict, error) {
	if t.steps&noBody != 0 {
		return nil, nil
	}
	piece := make([]byte, chunk)
	for {
		n, err := io.ReadFull(t.message.Body, piece)
		if n > 0 {
			if v, err := t.step(cmdBody, noBody, silentBody, true, piece[:n]); v != nil || err != nil {
				return v, err
			}
			if t.skipped {
				return nil, nil
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, nil
		case err != nil:
			t.turn.Excuse()
			return nil, fmt.Errorf("the message cannot be read: %w", err)
		}
	}
}

// finish says that this was all, and takes what the filter wants done.
func (t *talk) finish() (v Verdict, err error) {
	t.define(cmdEnd, macrosEnd, 0, "")
	t.out = appendPacket(t.out, cmdEnd)
	t.note(cmdEnd, 0)
	if err := t.send(); err != nil {
		return v, err
	}
	quarantine := false
	var why string
	var bad error // a field that cannot be added
	for {
		p, err := t.answer()
		if err != nil {
			return v, err
		}
		switch p.code {
		case modAdd, modInsert:
			// What is wrong with a field does not undo a reject: a field may repeat what the
			// sender wrote.
			if err := t.add(p); bad == nil {
				bad = err
			}
		case modQuarantine:
			quarantine = true
			why, _, _ = cutText(p.data)
		case modChange, modBody, modFrom, modAddRcpt, modAddRcptPar, modDelRcpt:
			t.ignore(map[byte]string{
				modChange: "change a field", modBody: "replace the body", modFrom: "change the sender", modAddRcpt: "add a recipient",
				modAddRcptPar: "add a recipient", modDelRcpt: "remove a recipient",
			}[p.code])
		default:
			t.turn.Answered()
			end, err := t.verdict(p)
			if err != nil {
				return v, err
			}
			if end == nil {
				end = &Verdict{Action: ActionNone}
			}
			v = *end
			if bad != nil {
				if v.Action == ActionNone || v.Action == ActionAccept {
					return Verdict{}, bad
				}
				t.added = nil
			}
			if quarantine && (v.Action == ActionNone || v.Action == ActionAccept) {
				v.Action, v.Reason = ActionQuarantine, printable(why, maxReason)
			}
			if t.ignored != nil {
				v.Reason = printable(strings.TrimPrefix(v.Reason+"; not done, since it was not offered: "+strings.Join(t.ignored, ", "), "; "), maxReason)
			}
			v.Fields = t.fields()
			return v, nil
		}
		if err != nil {
			return v, err
		}
	}
}

// ignore notes what a filter wants done and was not offered.
func (t *talk) ignore(what string) {
	if !slices.Contains(t.ignored, what) {
		t.ignored = append(t.ignored, what)
	}
}

// add takes a field that is to be put on top.
func (t *talk) add(p packet) error {
	data, at := p.data, -1
	if p.code == modInsert {
		if len(data) < 4 {
			return errors.New("a field that it adds is broken off")
		}
		at, data = int(min(binary.BigEndian.Uint32(data), 1<<16)), data[4:]
	}
	name, rest, ok := cutText(data)
	value, _, ok2 := cutText(rest)
	if !ok || !ok2 {
		return errors.New("a field that it adds is broken off")
	}
	if !t.filter.AddFields {
		t.ignore("add fields")
		return nil
	}
	t.size += len(name) + len(value) + len(": \r\n")
	if len(t.added) == MaxFields || t.size > MaxFieldsSize {
		return fmt.Errorf("it adds more than %d fields, or than %d octets of them", MaxFields, MaxFieldsSize)
	}
	field, err := checkField(name, value)
	if err != nil {
		return err
	}
	t.added = append(t.added, added{field, at})
	return nil
}

// checkField makes a field of what a filter wants added: of lines that are folded, and printable
// in its name.
func checkField(name, value string) (f Field, err error) {
	if name == "" || len(name) > 76 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
		return f, fmt.Errorf("%q, which it adds, is no name of a field", printable(name, 80))
	}
	value = strings.ReplaceAll(value, "\r\n", "\n")
	lines := strings.Split(strings.TrimRight(value, "\n"), "\n")
	for i, line := range lines {
		switch {
		case strings.ContainsAny(line, "\r\x00"), len(line) > 900:
			return f, fmt.Errorf("the field %s, which it adds, has a line that is none", name)
		case i > 0 && (line == "" || line[0] != ' ' && line[0] != '\t' || strings.TrimSpace(line) == ""):
			return f, fmt.Errorf("the field %s, which it adds, has a line that is not folded", name)
		}
	}
	// Not every MTA takes 8-bit octets in a header, and what it would refuse is not the client's.
	value = strings.Map(func(r rune) rune {
		if r > '~' || r < ' ' && r != '\t' && r != '\n' {
			return '?'
		}
		return r
	}, strings.Join(lines, "\n"))
	return Field{Name: name, Value: strings.TrimLeft(value, " \t")}, nil
}

// fields are those added, in the order in which they stand on top: each insertion at its place
// among those before it, as an MTA does it, the others at the end.
func (t *talk) fields() []Field {
	var all []Field
	for _, a := range t.added {
		if a.at < 0 || a.at > len(all) {
			all = append(all, a.Field)
		} else {
			all = slices.Insert(all, a.at, a.Field)
		}
	}
	return all
}
