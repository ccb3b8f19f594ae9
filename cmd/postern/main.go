// Postern is an inbound SMTP filtering proxy. This is its command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"postern/configs"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		report(os.Stderr, err)
	}
	os.Exit(exitCode(err))
}

// run is the whole command.
func run(ctx context.Context, args []string, out, errout io.Writer) error {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errout)
	cmd, err := root.ExecuteContextC(ctx)
	if exitCode(err) == 2 {
		return usageError{fmt.Errorf("%w\nSee: %s", err, helpFor(cmd))}
	}
	return err
}

// helpFor is what prints how a command is used.
func helpFor(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return cmd.Name() + " help"
	}
	return cmd.CommandPath() + " --help"
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

// errReported ends a command whose output has said already what is wrong.
var errReported = errors.New("reported")

// reported is the error of what has told already, when it did, that not all was good.
func reported(good bool, err error) error {
	if err == nil && !good {
		err = errReported
	}
	return err
}

// exitCode is 0 for good, 1 where the thing asked about is wrong, 2 for wrong usage.
func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return 2
	}
	return 1
}

// report says what went wrong. Faults of a file begin with file:line:column, as
// editors want it, and show the line.
func report(w io.Writer, err error) {
	var faults configs.Faults
	var fault *configs.Fault
	switch {
	case errors.Is(err, errReported):
	case errors.As(err, &faults):
		writeFaults(w, faults)
	case errors.As(err, &fault):
		writeFaults(w, configs.Faults{fault})
	default:
		_, _ = fmt.Fprintf(w, "postern: %v\n", err)
	}
	_, _ = io.WriteString(w, permissionHint(err, os.Geteuid(), userName()))
}

// permissionHint says as whom to try again, or what to do where that is who tried: name is the
// user's. The texts of faults have the system's own words, and nothing to unwrap.
func permissionHint(err error, uid int, name string) string {
	switch {
	case uid == 0 || !strings.Contains(err.Error(), syscall.EACCES.Error()):
		return ""
	case name == proxyUser:
		return "postern: this is the user that the proxy runs as, and it must be able to read it: chgrp " + proxyUser + " FILE && chmod 640 FILE; a key: chown " + proxyUser + " FILE && chmod 600 FILE; and each folder above needs x for it\n"
	}
	return "postern: it may be read by the user that the proxy runs as: runuser -u " + proxyUser + " -- postern ...\n"
}

// writeFaults says which program complains where there is no file to tell.
func writeFaults(w io.Writer, faults configs.Faults) {
	for _, f := range faults {
		if f.Position.File == "" {
			_, _ = fmt.Fprintf(w, "postern: %v\n", f)
		}
	}
	placed := slices.DeleteFunc(slices.Clone(faults), func(f *configs.Fault) bool { return f.Position.File == "" })
	_, _ = io.WriteString(w, configs.Render(placed, nil))
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "An inbound SMTP filtering proxy",
		Long: `Postern stands on port 25 in front of the MTA that you already run. It asks the
DNS whether a client may speak for the sender it names, lets a policy reject,
tag or pass, and streams what passes to the MTA. It keeps no queue.

Begin with: postern demo`,
		SilenceErrors: true, SilenceUsage: true,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("say what to do")} },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "print the version")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagError{err}} })
	root.SetHelpCommand(newHelp(root))
	root.AddCommand(
		newInit(), newServe(), newDemo(), newCheckConfig(), newConfig(), newPolicy(), newTestSession(),
		newFind(), newExplain(), newReplay(), newCandidate(), newReport(), newOverrides(), newDoctor(), newVersion(),
		newLists(), newHeld(), newRelease(), newRetrieve(), newAMTP(), newCompletion(), newManual(),
	)
	return root
}

// newHelp is cobra's, but for what there is no command of: it says so, and does not print
// the help of another one with exit code 0.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Say what a command does",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return usageError{err}
			}
			if len(rest) > 0 {
				return noArguments(cmd, rest)
			}
			return cmd.Help()
		},
	}
}

// flagError is an error of the flags without what the library says of its own inside.
type flagError struct{ error }

func (e flagError) Error() string {
	text, inside, ok := strings.Cut(e.error.Error(), ": strconv.")
	if !ok {
		return text
	}
	if strings.HasSuffix(inside, "value out of range") {
		return text + ": the number is too large"
	}
	return text + ": a number is wanted"
}

// noArguments refuses what stands behind the command and its flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		err := fmt.Errorf("%s takes no argument, such as %q", cmd.CommandPath(), args[0])
		if cmd.Flags().Lookup("config") != nil {
			err = fmt.Errorf("%w: a configuration is named with -c", err)
		}
		return usageError{err}
	}
	err := fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+args[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w: did you mean %s?", err, near[0])
	}
	return usageError{err}
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []string
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			return usageError{fmt.Errorf("%s wants a command: %s", cmd.CommandPath(), strings.Join(names, " or "))}
		},
	}
	g.AddCommand(commands...)
	return g
}

// configFlag adds -c.
func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "the configuration `file`; none: that of POSTERN_CONFIG, else "+defaultConfig+" where it exists")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *file != "" {
			return nil
		}
		*file = unnamedConfig()
		if *file == "" {
			return nil
		}
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "postern: the configuration is %s\n", *file)
		return err
	}
}

// defaultConfig is the configuration where nobody names one.
var defaultConfig = "/etc/postern/postern.yaml"

// unnamedConfig is the configuration where no flag names one; empty: there is none. What
// cannot be looked at, for want of rights, counts as there: to go on by the defaults would
// answer another question than the one that was asked.
func unnamedConfig() string {
	if file := os.Getenv(configs.FileVariable); file != "" {
		return file
	}
	if _, err := os.Stat(defaultConfig); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return defaultConfig
}

// buildVersion is what the linker was told, or else what Go knows of the checkout.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionText())
			return err
		},
	}
}

// versionText names the program, its version, what it was built by, and for what machine.
func versionText() string {
	return fmt.Sprintf("postern %s %s %s/%s", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
