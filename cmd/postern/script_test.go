package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"postern/checks/dnstest"
	"postern/cmd/postern/trial"
	"postern/proxy/smtptest"
)

func TestMain(m *testing.M) {
	defaultConfig, machineRoot = "default.yaml", os.Getenv("WORK") // NOT: this machine's
	testscript.Main(m, map[string]func(){"postern": main})
}

// patience is how long a script waits for what it expects. It is long, since a
// machine may be busy, and costs nothing where all is well.
const patience = 30 * time.Second

// The command line as its users see it: testdata/script/*.txtar.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TMPDIR", env.WorkDir)
			env.Setenv("TZ", "UTC")
			env.Setenv("SOON", time.Now().UTC().AddDate(0, 0, 2).Format(time.DateOnly)) // NOT: today, which may end
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    scriptExits,
			"dns":      scriptDNS,
			"sign":     scriptSign,
			"pair":     scriptPair,
			"start":    scriptStart,
			"log":      scriptLog,
			"signal":   scriptSignal,
			"ended":    scriptEnded,
			"send":     scriptSend,
			"data":     scriptData,
			"dialogue": scriptDialogue,
			"finish":   scriptFinish,
			"peer":     scriptPeer,
			"get":      scriptGet,
			"occupy":   scriptOccupy,
			"port":     scriptPort,
			"mta":      scriptMTA,
			"notified": scriptNotified,
			"hang":     scriptHang,
		},
	})
}

func must(ts *testscript.TestScript, err error) {
	if err != nil {
		ts.Fatalf("%v", err)
	}
}

// wait asks until there is a good answer.
func wait(ts *testscript.TestScript, what string, good func() bool) {
	deadline := time.Now().Add(patience)
	for !good() {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain for %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// exits CODE PROGRAM ARGUMENT...: the program runs and ends with that exit code.
func scriptExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	must(ts, err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, not %d", got, want)
	}
}

// dns FILE: a name server for the zone, its address in $DNS. Who asks it has more
// patience than by default, as the machine may be busy.
func scriptDNS(ts *testscript.TestScript, _ bool, args []string) {
	zone, err := dnstest.Parse(ts.ReadFile(args[0]))
	must(ts, err)
	addr, stop, err := zone.Listen("127.0.0.1:0")
	must(ts, err)
	ts.Defer(stop)
	ts.Setenv("DNS", addr)
	ts.Setenv("POSTERN_DNS_TIMEOUT", "15s")
}

// sign MESSAGE DOMAIN ZONE: a new key signs the message for the domain, and its
// record goes to the end of the zone.
func scriptSign(ts *testscript.TestScript, _ bool, args []string) {
	signer := dnstest.NewSigner()
	signed, err := signer.Sign(trial.CRLF([]byte(ts.ReadFile(args[0]))), args[1])
	must(ts, err)
	must(ts, os.WriteFile(ts.MkAbs(args[0]), signed, 0o600))
	must(ts, os.WriteFile(ts.MkAbs(args[2]), []byte(ts.ReadFile(args[2])+signer.Record(args[1])), 0o600))
}

// pair NAME FILE DAYS: a new certificate for NAME in FILE.pem and FILE.key, good
// for DAYS. It is its own root.
func scriptPair(ts *testscript.TestScript, _ bool, args []string) {
	days, err := strconv.Atoi(args[2])
	must(ts, err)
	must(ts, makePair(ts.MkAbs(args[1]+".pem"), ts.MkAbs(args[1]+".key"), args[0], days))
}

// makePair writes a certificate for a name, which ends in so many days, and its key.
func makePair(certificate, keyFile, name string, days int) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(0, 0, days),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// Under other names first: whoever reads them meanwhile finds the old pair.
	return errors.Join(os.WriteFile(certificate+".new", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile+".new", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600),
		os.Rename(certificate+".new", certificate), os.Rename(keyFile+".new", keyFile))
}

// process is a program in the background.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	mu     sync.Mutex
	stderr bytes.Buffer
	read   int // how much of stderr log has passed
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

type processKey string

// background finds what start has started.
func background(ts *testscript.TestScript, name string) *process {
	p, ok := processes.Load(processKey(ts.Name() + "/" + name))
	if !ok {
		ts.Fatalf("%s was not started", name)
	}
	return p.(*process)
}

var processes sync.Map

// start NAME [-socket FDNAME] PROGRAM ARGUMENT...: run it in the background. With
// -socket it inherits a listener as systemd would hand it over; its address is in $SOCKET.
func scriptStart(ts *testscript.TestScript, _ bool, args []string) {
	name, args := args[0], args[1:]
	must(ts, ts.Exec("env"))
	env := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	p := &process{done: make(chan struct{})}
	if args[0] == "-socket" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(ts, err)
		f, err := ln.(*net.TCPListener).File()
		must(ts, err)
		ts.Setenv("SOCKET", ln.Addr().String())
		_ = ln.Close()
		defer f.Close()
		notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: ts.MkAbs("notify"), Net: "unixgram"})
		must(ts, err)
		ts.Defer(func() { _ = notify.Close() })
		processes.Store(processKey(ts.Name()+"/notify"), notify)
		env = append(env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+args[1], "NOTIFY_SOCKET="+ts.MkAbs("notify"))
		// The shell keeps its process id over exec, which is what LISTEN_PID must be.
		p.cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, args[2:]...)...)
		p.cmd.ExtraFiles = []*os.File{f}
	} else {
		must(ts, ts.Exec("sh", "-c", "command -v "+args[0]))
		path := strings.TrimSpace(ts.ReadFile("stdout"))
		p.cmd = exec.Command(path, args[1:]...)
	}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = ts.Getenv("WORK"), env, p, p
	must(ts, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	processes.Store(processKey(ts.Name()+"/"+name), p)
	ts.Defer(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		ts.Logf("[%s]\n%s", name, p.stderr.String())
	})
}

// log NAME REGEXP [VARIABLE]: wait until a line of the log that was not looked at
// yet matches, and keep its first group in the variable.
func scriptLog(ts *testscript.TestScript, _ bool, args []string) {
	p := background(ts, args[0])
	re, err := regexp.Compile(`(?m)^.*` + args[1] + `.*\n`)
	must(ts, err)
	wait(ts, "for "+args[1], func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		rest := p.stderr.Bytes()[p.read:]
		m := re.FindSubmatchIndex(rest)
		if m == nil {
			return false
		}
		if len(args) > 2 {
			ts.Setenv(args[2], string(rest[m[2]:m[3]]))
		}
		p.read += m[1]
		return true
	})
}

// signal NAME SIGNAL
func scriptSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "USR1": syscall.SIGUSR1}
	must(ts, background(ts, args[0]).cmd.Process.Signal(signals[args[1]]))
}

// ended NAME CODE: wait for its end. With !, it still runs.
func scriptEnded(ts *testscript.TestScript, neg bool, args []string) {
	p := background(ts, args[0])
	if neg {
		select {
		case <-p.done:
			ts.Fatalf("it has ended: %v", p.err)
		default:
		}
		return
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("it does not end")
	}
	if got := p.cmd.ProcessState.ExitCode(); strconv.Itoa(got) != args[1] {
		ts.Fatalf("exit code %d, not %s", got, args[1])
	}
}

// connect dials, for as long as it takes.
func connect(ts *testscript.TestScript, address string) net.Conn {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	must(ts, err)
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// send ADDRESS FROM TO REPLY [MESSAGE]: send a short mail, or the file MESSAGE; its
// last reply begins with REPLY.
func scriptSend(ts *testscript.TestScript, _ bool, args []string) {
	c := trial.NewClient(connect(ts, args[0]))
	m := trial.Mail{Helo: "client.example", From: args[1], Recipients: []string{args[2]}}
	m.Message = trial.MadeUp(m)
	if len(args) > 4 {
		m.Message = trial.CRLF([]byte(ts.ReadFile(args[4])))
	}
	r, err := c.Send(m)
	must(ts, err)
	c.Quit()
	if got := r.String(); !strings.HasPrefix(got, args[3]) {
		ts.Fatalf("the reply is %q", got)
	}
}

// data ADDRESS NAME: begin a message and stop in the middle of it.
func scriptData(ts *testscript.TestScript, _ bool, args []string) {
	c := trial.NewClient(connect(ts, args[0]))
	if _, err := c.Read(); err != nil {
		ts.Fatalf("%v", err)
	}
	for _, command := range []string{"EHLO client.example", "MAIL FROM:<a@none.example>", "RCPT TO:<b@example.org>", "DATA"} {
		if r, err := c.Ask(command); err != nil || r.Code >= 400 {
			ts.Fatalf("%s: %v %v", command, r, err)
		}
	}
	_, err := io.WriteString(c.Conn, "From: a@none.example\r\n\r\nhalf")
	must(ts, err)
	processes.Store(processKey(ts.Name()+"/"+args[1]), c)
}

// dialogue ADDRESS FILE: say what the file says (C:) and print all that was said.
func scriptDialogue(ts *testscript.TestScript, _ bool, args []string) {
	c := connect(ts, args[0])
	defer c.Close()
	said, err := smtptest.Play(c, ts.ReadFile(args[1]))
	must(ts, err)
	_, err = io.WriteString(ts.Stdout(), said)
	must(ts, err)
}

// finish NAME REPLY: end the message; the reply begins with REPLY.
func scriptFinish(ts *testscript.TestScript, _ bool, args []string) {
	v, ok := processes.Load(processKey(ts.Name() + "/" + args[0]))
	if !ok {
		ts.Fatalf("no such message")
	}
	c := v.(*trial.Client)
	defer c.Conn.Close()
	// Who was sent away meanwhile cannot write any more, but has a reply to read.
	_, _ = io.WriteString(c.Conn, "\r\n.\r\n")
	r, err := c.Read()
	must(ts, err)
	if got := r.String(); !strings.HasPrefix(got, args[1]) {
		ts.Fatalf("the reply is %q", got)
	}
}

// hang ADDRESS: open a session and say nothing, until the server ends it with 421 4.3.2.
func scriptHang(ts *testscript.TestScript, _ bool, args []string) {
	c := trial.NewClient(connect(ts, args[0]))
	if r, err := c.Read(); err != nil || r.Code != 220 {
		ts.Fatalf("%v %v", r, err)
	}
	processes.Store(processKey(ts.Name()+"/"+args[1]), c)
}

// peer ADDRESS NAME [CLIENTPAIR]: STARTTLS, asking for NAME; prints the names, the
// serial number and the end of the certificate met.
func scriptPeer(ts *testscript.TestScript, _ bool, args []string) {
	c := trial.NewClient(connect(ts, args[0]))
	defer c.Conn.Close()
	if _, err := c.Read(); err != nil {
		ts.Fatalf("%v", err)
	}
	for _, command := range []string{"EHLO client.example", "STARTTLS"} {
		if r, err := c.Ask(command); err != nil || r.Code >= 400 {
			ts.Fatalf("%s: %v %v", command, r, err)
		}
	}
	config := &tls.Config{ServerName: args[1], InsecureSkipVerify: true}
	if len(args) > 2 {
		pair, err := tls.LoadX509KeyPair(ts.MkAbs(args[2]+".pem"), ts.MkAbs(args[2]+".key"))
		must(ts, err)
		config.Certificates = []tls.Certificate{pair}
	}
	secure := tls.Client(c.Conn, config)
	must(ts, secure.Handshake())
	leaf := secure.ConnectionState().PeerCertificates[0]
	_, err := fmt.Fprintf(ts.Stdout(), "names %v serial %v\n", leaf.DNSNames, leaf.SerialNumber)
	must(ts, err)
	// A whole mail, so that the log has a transaction with what the handshake found.
	in := trial.NewClient(secure)
	for _, command := range []string{"EHLO client.example", "MAIL FROM:<a@none.example>", "RCPT TO:<b@example.org>", "QUIT"} {
		if r, err := in.Ask(command); err != nil || r.Code >= 400 {
			ts.Fatalf("%s: %v %v", command, r, err)
		}
	}
}

// get URL STATUS: ask until the status is that, and print the body.
func scriptGet(ts *testscript.TestScript, _ bool, args []string) {
	var body []byte
	wait(ts, args[0]+" "+args[1], func() bool {
		resp, err := http.Get(args[0])
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		if body, err = io.ReadAll(resp.Body); err != nil {
			return false
		}
		return strconv.Itoa(resp.StatusCode) == args[1]
	})
	_, err := ts.Stdout().Write(body)
	must(ts, err)
}

// occupy: a port that is taken, its address in $TAKEN.
func scriptOccupy(ts *testscript.TestScript, _ bool, _ []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(ts, err)
	ts.Defer(func() { _ = ln.Close() })
	ts.Setenv("TAKEN", ln.Addr().String())
}

// notified TEXT: what systemd is told next begins with TEXT.
func scriptNotified(ts *testscript.TestScript, _ bool, args []string) {
	v, ok := processes.Load(processKey(ts.Name() + "/notify"))
	if !ok {
		ts.Fatalf("nothing was started with -socket")
	}
	conn := v.(*net.UnixConn)
	must(ts, conn.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 1024)
	n, err := conn.Read(b)
	must(ts, err)
	if got := string(b[:n]); !strings.HasPrefix(got, args[0]) {
		ts.Fatalf("systemd was told %q", got)
	}
}

// port VARIABLE: an address of loopback that nobody listens on.
func scriptPort(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], fmt.Sprintf("127.0.0.1:%d", smtptest.FreePort(ts)))
}

// mta VARIABLE [without KEYWORD...] [proxy] [tls PAIR] [etrn REPLY]: an MTA, its address
// in the variable.
func scriptMTA(ts *testscript.TestScript, _ bool, args []string) {
	var o smtptest.SinkOptions
	for rest := args[1:]; len(rest) > 0; {
		switch rest[0] {
		case "proxy":
			o.Proxy, rest = true, rest[1:]
		case "tls":
			pair, err := tls.LoadX509KeyPair(ts.MkAbs(rest[1]+".pem"), ts.MkAbs(rest[1]+".key"))
			must(ts, err)
			o.TLS, rest = &tls.Config{Certificates: []tls.Certificate{pair}}, rest[2:]
		case "etrn":
			o.Keywords = append(slices.Clone(smtptest.AllKeywords), "ETRN")
			reply := rest[1]
			o.Script = func(st smtptest.Step) (a smtptest.Action) {
				if st.Verb == "ETRN" {
					a.Reply = reply + "\r\n"
				}
				return a
			}
			rest = rest[2:]
		default:
			o.Without, rest = append(o.Without, rest[1]), rest[2:]
		}
	}
	sink := smtptest.NewSink(o)
	ts.Defer(sink.Close)
	ts.Setenv(args[0], sink.Addr())
}
