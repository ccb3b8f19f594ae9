//go:build e2e

package checks

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/checks/milter"
)

// startOpenDKIM runs opendkim, which verifies and refuses nothing, until the test ends. Its
// DNS is at an address.
func startOpenDKIM(t *testing.T, dns string) *milter.Filter {
	t.Helper()
	dir := t.TempDir()
	host, port, err := net.SplitHostPort(dns)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("Mode v\nSocket local:%[1]s/socket\nSyslog no\nPidFile %[1]s/pid\nAlwaysAddARHeader yes\nNameservers %[2]s@%[3]s\n"+
		"AuthservID opendkim.test\nOn-Default accept\nDNSTimeout 10\n", dir, host, port)
	if err := os.WriteFile(dir+"/conf", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("opendkim", "-f", "-x", dir+"/conf")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; on Debian: apt-get install opendkim", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); t.Failed() && len(text) > 0 {
			t.Logf("opendkim: %s", text)
		}
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", dir+"/socket")
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("opendkim does not listen: %v", err)
		}
	}
	return milter.New(milter.Options{Name: "opendkim", Address: "unix:" + dir + "/socket", Timeout: time.Minute, AddFields: true})
}

// passesByOpenDKIM are the domains of which opendkim says that a signature passes, and all that
// it says.
func passesByOpenDKIM(t *testing.T, f *milter.Filter, raw string) (domains []string, said string) {
	t.Helper()
	_, body, _ := strings.Cut(raw, "\r\n\r\n")
	m := &milter.Message{
		Hostname: "mx.test", ID: "test", Client: net.IPv4(192, 0, 2, 1), Helo: "client.test", From: "a@client.test",
		Recipients: []milter.Recipient{{Address: "b@mx.test"}}, Body: strings.NewReader(body),
	}
	for _, field := range readHeader(raw) {
		m.Header = append(m.Header, milterField(field))
	}
	v, err := f.Ask(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range v.Fields {
		if field.Name == "Authentication-Results" {
			said += field.Value
		}
	}
	for line := range strings.Lines(said) {
		if _, domain, ok := strings.Cut(line, "header.d="); ok && strings.Contains(line, "dkim=pass") {
			domain, _, _ = strings.Cut(domain, " ")
			domains = append(domains, strings.ToLower(domain))
		}
	}
	slices.Sort(domains)
	return slices.Compact(domains), said
}

// notByOpenDKIM are the messages of which opendkim says something else, and why we do not.
var notByOpenDKIM = deviations{
	"good_83176.txt":      "it takes rsa-sha1, which RFC 8301 forbids",
	"no_body_1.txt":       "it takes rsa-sha1, which RFC 8301 forbids",
	"no_body_3.txt":       "it takes rsa-sha1, which RFC 8301 forbids",
	"002.txt":             "it does not read the bare RSAPublicKey of RFC 6376 §3.6.1",
	"09-limited_body.msg": "it takes l=, which leaves room for what others add (RFC 6376 §8.2)",
}

// opendkim, which is asked as any milter is, agrees with our own check on the messages of the
// suites: which domains have a signature that passes.
func TestE2EOpenDKIM(t *testing.T) {
	c := tally{suite: "opendkim"}
	for suite, cases := range map[string][]dkimCase{"chasquid": chasquidCases(t), "mail-auth": stalwartCases(t), "Mail::DKIM": mailDKIMCases(t)} {
		var f *milter.Filter
		for _, message := range cases {
			zone := message.dns.zone(t)
			if f == nil || suite != "Mail::DKIM" { // whose messages share their DNS
				address, stop := zone.Serve()
				t.Cleanup(stop)
				f = startOpenDKIM(t, address)
			}
			ours := slices.Clone(runDKIMCheck(t, zone, message.raw).Domains)
			slices.Sort(ours)
			theirs, said := passesByOpenDKIM(t, f, message.raw)
			c.judge(t, notByOpenDKIM, message.name, slices.Equal(ours, theirs), ours, fmt.Sprintf("%q: %s", theirs, said))
		}
	}
	if len(c.deviations) != len(notByOpenDKIM) {
		t.Errorf("of the differences that are listed came %q", c.deviations)
	}
	t.Logf("opendkim agrees on %d of %d messages; %q", c.passed, c.cases, c.deviations)
}
