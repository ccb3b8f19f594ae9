package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pires/go-proxyproto"

	"postern/policy/journal"
)

// connectionSeeds are the octets of clients in another server's fuzz corpus:
// lines of Go syntax behind a header, LF where SMTP has CRLF.
func connectionSeeds(t testing.TB) (all []string) {
	files, err := filepath.Glob("testdata/smtp/fuzz-connection/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if q, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "[]byte("); ok {
				s, err := strconv.Unquote(strings.TrimSuffix(q, ")"))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, s)
			}
		}
	}
	return all
}

// sessionSeeds are whole sessions.
func sessionSeeds(t testing.TB) (all []string) {
	for _, s := range connectionSeeds(t) {
		all = append(all, s, wireText(s))
	}
	var f struct{ Cases []smugglingCase }
	readSuite(t, "smtp/testdata/smuggling-dev.json", &f)
	envelope := "EHLO c.example\r\nMAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n"
	for _, c := range f.Cases {
		all = append(all, envelope+"DATA\r\n"+octets(c.Data)+"QUIT\r\n")
	}
	return append(all,
		envelope+"DATA\r\n"+rigMessage+".\r\n"+envelope[strings.Index(envelope, "MAIL"):]+"BDAT 3\r\na\r\nBDAT 0 LAST\r\nQUIT\r\n",
		envelope+"BDAT 26\r\nFrom: alice@good.example\r\nBDAT 8 LAST\r\n\r\nbody\r\nRSET\r\nNOOP\r\nVRFY x\r\nHELP\r\n",
		envelope+"BDAT 99999999999999999999\r\n", envelope+"BDAT -1\r\n", envelope+"BDAT 5 LAST\r\nab",
		"EHLO c\r\nMAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<postmaster>\r\nBDAT 5 LAST\r\n\x00\n\r\x01.",
		"EHLO c\r\nMAIL FROM:<a@good.example> SUBMITTER=a+2Bb@good.example SIZE=10 RET=FULL ENVID=x SMTPUTF8\r\nRCPT TO:<b@x.example> NOTIFY=NEVER\r\nDATA\r\n",
		"EHLO c\r\nSTARTTLS\r\n", "HELO c\r\nSTARTTLS\r\nEHLO d\r\n", "\x16\x03\x01\x02\x00\x01", "QUIT\r\n",
		"EHLO c\r\n"+strings.Repeat("MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nRSET\r\n", 30),
	)
}

// all lets a client say its octets and hang up, and returns what it heard.
func (r *rig) all(octets []byte, l Listener) string {
	c := r.dialFrom("192.0.2.1", l)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = c.conn.Write(octets)
		_ = c.conn.(*end).CloseWrite()
	})
	heard, _ := io.ReadAll(c.conn)
	_ = c.conn.Close()
	wg.Wait()
	<-c.done
	return string(heard)
}

// sessionWrong plays the octets of a client, and says what is wrong with what
// the MTA heard.
func sessionWrong(t testing.TB, set *Settings, octets []byte, chunking bool) string {
	r := newRig(t, rigOptions{settings: set, sink: withoutIf(!chunking, "CHUNKING")})
	heard := r.all(octets, Listener{Name: "mx", TLS: "starttls"})
	r.close()
	for line := range strings.SplitAfterSeq(strings.TrimSuffix(heard, "\r\n"), "\r\n") {
		if !replyLine.MatchString(strings.TrimSuffix(line, "\r\n")) {
			return fmt.Sprintf("not a reply: %q", line)
		}
	}
	delivered, transactions := 0, make(map[string]int)
	for _, rec := range r.records {
		if rec.Outcome == journal.OutcomeDelivered {
			delivered++
		}
		transactions[rec.Facts.Mail.From]++
	}
	messages := r.sink.Messages()
	if len(messages) != delivered {
		return fmt.Sprintf("%d messages at the MTA, %d in the records", len(messages), delivered)
	}
	mails := 0
	for _, line := range r.sink.Commands() {
		if strings.HasPrefix(line, "MAIL") {
			mails++
		}
	}
	if again := len(r.records); mails > again+r.mailsRefused() {
		return fmt.Sprintf("%d transactions at the MTA, %d in the records", mails, again)
	}
	for _, m := range messages {
		binary := false
		for _, p := range m.Params {
			binary = binary || p.Key == "BODY" && strings.EqualFold(p.Value, "BINARYMIME")
		}
		if !binary && hasBare(m.Text) || !m.Chunked && hasBare(m.Raw) {
			return fmt.Sprintf("bare octets at the MTA: %q", m.Text)
		}
	}
	return ""
}

// mailsRefused counts those who were refused at MAIL by the MTA itself: they are
// tried again with the next recipient of the same transaction.
func (r *rig) mailsRefused() (n int) {
	for _, rec := range r.records {
		n += len(rec.Recipients)
	}
	return n
}

// TestSuiteFuzzConnection plays the clients of another server's corpus, as they
// are and with the line ends of SMTP.
func TestSuiteFuzzConnection(t *testing.T) {
	s := newScore(t, "fuzz-connection", nil)
	set := rigSettings(t, rigOptions{policy: &streamPolicy})
	for i, seed := range connectionSeeds(t) {
		wrong := ""
		for _, text := range []string{seed, wireText(seed)} {
			for _, chunking := range []bool{true, false} {
				if w := sessionWrong(t, set, []byte(text), chunking); w != "" {
					wrong = w
				}
			}
		}
		s.count(strconv.Itoa(i), wrong)
	}
}

// FuzzSession: whatever a client sends, nobody panics, no bare line end gets to
// the MTA, and the MTA hears of no transaction that we do not know.
func FuzzSession(f *testing.F) {
	for _, s := range sessionSeeds(f) {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	set := rigSettings(f, rigOptions{policy: &streamPolicy})
	f.Fuzz(func(t *testing.T, octets []byte, chunking bool) {
		if w := sessionWrong(t, set, octets, chunking); w != "" {
			t.Error(w)
		}
	})
}

// FuzzBDAT: a text in chunks of any size comes out as it went in, or is refused
// because of its line ends.
func FuzzBDAT(f *testing.F) {
	f.Add([]byte("From: alice@good.example\r\n\r\n.dot\r\n..\r\n.\r\nend"), []byte{25, 1, 3, 0, 7}, true)
	f.Add([]byte("\r\n.\r\n"), []byte{1}, false)
	f.Add([]byte("From: a@good.example\r\n\r\nx\ny"), []byte{23, 1}, true)
	f.Add([]byte("Subject: x\r"), []byte{200}, false)
	f.Add([]byte(" white"), []byte{}, true)
	f.Add([]byte(". white"), []byte{}, true)
	f.Add([]byte(". white"), []byte{1}, false)
	set := rigSettings(f, rigOptions{policy: &streamPolicy})
	f.Fuzz(func(t *testing.T, text, sizes []byte, chunking bool) {
		r := newRig(t, rigOptions{settings: set, sink: withoutIf(!chunking, "CHUNKING")})
		c := r.connect("192.0.2.1")
		c.ehlo()
		c.cmd("MAIL FROM:<alice@good.example>", "250 ")
		c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
		rest, got := text, "250"
		for i := 0; got[:3] == "250"; i++ {
			n, last := len(rest), " LAST"
			if i < len(sizes) && int(sizes[i]) <= len(rest) {
				n, last = int(sizes[i]), ""
			}
			c.say(fmt.Sprintf("BDAT %d%s\r\n%s", n, last, rest[:n]))
			got, rest = c.hear(), rest[n:]
			if last != "" {
				break
			}
		}
		c.cmd("NOOP", "250 ")
		bad := hasBare(text) || len(text) > 0 && (text[0] == ' ' || text[0] == '\t')
		ms := r.sink.Messages()
		switch {
		case bad && (got[0] != '5' || len(ms) > 0):
			t.Errorf("%q: %q, and %d messages", text, got, len(ms))
		case !bad && (got[0] != '2' || len(ms) != 1):
			t.Errorf("%q: %q, and %d messages", text, got, len(ms))
		case !bad:
			want := text
			if !ms[0].Chunked && len(text) > 0 && !bytes.HasSuffix(text, []byte("\r\n")) {
				want = append(bytes.Clone(text), "\r\n"...)
			}
			if !bytes.HasSuffix(ms[0].Text, withoutOurs(want)) {
				t.Errorf("%q came out as %q", want, ms[0].Text)
			}
		}
	})
}

// withoutOurs is the body alone where the header section has a field that we
// take out: the fuzzer finds its name sooner or later.
func withoutOurs(text []byte) []byte {
	if !bytes.Contains(bytes.ToLower(text), []byte("authentication-results")) {
		return text
	}
	if i := bytes.Index(text, []byte("\r\n\r\n")); i >= 0 {
		return text[i+2:]
	}
	return nil
}

// FuzzProxyHeader: nothing is said to a peer whose PROXY header is not good.
func FuzzProxyHeader(f *testing.F) {
	for _, s := range []string{
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n", "PROXY UNKNOWN\r\n",
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\n", "PROXY TCP4 1.2.3 x y z\r\n", "EHLO x\r\n", "PROXY" + strings.Repeat(" ", 200),
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19",
		"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "\r\n\r\n\x00\r\nQUIT\n\x21\x31\xff\xff", "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x02xx",
	} {
		f.Add([]byte(s))
	}
	for _, wrong := range []uint32{0, 1} {
		f.Add([]byte(summed(f, proxyproto.PROXY, wrong)))
		f.Add([]byte(summed(f, proxyproto.LOCAL, wrong, proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: []byte("x")})))
	}
	set := rigSettings(f, rigOptions{policy: &streamPolicy})
	f.Fuzz(func(t *testing.T, header []byte) {
		r := newRig(t, rigOptions{settings: set})
		said := append(bytes.Clone(header), "EHLO client.example\r\nQUIT\r\n"...)
		heard := r.all(said, Listener{Name: "mx", TLS: "off", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
		h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(said)))
		if heard != "" && err != nil {
			t.Errorf("%q was answered by %q, and is no header: %v", header, heard, err)
		}
		if heard != "" && !rightSum(t, h) {
			t.Errorf("%q was answered by %q, and its sum is another", header, heard)
		}
		r.close()
	})
}

// rightSum says whether a header has the sum that it says, if it says one. It
// takes the sum of what the header means, written anew.
func rightSum(t *testing.T, h *proxyproto.Header) bool {
	tlvs, err := h.TLVs()
	if h.Version != 2 || err != nil || h.TransportProtocol.IsUnix() { // the name of a socket may be followed by anything
		return true
	}
	if slices.ContainsFunc(tlvs, func(t proxyproto.TLV) bool { return t.Type == proxyproto.PP2_TYPE_NOOP }) {
		return true // its octets are not kept
	}
	for i, tlv := range tlvs {
		if tlv.Type != proxyproto.PP2_TYPE_CRC32C || len(tlv.Value) != 4 {
			continue
		}
		said := binary.BigEndian.Uint32(tlv.Value)
		tlvs[i].Value = make([]byte, 4)
		if err := h.SetTLVs(tlvs); err != nil {
			t.Fatal(err)
		}
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) == said
	}
	return true
}

// FuzzBackendReplies: an MTA may answer whatever it likes, where it likes.
func FuzzBackendReplies(f *testing.F) {
	for i, s := range replySamples(f) {
		f.Add(s.B64, uint8(i), i%2 == 0)
	}
	f.Add([]byte("354 go on\r\n"), uint8(3), false)
	f.Add([]byte("250-a\r\n250-b\r\n250 c\r\n250 d\r\n"), uint8(5), false)
	set := rigSettings(f, rigOptions{policy: &streamPolicy})
	f.Fuzz(func(t *testing.T, odd []byte, phase uint8, hangUp bool) {
		if w := oddReply(t, set, phases[int(phase)%len(phases)], odd, hangUp); w != "" {
			t.Error(w)
		}
	})
}
