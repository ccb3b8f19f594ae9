// Package trial runs sessions through the code that serves, with ends that are made up: tests of a policy, one session, the demonstration.
package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"postern/checks/dnscache"
	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// Clean takes <> off the mailboxes and refuses what cannot stand on a command line.
func Clean(m *Mail) error {
	all := []*string{&m.From, &m.Helo, &m.Submitter}
	for i := range m.Recipients {
		all = append(all, &m.Recipients[i])
	}
	for _, s := range all {
		if strings.ContainsAny(*s, "\r\n\x00") {
			return fmt.Errorf("%q cannot stand on a command line", *s)
		}
		if strings.HasPrefix(*s, "<") && strings.HasSuffix(*s, ">") {
			*s = (*s)[1 : len(*s)-1]
		}
	}
	if m.Helo == "" {
		return errors.New("--helo is empty")
	}
	for _, r := range m.Recipients {
		if r == "" {
			return errors.New("--rcpt is empty")
		}
	}
	return nil
}

// MadeUp is a message whose responsible address (RFC 4407) is the one that the
// envelope names.
func MadeUp(m Mail) []byte {
	from := m.From
	if from == "" {
		from = "postmaster@" + m.Helo
	}
	var b strings.Builder
	b.WriteString("From: <" + from + ">\r\n")
	if m.Submitter != "" {
		b.WriteString("Sender: <" + m.Submitter + ">\r\n")
	}
	b.WriteString("To: <" + m.Recipients[0] + ">\r\nSubject: test-session\r\nDate: " + time.Now().Format(time.RFC1123Z) + "\r\n\r\nA test.\r\n")
	return []byte(b.String())
}

// ReadMessage reads a message from a file, or from stdin for -. Its lines end in CRLF then.
func ReadMessage(file string, stdin io.Reader) (text []byte, err error) {
	if file == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("the message: %w", err)
	}
	return CRLF(text), nil
}

// Session runs one session over a connection in memory. known is what the site remembers of
// the sender; nil: nothing.
func Session(ctx context.Context, opt configs.Options, ip netip.Addr, m Mail, known *Known, errout io.Writer) (*Tested, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return nil, err
	}
	return SessionBy(ctx, cfg, ip, m, known, errout)
}

// SessionBy is Session by a configuration, which stays as it is.
func SessionBy(ctx context.Context, cfg *configs.Config, ip netip.Addr, m Mail, known *Known, errout io.Writer) (*Tested, error) {
	own := *cfg
	own.Listeners = slices.Clone(cfg.Listeners) // the rig changes them
	cfg = &own
	log := configs.Log{Level: "warn", Format: "text"}
	if cfg.Log.Level == "debug" {
		log.Level = "debug"
	}
	store := newScript()
	r, err := newRig(ctx, cfg, &service.World{Log: service.NewLogger(log, errout), Store: store})
	if err != nil {
		return nil, err
	}
	defer r.close()
	if known != nil {
		r.remember(store, known)
	}
	return r.session(ctx, caller{ip: ip}, m)
}

// verdict is the verdict as JSON has it. Reply is what the client hears, in one line and
// without the id at its end, which is another one each time.
type verdict struct {
	Disposition journal.Disposition `json:"disposition"`
	Rule        string              `json:"rule"`
	Stage       string              `json:"stage"`
	Reply       string              `json:"reply"`
	Tags        []string            `json:"tags"`
}

func (t *Tested) verdict() verdict {
	r := t.record
	v := verdict{
		Disposition: r.Disposition, Rule: r.Rule, Stage: r.RuleStage,
		Reply: strings.TrimSuffix(r.Reply, " ("+r.ID+")"), Tags: r.Tags,
	}
	if r.Undecided || r.Disposition == journal.NotAsked {
		v.Disposition = "" // a test that wants pass must not get it
		if t.heard != "" {
			v.Reply = strings.TrimSuffix(t.heard, " ("+r.ID+")") // and one that wants a refusal for its form gets that
		}
	}
	if v.Tags == nil {
		v.Tags = []string{}
	}
	return v
}

// View is the session as a transaction that is explained, and what was said in it.
func (t *Tested) View() (v view.Transaction, said []string) {
	v = view.NewTransaction(t.record, t.chain, "", "")
	v.Test = true
	return v, t.said
}

// WriteJSON prints what came of a session for programs.
func (t *Tested) WriteJSON(w io.Writer) error {
	type answer struct {
		Name   string          `json:"name"`
		Type   string          `json:"type"`
		Answer []string        `json:"answer"`
		TTL    int             `json:"ttl"`
		Source dnscache.Source `json:"source"`
	}
	answers := []answer{}
	for _, a := range t.record.DNS {
		answers = append(answers, answer{a.Name, a.Type, a.Answer, a.TTL, a.Source})
	}
	return view.JSON(w, struct {
		Facts   policy.Facts `json:"facts"`
		DNS     []answer     `json:"dns"`
		Verdict verdict      `json:"verdict"`
	}{t.record.Facts, answers, t.verdict()})
}

// WriteText prints what came of a session for people, the verdict first.
func (t *Tested) WriteText(w io.Writer) error {
	var b strings.Builder
	v := t.verdict()
	b.WriteString("Verdict\n  " + string(v.Disposition))
	if v.Rule != "" {
		b.WriteString(" by rule " + v.Rule + " at " + v.Stage)
	}
	b.WriteString(": " + v.Reply + "\n")
	if t.record.Observed {
		b.WriteString("  the mode is observe: it is not carried out\n")
	}
	for _, tag := range v.Tags {
		b.WriteString("  adds " + tag + "\n")
	}
	x, _ := t.View()
	b.WriteString("\nIn words\n")
	x.WriteStory(&b)
	b.WriteString("\nFacts\n")
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	writeFacts(tw, reflect.ValueOf(t.record.Facts), "")
	_ = tw.Flush() // into a Builder

	b.WriteString("\nWho\n")
	view.WriteIdentities(&b, x.Identities)
	b.WriteString("\nChecks\n")
	view.WriteChecks(&b, t.record)
	view.WriteFilters(&b, t.record)
	b.WriteString("\nDNS\n")
	view.WriteDNS(&b, t.record.DNS)

	b.WriteString("\nSession\n")
	for _, line := range t.said {
		b.WriteString("  " + line + "\n")
	}

	b.WriteString("\nRules\n")
	view.WriteRules(&b, x.Explanation)
	view.WriteChanges(&b, x.Explanation)
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}

// writeFacts prints the facts that are not empty, by the names that rules use.
func writeFacts(w io.Writer, v reflect.Value, path string) {
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if path != "" {
			name = path + "." + name
		}
		switch f := v.Field(i); {
		case f.Kind() == reflect.Struct:
			writeFacts(w, f, name)
		case f.Kind() == reflect.Slice && f.Len() > 0, f.Kind() != reflect.Slice && !f.IsZero():
			_, _ = fmt.Fprintf(w, "  %s\t%v\n", name, f.Interface()) // into a Builder
		}
	}
}
