package dnscache

import (
	"context"
	"errors"
	"net"
)

// What the Err field of a *net.DNSError says. The first two tell NXDOMAIN and
// NODATA apart, for which the type has no flag of its own.
const (
	textNXDomain = "no such domain"
	textNoData   = "no such record"
	textBusy     = "too many look-ups at once"
	textClosed   = "the resolver is closed"
	textTimeout  = "no answer in time"
	textCanceled = "the look-up was canceled"
)

// IsNXDomain tells whether err says that the name itself does not exist
// (RFC 2308 §2.1), as opposed to a name without records of the type asked for.
// Scope pra of Sender ID needs the difference (RFC 4406 §4.3).
func IsNXDomain(err error) bool {
	e, ok := err.(*net.DNSError)
	return ok && e.IsNotFound && e.Err == textNXDomain
}

// IsNotFound tells a name or type that is not there from trouble. By type
// assertion, as IsNXDomain does: what wraps an error is not the resolver.
func IsNotFound(err error) bool {
	e, ok := err.(*net.DNSError)
	return ok && e.IsNotFound
}

func errNotFound(name, text string) *net.DNSError {
	return &net.DNSError{Err: text, Name: name, IsNotFound: true}
}

func errTemporary(name, server, text string) *net.DNSError {
	return &net.DNSError{Err: text, Name: name, Server: server, IsTemporary: true}
}

func errTimeout(name, server, text string) *net.DNSError {
	return &net.DNSError{Err: text, Name: name, Server: server, IsTimeout: true, IsTemporary: true}
}

// errContext is what a caller gets whose own context ended before the answer
// came: a temporary error, whatever the reason. NOT: ctx.Err(), which the spf
// package would take for a fault of the domain.
func errContext(ctx context.Context, name string) *net.DNSError {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errTimeout(name, "", textTimeout)
	}
	return errTemporary(name, "", textCanceled)
}
