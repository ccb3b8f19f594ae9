package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"postern/checks/memory"
)

// ErrNoSocket says that the configuration has no control socket.
var ErrNoSocket = errors.New("the configuration names no control socket, so nobody can talk to the proxy: write control: {socket: /run/postern/control} and reload it")

// ErrNotRunning says that nobody answers at the socket.
var ErrNotRunning = errors.New("no proxy runs by this configuration: nobody answers at its control socket. See: systemctl status postern; one that runs since before control.socket was written wants a reload")

var errCutOff = errors.New("the proxy did not come to the end of its answer: see its log")

// Client asks the proxy that answers at a socket. It is a Desk.
type Client struct{ Path string }

// Held implements Desk.
func (c Client) Held(ctx context.Context, f Filter, tell func(memory.Notice) error) error {
	_, err := c.ask(ctx, request{Do: doHeld, Filter: &f}, tell)
	return err
}

// Release implements Desk.
func (c Client) Release(ctx context.Context, ids []string, domain string, tell func(memory.Notice) error) ([]Retrieval, error) {
	return c.ask(ctx, request{Do: doRelease, IDs: ids, Domain: domain}, tell)
}

// Retrieve implements Desk.
func (c Client) Retrieve(ctx context.Context, domain string) ([]Retrieval, error) {
	return c.ask(ctx, request{Do: doRetrieve, Domain: domain}, func(memory.Notice) error { return errCutOff })
}

// ask says what is wanted, and tells and collects the answer. What came before an error
// comes back with it.
func (c Client) ask(ctx context.Context, r request, tell func(memory.Notice) error) (list []Retrieval, err error) {
	if c.Path == "" {
		return nil, ErrNoSocket
	}
	if err := Verify(c.Path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w (%s)", ErrNotRunning, c.Path)
		}
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Path)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w (%s)", ErrNotRunning, c.Path)
	case err != nil:
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	// A proxy that does not take all of it has said why.
	_, unsent := conn.Write(append(line, '\n'))
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return list, fmt.Errorf("the proxy gave an answer that is none: %w", err)
		}
		switch {
		case a.Notice != nil:
			if err := tell(*a.Notice); err != nil {
				return list, err
			}
		case a.Retrieval != nil && len(list) < maxRetrieval:
			list = append(list, *a.Retrieval)
		}
		if a.End {
			if a.Error != "" {
				err = errors.New(a.Error)
			}
			return list, err
		}
	}
	return list, errors.Join(errCutOff, unsent, lines.Err(), ctx.Err())
}
