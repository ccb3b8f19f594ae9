package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// The plan of the house. A room imports from lower floors only, so no cycle
// can form and a reader who goes down the stairs never has to come up again.
var floors = map[string]int{
	"cmd/postern":             8,
	"cmd/postern/doctor":      7,
	"cmd/postern/page":        7,
	"cmd/postern/trial":       7,
	"cmd/postern/setup":       7,
	"cmd/postern/service":     6,
	"cmd/postern/view":        6,
	"cmd/postern/control":     5,
	"proxy":                   5,
	"checks":                  4,
	"policy/audit":            4,
	"checks/dkim":             3,
	"checks/spf":              3,
	"policy/journal":          3,
	"proxy/esmtp":             3,
	"proxy/fields":            3,
	"proxy/relay":             4,
	"proxy/amtp":              4,
	"proxy/amtp/receiver":     5,
	"proxy/backend":           2,
	"policy":                  2,
	"policy/expr":             1,
	"policy/list":             1,
	"checks/dnscache":         1,
	"checks/delegation":       2,
	"checks/filter":           1,
	"checks/memory":           1,
	"checks/memo":             2,
	"checks/milter":           2,
	"checks/network":          1,
	"proxy/amtp/spool":        1,
	"proxy/amtp/holder":       5,
	"proxy/amtp/users":        1,
	"policy/journal/index":    1,
	"metrics/admin":           1,
	"proxy/etrn":              1,
	"proxy/hold":              1,
	"proxy/wire":              3,
	"proxy/backend/mta":       1,
	"policy/journal/jsonline": 1,
	"proxy/smtp":              0,
	"proxy/reuse":             0,
	"proxy/share":             0,
	"proxy/socket":            0,
	"metrics":                 0,
	"configs":                 0,
}

// Helpers for tests, after net/http/httptest: a DNS server, SMTP peers, a journal, a log,
// a bad way to a server.
// The one room that may ship them is cmd/postern/trial, whose demo needs both sides
// of a conversation. They live where the checks do.
var helpers = []string{"checks/dnstest", "checks/leaktest", "checks/logtest", "checks/roadtest", "checks/network/networktest", "policy/journal/journaltest", "proxy/smtptest"}

// Each outside package has its room (more than one only where the reason is
// given): who wants to replace it has one place to look.
var rooms = map[string][]string{
	"blitiri.com.ar/go/spf":                {"checks/spf"},
	"github.com/coreos/go-systemd":         {"cmd/postern/service"},
	"github.com/emersion/go-msgauth":       {"checks/dnstest"}, // signs in tests
	"github.com/expr-lang/expr":            {"policy/expr"},
	"github.com/fsnotify/fsnotify":         {"configs"},
	"github.com/gaissmai/bart":             {"policy/list"},
	"github.com/go-viper/mapstructure":     {"configs"},
	"github.com/hashicorp/golang-lru":      {"checks/dnscache", "checks/memo"},    // answers; what was judged by them
	"github.com/miekg/dns":                 {"checks/dnscache", "checks/dnstest"}, // asks; answers in tests
	"github.com/oschwald/maxminddb-golang": {"checks/network"},
	"github.com/pires/go-proxyproto":       {"proxy/wire", "proxy/backend", "proxy/backend/mta"}, // reads the header; writes it; the MTA in small reads it
	"github.com/prometheus/client_golang":  {"metrics"},
	"github.com/prometheus/common":         {"cmd/postern/doctor"}, // reads the page of the proxy that runs
	"github.com/spf13/cobra":               {"cmd/postern"},
	"github.com/spf13/pflag":               {"cmd/postern"},
	"github.com/spf13/viper":               {"configs"},
	"github.com/valkey-io/valkey-go":       {"checks/memory"},
	"go.etcd.io/bbolt":                     {"checks/memory"},
	"go.uber.org/goleak":                   {"checks/leaktest"},
	"golang.org/x/crypto":                  {"proxy/amtp/users"},                    // hashes of passwords
	"go.yaml.in/yaml":                      {"configs", "policy", "checks/dnstest"}, // files; the built-in rules; published suites
}

// Extensions of the standard library, at home in every room but for those that have one above.
const extended = "golang.org/x/"

func TestArrowsPointDown(t *testing.T) {
	// Imports of what is shipped. Tests may reach up: a room's test may well
	// drive it through the proxy.
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "postern/...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	for _, fault := range arrowFaults(string(out)) {
		t.Error(fault)
	}
}

// No room and no file is larger than one can read in a sitting, tests apart; in lines.
const (
	roomLimit = 4000
	fileLimit = 600
)

func TestArrowsRoomsAreSmall(t *testing.T) {
	lines := map[string]int{} // by file, from the root of the tree
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := fs.ReadFile(root, path)
		lines[path] = bytes.Count(b, []byte("\n"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if lines["proxy/session.go"] == 0 {
		t.Fatal("the tree is not where it was")
	}
	for _, fault := range sizeFaults(lines) {
		t.Error(fault)
	}
}

func TestArrowsSizesAreFound(t *testing.T) {
	lines := map[string]int{"a/long.go": 601, "a/x.go": 600, "b/1.go": 600, "c/1.go": 300}
	for _, i := range "234567" {
		lines["b/"+string(i)+".go"] = 600
	}
	got := sizeFaults(lines)
	want := []string{
		"a/long.go has 601 lines, of at most 600",
		"b has 4200 lines, of at most 4000",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// sizeFaults returns what is too long of the files, and of the rooms that they make up.
func sizeFaults(lines map[string]int) (faults []string) {
	rooms := map[string]int{}
	for file, n := range lines {
		rooms[path.Dir(file)] += n
		if n > fileLimit {
			faults = append(faults, fmt.Sprintf("%s has %d lines, of at most %d", file, n, fileLimit))
		}
	}
	for room, n := range rooms {
		if n > roomLimit {
			faults = append(faults, fmt.Sprintf("%s has %d lines, of at most %d", room, n, roomLimit))
		}
	}
	slices.Sort(faults)
	return faults
}

func TestArrowsFaultsAreFound(t *testing.T) {
	for listed, want := range map[string]string{
		"postern/policy postern/proxy":                     "postern/policy (floor 2) imports postern/proxy (floor 5)",
		"postern/policy/journal postern/proxy/wire":        "postern/policy/journal (floor 3) imports postern/proxy/wire (floor 3)",
		"postern/attic fmt":                                "postern/attic is not in the plan of the house",
		"postern/proxy postern/checks/dnstest":             "postern/proxy ships the test helper postern/checks/dnstest",
		"postern/checks/dnstest postern/proxy":             "the test helper postern/checks/dnstest imports postern/proxy (floor 5)",
		"postern/proxy github.com/miekg/dns":               "postern/proxy imports github.com/miekg/dns, whose room is checks/dnscache, checks/dnstest",
		"postern/proxy github.com/miekg/dns/dnsutil":       "postern/proxy imports github.com/miekg/dns/dnsutil, whose room is",
		"postern/proxy golang.org/x/crypto/bcrypt":         "postern/proxy imports golang.org/x/crypto/bcrypt, whose room is proxy/amtp/users",
		"postern/proxy example.org/shiny":                  "postern/proxy imports example.org/shiny, which has no room",
		"postern/proxy net golang.org/x/sync/errgroup":     "",
		"postern/cmd/postern/trial postern/checks/dnstest": "",
		"postern/checks/dnscache github.com/miekg/dns":     "",
		"postern/proxy postern/checks postern/proxy/smtp":  "",
		"postern/checks/dnstest postern/proxy/smtp":        "",
		"postern/deploy":                                   "",
	} {
		got := strings.Join(arrowFaults(listed), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", listed, got, want)
		}
	}
}

// arrowFaults reads lines of a package and its imports, separated by spaces,
// and returns what is against the plan.
func arrowFaults(listed string) []string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for line := range strings.Lines(listed) {
		paths := strings.Fields(line)
		from := strings.TrimPrefix(paths[0], "postern/")
		helper := slices.Contains(helpers, from)
		floor, planned := floors[from]
		if helper {
			floor, planned = 5, true
		}
		if from == "deploy" { // holds files for machines and a test of them, no code
			planned = true
		}
		if !planned {
			fault("%s is not in the plan of the house: give it a floor in arrows_test.go", paths[0])
			continue
		}
		for _, path := range paths[1:] {
			to, ours := strings.CutPrefix(path, "postern/")
			switch {
			case ours && slices.Contains(helpers, to):
				if from != "cmd/postern/trial" && !helper {
					fault("%s ships the test helper %s", paths[0], path)
				}
			case ours && helper && floors[to] >= floor:
				fault("the test helper %s imports %s (floor %d)", paths[0], path, floors[to])
			case ours && floors[to] >= floor:
				fault("%s (floor %d) imports %s (floor %d): arrows point down", paths[0], floor, path, floors[to])
			case ours || standard(path) || strings.HasPrefix(path, extended) && roomsOf(path) == nil:
			default:
				in := roomsOf(path)
				if in == nil {
					fault("%s imports %s, which has no room: give it one in arrows_test.go", paths[0], path)
				} else if !slices.Contains(in, from) {
					fault("%s imports %s, whose room is %s", paths[0], path, strings.Join(in, ", "))
				}
			}
		}
	}
	return faults
}

// standard says whether path belongs to the standard library: its first
// element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// roomsOf finds the rooms of an outside package by its module, whatever the
// major version or the folder in it.
func roomsOf(path string) []string {
	for module, in := range rooms {
		if path == module || strings.HasPrefix(path, module+"/") {
			return in
		}
	}
	return nil
}
