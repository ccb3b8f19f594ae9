package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"postern/cmd/postern/service"
)

// machine looks at what the process itself has.
func (d *patient) machine(_ context.Context, r *Report) {
	who := "user " + strconv.Itoa(os.Geteuid())
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	seen := "run as " + who
	if os.Geteuid() == 0 {
		seen += ", who may read and write everything: what the proxy's own user may was not tested (runuser -u postern -- postern doctor)"
	}
	r.on("process", "", "").OK("%s", seen)

	clock := r.on("clock", "", "")
	if built := buildTime(); d.now.Before(built) {
		clock.Fault("set it, and let NTP have it: certificates, DKIM signatures and the journal go by it",
			"the clock says %s, and this program was made on %s", d.now.UTC().Format(time.DateOnly), built.Format(time.DateOnly))
	} else {
		clock.OK("the clock says %s", d.now.UTC().Format("2006-01-02 15:04 MST"))
	}
	r.add(d.descriptors())
}

// buildTime is when the sources of this program were last changed, as far as Go knows;
// else when this was written.
func buildTime() time.Time {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				return t
			}
		}
	}
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
}

// spareDescriptors are for DNS, logs, files and the admin address.
const spareDescriptors = 1000

// descriptors compares what a full house needs with what there is: each session has
// one to the client and one to the MTA, and perhaps a file for its message.
func (d *patient) descriptors() Finding {
	each := 2
	if d.Holds() {
		each = 3
	}
	need := uint64(each*d.Config.Limits.Connections + spareDescriptors)
	f := Finding{Check: "descriptors", Status: OK}
	var have uint64
	if d.running.maxFiles > 0 {
		have = d.running.maxFiles
		f.Seen = fmt.Sprintf("the proxy that runs may open %d files", have)
	} else if d.unit.files > 0 {
		have = d.unit.files
		f.Seen = fmt.Sprintf("%s lets it open %d files", d.unit.file, have)
	} else {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			return Finding{Check: "descriptors", Status: Warn, Seen: err.Error(), Advice: "see ulimit -n"}
		}
		have = l.Cur // Go has raised it to the hard limit
		f.Seen = fmt.Sprintf("started from this shell, it could open %d files", have)
	}
	if have < need {
		f.Status = Warn
		f.Seen += fmt.Sprintf("; %d connections (limits.connections) may need %d", d.Config.Limits.Connections, need)
		f.Advice = fmt.Sprintf("LimitNOFILE=%d in the unit (ulimit -n), or a lower limits.connections: without one, connections fail in odd places", need)
	}
	return f
}

// adminSide tells of the proxy that runs, by what it says of itself.
func (d *patient) adminSide(_ context.Context, r *Report) {
	address := d.Config.Admin.Address
	it := r.on("admin", address, d.Config.At("admin.address").String())
	is := d.running
	switch {
	case address == "":
		it.Warn("say admin: {address: \"127.0.0.1:9125\"}", "there is no admin address: no metrics, no alerts, no /readyz")
		return
	case is.err != nil && errors.Is(tryBind(address), syscall.EADDRINUSE):
		it.Fault("see who it is: ss -ltnp; or another admin.address", "%s is in use, and not by a proxy that answers: %v", address, is.err)
	case is.err != nil:
		it.OK("nobody answers on %s: the proxy does not run", address)
	case !is.up:
		it.Fault("see who it is: ss -ltnp; or another admin.address", "%s is in use by a program that is not Postern", address)
	default:
		it.OK("Postern %s runs and answers on %s", is.version, address)
	}
	if open(address) {
		it.Warn("it has no password: listen on 127.0.0.1 or an address of the management network, or let the firewall keep others away", "%s can be reached from other machines", address)
	}
	if !is.up {
		return
	}
	if is.version != d.version {
		it.OK("this command is version %s: the proxy is another one until it is restarted (SIGUSR2)", d.version)
	}
	for _, why := range is.notReady {
		it.Fault("see the backends and listeners above, and the log", "it is %s", why)
	}
	if is.unhealthyDNS {
		it.Fault("see the name servers above: what is not in the cache is deferred", "its name servers are in trouble (postern_dns_healthy is 0)")
	}
	if is.unhealthyState {
		it.Fault("see what is remembered, below, and the log", "its store gives no sign of life (postern_state_healthy is 0): rules that hang on it do not match")
	}
	if is.lostRecords > 0 {
		it.Warn("a full or slow disk, or a folder that may not be written: the log says which", "its journal has lost %.0f records since it started", is.lostRecords)
	}
	if is.failedReloads > 0 {
		it.Warn("postern check-config says where the fault was, if it is still there; then reload", "it has refused a new configuration %.0f times since it started", is.failedReloads)
	}
}

// open says whether others than this machine and its management network may reach
// an address.
func open(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "localhost" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && (ip.IsUnspecified() || !hidden(ip))
}

// scrape is what the proxy that runs says of itself on its admin address.
type scrape struct {
	err            error // nobody answers
	up             bool  // what answered is Postern
	version        string
	notReady       []string
	maxFiles       uint64 // 0: not told
	unhealthyDNS   bool
	unhealthyState bool
	lostRecords    float64
	failedReloads  float64
}

const (
	scrapeTime = 3 * time.Second
	maxScrape  = 8 << 20 // octets of one page
)

// scrapeAdmin asks the admin address of this machine.
func scrapeAdmin(ctx context.Context, address string) (s scrape) {
	if address == "" {
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeTime)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		s.err = err
		return s
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	// NOT: an http.Client, which writes to the log what a server says that is none of HTTP,
	// and heeds the proxies of the environment.
	get := func(page string, read func(int, io.Reader)) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+page, nil)
		if err != nil {
			return err
		}
		req.Close = true
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", req.URL.Host)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if until, ok := ctx.Deadline(); ok {
			_ = conn.SetDeadline(until)
		}
		if err := req.Write(conn); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxScrape)), req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		read(resp.StatusCode, resp.Body)
		return nil
	}
	if s.err = get("/metrics", func(_ int, page io.Reader) { s.read(page) }); s.err != nil || !s.up {
		return s
	}
	s.err = get("/readyz", func(code int, page io.Reader) {
		lines := bufio.NewScanner(page)
		for code != http.StatusOK && lines.Scan() && len(s.notReady) < 10 {
			s.notReady = append(s.notReady, lines.Text())
		}
	})
	return s
}

// read picks what matters out of a page of metrics. A page that cannot be read is none of
// ours.
func (s *scrape) read(page io.Reader) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page)
	if err != nil {
		return
	}
	each := func(family string, see func(value float64, label func(name string) string)) {
		for _, m := range families[family].GetMetric() {
			// One of the three is there: which one is told by a line that may be missing.
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
			see(value, func(name string) string {
				for _, l := range m.GetLabel() {
					if l.GetName() == name {
						return l.GetValue()
					}
				}
				return ""
			})
		}
	}
	each("postern_build_info", func(_ float64, label func(string) string) { s.up, s.version = true, label("version") })
	each("process_max_fds", func(value float64, _ func(string) string) {
		if value > 0 && value < 1<<62 {
			s.maxFiles = uint64(value)
		}
	})
	each("postern_dns_healthy", func(value float64, _ func(string) string) { s.unhealthyDNS = value == 0 })
	each("postern_state_healthy", func(value float64, _ func(string) string) { s.unhealthyState = value == 0 })
	each("postern_journal_records_total", func(value float64, label func(string) string) {
		if label("result") != "written" {
			s.lostRecords += value
		}
	})
	each("postern_config_reloads_total", func(value float64, label func(string) string) {
		if label("result") == "error" {
			s.failedReloads = value
		}
	})
}

// Below these a folder counts as full, or nearly.
const (
	diskFull = 64 << 20
	diskLow  = 1 << 30
)

// folders looks at what is written to the disk, and what is read from it.
func (d *patient) folders(_ context.Context, r *Report) {
	cfg := d.Config
	if cfg.Journal.Path != "" {
		f := d.folder("journal", cfg.Journal.Path, diskFull, diskLow, "mail flows on, and nobody can explain or replay it")
		f.At = cfg.At("journal.path").String()
		r.add(f)
		if cfg.Journal.HashLocalParts {
			d.forTheGroup(r.on("journal", "", cfg.At("journal.hash_key").String()), cfg.Journal.HashKey)
		}
	} else {
		r.on("journal", "", cfg.At("journal").String()).Warn("say journal: {path: /var/lib/postern/journal}", "there is no journal: explain, replay and report have nothing to read")
	}
	for i, l := range cfg.Lists {
		if l.File == "" {
			continue
		}
		it := r.on("lists", l.Name, cfg.At(fmt.Sprintf("lists[%d].file", i)).String())
		if _, err := service.ReadList(l.File); err != nil {
			it.Fault("the proxy does not start with it; one that runs keeps the old entries", "list %s: %v", l.Name, err)
		} else {
			it.OK("list %s: %s can be read", l.Name, l.File)
		}
	}
	if d.Holds() {
		size := uint64(cfg.Limits.MessageSize)
		f := d.folder("spool", os.TempDir(), max(size, diskFull), max(20*size, diskLow), "a rule wants whole messages (policy show), and large ones are deferred (452 4.3.1)")
		f.Seen += "; messages are held there (TMPDIR, which the unit may set otherwise)"
		r.add(f)
	}
	if len(cfg.Backends) == 0 {
		r.add(d.folder("maildir", "Maildir", diskFull, diskLow, "mail is deferred"))
	}
}

// folder is tryFolder, but for what is not there yet and the unit makes at its first start.
func (d *patient) folder(check, dir string, full, low uint64, otherwise string) Finding {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && d.unit.makes(dir) && !d.running.up {
		return Finding{Check: check, Subject: dir, Status: OK, Seen: fmt.Sprintf("%s is not there yet: %s makes it at the first start", dir, d.unit.file)}
	}
	return tryFolder(check, dir, full, low, otherwise)
}

// tryFolder tries whether files can be made in a folder, and whether there is room. One
// that is not there is made by the proxy: then it is the one above it that matters.
func tryFolder(check, dir string, full, low uint64, otherwise string) Finding {
	f := Finding{Check: check, Subject: dir, Status: OK}
	at := dir
	for {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			f.Status, f.Seen, f.Advice = Fault, fmt.Sprintf("%s: %s is no folder: %s", dir, at, otherwise), "name another folder, or move the file away"
			return f
		}
		if err == nil {
			break
		}
		above := filepath.Dir(at)
		if !errors.Is(err, fs.ErrNotExist) || above == at {
			f.Status, f.Seen, f.Advice = Fault, fmt.Sprintf("%v: %s", err, otherwise), "let the proxy's user in: chown, chmod, and ReadWritePaths= of the unit"
			return f
		}
		at = above
	}
	probe, err := os.CreateTemp(at, ".postern-doctor-*")
	if err != nil {
		f.Status, f.Seen, f.Advice = Fault, fmt.Sprintf("%s cannot be written (%v): %s", dir, err, otherwise), "let the proxy's user write there: chown, chmod, and ReadWritePaths= of the unit"
		return f
	}
	_ = probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		f.Status, f.Seen, f.Advice = Warn, err.Error(), "remove the file by hand"
		return f
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(at, &disk); err != nil {
		f.Status, f.Seen, f.Advice = Warn, fmt.Sprintf("%s: %v", dir, err), "see df"
		return f
	}
	free := disk.Bavail * uint64(disk.Bsize)
	f.Seen = fmt.Sprintf("%s can be written, and has %s free", dir, size(free))
	if at != dir {
		f.Seen = fmt.Sprintf("%s is not there yet and can be made, with %s free", dir, size(free))
	}
	switch {
	case free < full || disk.Files > 0 && disk.Ffree == 0:
		f.Status, f.Seen, f.Advice = Fault, fmt.Sprintf("%s is full, with %s and %d files free: %s", dir, size(free), disk.Ffree, otherwise), "make room"
	case free < low:
		f.Status, f.Advice = Warn, "make room, before it is full: "+otherwise
	}
	return f
}

// size is a number of octets for people.
func size(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
