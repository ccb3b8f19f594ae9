package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newCompletion() *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "Print what a shell needs to complete commands and flags",
		Long: `Print the completion script for a shell. Packages bring it along.`,
		Example: `  postern completion bash > /etc/bash_completion.d/postern
  postern completion fish > ~/.config/fish/completions/postern.fish`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("completion wants the name of a shell: bash, zsh or fish")}
			}
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return usageError{fmt.Errorf("there is no completion for %q: it is bash, zsh or fish", args[0])}
		},
	}
}

// newManual writes the manual pages, for those who make packages.
func newManual() *cobra.Command {
	return &cobra.Command{
		Use: "manual FOLDER", Short: "Write the manual pages of all commands", Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("manual wants the folder to write into")}
			}
			return eachCommand(cmd.Root(), func(c *cobra.Command) error {
				name := pageName(c) + ".8"
				return os.WriteFile(filepath.Join(args[0], name), []byte(manualPage(c)), 0o644) //nolint:gosec // everybody may read it
			})
		},
	}
}

// eachCommand calls fn with a command and all below it that are shown.
func eachCommand(c *cobra.Command, fn func(*cobra.Command) error) error {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	if err := fn(c); err != nil {
		return err
	}
	for _, below := range c.Commands() {
		if err := eachCommand(below, fn); err != nil {
			return err
		}
	}
	return nil
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manualPage is what --help says, as man(7) has it.
func manualPage(c *cobra.Command) string {
	var b strings.Builder
	line := func(text string) { b.WriteString(text + "\n") }
	line(fmt.Sprintf(`.TH %s 8 "" %s "Postern"`, roff(strings.ToUpper(pageName(c))), roff(`"postern `+buildVersion()+`"`)))
	line(".SH NAME")
	line(roff(pageName(c)) + ` \- ` + roff(c.Short))
	line(".SH SYNOPSIS")
	line(".nf")
	line(roff(c.UseLine()))
	line(".fi")
	if c.Long != "" {
		line(".SH DESCRIPTION")
		for paragraph := range strings.SplitSeq(strings.TrimSpace(c.Long), "\n\n") {
			line(".PP")
			line(roff(paragraph))
		}
	}
	section := ".SH OPTIONS"
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if section != "" {
			line(section)
			section = ""
		}
		value, usage := pflag.UnquoteUsage(f)
		name := `\fB` + roff("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			name = `\fB` + roff("-"+f.Shorthand) + `\fR, ` + name
		}
		if value != "" {
			name += ` \fI` + roff(value) + `\fR`
		}
		line(".TP")
		line(name)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" {
			usage += " (" + f.DefValue + " where nothing is said)"
		}
		line(roff(usage))
	})
	if c.Example != "" {
		line(".SH EXAMPLES")
		line(".nf")
		line(roff(c.Example))
		line(".fi")
	}
	line(".SH EXIT STATUS")
	line("0: good. 1: what was asked about is wrong. 2: wrong usage.")
	line(".SH SEE ALSO")
	var others []string
	if c.HasParent() {
		others = append(others, roff(pageName(c.Parent()))+"(8)")
	}
	for _, below := range c.Commands() {
		if !below.Hidden && below.Name() != "help" {
			others = append(others, roff(pageName(below))+"(8)")
		}
	}
	line(strings.Join(append(others, "/usr/share/doc/postern"), ", "))
	return b.String()
}

// roff escapes what troff would take for its own.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "'", `\(aq`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
