package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/proxy/amtp/spool"
	"postern/proxy/amtp/users"
)

func newAMTP() *cobra.Command {
	return group("amtp", "The users of AMTP, and the mail that they send", newAMTPPasswd(), newAMTPHold(), newAMTPWaiting())
}

func newAMTPHold() *cobra.Command {
	var opt configs.Options
	cmd := &cobra.Command{
		Use: "hold", Short: "Keep the mail of AMTP's users until it is fetched", Args: noArguments,
		Long: `Run the server of AMTP's senders (amtp.hold in the configuration), until SIGTERM. Users
log in and send; their mail is kept in files that are synced before they hear 250, is
announced to the servers of its recipients, and given to the very address that it was
announced to. Where there is no server of AMTP it goes to a smarthost, or its sender is
told (amtp.hold.fallback); what nobody fetches in time comes back to its sender.

It is a server of its own: postern serve never does this, and both may run on one
machine if it has two addresses, as each wants port 26 of its own.

SIGHUP reads the users and certificates again, which happens by itself where they
change; everything else is read at a start alone.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return service.Hold(cmd.Context(), opt, cmd.ErrOrStderr())
		},
	}
	configFlag(cmd, &opt.File)
	return cmd
}

func newAMTPWaiting() *cobra.Command {
	var opt configs.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use: "waiting", Short: "List the mail that waits to be fetched", Args: noArguments,
		Long: `Print what is in the spool of postern amtp hold (amtp.hold.spool), a line for each
recipient, the oldest mail first: whose it is, what it waits for, when it is tried next, and
what the last attempt came to. It reads the files, whether the server runs or not, and
changes nothing. The stages: waiting (to be announced, or given to the smarthost),
announced (to be fetched), failed (its sender is to be told).

The exit code is 1 where a file of the spool cannot be read.`,
		Example: `  postern amtp waiting
  postern amtp waiting --json | jq -r '.[] | select(.attempts > 3) | .rcpt'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configs.Load(opt)
			if err != nil {
				return err
			}
			if cfg.AMTP.Hold.Spool == "" {
				return errors.New("the configuration names no spool (amtp.hold.spool)")
			}
			list, fault := spool.Look(cfg.AMTP.Hold.Spool)
			if fault != nil && list == nil {
				return fault
			}
			return errors.Join(view.Kept(cmd.OutOrStdout(), list, asJSON), fault)
		},
	}
	configFlag(cmd, &opt.File)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON list and nothing else")
	return cmd
}

func newAMTPPasswd() *cobra.Command {
	var opt configs.Options
	var file string
	var remove bool
	cmd := &cobra.Command{
		Use: "passwd NAME [ADDRESS]", Short: "Add a user of AMTP, or change a password",
		Long: `Add a user to a file of AMTP users, or give one who is there another password; a
new one needs a mail address, which the server then writes into the From field of
what the user sends. The name has no space and is not the mail address.

The password, of 8 to 72 octets, is asked for twice at a terminal, without being
shown; else it is the first line of standard input. It is never an argument, which
others could see in the list of processes.

The file is replaced in one step, its other lines and comments stay as they are, and
a server that runs reads it again by itself within a second. A new file can be read
by its owner and its group.`,
		Example: `  postern amtp passwd alice alice@example.org
  printf '%s\n' "$PASSWORD" | postern amtp passwd --users /etc/postern/amtp-users alice`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 || remove && len(args) > 1 {
				return usageError{fmt.Errorf("%s wants the name of a user, and the mail address of a new one", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				var err error
				if file, err = usersFile(opt); err != nil {
					return err
				}
			}
			if remove {
				return removeUser(cmd, file, args[0])
			}
			return setPassword(cmd, file, args)
		},
	}
	configFlag(cmd, &opt.File)
	named := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if file != "" {
			return nil // no configuration is needed
		}
		return named(cmd, args)
	}
	cmd.Flags().StringVar(&file, "users", "", "the `file` of users, in place of that of the configuration")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the user out of the file")
	return cmd
}

// usersFile is the file that a configuration names.
func usersFile(opt configs.Options) (string, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return "", err
	}
	serve, hold := cfg.AMTP.Users, cfg.AMTP.Hold.Users
	switch {
	case serve == "" && hold == "":
		return "", errors.New("the configuration names no file of users (amtp.users, amtp.hold.users): say which one by --users FILE")
	case serve != "" && hold != "" && serve != hold:
		return "", fmt.Errorf("the configuration names two files of users, %s (amtp.users) and %s (amtp.hold.users): say which one by --users FILE", serve, hold)
	}
	return cmp.Or(serve, hold), nil
}

// setPassword gives the user of args[0] a password, and the address of args[1] where there is one.
func setPassword(cmd *cobra.Command, file string, args []string) error {
	address := ""
	if len(args) > 1 {
		address = args[1]
	}
	// What is wrong with the file or the name is told before anybody types a password.
	text, err := users.ReadText(file)
	if err != nil {
		return err
	}
	if _, _, err := users.Edited(file, text, args[0], address, func(u users.User) (string, error) { return users.Example(u), nil }); err != nil {
		return err
	}
	password, err := askPassword(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr(), args[0])
	if err != nil {
		return err
	}
	was := false
	err = editFile(file, func(text []byte) (next []byte, err error) {
		next, was, err = users.Edited(file, text, args[0], address, func(u users.User) (string, error) {
			return users.Line(u, password, users.DefaultCost)
		})
		return next, err
	})
	if err != nil {
		return err
	}
	done := "added to"
	if was {
		done = "changed in"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "user %s %s %s\n", args[0], done, file)
	return err
}

func removeUser(cmd *cobra.Command, file, name string) error {
	err := editFile(file, func(text []byte) ([]byte, error) { return users.Removed(file, text, name) })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "user %s removed from %s\n", name, file)
	return err
}

// askPassword asks at a terminal, twice and without echo, or else reads a line.
func askPassword(ctx context.Context, in io.Reader, prompt io.Writer, name string) (string, error) {
	f, ok := in.(*os.File)
	if !ok {
		return readPassword(bufio.NewReader(in))
	}
	before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil { // it is no terminal
		return readPassword(bufio.NewReader(f))
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	silent.Lflag |= unix.ICANON | unix.ISIG
	silent.Iflag |= unix.ICRNL
	// Whoever gives up with Ctrl-C wants to see what is typed next.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, &silent); err != nil {
		return "", fmt.Errorf("the terminal cannot be kept from showing the password: %w", err)
	}
	defer func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, before) }()
	type answer struct {
		password string
		err      error
	}
	answers := make(chan answer, 2)
	go func() { // reading a terminal cannot be interrupted: the process ends over it
		lines := bufio.NewReader(f)
		for range 2 {
			p, err := readPassword(lines)
			answers <- answer{p, err}
		}
	}()
	var got [2]string
	for i, ask := range []string{"Password of " + name + ": ", "Once more: "} {
		if _, err := io.WriteString(prompt, ask); err != nil {
			return "", err
		}
		select {
		case a := <-answers:
			if _, err := io.WriteString(prompt, "\n"); err != nil {
				return "", err
			}
			if a.err != nil {
				return "", a.err
			}
			got[i] = a.password
		case <-ctx.Done():
			_, _ = io.WriteString(prompt, "\n")
			return "", errors.New("nothing was changed")
		}
	}
	if got[0] != got[1] {
		return "", errors.New("the two passwords differ: nothing was changed")
	}
	return got[0], nil
}

// readPassword reads a line that is no longer than a password may be.
func readPassword(r *bufio.Reader) (string, error) {
	var line []byte
	for len(line) <= users.MaxPassword+2 {
		c, err := r.ReadByte()
		if errors.Is(err, io.EOF) && len(line) > 0 || c == '\n' {
			return string(bytes.TrimSuffix(line, []byte{'\r'})), nil
		}
		if errors.Is(err, io.EOF) {
			return "", errors.New("no password: it is the first line of standard input")
		}
		if err != nil {
			return "", err
		}
		line = append(line, c)
	}
	return "", users.CheckPassword(strings.Repeat("x", len(line)))
}
