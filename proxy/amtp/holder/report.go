package holder

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"postern/proxy/amtp/spool"
	"postern/proxy/smtp"
)

// headLimit bounds how much of a message's header section a report has, in octets.
const headLimit = 32 << 10

// report tells the sender of an entry that it did not arrive, by the smarthost, and then forgets it. A smarthost that
// does not want the report may be set up wrongly: it is tried again, for a long time, before the matter is given up.
func (h *Holder) report(ctx context.Context, e spool.Entry) error {
	head, err := h.o.Spool.Head(e, headLimit)
	if err != nil {
		h.log(e).Error("mail is damaged: its sender is told without its header section", "error", err.Error())
	}
	word, err := h.send(ctx, smtp.Path{}, e.Of().From, bytes.NewReader(h.reportOn(e, head, time.Now())), func() error { return nil })
	log := h.log(e)
	said := word.reply.String()
	if err != nil {
		said = err.Error()
	}
	switch {
	case err == nil && word.taken:
		log.Info("its sender was told", "reply", said)
		return h.o.Spool.Done(e.Number)
	case ctx.Err() != nil:
		return nil
	case time.Since(e.Of().Arrived) > (1+afterwards)*h.o.Lifetime:
		log.Error("its sender could not be told in all that time, and the mail is forgotten", "why", e.Last, "result", said)
		return h.o.Spool.Done(e.Number)
	}
	next, err := h.o.Spool.Update(e.Number, func(e *spool.Entry) {
		e.Attempts++
		e.Next = h.again(e.Attempts, time.Time{})
	})
	if err == nil {
		log.Warn("its sender was not told yet", "attempt", next.Attempts, "next", next.Next.UTC().Format(time.RFC3339), "result", said)
	}
	return err
}

// reportOn renders a delivery status notification (RFC 3464). The header section is what the user has sent.
func (h *Holder) reportOn(e spool.Entry, head []byte, now time.Time) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\r\n", args...) }
	boundary := boundaryNotIn(head)
	of := e.Of()
	line("From: MAILER-DAEMON@%s (Mail Delivery System)", h.o.Hostname)
	line("To: %s", of.From)
	line("Date: %s", now.Format(time.RFC1123Z))
	line("Message-ID: <%s.report.%s@%s>", of.ID, newBoundary(), h.o.Hostname)
	line("Subject: Your mail did not arrive")
	line("Auto-Submitted: auto-replied")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"%s\"", boundary)
	line("")
	line("--%s", boundary)
	line("Content-Type: text/plain; charset=us-ascii")
	line("")
	line("Your mail to %s", e.To)
	line("of %s did not arrive, and will not be tried any more.", of.Arrived.UTC().Format("2006-01-02 15:04 MST"))
	line("")
	for _, l := range wrapped(clean(e.Last)) {
		line("    %s", l)
	}
	if e.Handed > 0 {
		line("")
		line("It was handed over all the same, but the other server did not say what")
		line("became of it: it may have arrived.")
	}
	line("")
	line("--%s", boundary)
	line("Content-Type: message/delivery-status")
	line("")
	line("Reporting-MTA: dns; %s", h.o.Hostname)
	line("X-Postern-Message: %s", of.ID)
	line("Arrival-Date: %s", of.Arrived.Format(time.RFC1123Z))
	line("")
	line("Final-Recipient: rfc822; %s", e.To)
	line("Action: failed")
	line("Status: %s", e.Status)
	line("Diagnostic-Code: X-Postern; %s", strings.Join(wrapped(clean(e.Last)), "\r\n\t"))
	line("")
	line("--%s", boundary)
	line("Content-Type: text/rfc822-headers")
	line("")
	_, _ = b.Write(head)
	line("")
	line("--%s--", boundary)
	return b.Bytes()
}

// clean makes text of somebody else's fit to stand in a message of ours: printable ASCII, and not too much of it.
func clean(s string) string {
	const most = 800
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}

// wrapped parts text into lines of some seventy octets.
func wrapped(s string) (lines []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		for len(word) > 200 {
			lines, word = append(lines, strings.TrimSpace(line+" "+word[:200])), word[200:]
			line = ""
		}
		if line != "" && len(line)+1+len(word) > 70 {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}

// boundaryNotIn returns a boundary that does not stand in the text.
func boundaryNotIn(text []byte) string {
	for {
		if s := newBoundary(); !bytes.Contains(text, []byte(s)) {
			return s
		}
	}
}

func newBoundary() string {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails
	return base32.StdEncoding.EncodeToString(b[:])
}
