// Package view is everything that is shown of records: text, CSV, HTML and JSON.
package view

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/jsonline"
)

// Counted is a number of things.
func Counted[N int | int64 | uint64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// JSON prints one value for programs.
func JSON(w io.Writer, v any) error {
	return jsonline.NewEncoder(w, "  ").Encode(v)
}

// Transaction is a transaction with all that can be said of its verdict.
type Transaction struct {
	Record      *journal.Record    `json:"record"`
	Identities  []Identity         `json:"identities"`
	Policy      viewPolicy         `json:"policy"`
	Recipient   string             `json:"recipient,omitempty"` // the one that the explanation is about
	Explanation policy.Explanation `json:"explanation"`         // by the rules in force now
	Test        bool               `json:"-"`                   // it was a test: nothing was delivered
}

// viewPolicy says whether the rules that explain are those that judged.
type viewPolicy struct {
	Then string `json:"then"` // their fingerprints
	Now  string `json:"now"`
	Same bool   `json:"same"`
	From string `json:"from"` // where the rules of now come from
}

// Identity is somebody whom the transaction names, and how that is known.
type Identity struct {
	What  string `json:"what"`
	Value string `json:"value"`
	How   string `json:"how"`
}

// NewTransaction explains a record by a policy. recipient is the one in question; empty:
// the one that the record's verdict is about.
func NewTransaction(r *journal.Record, chain *policy.Chain, from, recipient string) Transaction {
	v := Transaction{
		Record: r, Identities: identities(r),
		Policy: viewPolicy{Then: r.Policy, Now: chain.Fingerprint(), Same: r.Policy == chain.Fingerprint(), From: from},
	}
	if recipient != "" {
		r = r.For(recipient)
	}
	v.Recipient = r.Facts.Rcpt.Address
	v.Explanation = chain.ExplainMeasured(&r.Facts, r.Measured())
	return v
}

// identities lists who is named, and what stands for it.
func identities(r *journal.Record) []Identity {
	var all []Identity
	add := func(what, value, how string) {
		if value != "" {
			all = append(all, Identity{what, value, how})
		}
	}
	f := &r.Facts
	reached, _ := policy.ParseStage(r.Reached)
	how := "the other end of the connection"
	if f.Client.Fetched != "" {
		how = "the server that the mail was fetched from (AMTP)"
	}
	if f.Client.Proxy != "" {
		how = "as the load balancer " + f.Client.Proxy + " told us (PROXY)"
	}
	add("client", f.Client.IP+" port "+strconv.Itoa(f.Client.Port), how)
	if network := networkOf(&f.Client); network != "" {
		add("its network", strings.TrimSpace(network+" "+f.Client.ASName), "by the files of checks.geo")
	} else if f.Network.Result == policy.TempError {
		add("its network", "unknown", "the files of checks.geo could not be read")
	}
	if f.Client.Name != "" {
		add("its name", f.Client.Name, "the reverse name, which leads back to the address")
	} else if reached >= policy.Mail && f.Iprev.Result != policy.Skipped {
		add("its name", "none", "iprev is "+string(f.Iprev.Result)+named(f.Iprev.Reverse, ", its reverse name would be "))
	}
	add("user", f.Client.User, "who has logged in with a password (AMTP)")
	add("fetched for", f.Client.Fetched, "the domain that has that address, and whose server had the mail (AMTP)")
	add("HELO", f.Helo.Name, "the client's word"+resulted(", SPF for it", f.SPFHelo.Result))
	if len(f.TLS.Peer.Names) > 0 || f.TLS.Peer.Fingerprint != "" {
		how := "in a certificate that nobody vouches for"
		if f.TLS.Peer.Verified {
			how = "in a certificate of a root that we trust"
		}
		add("certificate", strings.Join(append(f.TLS.Peer.Names, "sha256:"+f.TLS.Peer.Fingerprint), " "), how)
	}
	if reached < policy.Mail {
		if r.Undecided { // a limit refused MAIL itself: nobody looked any further
			add("MAIL FROM", f.Mail.From, "the client's word")
		}
		return all
	}
	from := f.Mail.From
	if from == "" {
		from = "<>"
	}
	add("MAIL FROM", from, "the client's word"+resulted(", SPF", f.SPF.Result))
	add("proven", f.Identity.Domain, "by "+proofs[f.Identity.Level])
	add("remembered", remembered(f), "")
	add("SUBMITTER", f.Submitter.Address, "the client's word"+resulted(", checked", f.Submitter.Result))
	for i := range r.Recipients {
		add("RCPT TO", r.Recipients[i].Address, "the client's word")
	}
	if len(r.Recipients) == 0 {
		add("RCPT TO", f.Rcpt.Address, "the client's word")
	}
	if reached < policy.Header {
		return all
	}
	add("From", author(&f.Header), "the header's word"+resulted(", DMARC", f.DMARC.Result))
	add("responsible", f.PRA.Address, "the header's word (RFC 4407)"+resulted(", checked", f.PRA.Result))
	add("signers", strings.Join(f.DKIM.Domains, " "), "DKIM signatures that hold")
	return all
}

// author tells who wrote the message, as far as the header names one.
func author(h *policy.HeaderSum) string {
	fields := ""
	if h.FromCount > 1 {
		fields = ", in " + Counted(h.FromCount, "From field")
	}
	switch h.Author {
	case policy.AuthorSeveral:
		return "several authors" + fields
	case policy.AuthorAmbiguous:
		return "can be read in two ways" + fields
	case policy.AuthorNone:
		return "names nobody" + fields
	}
	return h.FromDomain + fields
}

func named(name, before string) string {
	if name == "" {
		return ""
	}
	return before + name
}

func resulted(what string, r policy.Result) string {
	if r == "" || r == policy.Skipped {
		return ""
	}
	return what + " is " + string(r)
}

// WriteText prints the view for people.
func (v Transaction) WriteText(w io.Writer) error {
	var b strings.Builder
	r := v.Record
	v.first(&b)
	b.WriteString("\nChecks\n")
	WriteChecks(&b, r)
	WriteFilters(&b, r.For(v.Recipient))
	b.WriteString("\nDNS\n")
	WriteDNS(&b, r.DNS)
	if r.Truncated {
		b.WriteString("  (the record was too long: its DNS answers, or recipients behind the hundredth, are lost)\n")
	}
	b.WriteString("\nRules" + named(v.Recipient, " for ") + ", first match decides")
	if !v.Policy.Same {
		b.WriteString("; these are the rules of now, not those that judged")
	}
	b.WriteString("\n")
	WriteRules(&b, v.Explanation)
	WriteChanges(&b, v.Explanation)
	_, err := io.WriteString(w, Looked(w).explanation(configs.Printable(b.String()), r))
	return err
}

// WriteShort prints how it ended, the verdict, who was named, and the replies.
func (v Transaction) WriteShort(w io.Writer) error {
	var b strings.Builder
	r := v.Record
	v.first(&b)
	_, err := io.WriteString(w, Looked(w).explanation(configs.Printable(b.String()), r))
	return err
}

// explanation paints what an explanation prints, where somebody looks: its headings, how the
// transaction ended, the verdict, and the rule that decided.
func (t Terminal) explanation(text string, r *journal.Record) string {
	if !t.Colour {
		return text
	}
	var b strings.Builder
	verdict := false
	for line := range strings.Lines(text) {
		line, end, _ := strings.Cut(line, "\n")
		end = "\n" + end
		switch {
		case b.Len() == 0:
			before, after, _ := strings.Cut(line, ": ")
			line = t.Head(before+":") + " " + t.paint(outcomeColour(r), after)
		case line != "" && line[0] != ' ':
			verdict = line == "Verdict"
			line = t.Head(line)
		case verdict || strings.HasPrefix(line, "  decided "):
			line, verdict = t.paint(dispositionColour(r.Disposition), line), false
		}
		b.WriteString(line + end)
	}
	return b.String()
}

// dispositionColour is that of the policy's word, where it says anything about the mail.
func dispositionColour(d journal.Disposition) string {
	switch {
	case d == journal.DispositionReject:
		return red
	case d.Defers(), d == journal.DispositionTag:
		return yellow
	case d == journal.DispositionPass:
		return green
	}
	return ""
}

// first is what everybody wants to know.
func (v Transaction) first(b *strings.Builder) {
	r := v.Record
	fmt.Fprintf(b, "Transaction %s of %s: %s\n", r.ID, Moment(r.Time), outcomeWords(r))
	fmt.Fprintf(b, "  session %s, listener %s, judged up to %s, %d octets\n", r.Session, r.Facts.Listener, r.Reached, r.Bytes)
	b.WriteString("\nVerdict\n")
	v.verdict(b)
	v.held(b)
	b.WriteString("\nIn words\n")
	v.WriteStory(b)
	b.WriteString("\nWho\n")
	WriteIdentities(b, v.Identities)
	b.WriteString("\nReplies\n")
	writeReplies(b, r)
}

// writeReplies prints what each recipient, the message and the backend had for an answer.
func writeReplies(b *strings.Builder, r *journal.Record) {
	table(b, func(row func(...string)) {
		for _, cells := range Replies(r) {
			row(cells[:]...)
		}
	})
}

// Replies are what each recipient, the message and the backend had for an answer: of whom, the
// reply, and what there is to say of it.
func Replies(r *journal.Record) (all [][3]string) {
	for i := range r.Recipients {
		rc := &r.Recipients[i]
		all = append(all, [3]string{rc.Address, rc.Reply, recipientWords(r, i)})
	}
	all = append(all, [3]string{"at the end", r.Reply, ""})
	if r.Backend != "" {
		all = append(all, [3]string{"from " + r.Backend, r.BackendReply, r.Error})
	} else if r.Error != "" {
		all = append(all, [3]string{"trouble", r.Error, ""})
	}
	return all
}

// WriteIdentities prints who is named, and how that is known.
func WriteIdentities(b *strings.Builder, all []Identity) {
	table(b, func(row func(...string)) {
		for _, i := range all {
			row(i.What, i.Value, i.How)
		}
	})
}

// verdict says what was concluded, by which rule, and what the rules of now say.
func (v Transaction) verdict(b *strings.Builder) {
	r, e := v.Record, v.Explanation
	if r.Disposition == journal.NotAsked {
		b.WriteString("  none: the policy was not asked")
	} else {
		fmt.Fprintf(b, "  %s", r.Disposition)
	}
	switch {
	case r.Disposition == journal.NotAsked:
	case r.Undecided:
		b.WriteString(" until the transaction ended, before its verdict")
	case r.Rule == "":
		b.WriteString(": no rule matched")
	default:
		fmt.Fprintf(b, " by rule %s at %s", r.Rule, r.RuleStage)
	}
	if r.Rule == e.Rule && e.Position != "" {
		fmt.Fprintf(b, " (%s)", e.Position)
	}
	b.WriteString("\n")
	if r.Observed {
		b.WriteString("  the mode was observe: it was not carried out\n")
	}
	for _, t := range r.Tags {
		fmt.Fprintf(b, "  added %s\n", t)
	}
	if c := r.Candidate; c != nil {
		fmt.Fprintf(b, "  the candidate policy (%s) said %s%s%s\n", c.Policy, c.Disposition, named(c.Rule, " by rule "), named(strings.Join(c.Missing, ", "), ", for want of "))
	}
	if v.Policy.Same {
		return
	}
	then := v.Policy.Then
	if then == "" {
		then = "unknown"
	}
	fmt.Fprintf(b, "  The policy has changed since (%s then, %s now, from %s).\n  By the rules of now: ", then, v.Policy.Now, v.Policy.From)
	switch {
	case e.Undetermined != nil:
		fmt.Fprintf(b, "undetermined, for want of %s\n", strings.Join(e.Undetermined, ", "))
	case e.Rule == "":
		fmt.Fprintf(b, "%s, no rule matches\n", e.Disposition)
	default:
		fmt.Fprintf(b, "%s by rule %s at %s (%s)\n", e.Disposition, e.Rule, e.Stage, e.Position)
	}
}

// held says since when the mail was held, how often, and what lets it in.
func (v Transaction) held(b *strings.Builder) {
	r := v.Record.For(v.Recipient)
	h := r.Facts.Hold
	tries := h.Tries
	for _, rc := range r.Recipients {
		if rc.Address == v.Recipient && rc.Disposition == journal.DispositionHold && !r.Observed {
			tries++ // this time
			break
		}
	}
	if tries == 0 {
		return
	}
	fmt.Fprintf(b, "\nHeld\n  since %s, %s", Moment(r.Time.Add(-time.Duration(h.Age)*time.Second)), Counted(tries, "time"))
	switch {
	case h.Released:
		b.WriteString("; an operator had released it\n")
	case tries == h.Tries:
		b.WriteString("; let past by the clock, or by other facts\n")
	case h.Notice == "" && !r.Hashed:
		b.WriteString("; without a notice: as many wait as may, of its sender (limits.notices_per_sender) or in all (limits.notices). It comes again until there is room\n")
	case h.Notice == "": // the journal is hashed
		b.WriteString("; let it in: postern release, by the id that postern held shows\n")
	default:
		fmt.Fprintf(b, "; let it in: postern release %s\n", h.Notice)
	}
}

// outcomeWords says how the transaction ended.
func outcomeWords(r *journal.Record) string {
	switch r.Outcome {
	case journal.OutcomeDelivered:
		return "delivered to " + r.Backend
	case journal.OutcomeRefused:
		switch r.Disposition {
		case journal.DispositionReject:
			return "refused by policy"
		case journal.DispositionHold:
			return "held: the client was told to send it again"
		case journal.DispositionDefer:
			return "deferred by policy"
		}
		return "refused by a limit, or for its syntax"
	case journal.OutcomeBackendRefused:
		return "refused by the backend"
	case journal.OutcomeFailed:
		return "failed: the client was told to come again"
	case journal.OutcomeAbandoned:
		return "given up by the client"
	case journal.OutcomeUnknown:
		return "sent to the backend, whose answer never came"
	}
	return string(r.Outcome)
}

// recipientWords says what the policy said of a recipient.
func recipientWords(r *journal.Record, i int) string {
	switch o := r.Live(i); {
	case o.Disposition == "":
		return "no verdict"
	case o.Rule != "":
		return string(o.Disposition) + " by " + o.Rule
	default:
		return string(o.Disposition)
	}
}

// WriteChecks prints what the checks found.
func WriteChecks(b *strings.Builder, r *journal.Record) {
	if len(r.Checks) == 0 {
		b.WriteString("  none ran\n")
		return
	}
	table(b, func(row func(...string)) {
		for _, c := range r.Checks {
			row(c.Name, string(c.Result), took(time.Duration(c.Took*float64(time.Second))), r.Facts.Reason(c.Name))
		}
	})
}

// WriteDNS prints the answers: type, name, what it was, how long it is good, where it came from.
func WriteDNS(b *strings.Builder, answers []dnscache.Answer) {
	if len(answers) == 0 {
		b.WriteString("  nothing was asked\n")
		return
	}
	table(b, func(row func(...string)) {
		for _, a := range answers {
			text := strings.Join(a.Answer, ", ")
			if text == "" {
				text = "(nothing)"
			}
			if a.LeftOff > 0 {
				text = fmt.Sprintf("(%d octets, too many to keep)", a.LeftOff)
			}
			if a.Error != "" {
				text = "(" + a.Error + ")"
			}
			row(a.Type, a.Name, text, fmt.Sprintf("ttl %d, %s, %s", a.TTL, a.Source, took(a.Took)))
		}
	})
}

func took(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }

// WriteExplanation prints a verdict and why it is so.
func WriteExplanation(b *strings.Builder, e policy.Explanation) {
	switch {
	case e.Undetermined != nil:
		fmt.Fprintf(b, "undetermined, for want of %s", strings.Join(e.Undetermined, ", "))
	case e.Rule == "":
		fmt.Fprintf(b, "%s: no rule matched", e.Disposition)
	default:
		fmt.Fprintf(b, "%s by rule %q (%s) at %s", e.Disposition, e.Rule, e.Position, e.Stage)
	}
	b.WriteString(named(e.Reply, ": ") + "\n")
	WriteRules(b, e)
	WriteChanges(b, e)
}

// WriteRules prints each rule with the value of each part of its condition.
func WriteRules(b *strings.Builder, e policy.Explanation) {
	width := 0
	for _, r := range e.Rules {
		width = max(width, len(r.Rule))
	}
	for _, r := range e.Rules {
		fmt.Fprintf(b, "  %-11s  %-*s  %-6s  at %-7s  %s\n", r.Outcome, width, r.Rule, r.Do, r.Stage, r.Position)
		for _, p := range r.Parts {
			value := strconv.FormatBool(p.Value)
			if p.Unknown {
				value = "?"
			}
			fmt.Fprintf(b, "      %-5s  %s", value, p.Text)
			separator := "    with "
			for _, o := range p.Operands {
				if o.Text != p.Text {
					fmt.Fprintf(b, "%s%s = %s", separator, o.Text, o.Value)
					separator = ", "
				}
			}
			b.WriteString(named(p.Note, "    in ") + "\n")
		}
	}
}

// WriteChanges prints what would have turned the verdict.
func WriteChanges(b *strings.Builder, e policy.Explanation) {
	if len(e.Changes) == 0 {
		return
	}
	b.WriteString("\nIt would have been otherwise with any of these\n")
	for _, c := range e.Changes {
		fmt.Fprintf(b, "  %s", c.Outcome())
		for i, f := range c.Facts {
			word := "if"
			if i > 0 {
				word = "and"
			}
			fmt.Fprintf(b, " %s %s had been %s, not %s", word, f.Fact, strings.Join(f.To, " or "), f.From)
		}
		b.WriteString(c.Wanting() + "\n")
	}
}

// table aligns rows of cells, indented by two.
func table(b *strings.Builder, rows func(row func(cells ...string))) {
	tw := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	rows(func(cells ...string) {
		for len(cells) > 1 && cells[len(cells)-1] == "" {
			cells = cells[:len(cells)-1]
		}
		clean := make([]string, len(cells))
		for i, c := range cells {
			clean[i] = oneLine(c)
		}
		_, _ = fmt.Fprintf(tw, "  %s\n", strings.Join(clean, "\t")) // into a Builder
	})
	_ = tw.Flush() // into a Builder
}
