package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

func newTestSession() *cobra.Command {
	var opt configs.Options
	var ip, messageFile string
	var asJSON bool
	var m mail
	cmd := &cobra.Command{
		Use:   "test-session --ip ADDRESS --helo NAME --from MAILBOX --rcpt MAILBOX...",
		Short: "Show the facts, the DNS answers and the verdict on a session, without a server",
		Args:  noArguments,
		Long: `Run one session through the very code that serves, with the configured policy
and the configured DNS, and an MTA that takes everything and keeps nothing.
Print the facts, the DNS answers and the verdict.

Without --message a short one is made up, whose header agrees with the
envelope: From is --from, and Sender is --submitter. In a file, lines may end in
LF, which is read as CRLF.

The exit code is 0 whenever a verdict was reached, whatever it is.`,
		Example: `  postern test-session --ip 192.0.2.1 --helo mail.example.org --from a@example.org --rcpt b@example.net
  postern test-session --ip 192.0.2.1 --helo h.example --from '<>' --rcpt b@example.net --json | jq .verdict`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"ip", "helo", "from", "rcpt"} {
				if !cmd.Flags().Changed(name) {
					return usageError{fmt.Errorf("--%s is missing", name)}
				}
			}
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return usageError{fmt.Errorf("--ip %q is no IP address", ip)}
			}
			if err := cleanMail(&m); err != nil {
				return usageError{err}
			}
			if messageFile == "" {
				m.message = madeUp(m)
			} else if m.message, err = readMessage(messageFile, cmd.InOrStdin()); err != nil {
				return err
			}
			r, err := testSession(cmd.Context(), opt, addr, m, cmd.ErrOrStderr())
			if err == nil {
				err = r.noVerdict
			}
			if err != nil {
				return err
			}
			if asJSON {
				return r.writeJSON(cmd.OutOrStdout())
			}
			return r.writeText(cmd.OutOrStdout())
		},
	}
	configFlag(cmd, &opt.File)
	f := cmd.Flags()
	f.StringVar(&ip, "ip", "", "the client's `address`")
	f.StringVar(&m.helo, "helo", "", "the `name` it gives with EHLO")
	f.StringVar(&m.from, "from", "", "the reverse-path, a `mailbox`; '<>' is the null one")
	f.StringArrayVar(&m.recipients, "rcpt", nil, "a recipient's `mailbox`; may be repeated")
	f.StringVar(&m.submitter, "submitter", "", "the SUBMITTER parameter (RFC 4405): a `mailbox`, not encoded")
	f.StringVar(&messageFile, "message", "", "a `file` with the message; - is standard input")
	f.BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}

// cleanMail takes <> off the mailboxes and refuses what cannot stand on a command line.
func cleanMail(m *mail) error {
	all := []*string{&m.from, &m.helo, &m.submitter}
	for i := range m.recipients {
		all = append(all, &m.recipients[i])
	}
	for _, s := range all {
		if strings.ContainsAny(*s, "\r\n\x00") {
			return fmt.Errorf("%q cannot stand on a command line", *s)
		}
		if strings.HasPrefix(*s, "<") && strings.HasSuffix(*s, ">") {
			*s = (*s)[1 : len(*s)-1]
		}
	}
	if m.helo == "" {
		return errors.New("--helo is empty")
	}
	for _, r := range m.recipients {
		if r == "" {
			return errors.New("--rcpt is empty")
		}
	}
	return nil
}

// madeUp is a message whose responsible address (RFC 4407) is the one that the
// envelope names.
func madeUp(m mail) []byte {
	from := m.from
	if from == "" {
		from = "postmaster@" + m.helo
	}
	var b strings.Builder
	b.WriteString("From: <" + from + ">\r\n")
	if m.submitter != "" {
		b.WriteString("Sender: <" + m.submitter + ">\r\n")
	}
	b.WriteString("To: <" + m.recipients[0] + ">\r\nSubject: test-session\r\nDate: " + time.Now().Format(time.RFC1123Z) + "\r\n\r\nA test.\r\n")
	return []byte(b.String())
}

func readMessage(file string, stdin io.Reader) (text []byte, err error) {
	if file == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("the message: %w", err)
	}
	return crlf(text), nil
}

// testSession runs one session over a connection in memory.
func testSession(ctx context.Context, opt configs.Options, ip netip.Addr, m mail, errout io.Writer) (*tested, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return nil, err
	}
	level := slog.LevelWarn
	if cfg.Log.Level == "debug" {
		level = slog.LevelDebug
	}
	r, err := newRig(ctx, cfg, &world{log: slog.New(slog.NewTextHandler(errout, &slog.HandlerOptions{Level: level}))})
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.session(ctx, caller{ip: ip}, m)
}

// verdict is the verdict as JSON has it. Reply is what the client hears, in one line and
// without the id at its end, which is another one each time.
type verdict struct {
	Disposition string   `json:"disposition"`
	Rule        string   `json:"rule"`
	Stage       string   `json:"stage"`
	Reply       string   `json:"reply"`
	Tags        []string `json:"tags"`
}

func (t *tested) verdict() verdict {
	r := t.record
	v := verdict{
		Disposition: r.Disposition, Rule: r.Rule, Stage: r.RuleStage,
		Reply: strings.TrimSuffix(r.Reply, " ("+r.ID+")"), Tags: r.Tags,
	}
	if r.Undecided || r.Disposition == journal.NotAsked {
		v.Disposition = "" // a test that wants pass must not get it
	}
	if v.Tags == nil {
		v.Tags = []string{}
	}
	return v
}

func (t *tested) writeJSON(w io.Writer) error {
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
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		Facts   policy.Facts `json:"facts"`
		DNS     []answer     `json:"dns"`
		Verdict verdict      `json:"verdict"`
	}{t.record.Facts, answers, t.verdict()})
}

func (t *tested) writeText(w io.Writer) error {
	var b strings.Builder
	b.WriteString("Facts\n")
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	writeFacts(tw, reflect.ValueOf(t.record.Facts), "")
	_ = tw.Flush() // into a Builder

	x := newView(t.record, t.chain, "", "")
	b.WriteString("\nWho\n")
	writeIdentities(&b, x.Identities)
	b.WriteString("\nChecks\n")
	writeChecks(&b, t.record)
	b.WriteString("\nDNS\n")
	writeDNS(&b, t.record.DNS)

	b.WriteString("\nSession\n")
	for _, line := range t.said {
		b.WriteString("  " + line + "\n")
	}

	b.WriteString("\nRules\n")
	writeRules(&b, x.Explanation)
	writeChanges(&b, x.Explanation)

	v := t.verdict()
	b.WriteString("\nVerdict\n  " + v.Disposition)
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
	_, err := io.WriteString(w, printable(b.String()))
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
