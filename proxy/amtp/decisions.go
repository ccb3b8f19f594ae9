// Package amtp is the Authenticated Mail Transfer Protocol (draft-crouzet-amtp-00 and -01, 2003): its grammar, its
// five states, its replies, the form of its messages, a server's half of a conversation and a client's. Whom a
// name belongs to, which recipients there are and what becomes of a message is for those who use it, the proxy and
// `postern amtp hold`.
//
// The drafts never became a standard and leave much open. What is decided here in their place stands below, each
// with its reason, and in configs/README.md for who runs it.
package amtp

import (
	"crypto/rand"
	"math/big"
	"strings"
	"time"
)

// What the drafts leave open:
//
//   - One reply to a command. The drafts' examples have a line "250 AMTP >>" behind each reply, and texts without a
//     code. A program cannot tell how many of them come, and they cost a round trip each. The words are theirs.
//   - TLS. The drafts have none, and passwords in the clear. Here STARTTLS stands beside the other commands, with the
//     rules of RFC 3207 §4, before USER, SELO and SEMA. A server that has no certificate says 502. A server that calls another
//     goes on in the clear then: what it relies on is the address. USER hears 530 in the clear, but on loopback.
//   - The third failure. The table has 505, the text 555. It is 555, the code of every other refusal that is the
//     protocol's own; 505 is known to nobody.
//   - SELO for a domain that is not served. The text has 550, the table 555. It is 550, as in SMTP, and 555 is left for
//     what is wrong with the command.
//   - SELO is answered before the message is fetched, and the connection in which it was said is not used for it: the
//     answer cannot tell anything about the recipient, and nobody waits.
//   - One recipient for each SELO: each has a number of its own, and a last word of its own.
//   - DOMAIN is a domain. The drafts allow an address as well, which proves no domain. It is that of the sender, and its
//     A or AAAA records hold the address of the server that keeps the mail. NOT: its MX, which says where mail goes to.
//   - The number has 128 random bits, in decimal as in the drafts' examples (theirs is the time of day, which can be
//     guessed). Of others, up to NumberLimit digits are taken.
//   - Behind "250 Sema accepted" the message comes as it does behind DATA: with dots stuffed, ended by a lone dot. It
//     is the framing that the rest of the protocol has, finds the end where a connection breaks off, and needs no size in advance.
//   - Who asked with SEMA says then what became of the message, as a reply of SMTP: 2yz it was delivered, 4yz it may be
//     asked for again, 5yz never. Nobody else knows. The server says "250 Mail delivered" when it has noted that. The
//     drafts have the server say 250 before it can know.
//   - 8-bit text is taken in DATA and in messages, none in commands, addresses and HEAD (the drafts: ASCII). There is no
//     pipelining that has to be announced: who sends ahead is read in order, but for STARTTLS and SEMA.
//   - A relay is not a sender: mail whose RELAY section says that it went over another server is refused with 555, since
//     the address of that server proves nothing about the author.
//   - Lifetimes and limits are those of the configuration; the drafts say "can be set".

const (
	// Port is where AMTP is spoken (-01, 2.2).
	Port = 26
	// Tries is how often a user may be unknown in one connection (-01, 7.1).
	Tries = 3
	// NumberLimit bounds the number of a message, in digits.
	NumberLimit = 64
	// numberDigits is how many digits 128 bits need.
	numberDigits = 39
	// lineLimit bounds a line of the form in which messages travel, in octets; of a body's lines it is no bound.
	lineLimit = 64 << 10
	// idleCommands ends a connection that says so much without bringing, announcing or taking mail.
	idleCommands = 1000
	// handOverBlocks bounds the handing over of a message, as a multiple of timeouts.data_block: an hour where that is
	// three minutes, as long as the proxy gives a client for its own.
	handOverBlocks = 20
	// answerMargin is how much longer than its own limit for a message a server waits for the last word on one that it
	// has given away: the other side waits for its mail server, and that may have the same limit.
	answerMargin = 2 * time.Minute
)

// NewNumber returns a number for a message: 128 random bits, in 39 decimal digits.
func NewNumber() string {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128)) // never fails
	text := n.String()
	return strings.Repeat("0", numberDigits-len(text)) + text
}
