//go:build e2e

package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	guides "postern/cmd/postern"
	"postern/proxy/smtptest"
)

// daemon runs a filter until the test ends, and waits until it listens.
func daemon(t *testing.T, address, name string, args ...string) {
	t.Helper()
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its workers end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, readFile(t, out.Name()))
		}
	})
	eventually(t, name+" to listen", func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// postgrey as a policy service: what it greylists hears its own words, and gets through when it
// comes again after its delay; while postgrey is away, mail is deferred by the rule that says so.
func TestE2EPostgrey(t *testing.T) {
	needs(t, "postgrey")
	mta := startPostfix(t)
	at := fmt.Sprintf("127.0.0.1:%d", smtptest.FreePort(t))
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, fmt.Sprintf(`policy_services: [{name: postgrey, address: %q, timeout: 15s}]
policy:
  builtin: off
  rules:
    - {name: greylisted, when: 'service.postgrey.action == "defer_if_permit"', do: defer, reply: "450 4.7.1 ${service.postgrey.text}"}
    - {name: no-postgrey, when: 'service.postgrey.action == "temperror"', do: defer}
`, at))
	try := attempt{source: "127.0.0.7", from: "ann@sender.example", to: "raw@example.org", message: message("ann@sender.example", "grey")}
	if reply, _ := splitID(try.run(t, p.addr())); reply != "451 4.3.0 Temporary failure in processing, please try again later." {
		t.Errorf("without postgrey: %s", reply)
	}
	if service := p.transaction(t, "ann@sender.example")["facts"].(map[string]any)["service"]; !strings.Contains(fmt.Sprint(service), "no connection: dial tcp") {
		t.Errorf("the record says %v", service)
	}
	db := t.TempDir()
	daemon(t, at, "postgrey", "--inet="+at, "--dbdir="+db, "--delay=3", "--user=root", "--group=root", "--pidfile="+db+"/pid")
	began := time.Now()
	if reply, _ := splitID(try.run(t, p.addr())); !strings.HasPrefix(reply, "450 4.7.1 Greylisted, see http") {
		t.Errorf("the first time: %s", reply)
	}
	eventually(t, "postgrey to let it in", func() bool {
		time.Sleep(500 * time.Millisecond)
		return strings.HasPrefix(try.run(t, p.addr()), "250 ")
	})
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was let in after %s", took)
	}
	mta.received(t, "raw")
	if _, page := p.get("/metrics"); !strings.Contains(page, `postern_filter_results_total{filter="service.postgrey",result="temperror"} 1`) ||
		!strings.Contains(page, `postern_filter_results_total{filter="service.postgrey",result="defer_if_permit"}`) {
		t.Errorf("the metrics do not count it")
	}
}

// postgrey is retired as the guide says: with its blocks, but for the address, the folder and the time. Who proves nothing is
// held until the time is over, though postgrey is gone; who proves who they are is not.
func TestE2EPostgreyRetired(t *testing.T) {
	needs(t, "postgrey")
	mta := startPostfix(t)
	at, db := fmt.Sprintf("127.0.0.1:%d", smtptest.FreePort(t)), t.TempDir()
	before := strings.NewReplacer("127.0.0.1:10023", at).Replace(guides.BlockOf(t, deployGuide, "# /etc/postern/postern.yaml\npolicy_services:"))
	after := strings.NewReplacer("/var/lib/postern/state", t.TempDir()+"/state", "for: 5m", "for: 2s").
		Replace(guides.BlockOf(t, deployGuide, "policy:\n  rules:\n    - {name: first-contact")) + "\n"
	if !strings.Contains(after, "for: 2s") || !strings.Contains(before, at) {
		t.Fatalf("the guide has other blocks:\n%s\n%s", before, after)
	}
	// A machine under load may take longer to put a notice on the disk than a client is to wait for.
	after = strings.Replace(after, "state: {", "state: {timeout: 30s, ", 1)
	daemon(t, at, "postgrey", "--inet="+at, "--dbdir="+db, "--delay=3600", "--user=root", "--group=root", "--pidfile="+db+"/pid")
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, before)
	stranger := attempt{source: "127.0.0.66", from: "ann@plain.example", to: "raw@example.org", message: message("ann@plain.example", "held")}
	if reply, _ := splitID(stranger.run(t, p.addr())); !strings.HasPrefix(reply, "450 4.7.1 Greylisted, see http") {
		t.Errorf("by postgrey: %s", reply)
	}
	writeFile(t, p.config, strings.Replace(string(readFile(t, p.config)), before, after, 1))
	if err := p.reload(t); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if reply, _ := splitID(stranger.run(t, p.addr())); !strings.HasPrefix(reply, "451 4.7.1 Held") {
		t.Errorf("by Postern: %s", reply)
	}
	known := attempt{source: "127.0.0.7", from: "ann@sender.example", to: "swaks@example.org", message: message("ann@sender.example", "known")}
	if reply := known.run(t, p.addr()); !strings.HasPrefix(reply, "250 ") {
		t.Errorf("who proves who they are: %s", reply)
	}
	eventually(t, "the end of the hold", func() bool { return strings.HasPrefix(stranger.run(t, p.addr()), "250 ") })
	if took := time.Since(began); took < time.Second {
		t.Errorf("it was let in after %s", took)
	}
	mta.received(t, "raw")
}

// spawn is what Postfix's spawn(8) does: a process for each connection, whose standard input and
// output it is.
func spawn(t *testing.T, name string, args ...string) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				cmd := exec.CommandContext(ctx, name, args...)
				// NOT: c itself, whose reader would keep Wait from coming back.
				in, err := cmd.StdinPipe()
				if err != nil {
					return
				}
				cmd.Stdout = c
				if cmd.Start() != nil {
					return
				}
				go func() {
					_, _ = io.Copy(in, c)
					in.Close()
				}()
				_ = cmd.Wait() // a process that dies hangs up
			}()
		}
	}()
	return ln.Addr().String()
}

// spf-engine as a policy service says of each session what our own check says.
func TestE2ESPFEngine(t *testing.T) {
	needs(t, "policyd-spf")
	if err := exec.Command("/usr/bin/python3", "-c", "import DNS, spf_engine").Run(); err != nil {
		t.Fatalf("python3-dns and postfix-policyd-spf-python are needed: %v", err)
	}
	dir := t.TempDir()
	config, wrapper := dir+"/policyd-spf.conf", dir+"/policyd-spf.py"
	writeFile(t, config, "debugLevel = 0\nTestOnly = 1\nHELO_reject = False\nMail_From_reject = Fail\nPermError_reject = False\nTempError_Defer = False\nskip_addresses = 203.0.113.1\n")
	placeholder := fmt.Sprintf("127.0.0.1:%d", smtptest.FreePort(t))
	// NOT: with Postfix behind it, which waits a second (in_flow_delay) at each recipient after a
	// hundred that came to no message.
	p := startPosternAs(t, setup{extra: fmt.Sprintf(`policy_services: [{name: spfengine, address: %q, timeout: 1m}]
policy:
  builtin: off
  rules:
    - {name: away, when: 'service.spfengine.action == "temperror"', do: defer}
    - {name: asked, when: 'service.spfengine.action != "temperror"', do: reject}
`, placeholder)})
	dns := regexp.MustCompile(`servers: \["127\.0\.0\.1:(\d+)"\]`).FindStringSubmatch(string(readFile(t, p.config)))
	if dns == nil {
		t.Fatal("where the DNS is, the configuration does not say")
	}
	// pydns asks the servers of resolv.conf, so it is told of ours.
	writeFile(t, wrapper, fmt.Sprintf(`import sys
import DNS, spf
DNS.defaults['server'] = ['127.0.0.1']
DNS.defaults['port'] = %s
spf.DNSLookup = spf.DNSLookup_pydns
sys.argv = ['policyd-spf', %q]
from spf_engine.policyd_spf import main
sys.exit(main())
`, dns[1], config))
	at := spawn(t, "/usr/bin/python3", wrapper)
	writeFile(t, p.config, strings.ReplaceAll(string(readFile(t, p.config)), placeholder, at))
	if err := p.reload(t); err != nil {
		t.Fatal(err)
	}

	sources := []string{"127.0.0.1", "127.0.0.7", "127.0.0.8", "127.0.0.9", "127.0.0.66"}
	domains := []string{"sender.example", "list.example", "bulk.example", "soft.example", "plain.example"}
	const sessions = 200
	for i := range sessions {
		s, conn := dial(t, p.addr(), sources[i%len(sources)])
		s.say("250", "EHLO mx.sender.example")
		s.say("250 ", "MAIL FROM:<n%d@%s>", i, domains[i/len(sources)%len(domains)])
		s.say("550 ", "RCPT TO:<raw@example.org>")
		s.say("221 ", "QUIT")
		conn.Close()
	}
	counts := map[string]int{}
	// NOT: p.transaction for each, which reads all of the log as often.
	said := map[string]map[string]any{} // facts by reverse-path
	eventually(t, "the log of all sessions", func() bool {
		for line := range bytes.Lines(readFile(t, p.log)) {
			var entry struct{ Facts map[string]any }
			if json.Unmarshal(line, &entry) == nil && entry.Facts["mail"] != nil {
				said[fmt.Sprint(entry.Facts["mail"].(map[string]any)["from"])] = entry.Facts
			}
		}
		return len(said) == sessions
	})
	for i := range sessions {
		facts := said[fmt.Sprintf("n%d@%s", i, domains[i/len(sources)%len(domains)])]
		ours := facts["spf"].(map[string]any)["result"].(string)
		theirs := facts["service"].(map[string]any)["spfengine"].(map[string]any)
		action, text := theirs["action"].(string), strings.ToLower(fmt.Sprint(theirs["text"]))
		agrees := action == "prepend" && strings.HasPrefix(text, "received-spf: "+ours+" ")
		switch ours {
		case "fail":
			agrees = action == "reject" && strings.Contains(text, "spf fail")
		case "none":
			agrees = agrees || action == "dunno"
		}
		if !agrees {
			t.Errorf("session %d: ours %s, theirs %v", i, ours, theirs)
		}
		counts[ours]++
	}
	if counts["fail"] == 0 || counts["pass"] == 0 || counts["softfail"] == 0 || counts["none"] == 0 {
		t.Errorf("the sessions are not about everything: %v", counts)
	}
	t.Logf("%d sessions agree: %v", sessions, counts)
}

// reload has the configuration read again.
func (p *postern) reload(t *testing.T) error {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	entry := p.logged(t, "the reload", func(_ string, e map[string]any) bool {
		return e["msg"] == "configuration reloaded" || strings.Contains(fmt.Sprint(e["msg"]), "not reloaded")
	})
	if entry["msg"] != "configuration reloaded" {
		return errors.New(fmt.Sprint(entry))
	}
	return nil
}
