//go:build e2e && linux

package main_test

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

// image is what deploy/Dockerfile makes, as far as its last stage says: a root, and how the program is run in it.
type image struct {
	root, folder string
	uid, gid     int
	env, command []string
}

// newImage lays out the last stage of the Dockerfile as an engine does. What its first stage builds is the
// binary of the test, a folder, and the roots of this machine. An instruction that it does not know fails the test.
func newImage(t *testing.T) *image {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	built := map[string]string{"/postern": binary, "/state": state, "/etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt"}
	_, last, found := strings.Cut(string(readFile(t, "../../deploy/Dockerfile")), "\nFROM scratch\n")
	if !found {
		t.Fatal("the last stage is not FROM scratch")
	}
	m := &image{root: t.TempDir(), uid: -1}
	if err := os.Chmod(m.root, 0o755); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(last) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		switch words[0] {
		case "COPY":
			owner := 0
			if o, ok := strings.CutPrefix(words[2], "--chown="); ok {
				if owner, err = strconv.Atoi(strings.Split(o, ":")[0]); err != nil {
					t.Fatal(err)
				}
				words = words[1:]
			}
			from, to := built[words[2]], filepath.Join(m.root, words[3])
			if strings.HasSuffix(words[3], "/") {
				to = filepath.Join(to, filepath.Base(words[2]))
			}
			if words[1] != "--from=build" && owner == 0 || from == "" {
				t.Fatalf("the first stage makes no %s: %s", words[2], line)
			}
			if from == state {
				err = os.MkdirAll(to, 0o755)
			} else {
				writeFile(t, to, string(readFile(t, from)))
				err = os.Chmod(to, 0o755)
			}
			if err == nil {
				err = os.Chown(to, owner, owner)
			}
			if err != nil {
				t.Fatal(err)
			}
		case "USER":
			user, group, _ := strings.Cut(words[1], ":")
			if m.uid, err = strconv.Atoi(user); err == nil {
				m.gid, err = strconv.Atoi(group)
			}
			if err != nil {
				t.Fatal(err)
			}
		case "WORKDIR":
			m.folder = words[1]
		case "ENV":
			m.env = append(m.env, words[1])
		case "ENTRYPOINT", "CMD":
			var list []string
			if err := json.Unmarshal([]byte(strings.TrimSpace(strings.TrimPrefix(line, words[0]))), &list); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			m.command = append(m.command, list...)
		case "VOLUME", "EXPOSE":
		default:
			t.Fatalf("what does this do? %s", line)
		}
	}
	return m
}

// The image holds what the program needs, and its user may do what it must: it serves with nothing around
// it, as a user without a name, and holds a large message in its volume.
func TestE2EImage(t *testing.T) {
	needs(t)
	m := newImage(t)
	port, admin := smtptest.FreePort(t), smtptest.FreePort(t)
	writeFile(t, m.root+"/etc/postern/postern.yaml", `
hostname: mx.example.org
listeners: [{address: "127.0.0.1:`+strconv.Itoa(port)+`"}]
admin: {address: "127.0.0.1:`+strconv.Itoa(admin)+`"}
dns: {servers: ["127.0.0.1:9"], timeout: 50ms, total: 1s}
journal: {path: /var/lib/postern/journal}
policy: {builtin: "off", rules: [{name: large, when: message.size > 1000000, do: tag, header: "X-Large: yes"}]}
`)
	if m.uid <= 0 || m.gid <= 0 || len(m.command) < 3 {
		t.Fatalf("%+v", m)
	}
	cmd := exec.Command(m.command[0], m.command[1:]...)
	cmd.Dir, cmd.Env = m.folder, append([]string{"PATH=/"}, m.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: m.root, Credential: &syscall.Credential{Uid: uint32(m.uid), Gid: uint32(m.gid)}}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() error {
		if ended {
			return nil
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return cmd.Wait()
	}
	defer func() {
		if err := end(); err != nil || t.Failed() {
			t.Errorf("it ended with %v, and said\n%s", err, log.String())
		}
	}()

	var conn net.Conn
	eventually(t, "the greeting", func() (up bool) {
		var err error
		conn, err = net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), time.Second)
		return err == nil
	})
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	r := bufio.NewReader(conn)
	hears := func(want string) {
		t.Helper()
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if len(line) > 3 && line[3] == ' ' {
				if !strings.HasPrefix(line, want) {
					t.Fatalf("it says %q, not %s", line, want)
				}
				return
			}
		}
	}
	hears("220")
	for _, step := range [][2]string{
		{"EHLO h.example\r\n", "250"}, {"MAIL FROM:<a@example.com>\r\n", "250"}, {"RCPT TO:<b@example.org>\r\n", "250"}, {"DATA\r\n", "354"},
		// Too large to be held in memory: it lies in TMPDIR until its end.
		{"From: <a@example.com>\r\nDKIM-Signature: v=1\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 40_000) + ".\r\n", "250"},
		{"QUIT\r\n", "221"},
	} {
		if _, err := conn.Write([]byte(step[0])); err != nil {
			t.Fatal(err)
		}
		hears(step[1])
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	for _, pattern := range []string{"Maildir/*", "journal/*.jsonl"} {
		if found, err := filepath.Glob(m.root + "/var/lib/postern/" + pattern); err != nil || len(found) == 0 {
			t.Errorf("there is no %s: %v", pattern, err)
		}
	}
}
