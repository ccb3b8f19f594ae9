//go:build e2e

package main_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"postern/proxy/smtptest"
)

const (
	eicar = `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*`
	gtube = `XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X`
)

// text is a message with a body.
func text(body string) []byte {
	return []byte("From: ann@sender.example\r\nTo: raw@example.org\r\nSubject: a test\r\nDate: Mon, 30 Nov 2026 07:00:00 +0000\r\nMessage-ID: <1@sender.example>\r\n\r\n" + body + "\r\n")
}

// opendkim, which signs, stays with Postfix as the guide says: on the submission service, and not on Postern's, where it would
// sign what a forger writes, since Postfix counts the machine itself among its own.
func TestE2ESigningStaysWithPostfix(t *testing.T) {
	needs(t, "opendkim")
	dir, opendkim, submission := t.TempDir(), smtptest.FreePort(t), smtptest.FreePort(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	writeFile(t, dir+"/opendkim.conf", fmt.Sprintf("Mode s\nDomain sender.example\nSelector s1\nKeyFile %[1]s/key.pem\nRequireSafeKeys no\nSocket inet:%[2]d@127.0.0.1\nSyslog no\nUserID root\nPidFile %[1]s/opendkim.pid\n", dir, opendkim))
	daemon(t, fmt.Sprintf("127.0.0.1:%d", opendkim), "opendkim", "-f", "-x", dir+"/opendkim.conf")

	mta := newPostfix(t)
	ours := "    -o smtpd_milters="
	if guide := string(readFile(t, "../../deploy/README.md")); !strings.Contains(guide, "the service that Postern talks to:  -o smtpd_milters=\n") ||
		!strings.Contains(guide, "`-o smtpd_milters=inet:127.0.0.1:8891` there") {
		t.Fatal("deploy/README.md says something else")
	}
	milter := fmt.Sprintf("inet:127.0.0.1:%d", opendkim)
	main, master := mta.dir+"/etc/main.cf", mta.dir+"/etc/master.cf"
	writeFile(t, main, string(readFile(t, main))+"smtpd_milters = "+milter+"\nnon_smtpd_milters = "+milter+"\nmilter_default_action = tempfail\n")
	service := strings.Replace(guidesService(t), "127.0.0.1:10025", fmt.Sprintf("127.0.0.1:%d", mta.port), 1)
	writeFile(t, master, strings.Replace(string(readFile(t, master)), service, service+ours+"\n", 1)+
		fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd\n    -o smtpd_milters=%s\n", submission, milter))
	mta.start(t)
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, "policy: {builtin: off}\n")

	forged := attempt{source: "127.0.0.1", from: "ann@sender.example", to: "raw@example.org", message: text("forged")}
	if reply := forged.run(t, p.addr()); !strings.HasPrefix(reply, "250 ") {
		t.Fatal(reply)
	}
	if got := string(mta.received(t, "raw")); strings.Contains(got, "DKIM-Signature:") {
		t.Errorf("what came by Postern was signed:\n%s", got)
	}
	own := attempt{source: "127.0.0.1", from: "ann@sender.example", to: "swaks@example.org", message: text("our own")}
	if reply := own.run(t, fmt.Sprintf("127.0.0.1:%d", submission)); !strings.HasPrefix(reply, "250 ") {
		t.Fatal(reply)
	}
	if got := string(mta.received(t, "swaks")); !strings.Contains(got, "DKIM-Signature:") || !strings.Contains(got, "d=sender.example; s=s1") {
		t.Errorf("what was submitted was not signed:\n%s", got)
	}
}

// clamav-milter with a clamd whose database has one signature, and opendkim beside it: what is a
// virus is refused in the milter's words, and what is none arrives with the fields that it
// adds. opendkim, which verifies, agrees with our own check on mail that is not signed.
func TestE2EClamAVAndOpenDKIM(t *testing.T) {
	needs(t, "clamd", "clamav-milter", "opendkim")
	dir := t.TempDir()
	clamav, opendkim := fmt.Sprintf("127.0.0.1:%d", smtptest.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", smtptest.FreePort(t))
	host, port, _ := strings.Cut(opendkim, ":")
	writeFile(t, dir+"/one.ndb", "Eicar-Test:0:*:"+hex.EncodeToString([]byte(eicar))+"\n")
	writeFile(t, dir+"/clamd.conf", fmt.Sprintf("DatabaseDirectory %[1]s\nLocalSocket %[1]s/clamd.sock\nForeground yes\nUser root\nPidFile %[1]s/clamd.pid\n", dir))
	clamdPort := smtptest.FreePort(t)
	writeFile(t, dir+"/clamd.conf", string(readFile(t, dir+"/clamd.conf"))+fmt.Sprintf("TCPSocket %d\nTCPAddr 127.0.0.1\n", clamdPort))
	clamHost, clamPort, _ := strings.Cut(clamav, ":")
	writeFile(t, dir+"/milter.conf", fmt.Sprintf("MilterSocket inet:%s@%s\nClamdSocket unix:%s/clamd.sock\nForeground yes\nUser root\nOnInfected Reject\nRejectMsg Virus found: %%v\nAddHeader Replace\nPidFile %[3]s/milter.pid\n", clamPort, clamHost, dir))
	writeFile(t, dir+"/opendkim.conf", fmt.Sprintf("Mode v\nSocket inet:%s@%s\nSyslog no\nUserID root\nPidFile %s/opendkim.pid\n", port, host, dir))
	daemon(t, fmt.Sprintf("127.0.0.1:%d", clamdPort), "clamd", "-c", dir+"/clamd.conf")
	daemon(t, clamav, "clamav-milter", "-c", dir+"/milter.conf")
	daemon(t, opendkim, "opendkim", "-f", "-x", dir+"/opendkim.conf")

	mta := startPostfix(t)
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, fmt.Sprintf(`milters:
  - {name: clamav, address: %q, timeout: 1m, add_fields: true}
  - {name: opendkim, address: %q, timeout: 1m, add_fields: true}
policy:
  builtin: off
  rules:
    - {name: virus, when: 'milter.clamav.action == "reject"', do: reject, reply: "550 5.7.1 ${milter.clamav.reply}"}
    - {name: away, when: 'milter.clamav.action == "temperror" or milter.opendkim.action == "temperror"', do: defer}
`, clamav, opendkim))
	try := attempt{source: "127.0.0.7", from: "ann@sender.example", to: "raw@example.org", message: text(eicar)}
	if reply, _ := splitID(try.run(t, p.addr())); reply != "550 5.7.1 Virus found: Eicar-Test.UNOFFICIAL" {
		t.Errorf("a virus: %s", reply)
	}
	try.message = text("good day")
	if reply := try.run(t, p.addr()); !strings.HasPrefix(reply, "250 ") {
		t.Errorf("no virus: %s", reply)
	}
	if got := string(mta.received(t, "raw")); !strings.Contains(got, "\nX-Virus-Scanned: clamav-milter ") || !strings.Contains(got, "\nX-Virus-Status: Clean\n") || !strings.HasSuffix(got, onDiskText("good day")) {
		t.Errorf("it arrived as\n%s", got)
	}
	facts := p.transaction(t, `"disposition":"pass"`)["facts"].(map[string]any)
	if dkim := facts["dkim"].(map[string]any)["result"]; dkim != "none" && dkim != "skipped" {
		t.Errorf("ours says %v of mail that is not signed", dkim)
	}
	if theirs := fmt.Sprint(facts["milter"].(map[string]any)["opendkim"]); !strings.Contains(theirs, "action:accept") && !strings.Contains(theirs, "action:none") {
		t.Errorf("opendkim says %s", theirs)
	}
}

func onDiskText(body string) string { return string(onDisk(text(body))) }

// rspamd by its proxy worker in milter mode: GTUBE is refused by a rule, in rspamd's words, and
// other mail passes with the fields on top that rspamd adds.
func TestE2ERspamd(t *testing.T) {
	needs(t, "rspamd")
	dir := t.TempDir()
	at := fmt.Sprintf("127.0.0.1:%d", smtptest.FreePort(t))
	// NOT: Debian's list of top level domains, which takes rspamd minutes to compile on a slow machine.
	writeFile(t, dir+"/tld", "example\norg\n")
	writeFile(t, dir+"/rspamd.conf", fmt.Sprintf(`options {
  pidfile = "%[1]s/pid"; url_tld = "%[1]s/tld"; filters = ""; gtube_patterns = "all"; control_socket = "%[1]s/control"; hs_cache_dir = "%[1]s";
  dns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }
}
logging { type = "console"; level = "notice"; }
worker "rspamd_proxy" { bind_socket = %[2]q; milter = yes; timeout = 60s; count = 1; upstream "local" { default = yes; self_scan = yes; } }
actions { reject = 15; }
modules { path = "/usr/share/rspamd/plugins/milter_headers.lua"; }
milter_headers { use = ["x-spamd-bar"]; skip_local = false; }
`, dir, at))
	daemon(t, at, "rspamd", "-f", "-i", "-c", dir+"/rspamd.conf", "--var=DBDIR="+dir, "--var=RUNDIR="+dir)
	mta := startPostfix(t)
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, fmt.Sprintf(`milters: [{name: rspamd, address: %q, timeout: 1m, add_fields: true}]
policy:
  builtin: off
  rules:
    - {name: spam, when: 'milter.rspamd.action == "reject"', do: reject, reply: "550 5.7.1 ${milter.rspamd.reply}"}
    - {name: away, when: 'milter.rspamd.action == "temperror"', do: defer}
`, at))
	try := attempt{source: "127.0.0.7", from: "ann@sender.example", to: "raw@example.org", message: text(gtube)}
	if reply, _ := splitID(try.run(t, p.addr())); !strings.HasPrefix(reply, "550 5.7.1 ") || !strings.Contains(strings.ToLower(reply), "gtube") && !strings.Contains(reply, "Spam message rejected") {
		t.Errorf("GTUBE: %s", reply)
	}
	try.message = text("good day")
	if reply := try.run(t, p.addr()); !strings.HasPrefix(reply, "250 ") {
		t.Errorf("mail that is none: %s", reply)
	}
	if got := string(mta.received(t, "raw")); !strings.HasSuffix(got, "\nX-Spamd-Bar: /\n"+onDiskText("good day")) {
		t.Errorf("it arrived as\n%s", got)
	}
}
