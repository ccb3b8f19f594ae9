package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"postern/checks/memory"
	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
)

// maxSkew is how far the clock of a server may be from ours: an hour of rates ends
// for each member of a fleet when its own clock says so.
const maxSkew = 2 * time.Second

// withoutState is what becomes of mail while the store is away.
const withoutState = "mail flows on, and rules that hang on what is remembered do not match"

// memory looks at the store of what lasts between sessions.
func (d *patient) memory(ctx context.Context, r *Report) {
	c := &d.Config.State
	switch {
	case c.Path != "":
		d.stateFile(r, c)
	case len(c.Servers) > 0:
		for i, server := range c.Servers {
			one := *c
			one.Servers = []string{server}
			d.stateServer(ctx, r.on("state", server, d.Config.At(fmt.Sprintf("state.servers[%d]", i)).String()), &one)
		}
	case d.Memory != nil:
		r.on("state", "", "").Warn("say state: {path: /var/lib/postern/state}", "rules read what is remembered, and it is gone whenever the process ends")
	}
}

// stateFile looks at the folder of the file. NOT: into the file, which the proxy that
// runs has for itself; whether a newer version wrote it was seen with the configuration.
func (d *patient) stateFile(r *Report, c *configs.State) {
	f := d.folder("state", c.Path, diskFull, diskLow, withoutState)
	f.At = d.Config.At("state.path").String()
	r.add(f)
	torn, _ := filepath.Glob(filepath.Join(c.Path, "*.torn-*")) // the pattern is right
	if len(torn) > 0 {
		r.on("state", c.Path, f.At).Warn("see why: a disk that fails, a machine that lost its power. Remove what was moved aside when you know",
			"%s could not be read, and what was remembered began anew: %s", view.Counted(len(torn), "file"), strings.Join(torn, ", "))
	}
}

// stateServer looks at one server.
func (d *patient) stateServer(ctx context.Context, it topic, c *configs.State) {
	store, err := service.OpenState(c, &service.World{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		it.Fault(withoutState, "%v", err)
		return
	}
	defer func() { _ = store.Close() }() // nothing was written
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	is, err := memory.Examine(ctx, store)
	if err == nil {
		err = store.Ping(ctx)
	}
	if err != nil {
		it.Fault("see that it runs, and takes our user, password and certificate, and that there is room: "+withoutState, "%v", err)
		return
	}
	judgeServer(it, is, c.Timeout)
}

// judgeServer tells of a server that answers.
func judgeServer(it topic, is memory.Server, timeout time.Duration) {
	latency := is.Latency.Round(10 * time.Microsecond)
	if is.Latency > timeout/2 {
		it.Warn("have it nearer, or say more for state.timeout: what comes later is not waited for", "it answers after %v, and mail waits for %v (state.timeout)", latency, timeout)
	} else {
		it.OK("version %s answers within %v", is.Version, latency)
	}
	if is.Eviction != "" && is.Eviction != "noeviction" {
		it.Warn("set maxmemory-policy noeviction there, or give Postern a server of its own", "it throws keys away when its memory is full (maxmemory-policy %s): what is remembered goes, and mail that is held begins anew", is.Eviction)
	}
	if is.Persistence == "none" {
		it.Warn("switch on its append-only file (appendonly yes)", "it writes nothing to a disk: what is remembered is gone whenever it restarts")
	}
	if is.Skew.Abs() > maxSkew {
		ahead := "ahead of"
		if is.Skew < 0 {
			ahead = "behind"
		}
		it.Warn("set the clocks of both by NTP: hours end at another time for each member of the fleet", "its clock is %v %s ours", is.Skew.Abs().Round(time.Millisecond), ahead)
	}
}
