package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"postern/configs"
	"postern/proxy"
)

// listenConfig turns keep-alive off: every wait for a client has a deadline, so
// it would only cost four system calls on each connection.
var listenConfig = net.ListenConfig{KeepAlive: -1}

// standing is a listener in use.
type standing struct {
	config configs.Listener
	ln     net.Listener
	left   atomic.Bool // closed by a reload: its end is no failure
}

// Listeners are those of the configuration, or the one where none is.
func Listeners(cfg *configs.Config) []configs.Listener {
	if len(cfg.Listeners) == 0 {
		return []configs.Listener{{Name: "mx", Address: configs.DefaultListen, TLS: "starttls"}}
	}
	return cfg.Listeners
}

// ProxyListener is what the session has to know of a listener.
func ProxyListener(l configs.Listener) proxy.Listener {
	var peers []netip.Prefix
	for _, text := range l.ProxyProtocol {
		if p, err := configs.ParsePrefix(text); err == nil { // the texts were checked
			peers = append(peers, p)
		}
	}
	return proxy.Listener{Name: l.Name, TLS: l.TLS, ProxyProtocol: peers, Pregreet: l.Pregreet}
}

// inheritedSockets are those that systemd holds for us, by FileDescriptorName.
func inheritedSockets() (map[string]net.Listener, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets from systemd: %w", err)
	}
	sockets := map[string]net.Listener{}
	for name, lns := range named {
		for i, ln := range lns {
			if i > 0 {
				// One unit with two ListenStream= lines: both are meant.
				name = fmt.Sprintf("%s.%d", name, i+1)
			}
			sockets[name] = ln
		}
	}
	return sockets, nil
}

// takeInherited finds the socket that systemd holds for a listener. If there
// is just one of each, they belong together whatever their names.
func takeInherited(sockets map[string]net.Listener, name string, only bool) net.Listener {
	ln, ok := sockets[name]
	if !ok && only && len(sockets) == 1 {
		for other := range sockets {
			name, ln = other, sockets[other]
		}
	}
	delete(sockets, name)
	return ln
}

// openListeners opens what cfg has and running lacks. A listener whose address is
// the same keeps its socket, and with it those who wait in its queue. If one
// cannot be opened, none of the new ones stays.
func openListeners(cfg *configs.Config, running map[string]*standing, inherited map[string]net.Listener) (map[string]*standing, error) {
	next := map[string]*standing{}
	var faults configs.Faults
	wanted := Listeners(cfg)
	var leaving, staying []*standing
	for _, old := range running {
		stays := slices.ContainsFunc(wanted, func(l configs.Listener) bool { return standingOn(map[string]*standing{"": old}, l) != nil })
		if stays {
			staying = append(staying, old)
		} else {
			leaving = append(leaving, old)
		}
	}
	for i, l := range wanted {
		at := cfg.At(fmt.Sprintf("listeners[%d].address", i))
		if old := standingOn(running, l); old != nil {
			if reflect.DeepEqual(old.config, l) {
				next[l.Name] = old
				continue
			}
			ln, err := duplicate(old.ln)
			if err != nil {
				faults = append(faults, &configs.Fault{Position: at, Text: fmt.Sprintf("listener %s: %v", l.Name, err)})
				continue
			}
			next[l.Name] = &standing{config: l, ln: ln}
			continue
		}
		ln := takeInherited(inherited, l.Name, len(wanted) == 1)
		if ln == nil {
			var err error
			if ln, err = listen(l.Address, leaving, staying); err != nil {
				faults = append(faults, &configs.Fault{Position: at, Text: fmt.Sprintf("listener %s: %v", l.Name, err)})
				continue
			}
		}
		next[l.Name] = &standing{config: l, ln: ln}
		staying = append(staying, next[l.Name])
	}
	if len(faults) == 0 {
		return next, nil
	}
	closeNew(next, running)
	return nil, faults.Sorted()
}

// closeNew closes the listeners that were not running before.
func closeNew(next, running map[string]*standing) {
	for _, s := range next {
		if running[s.config.Name] != s {
			_ = s.ln.Close()
		}
	}
}

// standingOn returns the running listener that has l's address.
func standingOn(running map[string]*standing, l configs.Listener) *standing {
	for _, s := range running {
		if s.config.Address == l.Address && (s.config.Name == l.Name || !strings.HasSuffix(l.Address, ":0")) {
			return s
		}
	}
	return nil
}

// duplicate returns a second listener on the same socket.
func duplicate(ln net.Listener) (net.Listener, error) {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("a %T cannot change its settings; restart", ln)
	}
	f, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return net.FileListener(f)
}

// listenError says what to do about the two failures that everybody meets.
func listenError(address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is in use by another program", address)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s needs a privilege: CAP_NET_BIND_SERVICE, or a socket held by systemd", address)
	}
	return err
}
