package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// The pages that people copy commands from.
var pages = []string{"../../README.md", "../../configs/README.md", "../../deploy/README.md", "../../deploy/replies.md", "../../deploy/reference.md", "../../policy/journal/README.md"}

var (
	indented  = regexp.MustCompile(`(?m)(?:^    .*\n|^    .*$)+`)
	inline    = regexp.MustCompile("`(?:\\./bin/)?(postern [a-z][^`]*)`")
	fenced    = regexp.MustCompile("(?s)```(\\w*)\n(.*?)```")
	isCommand = regexp.MustCompile(`^(?:\$ |# )?((?:runuser -u postern -- )?(?:sudo )?(?:\./bin/)?postern [a-z].*)$`)
)

// BlocksOf are the blocks of a page that stand apart from its sentences: between fences, or indented by
// four blanks, which are taken off.
func BlocksOf(t *testing.T, file string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, f := range fenced.FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, f[2])
	}
	for _, b := range indented.FindAllString(fenced.ReplaceAllString(page, ""), -1) {
		blocks = append(blocks, strings.TrimSuffix(strings.ReplaceAll(b[4:], "\n    ", "\n"), "\n")+"\n")
	}
	return blocks
}

// BlockOf is the one block of a page that begins so.
func BlockOf(t *testing.T, file, begins string) string {
	t.Helper()
	var found []string
	for _, b := range BlocksOf(t, file) {
		if strings.HasPrefix(b, begins) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks that begin with %q", file, len(found), begins)
	}
	return found[0]
}

// commandsOf are the lines of a page that begin with postern, without the prompt, the comment
// behind them and what they are piped into.
func commandsOf(page string) (commands []string) {
	add := func(text string) {
		for line := range strings.Lines(text) {
			m := isCommand.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			command := m[1]
			for _, prefix := range []string{"runuser -u postern -- ", "sudo ", "./bin/"} {
				command = strings.TrimPrefix(command, prefix)
			}
			for _, end := range []string{" #", "   ", " | ", " && ", " > ", " 2>", " \\"} {
				command, _, _ = strings.Cut(command, end)
			}
			commands = append(commands, command)
		}
	}
	for _, f := range fenced.FindAllStringSubmatch(page, -1) {
		add(f[2])
	}
	page = fenced.ReplaceAllString(page, "")
	for _, block := range indented.FindAllString(page, -1) {
		add(block)
	}
	for _, m := range inline.FindAllStringSubmatch(page, -1) {
		add(m[1])
	}
	return commands
}

// words splits a command as a shell would, as far as the guides go.
func words(command string) (all []string) {
	for _, m := range regexp.MustCompile(`'([^']*)'|"([^"]*)"|(\S+)`).FindAllStringSubmatch(command, -1) {
		all = append(all, m[1]+m[2]+m[3])
	}
	return all
}

// A command that a guide shows and the program does not know costs a newcomer the trust in the
// rest of the page. Each is there, and so is each flag that it is given.
func TestCommandsOfTheGuidesExist(t *testing.T) {
	found := 0
	for _, file := range pages {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range commandsOf(string(page)) {
			found++
			cmd, rest, err := newRoot().Find(words(command)[1:])
			if err != nil {
				t.Errorf("%s: %s: %v", file, command, err)
				continue
			}
			if !cmd.HasParent() {
				t.Errorf("%s: %s: there is no such command", file, command)
				continue
			}
			for _, word := range rest {
				name, _, _ := strings.Cut(word, "=")
				var flag *pflag.Flag
				switch {
				case strings.HasPrefix(name, "--") && len(name) > 2:
					flag = cmd.Flags().Lookup(strings.TrimRight(name[2:], ".,:;)"))
				case strings.HasPrefix(name, "-") && len(name) == 2 && name != "--":
					flag = cmd.Flags().ShorthandLookup(name[1:])
				default:
					continue
				}
				if flag == nil && name != "--help" && name != "-h" {
					t.Errorf("%s: %s: %s has no flag %s", file, command, cmd.CommandPath(), name)
				}
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d commands found", found)
	}
	t.Logf("%d commands", found)
}

// What is shown to be typed into a shell is read by a shell without a complaint.
func TestBlocksOfTheGuidesAreShell(t *testing.T) {
	shell := regexp.MustCompile(`^(?:\$ |#|cp |sed |postconf|systemctl|make |install |apt |curl |docker |journalctl|runuser|postern |\./bin/|swaks|usermod|touch|kill )`)
	blocks := 0
	for _, file := range pages {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range indented.FindAllString(fenced.ReplaceAllString(string(page), ""), -1) {
			text := regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, "")
			if !shell.MatchString(text) || strings.Contains(text, "$ ") { // with a prompt come outputs, too
				continue
			}
			blocks++
			cmd := exec.Command("bash", "-n")
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", file, err, out, text)
			}
		}
	}
	if blocks < 10 {
		t.Errorf("only %d blocks found", blocks)
	}
}
