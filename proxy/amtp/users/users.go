// Package users is who may log in over AMTP: a file with a name, a mail address and the bcrypt hash
// of a password on each line.
package users

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"postern/configs"
	"postern/proxy/smtp"
)

const (
	maxFile  = 8 << 20 // octets of the file
	maxUsers = 50_000
	maxLine  = 1024 // octets of a line of it
	maxName  = 64   // octets of a name

	// MinPassword is how short a password may be, in octets.
	MinPassword = 8
	// MaxPassword is how long a password may be, in octets: bcrypt reads no more.
	MaxPassword = 72

	// MinCost is the least cost of a hash: what is below is guessed too fast.
	MinCost = 10
	// MaxCost is the highest cost of a hash: what is above keeps a processor busy for more than a second.
	MaxCost = 14
	// DefaultCost is that of a hash which is made here: some 200 ms.
	DefaultCost = 12
)

// User is somebody who may log in.
type User struct {
	Name    string
	Address smtp.Path // what the From field of the user's mail says
}

// entry is a line of the file.
type entry struct {
	user User
	hash []byte
	cost int
}

// hashForm is a hash as bcrypt writes it: the version, the cost, 22 characters of salt and 31 of hash.
// It is made for the first user.
var hashForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$`) })

// parse reads the text of a file. file is its name for what is wrong, which comes all at once.
func parse(file string, text []byte) (map[string]entry, error) {
	byName := map[string]entry{}
	byAddress := map[string]int{}
	lines := map[string]int{}
	// NOT: configs.Fault, which shows the line, and so a hash, or a password that stands there by mistake.
	var faults []error
	fault := func(line int, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s:%d: %w", file, line, fmt.Errorf(format, args...)))
	}
	sc := bufio.NewScanner(bytes.NewReader(text))
	sc.Buffer(make([]byte, 0, maxLine), maxLine)
	n := 0
	for sc.Scan() {
		n++
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		e, err := parseLine(line)
		if err != nil {
			fault(n, "%v", err)
			continue
		}
		address := smtp.Address(e.user.Address)
		switch {
		case lines[e.user.Name] > 0:
			fault(n, "the user %s is on line %d already", e.user.Name, lines[e.user.Name])
		case byAddress[address] > 0:
			fault(n, "%s is the address of a user on line %d already", address, byAddress[address])
		case len(byName) == maxUsers:
			fault(n, "more than %d users", maxUsers)
			return nil, errors.Join(faults...)
		default:
			lines[e.user.Name], byAddress[address] = n, n
			byName[e.user.Name] = e
		}
	}
	if sc.Err() != nil {
		fault(n+1, "the line is longer than %d octets", maxLine)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return byName, nil
}

// parseLine reads one line. NOT: the line itself in an error, which would show a hash.
func parseLine(line string) (entry, error) {
	f := strings.Fields(line)
	if len(f) != 3 {
		return entry{}, fmt.Errorf("a line is: name, mail address, bcrypt hash; this one has %d words", len(f))
	}
	u, err := NewUser(f[0], f[1])
	if err != nil {
		return entry{}, err
	}
	if !hashForm().MatchString(f[2]) {
		return entry{}, fmt.Errorf("user %s: the third word is no bcrypt hash: set the password with postern amtp passwd", u.Name)
	}
	cost, err := bcrypt.Cost([]byte(f[2]))
	if err != nil || cost < MinCost || cost > MaxCost {
		return entry{}, fmt.Errorf("user %s: the cost of a hash is from %d to %d: set the password anew with postern amtp passwd", u.Name, MinCost, MaxCost)
	}
	return entry{u, []byte(f[2]), cost}, nil
}

// NewUser makes a user of a name and a mail address. The name differs from the address, which
// everybody knows who has got mail from it, and both are without white space (section 2 of the drafts).
func NewUser(name, address string) (User, error) {
	switch {
	case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unseen) || name[0] == '#':
		return User{}, fmt.Errorf("%q is no user name: use up to %d octets without white space, not beginning with #", name, maxName)
	case strings.EqualFold(name, address):
		return User{}, fmt.Errorf("the user %s has the mail address for a name: whoever writes to it would know half of what logs in", name)
	}
	path, err := smtp.ParseMailbox(address, false)
	if err != nil || !smtp.IsDomain(path.Domain) {
		return User{}, fmt.Errorf("user %s: %q is no mail address, such as alice@example.org", name, address)
	}
	if strings.ContainsAny(path.Local, " \t") {
		return User{}, fmt.Errorf("user %s: a mail address with a space in it does not fit into the file", name)
	}
	return User{Name: name, Address: path}, nil
}

func unseen(r rune) bool { return r <= ' ' || 0x7f <= r && r <= 0xa0 || r == 0x2028 || r == 0x2029 }

// errMode says what to do with a file that others may read or change.
var errMode = errors.New("it holds the hashes of passwords")

// read reads the file and looks at who may do so.
func read(path string) (map[string]entry, error) {
	text, err := configs.ReadFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("the users of AMTP cannot be read: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the users of AMTP cannot be read: %w", err)
	}
	if err := closed(path, info.Mode()); err != nil {
		return nil, err
	}
	return parse(path, text)
}

// closed says whether a file of that mode is closed to strangers.
func closed(path string, mode fs.FileMode) error {
	if open := mode.Perm() & 0o027; open != 0 {
		return fmt.Errorf("%s may be read or changed by others (mode %#o): %w: chmod %o %s", path, mode.Perm(), errMode, mode.Perm()&^0o027, path)
	}
	return nil
}

// Line is the line of a user with a new password.
func Line(u User, password string, cost int) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return "", fmt.Errorf("user %s: %w", u.Name, err)
	}
	return lineOf(u, hash), nil
}

func lineOf(u User, hash []byte) string {
	return u.Name + "  " + u.Address.String() + "  " + string(hash)
}

// CheckPassword says why a text can be no password, without showing it.
func CheckPassword(p string) error {
	switch {
	case len(p) < MinPassword:
		return fmt.Errorf("the password is too short: at least %d octets", MinPassword)
	case len(p) > MaxPassword:
		return fmt.Errorf("the password is too long: bcrypt reads %d octets and no more", MaxPassword)
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("the password has a control character in it, which no line can bring")
	case strings.TrimSpace(p) != p:
		return errors.New("the password begins or ends with a space")
	}
	return nil
}

// ReadText returns the text of a file; that of one that is not there yet is empty.
func ReadText(file string) ([]byte, error) {
	text, err := configs.ReadFile(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// Example is the line of a user with a hash that no password is known to have.
func Example(u User) string { return lineOf(u, nobody(DefaultCost)) }

// Edited returns the text of a file in which the user has that line: in place of the user's old one,
// or at the end. All other lines stay as they are. address is that of the user: it is empty for one who
// is there already, and stays what it was; the line is made by makeLine once it is known.
func Edited(file string, text []byte, name, address string, makeLine func(User) (string, error)) (next []byte, was bool, err error) {
	known, err := parse(file, text)
	if err != nil {
		return nil, false, err
	}
	old, was := known[name]
	if address == "" {
		if !was {
			return nil, false, fmt.Errorf("there is no user %s: a new one needs a mail address", name)
		}
		address = old.user.Address.String()
	}
	u, err := NewUser(name, address)
	if err != nil {
		return nil, false, err
	}
	line, err := makeLine(u)
	if err != nil {
		return nil, false, err
	}
	next = withLine(text, name, line)
	_, err = parse(file, next) // the address may be somebody else's
	return next, was, err
}

// Removed returns the text of a file without a user.
func Removed(file string, text []byte, name string) ([]byte, error) {
	known, err := parse(file, text)
	if err != nil {
		return nil, err
	}
	if _, ok := known[name]; !ok {
		return nil, fmt.Errorf("there is no user %s", name)
	}
	return withLine(text, name, ""), nil
}

// withLine puts a line in the place of the user's; an empty one takes that away.
func withLine(text []byte, name, line string) (next []byte) {
	if line != "" {
		line += "\n"
	}
	placed := false
	for old := range bytes.Lines(text) {
		if f := bytes.Fields(old); len(f) > 0 && string(f[0]) == name {
			next, placed = append(next, line...), true
			continue
		}
		next = append(next, old...)
	}
	if !placed {
		if n := len(next); n > 0 && next[n-1] != '\n' {
			next = append(next, '\n')
		}
		next = append(next, line...)
	}
	return next
}
