package doctor

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/checks/dnscache"
	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/journal"
	"postern/proxy"
	"postern/proxy/backend"
)

// said are the findings as one reads them, a line each.
func said(found []Finding) string {
	var lines []string
	for _, f := range found {
		lines = append(lines, string(f.Status)+" "+f.Seen)
	}
	return strings.Join(lines, "\n")
}

// issued makes a certificate, signed by another one or, with nil, by itself.
func issued(t *testing.T, name string, days int, key crypto.Signer, by *x509.Certificate, byKey crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(name))), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().AddDate(0, 0, min(-1, days-1)), NotAfter: time.Now().AddDate(0, 0, days),
		IsCA: !strings.Contains(name, "."), BasicConstraintsValid: true,
	}
	if days > 1000 {
		template.NotBefore = time.Now().AddDate(0, 0, 1)
	}
	if !template.IsCA {
		template.DNSNames, template.ExtKeyUsage = []string{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if by == nil {
		by, byKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), byKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestKeysAreNotForThoseWhoReadTheJournal(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key.pem")
	d := &patient{Parts: &service.Parts{Config: &configs.Config{Journal: configs.Journal{Path: dir}}}}
	for mode, want := range map[os.FileMode]string{0o600: "", 0o400: "", 0o640: "warning", 0o644: "" /* told of as a fault */} {
		if err := errors.Join(os.WriteFile(key, nil, 0o600), os.Chmod(key, mode)); err != nil {
			t.Fatal(err)
		}
		var r Report
		d.forTheGroup(r.on("certificate", "c.pem", ""), key)
		if got := said(r.Findings); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%v: %q", mode, got)
		}
	}
	if os.Getuid() == 0 { // another group than the journal's is somebody's own choice
		if err := errors.Join(os.Chmod(key, 0o640), os.Chown(key, -1, os.Getgid()+1)); err != nil {
			t.Fatal(err)
		}
		var r Report
		if d.forTheGroup(r.on("certificate", "c.pem", ""), key); len(r.Findings) > 0 {
			t.Errorf("%v", r.Findings)
		}
	}
}

func TestTheKeyOfADNSListIsASecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	zone := configs.DNSBLZone{Zone: "$key.list.example", ZoneKeyFile: file}
	for mode, want := range map[os.FileMode]Status{0o600: OK, 0o640: OK, 0o644: Fault, 0o620: Fault} {
		if err := errors.Join(os.WriteFile(file, []byte("secret"), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		got := keptSecret(Finding{Status: OK, Seen: "answers"}, zone)
		if got.Status != want || strings.Contains(got.Seen+got.Advice, "secret") || (want == OK) != (got.Seen == "answers") || (want == OK) != (got.Advice == "") {
			t.Errorf("%v: %+v", mode, got)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := keptSecret(Finding{Status: OK}, zone); got.Status != Fault {
		t.Errorf("the key is gone: %+v", got)
	}
	if got := keptSecret(Finding{Status: OK}, configs.DNSBLZone{Zone: "list.example"}); got.Status != OK {
		t.Errorf("a list without a key: %+v", got)
	}
}

func TestDoctorJudgesCertificates(t *testing.T) {
	newKey := func() crypto.Signer {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	rootKey, betweenKey, leafKey := newKey(), newKey(), newKey()
	root := issued(t, "Root", 900, rootKey, nil, nil)
	between := issued(t, "Between", 900, betweenKey, root, rootKey)
	leaf := func(days int) *x509.Certificate {
		return issued(t, "mx.example.org", days, leafKey, between, betweenKey)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	dir := t.TempDir()
	for _, c := range []struct {
		what  string
		chain []*x509.Certificate
		roots *x509.CertPool
		name  string
		mode  os.FileMode
		want  []string
	}{
		{"good", []*x509.Certificate{leaf(60), between}, roots, "mx.example.org", 0o640, []string{"ok c.pem names mx.example.org, until ", "(59 days), ECDSA P-256, chain to Root"}},
		{"for SNI", []*x509.Certificate{leaf(60), between}, roots, "", 0o600, []string{"ok c.pem names "}},
		{"leaf alone", []*x509.Certificate{leaf(60)}, roots, "mx.example.org", 0o640, []string{`warning c.pem has no chain to a root that this machine knows: "CN=Between", who signed "mx.example.org", is not in the file`}},
		{"private root", []*x509.Certificate{leaf(60), between, root}, x509.NewCertPool(), "mx.example.org", 0o640, []string{"signed by a root of its own: Root"}},
		{"another name", []*x509.Certificate{leaf(60), between}, roots, "mail.example.org", 0o640, []string{"warning c.pem does not name mail.example.org, but mx.example.org"}},
		{"soon", []*x509.Certificate{leaf(10), between}, roots, "mx.example.org", 0o640, []string{"warning c.pem ends on ", ", in 9 days"}},
		{"over", []*x509.Certificate{leaf(-2), between}, roots, "mx.example.org", 0o640, []string{"fault c.pem ended on "}},
		{"not yet", []*x509.Certificate{leaf(1001), between}, roots, "mx.example.org", 0o640, []string{"fault c.pem begins only on "}},
		{"weak", []*x509.Certificate{issued(t, "mx.example.org", 60, weak, between, betweenKey), between}, roots, "mx.example.org", 0o640, []string{"warning c.pem has an RSA key of 1024 bits"}},
		{"key for all", []*x509.Certificate{leaf(60), between}, roots, "mx.example.org", 0o644, []string{"fault c.pem has a key that everybody on this machine can read (-rw-r--r--)"}},
		{"key for the group", []*x509.Certificate{leaf(60), between}, roots, "mx.example.org", 0o660, []string{"fault c.pem has a key that others than its owner can replace"}},
	} {
		key := filepath.Join(dir, "key")
		if err := os.WriteFile(key, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(key, c.mode); err != nil {
			t.Fatal(err)
		}
		var r Report
		judgePair(&r, configs.Certificate{Certificate: "c.pem", Key: key}, c.chain, c.roots, c.name, time.Now())
		found := r.Findings
		got := said(found)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", c.what, want, got)
			}
		}
		if bad := strings.Contains(got, "warning ") || strings.Contains(got, "fault "); bad != !strings.HasPrefix(c.want[0], "ok ") {
			t.Errorf("%s:\n%s", c.what, got)
		}
	}
	var r Report
	judgePair(&r, configs.Certificate{Certificate: "c.pem", Key: filepath.Join(dir, "gone")}, []*x509.Certificate{leaf(60), between}, roots, "", time.Now())
	if got := said(r.Findings); !strings.Contains(got, "fault c.pem has lost its key") {
		t.Error(got)
	}
}

// A load balancer or a NAT that hides the clients is seen in the journal.
func TestDoctorSeesWhoHidesTheClients(t *testing.T) {
	now := time.Now()
	records := func(n int, from ...string) (all []journal.Record) {
		for i := range n {
			r := journal.Record{Time: now.Add(-time.Duration(i) * time.Minute)}
			r.Facts.Client.IP = from[i%len(from)]
			all = append(all, r)
		}
		return all
	}
	plain := []configs.Listener{{Name: "mx"}}
	balanced := []configs.Listener{{Name: "mx", ProxyProtocol: []string{"10.0.0.1"}}}
	for _, c := range []struct {
		records   []journal.Record
		listeners []configs.Listener
		want      string
		advice    string
	}{
		{nil, plain, "ok the journal has 0 records lately: too few", ""},
		{records(19, "10.0.0.1"), plain, "ok the journal has 19 records lately: too few", ""},
		{records(20, "10.0.0.1"), plain, "fault the last 20 transactions all came from 10.0.0.1, which is no address of the Internet", "must send a PROXY header"},
		{records(20, "10.0.0.1"), balanced, "fault the last 20 transactions all came from 10.0.0.1", "what stands before them"},
		{records(40, "172.17.0.1", "172.17.0.2"), plain, "fault the last 40 transactions came from 2 addresses of a network of your own", "PROXY header"},
		{records(40, "100.64.0.1"), plain, "fault ", ""},
		{records(40, "fd00::1"), plain, "fault ", ""},
		{records(40, "192.168.1.1", "192.168.1.2", "192.168.1.3", "192.168.1.4", "192.168.1.5"), plain, "warning the last 40 transactions came from networks of your own", ""},
		{records(40, "198.51.100.7"), plain, "warning the last 40 transactions all came from 198.51.100.7: is it the only one", ""},
		{records(40, "198.51.100.7", "10.0.0.1"), plain, "ok the last 40 transactions came from 2 addresses; 20 came from the Internet", ""},
	} {
		var r Report
		seenClients(&r, c.records, c.listeners, now)
		found := r.Findings
		if got := said(found); !strings.HasPrefix(got, c.want) || len(found) != 1 || !strings.Contains(found[0].Advice, c.advice) {
			t.Errorf("%q, not %q (%+v)", got, c.want, found)
		}
	}
	ahead := records(1, "198.51.100.7")
	ahead[0].Time = now.Add(time.Hour)
	var r Report
	seenClients(&r, ahead, plain, now)
	if got := said(r.Findings); !strings.HasPrefix(got, "warning the last record of the journal is of ") {
		t.Error(got)
	}
}

func TestDoctorSeesWhomTheMTASees(t *testing.T) {
	refused := &backend.Error{Kind: backend.KindRefused, Err: errors.New("XCLIENT")}
	for _, c := range []struct {
		identity string
		x        backend.Examination
		want     string
	}{
		{"none", backend.Examination{}, "warning is not told who the client is"},
		{"none", backend.Examination{Err: refused}, ""},
		{"xclient", backend.Examination{Err: refused}, ""},
		{"xclient", backend.Examination{Told: &backend.Told{Hello: "mail.example.org"}}, "ok accepted XCLIENT for a client at 192.0.2.1, and treats the session as coming from there"},
		{"xclient", backend.Examination{Greeting: "m ESMTP Postfix", Told: &backend.Told{XClient: true}}, "fault was told of a client at 192.0.2.1 by xclient, and would let that client say XCLIENT itself"},
		{"xclient", backend.Examination{Told: &backend.Told{Err: refused}}, "ok was told of a client at 192.0.2.1 by xclient, and turned that client away"},
		{"xclient", backend.Examination{Told: &backend.Told{Err: &backend.Error{Kind: backend.KindIdentity, Err: errors.New("no XCLIENT")}}}, "fault cannot be told who the client is, so all its mail is deferred (451 4.4.1): identity: no XCLIENT"},
		{"proxy-v2", backend.Examination{Told: &backend.Told{Hello: "m Hello doctor.example [192.0.2.1]"}}, `ok was told of a client at 192.0.2.1 by proxy-v2, and answers to it: "m Hello doctor.example [192.0.2.1]"`},
		{"xforward", backend.Examination{Told: &backend.Told{}}, "ok was told of a client at 192.0.2.1 by xforward, for its log and its filters; its own rules"},
	} {
		var r Report
		clientTold(r.on("backend.client", "", ""), configs.Backend{Identity: c.identity}, c.x)
		if got := said(r.Findings); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, not %q", c.identity, got, c.want)
		}
	}
}

const scraped = `# HELP postern_build_info Always 1.
# TYPE postern_build_info gauge
postern_build_info{goversion="go1.26.0",version="v1.2.3"} 1
postern_journal_records_total{result="dropped"} 2
postern_journal_records_total{result="error"} 3
postern_journal_records_total{result="written"} 1e+06
postern_config_reloads_total{result="error"} 4
postern_config_reloads_total{result="ok"} 9
postern_dns_healthy 0
postern_state_healthy 0
process_max_fds 65536
`

func TestDoctorReadsTheMetrics(t *testing.T) {
	var s scrape
	s.read(strings.NewReader(scraped))
	if !s.up || s.version != "v1.2.3" || s.lostRecords != 5 || s.failedReloads != 4 || !s.unhealthyDNS || !s.unhealthyState || s.maxFiles != 65536 {
		t.Errorf("%+v", s)
	}
	s = scrape{}
	s.read(strings.NewReader("220 mta.example ESMTP\r\n"))
	if s.up {
		t.Error("that was no Postern")
	}
}

// Who listens and says nothing costs a wait that ends.
func TestDoctorDoesNotWaitForTheSilent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if s := scrapeAdmin(ctx, ln.Addr().String()); s.up || s.err == nil {
		t.Errorf("%+v", s)
	}
	for _, how := range []string{"starttls", "implicit"} {
		greeting, err := greetingOf(ctx, configs.Listener{Address: ln.Addr().String(), TLS: how, ProxyProtocol: []string{"127.0.0.1"}})
		if err == nil {
			t.Errorf("%s: %q", how, greeting)
		}
	}
}

// FuzzScrape: whoever holds the admin port may say anything.
func FuzzScrape(f *testing.F) {
	f.Add(scraped)
	f.Add(`postern_build_info{version="` + "\n" + `process_max_fds NaN` + "\n" + `process_max_fds -1`)
	f.Fuzz(func(t *testing.T, text string) {
		var s scrape
		s.read(strings.NewReader(text))
		if s.version != "" && !s.up {
			t.Errorf("%+v", s)
		}
	})
}

func TestDoctorTriesPortsWithoutListening(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	_, port, _ := net.SplitHostPort(taken)
	if err := tryBind(taken); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%s: %v", taken, err)
	}
	// No host is all addresses, that one included.
	if err := tryBind(":" + port); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("all: %v", err)
	}
	for _, free := range []string{"127.0.0.1:0", ":0"} {
		if err := tryBind(free); err != nil {
			t.Errorf("%s: %v", free, err)
		}
	}
	if err := tryBind("192.0.2.1:0"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("another's: %v", err)
	}
}

// Who stands on port 25 is seen by who they are, and by a user too who could not open it:
// the kernel asks for that right before it looks whether the port is taken.
func TestDoctorSeesWhoHasThePort(t *testing.T) {
	d := &patient{Parts: &service.Parts{Settings: &proxy.Settings{Hostname: "mx.example.org"}}}
	for _, c := range []struct {
		greeting string // empty: nobody listens
		bound    error
		want     string
	}{
		{"mx.example.org ESMTP", syscall.EADDRINUSE, `ok is in use by Postern, which greets with "mx.example.org ESMTP"`},
		{"mx.example.org ESMTP", syscall.EACCES, `ok is in use by Postern, `},
		{"mx.example.org ESMTP Postfix", syscall.EADDRINUSE, `fault is in use by another program, which greets with "mx.example.org ESMTP Postfix"`},
		{"mx.example.org ESMTP Postfix", syscall.EACCES, `fault is in use by another program, `},
		{"", syscall.EACCES, "warning cannot be opened by this user: "},
		{"", syscall.EADDRINUSE, "fault is in use by a program that does not greet: dial tcp "},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if c.greeting == "" {
			ln.Close()
		} else {
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "220 "+c.greeting+"\r\n")
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
		f := d.port(t.Context(), configs.Listener{Name: "mx", Address: ln.Addr().String(), TLS: "starttls"}, c.bound)
		if got := said([]Finding{f}); !strings.HasPrefix(got, c.want) {
			t.Errorf("%q, %v: %s", c.greeting, c.bound, got)
		}
	}
}

func TestDoctorTriesFolders(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const much = 1 << 62
	for _, c := range []struct {
		dir       string
		full, low uint64
		want      string
	}{
		{dir, 1, 2, "ok " + dir + " can be written, and has "},
		{filepath.Join(dir, "a/b"), 1, 2, "ok " + filepath.Join(dir, "a/b") + " is not there yet and can be made, with "},
		{file, 1, 2, "fault " + file + ": " + file + " is no folder: so"},
		{filepath.Join(file, "a"), 1, 2, "fault stat " + filepath.Join(file, "a") + ": not a directory: so"},
		{"/proc/postern", 1, 2, "fault /proc/postern cannot be written ("}, // not even by root
		{dir, 1, much, "warning " + dir + " can be written, and has "},
		{dir, much, much, "fault " + dir + " is full, with "},
	} {
		if f := tryFolder("journal", c.dir, c.full, c.low, "so"); !strings.HasPrefix(said([]Finding{f}), c.want) || f.Status != OK && f.Advice == "" {
			t.Errorf("%s: %+v, not %q", c.dir, f, c.want)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("it left %v behind (%v)", left, err)
	}
}

func TestDoctorKnowsAddressesAndNames(t *testing.T) {
	for name, want := range map[string]bool{
		"localhost": true, "mx": true, "mx.local": true, "mx.corp.lan.": true, "192.0.2.1": true, "mx.example.org": false, "local.example.org": false,
	} {
		if localName(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	for block, want := range map[string]bool{
		"0.0.0.0/0": true, "::/0": true, "198.0.0.0/8": true, "2001::/16": true, "10.0.0.0/8": false, "fd00::/8": false, "192.0.2.0/24": false, "2001:db8::/32": false,
	} {
		if wide(netip.MustParsePrefix(block)) != want {
			t.Errorf("%s: %v", block, !want)
		}
	}
	for server, want := range map[string]bool{
		"8.8.8.8": true, "8.8.8.8:53": true, "tls://1.1.1.1:853#cloudflare-dns.com": true, "2620:fe::fe": true, "[2620:fe::fe]:53": true,
		"127.0.0.1": false, "192.0.2.53:53": false, "tls://192.0.2.1": false,
	} {
		if isPublicResolver(withoutScheme(server)) != want {
			t.Errorf("%s: %v", server, !want)
		}
	}
	for address, want := range map[string]bool{":9125": true, "0.0.0.0:9125": true, "203.0.113.5:9125": true, "127.0.0.1:9125": false, "10.0.0.5:9125": false, "localhost:1": false} {
		if open(address) != want {
			t.Errorf("%s: %v", address, !want)
		}
	}
	if got := fmt.Sprint(size(3<<30), " ", size(20<<30), " ", size(5<<10)); got != "3072 MiB 20 GiB 5 KiB" {
		t.Error(got)
	}
}

func TestDoctorSeesASlowNameServer(t *testing.T) {
	for took, want := range map[time.Duration]string{
		500 * time.Millisecond: "answers by UDP in 500ms and by TCP in 1ms", 600 * time.Millisecond: "is slow: 600ms for an answer",
	} {
		x := dnscache.Examination{Stream: dnscache.Exchange{Took: time.Millisecond, Code: "NXDOMAIN"}, UDP: dnscache.Exchange{Took: took, Code: "NXDOMAIN"}}
		var r Report
		new(patient).server(&r, "192.0.2.53", x)
		if len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Seen, want) {
			t.Errorf("%v: %+v", took, r.Findings)
		}
	}
}

// The report has its colours beside words that say the same, and only where somebody looks.
func TestReportIsPainted(t *testing.T) {
	var r Report
	r.on("hostname", "", "").OK("sound")
	r.on("hostname", "", "").Warn("do that", "odd")
	r.on("hostname", "", "").Fault("do this", "broken")
	var b strings.Builder
	if err := r.WriteText(&b); err != nil || strings.Contains(b.String(), "\x1b") {
		t.Fatalf("%v, %q", err, b.String())
	}
	got := painted(view.Terminal{Width: 80, Colour: true}, b.String())
	for _, want := range []string{"\x1b[1mOur name\x1b[0m\n", "  \x1b[32mok      \x1b[0m sound\n", "  \x1b[33mwarning \x1b[0m odd\n           -> do that\n", "  \x1b[31mfault   \x1b[0m broken\n", "\x1b[1m1 fault, 1 warning, 1 ok\x1b[0m\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}
