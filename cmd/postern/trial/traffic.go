package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"postern/checks/dnstest"
	"postern/cmd/postern/service"
	"postern/configs"
	"postern/policy/journal"
)

// mixedConfig is what a folder of mixed mail begins with. It is there to be edited.
const mixedConfig = `hostname: mx.example.org
policy:
  mode: observe          # look, and refuse nothing
journal: {path: journal}
`

// DemoMixed sends so many messages through the proxy as the configuration in a
// folder has it, with its journal. The DNS, the clients and the MTA are made up.
// progress hears how many of them were sent.
func DemoMixed(ctx context.Context, out io.Writer, folder string, messages int, seed uint64, progress func(done, total int64)) error {
	file, err := mixedFile(folder)
	if err != nil {
		return err
	}
	cfg, err := configs.Load(configs.Options{File: file, NoEnvironment: true})
	if err != nil {
		return err
	}
	w := newMixedWorld(seed)
	zone, err := dnstest.Parse(w.zone())
	if err != nil {
		return err
	}
	dns, closeDNS, err := zone.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer closeDNS()
	keep := cfg.Journal
	cfg.DNS.Servers, cfg.DNS.Timeout = []string{dns}, cfg.DNS.Total // which answers, however busy the machine
	cfg.Limits.ConnectionRate, cfg.Limits.MessageRate, cfg.Limits.ErrorRate = 0, 0, 0
	r, err := newRig(ctx, cfg, &service.World{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer r.close()
	var written *journal.Writer
	if keep.Path != "" {
		if written, err = journal.New(keep, journal.Options{Log: slog.New(slog.NewTextHandler(out, nil))}); err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if err := written.Close(ctx); err != nil {
				_, _ = fmt.Fprintf(out, "journal: %v\n", err)
			}
		}()
	}

	began := time.Now()
	counts, err := w.send(ctx, r, messages, written, progress)
	if err != nil {
		return err
	}
	took := time.Since(began)
	_, _ = fmt.Fprintf(out, "%d messages in %s, by %s (mode %s):\n\n", messages, took.Round(time.Millisecond), file, cfg.Policy.Mode)
	if err := writeMixed(out, counts); err != nil {
		return err
	}
	if cfg.Policy.Mode == "observe" {
		_, _ = fmt.Fprint(out, "\nNothing was refused: these are the verdicts that were written down.\n")
	}
	if keep.Path != "" {
		_, _ = fmt.Fprintf(out, "\nThe journal is in %s. To read it: postern report -c %s\n", keep.Path, file)
	}
	return nil
}

// mixedFile returns the configuration in a folder, and writes it where there is none.
func mixedFile(folder string) (file string, err error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return "", err
	}
	file = filepath.Join(folder, "postern.yaml")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if os.IsExist(err) {
		return file, nil
	}
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(mixedConfig)
	return file, errors.Join(err, f.Close())
}

// writeMixed writes how often each disposition came of each kind.
func writeMixed(out io.Writer, counts map[string]map[string]int) error {
	tw := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprint(tw, "pass\ttag\tdefer\treject\t  \n")
	for _, k := range mixedKinds {
		n := counts[k.name]
		_, _ = fmt.Fprintf(tw, "%d\t%d\t%d\t%d\t  %s\n", n["pass"], n["tag"], n["hold"]+n["defer"], n["reject"], k.name)
	}
	return tw.Flush()
}

// send sends messages by the rig, and counts the dispositions of each kind.
func (w *mixedWorld) send(ctx context.Context, r *rig, messages int, written *journal.Writer, progress func(done, total int64)) (counts map[string]map[string]int, err error) {
	counts = map[string]map[string]int{}
	for i := range messages {
		progress(int64(i), int64(messages))
		kind, from, m, err := w.next(i)
		if err != nil {
			return nil, err
		}
		t, err := r.session(ctx, from, m)
		if err != nil {
			return nil, fmt.Errorf("message %d (%s): %w", i+1, kind, err)
		}
		if counts[kind] == nil {
			counts[kind] = map[string]int{}
		}
		counts[kind][string(t.record.Disposition)]++
		if written != nil {
			written.Write(t.record)
			if i%1000 == 999 {
				// Nobody else's mail is in a hurry: let the disk keep up.
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	progress(int64(messages), int64(messages))
	return counts, nil
}

// mixedWorld makes up mail. The same seed makes the same mail.
type mixedWorld struct {
	random     *rand.Rand
	signer     *dnstest.Signer
	domains    []mixedDomain
	forwarders []mixedForwarder
}

// mixedDomain is somebody who sends.
type mixedDomain struct {
	name   string
	ip     string
	signs  bool
	policy string // of DMARC; empty: no record
}

// mixedForwarder sends on what others wrote.
type mixedForwarder struct{ ip, name string }

// mixedKinds are the kinds of mail and how often each is, of a thousand.
var mixedKinds = []struct {
	name  string
	share int
	make  func(w *mixedWorld) (caller, Mail, []string)
}{
	{"straight from where the sender says", 600, (*mixedWorld).straight},
	{"forwarded unchanged", 130, (*mixedWorld).forwarded},
	{"from a mailing list", 60, (*mixedWorld).list},
	{"from a domain with a broken record", 40, (*mixedWorld).broken},
	{"from a domain whose DNS does not work", 15, (*mixedWorld).unreachable},
	{"from a domain that is not sure (~all)", 45, (*mixedWorld).unsure},
	{"bounces", 30, (*mixedWorld).bounce},
	{"with SUBMITTER", 20, (*mixedWorld).submitter},
	{"forged", 60, (*mixedWorld).forged},
}

var mixedNames = []string{
	"books", "travel", "garden", "bikes", "tea", "maps", "paper", "shoes", "museum", "clinic", "bank", "court", "school", "opera", "hotel",
	"rail", "radio", "games", "cheese", "boats", "library", "union", "energy", "water", "choir", "chess", "insurance", "pharmacy", "theatre", "news",
}

func newMixedWorld(seed uint64) *mixedWorld {
	w := &mixedWorld{
		random: rand.New(rand.NewPCG(seed, 4408)), //nolint:gosec // G404: it is to be foreseen
		signer: dnstest.NewSigner(),
		forwarders: []mixedForwarder{
			{"192.0.2.10", "out.alumni.example"}, {"192.0.2.11", "relay.oldprovider.example"}, {"192.0.2.12", ""},
		},
	}
	policies := []string{"", "", "none", "quarantine", "reject"}
	for i, name := range mixedNames {
		w.domains = append(w.domains, mixedDomain{
			name: name + ".example", ip: fmt.Sprintf("198.51.100.%d", i+1), signs: i%4 != 0, policy: policies[i%len(policies)],
		})
	}
	return w
}

// zone is the DNS of all who send.
func (w *mixedWorld) zone() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	host := func(ip, name string) {
		a := netip.MustParseAddr(ip).As4()
		line("%s. A %s", name, ip)
		line("%d.%d.%d.%d.in-addr.arpa. PTR %s.", a[3], a[2], a[1], a[0], name)
	}
	for _, d := range w.domains {
		line(`%s. TXT "v=spf1 ip4:%s -all"`, d.name, d.ip)
		host(d.ip, "mail."+d.name)
		line(`mail.%s. TXT "v=spf1 a -all"`, d.name)
		if d.policy != "" {
			line(`_dmarc.%s. TXT "v=DMARC1; p=%s"`, d.name, d.policy)
		}
		if d.signs {
			b.WriteString(w.signer.Record(d.name))
		}
	}
	for _, f := range w.forwarders {
		if f.name != "" {
			host(f.ip, f.name)
		}
	}
	host("192.0.2.20", "lists.hobby.example")
	line(`hobby.example. TXT "v=spf1 ip4:192.0.2.20 -all"`)
	line(`council.example. TXT "v=spf1 ipv4:192.0.2.30 -all"`)
	line(`dentist.example. TXT "v=spf1 ip4:192.0.2.31 include:gone.dentist.example -all"`)
	line(`museum-shop.example. TXT "v=spf1 ip4:192.0.2.32 -all"`)
	line(`museum-shop.example. TXT "v=spf1 mx -all"`)
	line(`; SERVFAIL faculty.example`)
	line(`; SERVFAIL harbour.example TXT`)
	line(`tickets.example. TXT "v=spf1 ip4:192.0.2.40 ~all"`)
	line(`letters.example. TXT "v=spf1 ip4:192.0.2.41 ~all"`)
	return b.String()
}

// next makes up the i-th message.
func (w *mixedWorld) next(i int) (kind string, from caller, m Mail, err error) {
	n := w.random.IntN(1000)
	k := mixedKinds[0]
	for _, k = range mixedKinds {
		if n < k.share {
			break
		}
		n -= k.share
	}
	from, m, signs := k.make(w)
	if m.Recipients == nil {
		m.Recipients = []string{w.reader()}
		for w.random.IntN(8) == 0 {
			m.Recipients = append(m.Recipients, w.reader())
		}
	}
	if m.Message == nil {
		m.Message = w.message(m.From, m, i)
	}
	for _, domain := range signs {
		if m.Message, err = w.signer.Sign(m.Message, domain); err != nil {
			return "", caller{}, Mail{}, err
		}
	}
	return k.name, from, m, nil
}

func (w *mixedWorld) pick(from []string) string { return from[w.random.IntN(len(from))] }

func (w *mixedWorld) domain() mixedDomain {
	// A few send most of the mail.
	return w.domains[min(w.random.IntN(len(w.domains)), w.random.IntN(len(w.domains)))]
}

func (w *mixedWorld) reader() string {
	return w.pick([]string{"ann", "bob", "eve", "desk", "info", "postmaster", "sales", "dean"}) + "@example.org"
}

func (w *mixedWorld) message(author string, m Mail, i int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "From: <%s>\r\n", author)
	if m.Submitter != "" {
		fmt.Fprintf(&b, "Sender: <%s>\r\n", m.Submitter)
	}
	fmt.Fprintf(&b, "To: <%s>\r\nSubject: letter %d\r\nDate: %s\r\n\r\n%s", "reader@example.org", i+1, time.Now().Format(time.RFC1123Z),
		strings.Repeat("All is well, and we hope the same of you.\r\n", 1+w.random.IntN(40)))
	return []byte(b.String())
}

func at(ip string) caller { return caller{ip: netip.MustParseAddr(ip)} }

// signatures of a message that the domain wrote.
func (d *mixedDomain) signatures() []string {
	if d.signs {
		return []string{d.name}
	}
	return nil
}

func (w *mixedWorld) straight() (caller, Mail, []string) {
	d := w.domain()
	return at(d.ip), Mail{Helo: "mail." + d.name, From: w.pick([]string{"office", "news", "joan", "tom"}) + "@" + d.name}, d.signatures()
}

func (w *mixedWorld) forwarded() (caller, Mail, []string) {
	from, m, signs := w.straight()
	f := w.forwarders[w.random.IntN(len(w.forwarders))]
	from.ip = netip.MustParseAddr(f.ip)
	m.Helo = f.name
	if f.name == "" {
		m.Helo = "smtp"
	}
	return from, m, signs
}

func (w *mixedWorld) list() (caller, Mail, []string) {
	d := w.domain()
	m := Mail{Helo: "lists.hobby.example", From: "chess-bounces@hobby.example"}
	m.Recipients = []string{w.reader()}
	m.Message = w.message("joan@"+d.name, m, w.random.IntN(1000))
	return at("192.0.2.20"), m, nil
}

func (w *mixedWorld) broken() (caller, Mail, []string) {
	i := w.random.IntN(3)
	name := []string{"council.example", "dentist.example", "museum-shop.example"}[i]
	// Not always from where the record would have them.
	return at(fmt.Sprintf("192.0.2.%d", 33+i)), Mail{Helo: "mail." + name, From: "office@" + name}, nil
}

func (w *mixedWorld) unreachable() (caller, Mail, []string) {
	name := w.pick([]string{"faculty.example", "harbour.example"})
	return at("192.0.2.50"), Mail{Helo: "mail." + name, From: "office@" + name}, nil
}

func (w *mixedWorld) unsure() (caller, Mail, []string) {
	name := w.pick([]string{"tickets.example", "letters.example"})
	return at(fmt.Sprintf("192.0.2.%d", 60+w.random.IntN(4))), Mail{Helo: "bulk." + name, From: "news@" + name}, nil
}

func (w *mixedWorld) bounce() (caller, Mail, []string) {
	d := w.domain()
	m := Mail{Helo: "mail." + d.name, Recipients: []string{w.reader()}}
	m.Message = w.message("mailer-daemon@"+d.name, m, 0)
	return at(d.ip), m, nil
}

func (w *mixedWorld) submitter() (caller, Mail, []string) {
	author, sends := w.domain(), w.domain()
	m := Mail{Helo: "mail." + sends.name, From: "joan@" + author.name, Submitter: "list@" + sends.name}
	from := at(sends.ip)
	if w.random.IntN(4) == 0 {
		from = at("203.0.113.99") // a stranger, who says that he is the list
	}
	return from, m, nil
}

func (w *mixedWorld) forged() (caller, Mail, []string) {
	d := w.domain()
	ip := fmt.Sprintf("203.0.113.%d", 1+w.random.IntN(90))
	return at(ip), Mail{Helo: w.pick([]string{"localhost", "user", "[203.0.113.7]", "mail." + d.name}), From: w.pick([]string{"boss", "billing", "security"}) + "@" + d.name}, nil
}
