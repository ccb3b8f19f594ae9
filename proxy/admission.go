package proxy

import (
	"net/netip"
	"time"

	"postern/configs"
	"postern/proxy/share"
)

// admit counts the session against the limits, once its true address is known
// (behind a load balancer that is after the PROXY header). It says why not, or
// nothing. Where as many sessions are open as there may be, one that has been idle
// for long gives way to it.
func (srv *Server) admit(s *session, l configs.Limits) (why ending) {
	if !s.peer.unrationed {
		s.peer.who = share.Of(s.peer.addr.Addr())
	}
	now := srv.now()
	if why := srv.ration(s.peer.who, l, now); why != "" {
		return why
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	s.peer.counted = true
	return srv.room(l, now)
}

// ration takes a connection of what one client may have. It says why not, or nothing.
func (srv *Server) ration(who share.Client, l configs.Limits, now time.Time) (why ending) {
	if !srv.rates.Take(who, share.PerConnection, l.ConnectionRate, now) {
		return endedConnectionRate
	}
	if srv.rates.Spent(who, share.PerError, l.ErrorRate, now) {
		return endedErrorRate
	}
	switch srv.clients.Take(who, 1, share.Limits{Each: int64(l.ConnectionsPerClient)}) {
	case share.ByClient:
		return endedClientLimit
	case share.ByNetwork:
		return endedNetworkLimit
	}
	return ""
}

// room says whether there is room for one more of those that are counted already.
// srv.mu must be held.
func (srv *Server) room(l configs.Limits, now time.Time) (why ending) {
	if l.Connections > 0 && len(srv.sessions)-srv.within-srv.giving > l.Connections && !srv.makeRoom(now) {
		return endedLimit
	}
	return ""
}

// guestPart is which part of limits.connections connections of other protocols may be besides: they do not give way to
// others, and nobody gives way to them.
const guestPart = 4

// Admit counts a connection of another protocol against the limits of those of SMTP, with which it shares them.
// leave is to be called at its end. why is the word of connections_total for a refusal; empty: it is admitted.
func (srv *Server) Admit(client netip.Addr) (leave func(), why string) {
	who, l, now := share.Of(client), srv.settings.Load().Limits, srv.now()
	if why := srv.ration(who, l, now); why != "" {
		return nil, string(why)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if l.Connections > 0 && srv.guests >= max(1, l.Connections/guestPart) {
		srv.clients.Give(who, 1)
		return nil, string(endedLimit)
	}
	srv.guests++
	leave = func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.guests--
		srv.clients.Give(who, 1)
	}
	return leave, ""
}

// Misbehaved counts a fault of a client of another protocol.
func (srv *Server) Misbehaved(client netip.Addr) {
	srv.rates.Take(share.Of(client), share.PerError, srv.settings.Load().Limits.ErrorRate, srv.now())
}

const (
	// giveWayAfter is how long a session must have been without a message to give
	// way: a client at work is not sent away for one that comes.
	giveWayAfter = 5 * time.Second
	// giveWayAmong is among how many sessions the longest idle one is looked for:
	// enough to find one of the longest, and a bound on what each connection costs
	// in a flood of them.
	giveWayAmong = 500
)

// makeRoom ends the session that has been without a message for longest, if there
// is one that waits for a command. srv.mu must be held.
func (srv *Server) makeRoom(now time.Time) bool {
	var oldest *session
	var since time.Time
	looked := 0
	for s := range srv.sessions { // in no order, which is what makes a part of them a sample
		if t, idle := s.idle.since(); idle && s.origin == nil && !s.loan.Aborted() && (oldest == nil || t.Before(since)) {
			oldest, since = s, t
		}
		if looked++; looked >= giveWayAmong {
			break
		}
	}
	if oldest == nil || now.Sub(since) < giveWayAfter {
		return false
	}
	srv.giving++
	oldest.idle.givesWay.Store(true)
	oldest.wake()
	return true
}
