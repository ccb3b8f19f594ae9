package wire

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Accept gives begin each connection that comes to ln, until ended says so, whose caller has closed ln: then it returns
// nil. Out of descriptors, or where a connection was gone before we came, the listener lives on, and Accept does too, and
// slowly, up to a second at a time (net/http does the same). An error: ln has failed for good. ctx ends a pause.
func Accept(ctx context.Context, ln net.Listener, name string, log *slog.Logger, ended func() bool, begin func(net.Conn)) error {
	pause := time.Duration(0)
	for {
		conn, err := ln.Accept()
		if err == nil {
			pause = 0
			begin(conn)
			continue
		}
		if ended() {
			return nil
		}
		var ne net.Error
		if !errors.As(err, &ne) || errors.Is(err, net.ErrClosed) {
			return err
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		log.Error("accept failed", "listener", name, "error", err.Error(), "pause", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// idEncoding has no i, l, o and u, so that nobody has to spell an id twice.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID returns twelve characters with sixty random bits, so that an id is never given out again.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return idEncoding.EncodeToString(b[:])[:12]
}
