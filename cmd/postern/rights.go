package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"postern/configs"
)

// proxyUser is the user that the proxy runs as, where it was installed as is written down.
const proxyUser = "postern"

// userName is the name of the user who runs this; empty: it has none.
func userName() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}

// account is somebody who wants to read files.
type account struct {
	uid    uint32
	groups []uint32
	below  string // folders above this one are not looked at; empty: all are
}

// proxyAccount is that of proxyUser; false: there is none on this machine.
func proxyAccount() (a account, ok bool) {
	u, err := user.Lookup(proxyUser)
	if err != nil {
		return a, false
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return a, false
	}
	a.uid = uint32(uid)
	ids, err := u.GroupIds()
	if err != nil {
		ids = []string{u.Gid}
	}
	for _, id := range ids {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil {
			a.groups = append(a.groups, uint32(gid))
		}
	}
	return a, true
}

// may says whether the mode of a file gives a right to the account: 4 to read, 1 to pass.
func (a account) may(info os.FileInfo, right uint32) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	mode := uint32(info.Mode().Perm())
	switch {
	case a.uid == owner.Uid:
		mode >>= 6
	case slices.Contains(a.groups, owner.Gid):
		mode >>= 3
	}
	return mode&right != 0
}

// mayRead says why the account could not open a file; nil: it could, or there is none.
func (a account) mayRead(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil //nolint:nilerr // there is nothing to say of it
	}
	for folder := filepath.Dir(path); ; folder = filepath.Dir(folder) {
		if info, err := os.Stat(folder); err == nil && !a.may(info, 1) {
			return fmt.Errorf("the folder %s is closed to it", folder)
		}
		if folder == filepath.Dir(folder) || folder == a.below {
			break
		}
	}
	if info, err := os.Stat(path); err == nil && !a.may(info, 4) {
		return fmt.Errorf("its mode is %#o", info.Mode().Perm())
	}
	return nil
}

// unreadable are the files of a configuration that root may read and the proxy may not. Nobody
// but root is told: others have tried it themselves.
func unreadable(cfg *configs.Config, file string) (all []configs.Fault) {
	a, ok := proxyAccount()
	if os.Geteuid() != 0 || !ok {
		return nil
	}
	files := cfg.Files()
	if file != "" {
		files = append(files, configs.File{Path: file, Position: configs.Position{File: file, Line: 1, Column: 1}})
	}
	for _, f := range files {
		if why := a.mayRead(f.Path); why != nil {
			all = append(all, configs.Warning(f.Position, "%s may be read by root and not by the user %s, as whom the proxy runs: %v", f.Path, proxyUser, why))
		}
	}
	return all
}
