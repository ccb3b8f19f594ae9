package configs

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the messages of testdata/bad-*.yaml")

// load writes text to a file and loads that.
func load(t testing.TB, text string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "postern.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Options{File: file, NoEnvironment: true})
}

func mustLoad(t testing.TB, text string) *Config {
	t.Helper()
	c, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// says compares what two configurations say.
func says(t *testing.T, got, want *Config) {
	t.Helper()
	ignore := cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().Type() == reflect.TypeFor[Position]() || strings.HasSuffix(p.Last().String(), ".places")
	}, cmp.Ignore())
	if d := cmp.Diff(want, got, ignore, cmp.AllowUnexported(Config{})); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestNothingSaidIsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "{}", "---\n", "limits:\ntimeouts: {drain: ~}\npolicy:\n"} {
		says(t, mustLoad(t, text), Default())
	}
	c, err := Load(Options{NoEnvironment: true})
	if err != nil {
		t.Fatal(err)
	}
	says(t, c, Default())
}

func TestExamplesLoad(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		c, err := Load(Options{File: file, NoEnvironment: true})
		if err != nil {
			t.Errorf("%s:\n%v", file, err)
			continue
		}
		roundTrip(t, c)
	}
}

func TestEveryKindOfValue(t *testing.T) {
	c := mustLoad(t, `
hostname: mx.example.org
listeners:
  - {address: ":25", proxy_protocol: [192.0.2.10, "2001:db8::/32"]}
backends: [{name: mta, addresses: ["127.0.0.1:10025", "unix:/run/mta"], tls: off, identity: xclient}]
routes: [{recipients: [example.org, "*.example.org"], backend: mta}]
dns: {servers: [127.0.0.1, "[::1]:5353", "tls://9.9.9.9:853#dns.example"], timeout: 500ms, canaries: [iana.org, example.com]}
headers: {received: false}
limits: {message_size: 1GB, recipients: 7}
timeouts: {greeting: 50ms, command: 1h30m}
journal: {keep: 1d12h}
policy: {mode: observe, rules: []}
`)
	want := Default()
	want.Hostname = "mx.example.org"
	want.Listeners = []Listener{{Name: "mx", Address: ":25", Protocol: "smtp", TLS: "starttls", ProxyProtocol: []string{"192.0.2.10", "2001:db8::/32"}}}
	want.Backends = []Backend{{Name: "mta", Addresses: []string{"127.0.0.1:10025", "unix:/run/mta"}, TLS: "off", Identity: "xclient"}}
	want.Routes = []Route{{Recipients: []string{"example.org", "*.example.org"}, Backend: "mta"}}
	want.DNS.Servers = []string{"127.0.0.1", "[::1]:5353", "tls://9.9.9.9:853#dns.example"}
	want.DNS.Timeout = 500 * time.Millisecond
	want.DNS.Canaries = []string{"iana.org", "example.com"}
	want.Headers.Received = false
	want.Limits.MessageSize, want.Limits.Recipients = 1e9, 7
	want.Timeouts.Greeting, want.Timeouts.Command = 50*time.Millisecond, 90*time.Minute
	want.Journal.Keep = 36 * time.Hour
	want.Policy = Policy{Mode: "observe", BuiltIn: BuiltInAfter, Rules: []Rule{}}
	says(t, c, want)
	roundTrip(t, c)
}

// A zero is not "nothing said": a list of weight 0 only looks on, and one that
// got the weight of those that say none would refuse mail.
func TestAZeroThatIsSaidStays(t *testing.T) {
	const text = "[{zone: look.example, weight: 0}, {zone: block.example}, {zone: null.example, weight: ~}]"
	fromFile := mustLoad(t, "checks: {dnsbl: {zones: "+text+"}}")
	t.Setenv("POSTERN_CHECKS_DNSBL_ZONES", text)
	fromEnvironment, err := Load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Config{"file": fromFile, "environment": fromEnvironment} {
		for i, want := range []int{0, 1, 1} {
			if got := c.Checks.DNSBL.Zones[i].Weight; got != want {
				t.Errorf("%s: the weight of %s is %d, not %d", name, c.Checks.DNSBL.Zones[i].Zone, got, want)
			}
		}
	}
	roundTrip(t, fromFile)
}

// Nothing but its own key switches the built-in rules off.
func TestBuiltInRulesStayUntilTheyAreSwitchedOff(t *testing.T) {
	for text, builtIn := range map[string]string{
		"":                             BuiltInAfter,
		"policy: {}":                   BuiltInAfter,
		"policy: {mode: observe}":      BuiltInAfter,
		"policy: {rules: ~}":           BuiltInAfter,
		"policy: {rules: []}":          BuiltInAfter,
		"policy: {rules: [{name: a}]}": BuiltInAfter,
		"policy: {builtin: ~, rules: [{name: a}]}":   BuiltInAfter,
		"policy: {builtin: after}":                   BuiltInAfter,
		"policy: {builtin: off}":                     BuiltInOff,
		"policy: {builtin: \"off\", rules: []}":      BuiltInOff,
		"policy: {builtin: off, rules: [{name: a}]}": BuiltInOff,
	} {
		c := mustLoad(t, text)
		if c.Policy.BuiltIn != builtIn {
			t.Errorf("%q: BuiltIn is %v", text, c.Policy.BuiltIn)
		}
		roundTrip(t, c)
	}
}

// The messages that an operator meets, one file each.
func TestFaultsSayWhereAndWhat(t *testing.T) {
	files, _ := filepath.Glob("testdata/bad-*.yaml")
	if len(files) < 10 {
		t.Fatal("the files are gone")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := Load(Options{File: file, NoEnvironment: true})
			if err == nil {
				t.Fatal("loads")
			}
			message := strings.TrimSuffix(file, ".yaml") + ".txt"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(message, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err2 := os.ReadFile(message)
			if err2 != nil {
				t.Fatal(err2)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			var fault *Fault
			if !errors.As(err, &fault) || fault.Position.File != file || fault.Position.Line == 0 || fault.Position.Column == 0 {
				t.Errorf("no fault with a place: %#v", fault)
			}
		})
	}
}

func TestPositionsAreThoseOfTheText(t *testing.T) {
	text := `policy:
  let:
    - name: partner
      is: tls.peer.verified
  rules:
    - name: plain
      when: spf.result == "fail"
      do: reject
      reply: "550 5.7.1 No."
    - {name: "Zürich", when: 'helo.name == "x"', header: "X-A: b"}
    - name: block
      when: |

        spf.result == "fail"
        and true
      do: reject
lists:
  - {name: a, entries: [x]}
`
	c := mustLoad(t, text)
	lines := strings.Split(text, "\n")
	at := func(p Position, want string) {
		t.Helper()
		if p.Line == 0 || p.Line > len(lines) || !strings.HasPrefix(lines[p.Line-1][p.Column-1:], want) {
			t.Errorf("%v is not the place of %q", p, want)
		}
	}
	r := c.Policy.Rules
	at(r[0].Position, "name: plain")
	at(r[0].WhenPosition, "spf.result")
	at(r[0].ReplyPosition, "550 5.7.1")
	at(r[1].Position, "{name")
	at(r[1].WhenPosition, `helo.name == "x"`)
	at(r[1].HeaderPosition, "X-A")
	at(r[2].WhenPosition, `spf.result == "fail"`)
	at(c.Policy.Let[0].Position, "name: partner")
	at(c.Lists[0].Position, "{name: a")
	at(c.At("lists[0].entries[0]"), "x]")
	at(c.At("lists[0].file"), "{name: a") // not said: the place around it
	if p := c.At("dns.timeout"); p.Line != 0 || filepath.Base(p.String()) != "postern.yaml" {
		t.Errorf("a key that is nowhere is at %v", p)
	}
}

func TestEnvironmentGoesBeforeTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "postern.yaml")
	if err := os.WriteFile(file, []byte("hostname: file.example\nlimits: {recipients: 5, connections: 6}\nlisteners: [{name: a, address: \":1\"}, {name: b, address: \":2\"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("POSTERN_HOSTNAME", "env.example")
	t.Setenv("POSTERN_LIMITS_RECIPIENTS", "9")
	t.Setenv("POSTERN_LIMITS_MESSAGE_SIZE", "3MiB")
	t.Setenv("POSTERN_DNS_CACHE_MAX_TTL", "2d")
	t.Setenv("POSTERN_DNS_SERVERS", "[::1]:53, 127.0.0.1")
	t.Setenv("POSTERN_HEADERS_RECEIVED", "false")
	t.Setenv("POSTERN_ADMIN_ADDRESS", "")
	t.Setenv("POSTERN_LISTENERS", `[{name: x, address: "[::1]:25"}]`)
	t.Setenv("POSTERN_CONFIG", "elsewhere.yaml") // for the command line
	c, err := Load(Options{File: file, Set: map[string]any{"dns.timeout": "70ms", "backends": []any{map[string]any{"name": "mta", "addresses": []any{"127.0.0.1:1"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Hostname = "env.example"
	want.Limits.Recipients, want.Limits.Connections, want.Limits.MessageSize = 9, 6, 3*MiB
	want.DNS.Cache.MaxTTL, want.DNS.Timeout = 48*time.Hour, 70*time.Millisecond
	want.DNS.Servers = []string{"[::1]:53", "127.0.0.1"}
	want.Headers.Received = false
	want.Admin.Address = ""
	want.Listeners = []Listener{{Name: "x", Address: "[::1]:25", Protocol: "smtp", TLS: "starttls"}}
	want.Backends = []Backend{{Name: "mta", Addresses: []string{"127.0.0.1:1"}, TLS: "opportunistic", Identity: "none"}}
	says(t, c, want)
}

func TestEnvironmentIsReadAsStrictly(t *testing.T) {
	t.Setenv("POSTERN_LIMITS_RECIPIENTS", "many")
	t.Setenv("POSTERN_DNS_TIMEOUT", "5")
	t.Setenv("POSTERN_DNS_TIMEOT", "5s")
	t.Setenv("POSTERN_NONSENSE_AND_MORE", "")
	t.Setenv("POSTERN_SERVICE_HOST", "10.0.0.1")
	t.Setenv("POSTERN_LOG_LEVEL", "loud")
	t.Setenv("POSTERN_HEADERS_RECEIVED", "yes")
	t.Setenv("POSTERN_ROUTES", `[{recipients: [a], bakend: b}]`)
	_, err := Load(Options{})
	want := `POSTERN_DNS_TIMEOT: no such setting: did you mean POSTERN_DNS_TIMEOUT?
POSTERN_DNS_TIMEOUT: "5" is no duration: write a number and a unit, such as 500ms, 30s, 5m, 1h30m or 14d
POSTERN_HEADERS_RECEIVED: "yes" is neither true nor false
POSTERN_LIMITS_RECIPIENTS: "many" is no whole number
POSTERN_LOG_LEVEL: log.level: "loud" is none of debug, info, warn, error
POSTERN_NONSENSE_AND_MORE: no such setting
POSTERN_ROUTES:1:20: unknown key "bakend" in routes[0]: did you mean "backend"?
POSTERN_SERVICE_HOST: no such setting: Kubernetes makes it up for a service named postern; say enableServiceLinks: false in the pod, or name the service otherwise`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestFilesAreTakenFromTheFolderOfTheConfiguration(t *testing.T) {
	c := mustLoad(t, "lists: [{name: a, file: a.txt}, {name: b, file: /b.txt}]\ntls: {certificates: [{certificate: c.pem, key: sub/k.pem}]}\n")
	folder := filepath.Dir(c.At("").File)
	if got := c.Lists[0].File; got != filepath.Join(folder, "a.txt") {
		t.Error(got)
	}
	if got := c.Lists[1].File; got != "/b.txt" {
		t.Error(got)
	}
	if got := c.TLS.Certificates[0].Key; got != filepath.Join(folder, "sub/k.pem") {
		t.Error(got)
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(Options{File: "testdata/none.yaml"})
	if err == nil || err.Error() != "the configuration cannot be read: open testdata/none.yaml: no such file or directory" {
		t.Error(err)
	}
}

// What is no file is said to be none, at once: a pipe that nobody writes to would
// hold up a start or a reload for good.
func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe, log := filepath.Join(dir, "pipe"), filepath.Join(dir, "mail.log")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(log, maxFile+1); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		dir:         dir + " is no file, but a folder",
		pipe:        pipe + " is no file, but a pipe",
		"/dev/zero": "/dev/zero is no file, but a device",
		log:         log + " is larger than 16 MiB",
	} {
		_, err := Load(Options{File: file, NoEnvironment: true})
		if err == nil || err.Error() != "the configuration cannot be read: "+want {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Aliases that unfold to billions of values end the reading, not the machine.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("lists:\n  - {name: a0, entries: &e [")
	b.WriteString(strings.Repeat("x, ", 2000))
	b.WriteString("]}\n")
	for range 2000 {
		b.WriteString("  - {name: a, entries: *e}\n")
	}
	_, err := load(t, b.String())
	if err == nil || !strings.Contains(err.Error(), "what aliases unfold to") {
		t.Error(err)
	}
}

// FuzzLoad: nothing panics, every fault has a place, and what loads is shown
// as something that loads to the same.
func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad-*.yaml")
	more, _ := filepath.Glob("*.yaml")
	for _, file := range append(files, more...) {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := newLoader()
		cfg := l.assemble(l.document("fuzz.yaml", []byte(text)), Options{NoEnvironment: true})
		l.validate(cfg)
		if len(l.faults) > 0 {
			for _, f := range l.faults {
				if f.Position.File == "" || f.Text == "" {
					t.Errorf("a fault without place or text: %#v", f)
				}
			}
			return
		}
		shown, err := cfg.YAML(true)
		if err != nil {
			t.Fatal(err)
		}
		l = newLoader()
		again := l.assemble(l.document("again.yaml", shown), Options{NoEnvironment: true})
		l.validate(again)
		if len(l.faults) > 0 || !again.Equal(cfg) {
			t.Errorf("shown as\n%s\nfaults %v", shown, l.faults)
		}
	})
}

// Without listeners we stand on :2525 all the same, and flags say the same as the file.
func TestABackendThatIsOurselves(t *testing.T) {
	for text, ours := range map[string]bool{
		"backends: [{name: mta, addresses: [\"127.0.0.1:2525\"]}]":                                                              true,
		"backends: [{name: mta, addresses: [\"127.0.0.1:10025\"]}]":                                                             false,
		"backends: [{name: mta, addresses: [\"192.0.2.1:2525\"]}]":                                                              false,
		"backends: [{name: mta, addresses: [\"mx.example:2525\"]}]":                                                             false,
		"listeners: [{address: \"127.0.0.1:0\"}]\nbackends: [{name: mta, addresses: [\"127.0.0.1:2525\", \"unix:/run/2525\"]}]": false,
	} {
		file := filepath.Join(t.TempDir(), "postern.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(Options{File: file, NoEnvironment: true}); (err != nil) != ours {
			t.Errorf("%s: %v", text, err)
		}
	}
}
