package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/service"
	"postern/configs"
	"postern/policy/list"
)

func newLists() *cobra.Command {
	return group("lists", "Add to the lists that rules read, and remove from them", newListsAdd(), newListsRemove())
}

const listsLong = `The file is replaced in one step, its other lines and their comments stay as they
are, and a proxy that runs reads it again by itself within a second. A list whose
entries stand in the configuration itself has no file to edit.`

func newListsAdd() *cobra.Command {
	var opt configs.Options
	var entry list.NewEntry
	cmd := &cobra.Command{
		Use: "add NAME ENTRY", Short: "Add an entry to a list's file",
		Long: `Add an address, a network, a domain (*.example.org: its sub-domains) or a mail
address to the file of a list, with a comment that says who answers for it and why.

` + listsLong + `

The exit code is 1 where the entry is there already, or is none.`,
		Example: `  postern lists add forwarders 203.0.113.0/24 --owner "mail team" --reason "campus gateway" --until 2027-03-01`,
		Args:    nameAndEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			entry.Value = args[1]
			line, err := entry.Line(time.Now())
			if err != nil {
				return err
			}
			def, err := listOf(opt, args[0])
			if err != nil {
				return err
			}
			number := 0
			err = editFile(def.File, func(text []byte) ([]byte, error) {
				numbers, lines, err := list.FindInFile(text, args[1])
				if err != nil {
					return nil, err
				}
				if len(numbers) > 0 {
					return nil, fmt.Errorf("it is there already: %s:%d: %s", def.File, numbers[0], strings.TrimSpace(lines[0]))
				}
				next := list.AppendToFile(text, line)
				number = bytes.Count(next, []byte("\n"))
				return next, nil
			})
			if err != nil {
				return fmt.Errorf("list %s: %w", def.Name, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s:%d: %s\nA proxy that runs reads it within a second; its log says \"lists reloaded\".\n", def.File, number, line)
			return err
		},
	}
	configFlag(cmd, &opt.File)
	cmd.Flags().StringVar(&entry.Owner, "owner", "", "who answers for it")
	cmd.Flags().StringVar(&entry.Reason, "reason", "", "why it is there")
	cmd.Flags().StringVar(&entry.Until, "until", "", "the last `day` on which it counts, as 2027-03-01")
	return cmd
}

func newListsRemove() *cobra.Command {
	var opt configs.Options
	cmd := &cobra.Command{
		Use: "remove NAME ENTRY", Short: "Take an entry out of a list's file",
		Long: `Take the lines that have this entry, however they write it, out of the file of a list.

` + listsLong + `

The exit code is 1 where the entry is not there.`,
		Example: `  postern lists remove forwarders 203.0.113.0/24`,
		Args:    nameAndEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			def, err := listOf(opt, args[0])
			if err != nil {
				return err
			}
			var gone []string
			err = editFile(def.File, func(text []byte) ([]byte, error) {
				numbers, lines, err := list.FindInFile(text, args[1])
				if err != nil {
					return nil, err
				}
				if len(numbers) == 0 {
					return nil, fmt.Errorf("%s has no line %s; one that is wider, or is a part of it, is another entry", def.File, args[1])
				}
				gone = lines
				return list.CutFromFile(text, numbers), nil
			})
			if err != nil {
				return fmt.Errorf("list %s: %w", def.Name, err)
			}
			for _, line := range gone {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "removed from %s: %s\n", def.File, strings.TrimSpace(line)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	configFlag(cmd, &opt.File)
	return cmd
}

func nameAndEntry(cmd *cobra.Command, args []string) error {
	if len(args) != 2 {
		return usageError{fmt.Errorf("%s wants the name of a list and an entry, as in: %s", cmd.CommandPath(), strings.TrimSpace(cmd.Example))}
	}
	return nil
}

// listOf finds the list of a name, which must have a file.
func listOf(opt configs.Options, name string) (*configs.List, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range cfg.Lists {
		l := &cfg.Lists[i]
		if l.Name == name {
			if l.File == "" {
				return nil, &configs.Fault{Position: l.Position, Text: fmt.Sprintf("list %s has no file: its entries stand here. Say file: to edit it by a command", name)}
			}
			return l, nil
		}
		names = append(names, l.Name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there is no list %q: the configuration has none (lists: [{name: %s, file: FILE}])", name, name)
	}
	return nil, fmt.Errorf("there is no list %q%s: the configuration has %s", name, configs.DidYouMean(name, names), strings.Join(names, ", "))
}

// editFile replaces the content of a file by what edit makes of it, in one step: whoever reads it
// meanwhile has the old one or the new one. Its rights and its owner stay. A file that is not there
// is empty. Two that edit at the same time do so one after the other.
func editFile(path string, edit func(text []byte) ([]byte, error)) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // NOT: the link, which would then be a file
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }() // only its lock counts
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("%s cannot be locked: %w", folder.Name(), err)
	}
	mode, uid, gid := fs.FileMode(0o640), -1, -1
	text, err := service.ReadList(path)
	switch info, statErr := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(statErr, fs.ErrNotExist):
		if of, err := folder.Stat(); err == nil {
			gid = int(of.Sys().(*syscall.Stat_t).Gid) // who may read the folder may read the list
		}
	case err != nil:
		return err
	case statErr != nil:
		return statErr
	default:
		of := info.Sys().(*syscall.Stat_t)
		mode, uid, gid = info.Mode().Perm(), int(of.Uid), int(of.Gid)
	}
	next, err := edit(slices.Clip(text))
	if err != nil {
		return err
	}
	return replaceFile(path, next, mode, uid, gid)
}

// replaceFile writes a file beside the one that it then takes the place of.
func replaceFile(path string, text []byte, mode fs.FileMode, uid, gid int) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && (uid >= 0 || gid >= 0) {
		if owned := f.Chown(uid, gid); owned != nil && os.Geteuid() == 0 {
			err = owned // who is not root may not give files away, and has the right to edit this one
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
