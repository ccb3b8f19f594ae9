// Package network says to which network an address belongs, and in which country that
// is, by local files in MaxMind's format.
package network

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/oschwald/maxminddb-golang/v2"

	"postern/configs"
)

// The bounds of what a file may be and say.
const (
	maxFile = 1 << 30 // octets; the largest that are sold have half of that
	// maxName bounds the name of a network, in octets.
	maxName = 200
	// maxSampled is how many networks of a file are looked at until one tells anything,
	// those counted of which it says nothing: a broken tree may have more than one can visit.
	maxSampled = 1 << 16
)

// Found is what the files say of an address: nothing where none of them knows it.
type Found struct {
	ASN     int64  // number of the autonomous system, RFC 6793; 0: unknown
	Name    string // of its holder, printable and at most 200 octets
	Country string // two capital letters, ISO 3166-1; empty: unknown
}

// Files are the files of one configuration. They are safe for concurrent use.
type Files struct {
	log   *slog.Logger
	paths []string

	mu      sync.Mutex // of Reload
	content atomic.Pointer[content]
}

// content is what the files hold, by their order; a reader is nil where the file never
// could be read.
type content struct {
	readers []*maxminddb.Reader
	faults  []string // what is wrong with the files now; empty: nothing
}

// Open reads the files. One that cannot be read is no error: what it would tell is not
// known, Faults and the log say so, and Reload tries again. old, which may be nil, lends
// what it has of the files that are the same. A log of nil says nothing.
func Open(paths []string, old *Files, log *slog.Logger) *Files {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &Files{log: log, paths: slices.Clone(paths)}
	before := &content{readers: make([]*maxminddb.Reader, len(paths)), faults: make([]string, len(paths))}
	if old != nil {
		has := old.content.Load()
		for i, path := range paths {
			if k := slices.Index(old.paths, path); k >= 0 {
				before.readers[i], before.faults[i] = has.readers[k], has.faults[k]
			}
		}
	}
	f.content.Store(before)
	f.Reload()
	return f
}

// Paths are the files, to be read again when they change.
func (f *Files) Paths() []string { return f.paths }

// Reload reads the files again. One that was readable once and is not now stays in force as
// it was: an update that went wrong shall not turn every rule off. Each fault is logged
// when it comes, and once more when it has gone.
func (f *Files) Reload() {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.content.Load()
	now := &content{readers: slices.Clone(before.readers), faults: make([]string, len(f.paths))}
	for i, path := range f.paths {
		r, err := open(path)
		if err == nil {
			now.readers[i] = r
			if before.faults[i] != "" {
				f.log.Info("a file of networks is read again", "file", path)
			}
			continue
		}
		now.faults[i] = err.Error()
		if now.faults[i] == before.faults[i] {
			continue // it was said
		}
		if now.readers[i] != nil {
			f.log.Error("a file of networks cannot be read, what it said before stays in force", "file", path, "error", now.faults[i])
		} else {
			f.log.Error("a file of networks cannot be read, client.asn, client.as_name and client.country are not known", "file", path, "error", now.faults[i])
		}
	}
	f.content.Store(now)
}

// Faults says what is wrong with each file, by their order; empty: nothing.
func (f *Files) Faults() []string { return slices.Clone(f.content.Load().faults) }

// Lookup says what the files know of an address. The first file that tells a thing is the one
// that counts. Not ok: a file could never be read, or is broken where the address would
// be, so that what it would have said is not known.
func (f *Files) Lookup(addr netip.Addr) (found Found, ok bool) {
	if addr = addr.Unmap().WithZone(""); !addr.IsValid() {
		return Found{}, true
	}
	for _, r := range f.content.Load().readers {
		if r == nil || found.add(r, addr) != nil {
			return Found{}, false
		}
	}
	return found, true
}

// add fills in what is not known yet. A file of IPv4 alone knows nothing of IPv6.
func (n *Found) add(r *maxminddb.Reader, addr netip.Addr) error {
	if addr.Is6() && r.Metadata.IPVersion == 4 {
		return nil
	}
	return n.read(r.Lookup(addr))
}

// read takes what the record of a network has, by the names of MaxMind (which DB-IP has
// as well) and by those of IPinfo.
func (n *Found) read(result maxminddb.Result) error {
	if !result.Found() {
		return result.Err()
	}
	var faults []error
	if n.ASN == 0 {
		var number uint32
		err := result.DecodePath(&number, "autonomous_system_number")
		var text string
		if number == 0 && err == nil {
			if err = result.DecodePath(&text, "asn"); err == nil {
				number = systemNumber(text)
			}
		}
		faults = append(faults, err)
		n.ASN = int64(number)
	}
	if n.Name == "" {
		name, err := textAt(result, "autonomous_system_organization")
		if name == "" && err == nil {
			name, err = textAt(result, "as_name")
		}
		faults = append(faults, err)
		n.Name = printable(name)
	}
	if n.Country == "" {
		code, err := textAt(result, "country_code")
		if code == "" && err == nil {
			if code, err = textAt(result, "country", "iso_code"); err != nil {
				// IPinfo has a country's name where MaxMind has more about it.
				_, err = textAt(result, "country")
			}
		}
		faults = append(faults, err)
		n.Country = countryCode(code)
	}
	return cmp.Or(faults...)
}

// textAt returns the text that stands there, nothing where there is none.
func textAt(result maxminddb.Result, path ...any) (text string, err error) {
	err = result.DecodePath(&text, path...)
	return text, err
}

// systemNumber reads "AS64500", 0 where that is none.
func systemNumber(text string) uint32 {
	number, err := strconv.ParseUint(strings.TrimPrefix(text, "AS"), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(number)
}

// countryCode returns a code of two capital letters, else nothing.
func countryCode(text string) string {
	if len(text) != 2 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return ""
	}
	return text
}

// printable makes a text of a stranger's file fit to be shown, and cuts it.
func printable(text string) string {
	text = configs.Printable(strings.ReplaceAll(text, "\n", " "))
	if len(text) > maxName {
		text = strings.ToValidUTF8(text[:maxName], "")
	}
	return text
}

// open reads a file, and looks whether it is of any use.
func open(path string) (*maxminddb.Reader, error) {
	// NOT: maxminddb.Open, which maps the file: one that is cut short in place while it
	// is in use would end the process (SIGBUS).
	octets, err := configs.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	return parse(path, octets)
}

// parse reads the octets of a file.
func parse(path string, octets []byte) (*maxminddb.Reader, error) {
	r, err := maxminddb.OpenBytes(octets)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	sampled := 0
	for result := range r.Networks(maxminddb.IncludeNetworksWithoutData()) {
		var found Found
		if err := found.read(result); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if found != (Found{}) {
			return r, nil
		}
		if sampled++; sampled == maxSampled {
			break
		}
	}
	return nil, fmt.Errorf("%s: a database %q that has neither autonomous_system_number nor country.iso_code", path, configs.Printable(r.Metadata.DatabaseType))
}
