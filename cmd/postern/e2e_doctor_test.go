//go:build e2e

package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

// doctor examines p's installation with the built binary.
func (p *postern) doctor(t *testing.T, code int) string {
	t.Helper()
	cmd := exec.Command(p.binary, "doctor", "-c", p.config)
	cmd.Dir = filepath.Dir(p.config)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+p.ca) // its certificate is its own root
	start := time.Now()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("in %v:\n%s", time.Since(start).Round(time.Millisecond), out)
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, not %d", got, code)
	}
	return string(out)
}

func finds(t *testing.T, report string, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		if !regexp.MustCompile("(?m)" + pattern).MatchString(report) {
			t.Errorf("the report has no %s", pattern)
		}
	}
}

// Before a real Postfix, with a real Unbound: Postfix goes by the address that it is
// told, nothing is sent, and what breaks is seen.
func TestE2EDoctor(t *testing.T) {
	dns := startNameServers(t)
	mta := startPostfix(t)
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, `limits: {connections: 1000}
checks: {dnsbl: {zones: [{zone: bl.example}]}}
`)
	if err := os.Chmod(p.key, 0o600); err != nil {
		t.Fatal(err)
	}
	config := regexp.MustCompile(`(?m)^dns: .*$`).ReplaceAllString(string(readFile(t, p.config)),
		fmt.Sprintf(`dns: {servers: [%q], timeout: 10s, canaries: [known.example, sender.example]}`, dns.addr()))
	writeFile(t, p.config, config)
	mtaAt := regexp.QuoteMeta(fmt.Sprintf("mta at 127.0.0.1:%d", mta.port))

	// The zone of the list is a name like any other here: it has no test entry.
	report := p.doctor(t, 1)
	finds(t, report,
		`^  ok       `+dns.addr()+` answers by UDP in \S+ and by TCP in \S+, with EDNS`,
		`^  ok       `+dns.addr()+` resolves 2 canary zones`,
		`^  fault    bl.example, asked by `+dns.addr()+`: it has no entry 2.0.0.127.bl.example, which every list has`,
		`^  warning  mx.example.org has no address in the DNS`,
		`^  warning  \S+cert.pem ends on .*, in 0 days`,
		`^  ok       mx on `+regexp.QuoteMeta(p.addr())+` is in use by Postern, which greets with "mx.example.org ESMTP"`,
		`^  ok       `+mtaAt+`: greets with "\S+ ESMTP[^"]*" in \S+, in the clear; offers PIPELINING, 8BITMIME, .*SIZE \d+`,
		`^  ok       `+mtaAt+`: accepted XCLIENT for a client at 192.0.2.1, and treats the session as coming from there`,
		`^  ok       mx: PIPELINING, SIZE \d+, STARTTLS, `,
		`^  ok       Postern \S+ runs and answers on `,
		`^1 fault, `)
	mta.logged(t, `disconnect from unknown\[192\.0\.2\.1\] ehlo=2 xclient=\S+ quit=1 `)
	if log := string(readFile(t, mta.dir+"/maillog")); strings.Contains(log, "mail=") {
		t.Errorf("a transaction was begun:\n%s", log)
	}

	// With the list gone all is well; then Postfix is told by nobody, and then gone.
	writeFile(t, p.config, strings.Replace(config, "zones: [{zone: bl.example}]", "zones: []", 1))
	finds(t, p.doctor(t, 0), `^0 faults, `)
	master := mta.dir + "/etc/master.cf"
	writeFile(t, master, strings.Replace(string(readFile(t, master)), "smtpd_authorized_xclient_hosts=127.0.0.1", "smtpd_authorized_xclient_hosts=", 1))
	tool(t, nil, "postfix", "-c", mta.dir+"/etc", "reload")
	eventually(t, "Postfix to offer no XCLIENT", func() bool { return keyword(introduction(t, mta.port, ""), "XCLIENT") == "" })
	finds(t, p.doctor(t, 1), `^  fault    `+mtaAt+`: cannot be told who the client is, so all its mail is deferred .*smtpd_authorized_xclient_hosts`)
	// Everybody may say who they are: the client that it was told of as well.
	writeFile(t, master, strings.Replace(string(readFile(t, master)), "smtpd_authorized_xclient_hosts=", "smtpd_authorized_xclient_hosts=0.0.0.0/0", 1))
	tool(t, nil, "postfix", "-c", mta.dir+"/etc", "reload")
	eventually(t, "Postfix to offer XCLIENT", func() bool { return keyword(introduction(t, mta.port, ""), "XCLIENT") != "" })
	finds(t, p.doctor(t, 1), `^  fault    `+mtaAt+`: was told of a client at 192.0.2.1 by xclient, and would let that client say XCLIENT itself`)
	mta.kill(t)
	dns.kill()
	finds(t, p.doctor(t, 1),
		`^  fault    `+mtaAt+`: dial: .*refused; its mail is deferred`,
		`^  fault    `+dns.addr()+` does not answer: `,
		`^  ok       mx on `+regexp.QuoteMeta(p.addr())+` is in use by Postern`)
}

// MTAs that read the PROXY protocol greet a client by the address in the header.
func TestE2EDoctorBeforeExim(t *testing.T) {
	exim := eximBackend(t)
	p := startPosternAs(t, setup{backends: exim.backends})
	finds(t, p.doctor(t, 1), `^  ok       mta at \S+: was told of a client at 192.0.2.1 by proxy-v2, and answers to it: ".*192\.0\.2\.1`)
}
