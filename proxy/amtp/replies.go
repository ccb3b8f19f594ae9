package amtp

import (
	"strings"

	"postern/proxy/smtp"
)

// The replies of the protocol. Those of -01, 7.1 come first: its own codes, and what the drafts contradict themselves
// in is decided in decisions.go. The others are those of RFC 2821 which it keeps (7.2), in the drafts' words where
// they have any. Enhanced status codes (RFC 3463) are where SMTP has them too, and not in the examples of the drafts.
var (
	replyReady       = smtp.Reply{Code: 250, Text: "Server Ready"}
	replyUnknownUser = smtp.Reply{Code: 401, Text: "User unknown, try again"}
	replyThirdTry    = smtp.Reply{Code: 555, Text: "User unknown, closing connection"}
	replyUserFirst   = smtp.Reply{Code: 503, Text: "Say USER first"}

	// SeloAccepted is the answer to a SELO that was noted, whatever becomes of it.
	SeloAccepted = smtp.Reply{Code: 250, Text: "Selo accepted"}
	// NoSelo is that of a server that takes no mail from others.
	NoSelo = smtp.Reply{Code: 550, Text: "No mail is fetched for that recipient"}
	// SemaAccepted begins a message.
	SemaAccepted = smtp.Reply{Code: 250, Text: "Sema accepted"}
	// NoMail is the answer to a SEMA for what there is not, or is another's, or is too old.
	NoMail         = smtp.Reply{Code: 555, Text: "No such mail"}
	replyDelivered = smtp.Reply{Code: 250, Text: "Mail delivered"}
	replyNoted     = smtp.Reply{Code: 250, Text: "Noted, the mail was not delivered"}
	replyResult    = smtp.Reply{Code: 555, Text: "Result unknown"}

	// NotLocal is the answer to a recipient that a server does not serve (-01, 7.1).
	NotLocal = smtp.Reply{Code: 551, Text: "User not local"}

	replyHead        = smtp.Reply{Code: 354, Text: `Enter the header of the message. End with "." on a line by itself.`}
	replyHeadTaken   = smtp.Reply{Code: 250, Text: "Head Command Accepted"}
	replyHeadASCII   = smtp.Reply{Code: 554, Text: "The header is not fields of ASCII text"}
	replyData        = smtp.Reply{Code: 354, Text: `Enter the data of the message. End with "." on a line by itself.`}
	replyRset        = smtp.Reply{Code: 250, Text: "Reset OK"}
	replyNoop        = smtp.Reply{Code: 250, Text: "Noop OK"}
	replyBye         = smtp.Reply{Code: 221, Text: "Disconnection"}
	replyNeedRcpt    = smtp.Reply{Code: 503, Text: "Need RCPT before DATA"}
	replyNeedRcptTo  = smtp.Reply{Code: 503, Text: "Need RCPT first"}
	replyLoggedIn    = smtp.Reply{Code: 503, Text: "Not in this state: QUIT, and connect again"}
	replyTooLarge    = smtp.Reply{Code: 552, Text: "Message too large"}
	replyHeadLarge   = smtp.Reply{Code: 552, Text: "Header section too large"}
	replyRecipients  = smtp.Reply{Code: 452, Text: "Too many recipients in one message"}
	replyTLSFirst    = smtp.Reply{Code: 530, Text: "Say STARTTLS first"}
	replyNoTLS       = smtp.Reply{Code: 502, Text: "STARTTLS is not offered here"}
	replyTLSOn       = smtp.Reply{Code: 503, Text: "TLS is already on"}
	replyTLS         = smtp.Reply{Code: 220, Text: "Ready to start TLS"}
	replyInjected    = smtp.Reply{Code: 503, Text: "Plaintext behind STARTTLS, closing connection"}
	replyAhead       = smtp.Reply{Code: 503, Text: "You did not wait for the answer to SEMA, closing connection"}
	replyLineTooLong = smtp.Reply{Code: 500, Text: "Line too long"}
	replyBadOctet    = smtp.Reply{Code: 500, Text: "Bare CR or NUL in a command line"}
	replyBareLF      = smtp.Reply{Code: 500, Text: "Bare LF is no line ending, closing connection"}
	replyNoTopic     = smtp.Reply{Code: 504, Text: "There is no help on that topic"}
	replyBusy        = smtp.Reply{Code: 451, Text: "Cannot look the user up now, try again later"}
	replyTrouble     = smtp.Reply{Code: 451, Text: "Local trouble, try again later"}
	replyConnections = smtp.Reply{Code: 421, Text: "Too many connections, try again later"}
	replyErrors      = smtp.Reply{Code: 421, Text: "Too many errors, closing connection"}
	replyCommands    = smtp.Reply{Code: 421, Text: "Too many commands without mail, closing connection"}
	replyTimeout     = smtp.Reply{Code: 421, Text: "Timeout, closing connection"}
	replyShutdown    = smtp.Reply{Code: 421, Text: "Service shutting down, closing connection"}
	replyPanic       = smtp.Reply{Code: 421, Text: "Internal error, closing connection"}
)

// What is wrong with a command line.
var (
	errUnknown  = &smtp.SyntaxError{Reply: smtp.Reply{Code: 500, Text: "Command not recognized"}}
	errRemoved  = &smtp.SyntaxError{Reply: smtp.Reply{Code: 502, Text: "AMTP has no such command"}}
	errArgument = &smtp.SyntaxError{Reply: smtp.Reply{Code: 501, Text: "The command takes no argument"}}
	errList     = &smtp.SyntaxError{Reply: smtp.Reply{Code: 501, Text: "Syntax: RCPT TO:address,address (or MORE TO:)"}}
	errAddress  = &smtp.SyntaxError{Reply: smtp.Reply{Code: 501, Text: "Bad recipient address"}}
	errSelo     = &smtp.SyntaxError{Reply: smtp.Reply{Code: 555, Text: "Syntax: SELO domain number recipient"}}
	errSema     = &smtp.SyntaxError{Reply: smtp.Reply{Code: 555, Text: "Syntax: SEMA recipient:number"}}
)

// topics is what HELP tells (-01, 5.4.2).
var topics = map[Verb]string{
	User:     "USER\nThen, on a line of its own: name, a blank, password.",
	Rcpt:     "RCPT TO:address[,address]\nBegins a message.",
	More:     "MORE TO:address[,address]\nMore recipients, or corrected ones.",
	Head:     "HEAD\nThe header fields, ended by a lone dot. From is written by the server, and so are Date, Message-ID and To where you give none.",
	Data:     "DATA\nThe text, ended by a lone dot. Without HEAD, a first line \"Subject: ...\" becomes the subject.",
	Rset:     "RSET\nForgets the message, not the login.",
	Noop:     "NOOP",
	Help:     "HELP [topic]",
	Quit:     "QUIT",
	Selo:     "SELO domain number recipient\nFor servers: mail waits.",
	Sema:     "SEMA recipient:number\nFor servers: hand the mail over.",
	StartTLS: "STARTTLS\nBefore USER, SELO and SEMA.",
}

// help answers HELP: 211 with what there is, or 214 with one topic.
func help(topic string) smtp.Reply {
	if topic == "" {
		return smtp.Reply{Code: 211, Text: "This is an AMTP server.\nTopics:\nUSER RCPT MORE HEAD DATA RSET NOOP HELP QUIT SELO SEMA STARTTLS"}
	}
	topic, _, _ = strings.Cut(strings.ToUpper(topic), " ")
	for verb, text := range topics {
		if word, _, _ := strings.Cut(string(verb), " "); word == topic {
			return smtp.Reply{Code: 214, Text: text}
		}
	}
	return replyNoTopic
}

// accepted is the answer to recipients that were taken, with the code of the last.
func accepted(code int, list []string) smtp.Reply {
	return smtp.Reply{Code: code, Text: `Recipient accepted for "` + strings.Join(list, `", "`) + `"` + "\nTo add or correct a recipient address, please use the command MORE TO"}
}
