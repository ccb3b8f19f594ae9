package amtp

import (
	"net/netip"
	"strings"

	"postern/proxy/smtp"
)

// Verb is a command, as the table of states has it.
type Verb string

// The commands. Credentials is the line behind USER, which has no verb.
const (
	User        Verb = "USER"
	Credentials Verb = "(name password)"
	Rcpt        Verb = "RCPT TO:"
	More        Verb = "MORE TO:"
	Head        Verb = "HEAD"
	Data        Verb = "DATA"
	Rset        Verb = "RSET"
	Noop        Verb = "NOOP"
	Help        Verb = "HELP"
	Quit        Verb = "QUIT"
	Selo        Verb = "SELO"
	Sema        Verb = "SEMA"
	StartTLS    Verb = "STARTTLS"
)

// Announcement is what SELO says: mail for a recipient waits at the server of a domain, under a number.
type Announcement struct {
	Domain    string // of the sender: a name in lower case as A-labels, or an IP address
	Number    string // up to NumberLimit digits
	Recipient smtp.Path
}

// Claim is what SEMA asks for.
type Claim struct {
	Recipient smtp.Path
	Number    string
}

// Command is one command line.
type Command struct {
	Verb       Verb
	Arg        string      // of HELP
	Recipients []smtp.Path // of RCPT TO and MORE TO
	Announced  Announcement
	Claimed    Claim
}

// listLimit bounds the recipients of one command: more do not fit into a line.
const listLimit = 512

// Parse reads a command line, without its CRLF. The error is a *smtp.SyntaxError.
func Parse(line []byte) (c Command, err error) {
	verb, arg, err := smtp.ParseCommand(line)
	if err != nil {
		return Command{}, err
	}
	// "RCPT TO:", as the drafts write it, with the colon behind the verb or not.
	switch verb {
	case "USER", "HEAD", "DATA", "RSET", "NOOP", "QUIT", "STARTTLS":
		c.Verb = Verb(verb)
		if arg != "" && verb != "NOOP" { // RFC 2821 §4.1.1.9 has NOOP take anything
			return Command{Verb: c.Verb}, errArgument
		}
	case "HELP":
		c.Verb, c.Arg = Help, arg
	case "RCPT":
		c.Verb = Rcpt
		c.Recipients, err = parseList(arg)
	case "MORE":
		c.Verb = More
		c.Recipients, err = parseList(arg)
	case "SELO":
		c.Verb = Selo
		c.Announced, err = ParseSelo(arg)
	case "SEMA":
		c.Verb = Sema
		c.Claimed, err = ParseSema(arg)
	default:
		for _, old := range removed {
			if verb == old {
				return Command{}, errRemoved
			}
		}
		return Command{}, errUnknown
	}
	return c, err
}

// removed are commands of SMTP that AMTP has not (-01, 5.2), those that carry mail first.
var removed = []string{"MAIL", "EHLO", "HELO", "TURN", "VRFY", "EXPN", "SEND", "SOML", "SAML", "BDAT", "AUTH", "ETRN"}

// parseList reads what follows RCPT or MORE: TO:, and addresses with commas between them, each in angle brackets or
// not.
func parseList(arg string) (list []smtp.Path, err error) {
	if len(arg) < 2 || !strings.EqualFold(arg[:2], "TO") {
		return nil, errList
	}
	rest, ok := strings.CutPrefix(strings.TrimLeft(arg[2:], " "), ":")
	if !ok {
		return nil, errList
	}
	for more := true; more; {
		var one string
		one, rest, more = cutComma(rest)
		to, err := parseAddress(one)
		if err != nil {
			return nil, err
		}
		if list = append(list, to); len(list) > listLimit {
			return nil, errList
		}
	}
	return list, nil
}

// cutComma parts a list at its first comma outside quotes.
func cutComma(s string) (before, after string, found bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case ',':
			if !quoted {
				return s[:i], s[i+1:], true
			}
		}
	}
	return s, "", false
}

// parseAddress reads one address with a domain, in angle brackets or not.
func parseAddress(s string) (smtp.Path, error) {
	to, params, err := smtp.ParseRcpt("TO:"+strings.Trim(s, " \t"), false)
	if err != nil || len(params) > 0 || to.Domain == "" {
		return smtp.Path{}, errAddress
	}
	return to, nil
}

// ParseSelo reads what follows SELO: the domain, the number and the recipient.
func ParseSelo(arg string) (a Announcement, err error) {
	domain, rest, _ := strings.Cut(arg, " ")
	number, rcpt, ok := strings.Cut(strings.TrimLeft(rest, " "), " ")
	if !ok {
		return a, errSelo
	}
	if a.Domain, ok = parseDomain(domain); !ok || !isNumber(number) {
		return a, errSelo
	}
	a.Number = number
	if a.Recipient, err = parseAddress(rcpt); err != nil {
		return Announcement{}, errSelo
	}
	return a, nil
}

// parseDomain returns a domain, or an address with its brackets taken off, as both are compared.
func parseDomain(s string) (string, bool) {
	if ip, err := netip.ParseAddr(strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "IPv6:")); err == nil {
		return ip.Unmap().WithZone("").String(), true
	}
	d, err := smtp.ASCIIDomain(s)
	return d, err == nil && smtp.IsDomain(d)
}

// ParseSema reads what follows SEMA: the recipient and the number, with a colon between them.
func ParseSema(arg string) (c Claim, err error) {
	colon := strings.LastIndexByte(arg, ':')
	if colon < 0 || !isNumber(arg[colon+1:]) {
		return c, errSema
	}
	if c.Recipient, err = parseAddress(arg[:colon]); err != nil {
		return Claim{}, errSema
	}
	c.Number = arg[colon+1:]
	return c, nil
}

func isNumber(s string) bool {
	return s != "" && len(s) <= NumberLimit && strings.Trim(s, "0123456789") == ""
}

// String is the announcement as SELO has it.
func (a Announcement) String() string {
	return string(Selo) + " " + a.Domain + " " + a.Number + " " + a.Recipient.String()
}

// String is the claim as SEMA has it.
func (c Claim) String() string {
	return string(Sema) + " " + c.Recipient.String() + ":" + c.Number
}

// parseCredentials reads the line behind USER. A password may have blanks in it.
func parseCredentials(line []byte) (name, password string, ok bool) {
	name, password, ok = strings.Cut(string(line), " ")
	return name, password, ok && name != "" && password != ""
}
