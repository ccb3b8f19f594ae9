package users

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/bcrypt"

	"postern/proxy/share"
	"postern/proxy/smtp"
)

// What a check may end with beside a user.
var (
	// ErrUnknown: there is no such user, or that is not the password. Which of the two is not told, and
	// cannot be told by the time that it took.
	ErrUnknown = errors.New("users: unknown name or wrong password")
	// ErrBusy: too many are being checked. It says nothing of the password, and is no try.
	ErrBusy = errors.New("users: too many passwords are being checked")
)

const (
	// waiting bounds the checks that run or wait, of all and of one client.
	waiting          = 64
	waitingPerClient = 4
)

// File is a file of users. Any number of goroutines may use it.
type File struct {
	path    string
	current atomic.Pointer[table]
	waiting share.Budget
	slots   chan struct{} // who has one computes a hash
}

// table is what a file has.
type table struct {
	byName    map[string]entry
	addresses map[string]bool
	cost      int // the highest of any hash
}

// Open reads a file. It may be opened by its owner and its group alone. Faults have file and line.
func Open(path string) (*File, error) {
	// A half of the processors is left for mail: a hash is some tenths of a second on one.
	f := &File{path: path, slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path is where the file is.
func (f *File) Path() string { return f.path }

// Reload reads the file again. With an error, everything stays as it was.
func (f *File) Reload() error {
	byName, err := read(f.path)
	if err != nil {
		return err
	}
	t := &table{byName: byName, addresses: map[string]bool{}, cost: MinCost}
	for _, e := range byName {
		t.addresses[folded(e.user.Address)] = true
		t.cost = max(t.cost, e.cost)
	}
	f.current.Store(t)
	return nil
}

// Len is how many users there are.
func (f *File) Len() int { return len(f.current.Load().byName) }

// Domains are those of the users' addresses, as the DNS is asked for them.
func (f *File) Domains() []string {
	seen := map[string]bool{}
	for _, e := range f.current.Load().byName {
		if d, err := smtp.ASCIIDomain(e.user.Address.Domain); err == nil {
			seen[d] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Knows says whether an address is that of a user. The local part is compared without letter case, as
// every MTA does for people.
func (f *File) Knows(a smtp.Path) bool { return f.current.Load().addresses[folded(a)] }

func folded(a smtp.Path) string { return strings.ToLower(smtp.Address(a)) }

// Check says whose name and password these are. The error is ErrUnknown, ErrBusy, or that of ctx. A wrong
// password and an unknown name cost the same time, that of the dearest hash of the file. No more than
// half of the processors compute hashes at one time, and who has to wait does so no longer than ctx lasts.
func (f *File) Check(ctx context.Context, who share.Client, name, password string) (User, error) {
	if f.waiting.Take(who, 1, share.Limits{All: waiting, Each: waitingPerClient}) != share.None {
		return User{}, ErrBusy
	}
	defer f.waiting.Give(who, 1)
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		return User{}, ctx.Err()
	}
	t := f.current.Load()
	e, known := t.byName[name]
	// bcrypt refuses what is longer than it reads, and takes no time for it.
	tooLong := len(password) > MaxPassword
	if tooLong {
		password = password[:MaxPassword]
	}
	if !known {
		e = entry{hash: nobody(t.cost), cost: t.cost}
	}
	if bcrypt.CompareHashAndPassword(e.hash, []byte(password)) == nil && known && !tooLong {
		return e.user, nil
	}
	for _, c := range missing(e.cost, t.cost) {
		_ = bcrypt.CompareHashAndPassword(nobody(c), []byte(password))
	}
	return User{}, ErrUnknown
}

// missing are the costs of the hashes that take, behind one of cost, as long together as one of most. A
// hash of cost c takes 2^c steps, and 2^c + 2^c + 2^(c+1) + ... + 2^(m-1) are 2^m.
func missing(cost, most int) (costs []int) {
	for ; cost < most; cost++ {
		costs = append(costs, cost)
	}
	return costs
}

// nobody is a hash that no password is known to have, and that takes as long as one of that cost.
func nobody(cost int) []byte {
	return fmt.Appendf(nil, "$2a$%02d$%s", cost, "AMTPAMTPAMTPAMTPAMTPAOAMTPAMTPAMTPAMTPAMTPAMTPAMTPAMTPA"[:53])
}
