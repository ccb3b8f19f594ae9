package memory

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valkey-io/valkey-go"
)

// Fleet says where the store of a fleet is: a Valkey or Redis, or the first
// addresses of a cluster of them.
type Fleet struct {
	Servers  []string // host:port
	TLS      *tls.Config
	User     string
	Password func() (string, error) // asked for at each connection; nil: none
	Prefix   string                 // of every key
	Timeout  time.Duration          // of a connection and of each write to it
	Now      func() time.Time
}

// NewFleet returns a store on servers that several Posterns share. It connects
// when it is first asked, and again when it lost its connection.
func NewFleet(f Fleet) Store { return &fleet{of: f} }

type fleet struct {
	of Fleet

	mu     sync.Mutex
	client valkey.Client
	closed bool
}

var errClosed = errors.New("memory: the store is closed")

// connect returns the connection to the servers. A connection that cannot be made costs
// each caller no more than Timeout.
func (f *fleet) connect() (valkey.Client, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, errClosed
	case f.client != nil:
		return f.client, nil
	}
	credentials := func(valkey.AuthCredentialsContext) (c valkey.AuthCredentials, err error) {
		c.Username = f.of.User
		if f.of.Password != nil {
			c.Password, err = f.of.Password()
		}
		return c, err
	}
	option := valkey.ClientOption{
		InitAddress: f.of.Servers, TLSConfig: f.of.TLS,
		Dialer: net.Dialer{Timeout: f.of.Timeout}, ConnWriteTimeout: f.of.Timeout,
		DisableCache: true, // NOT: its cache, which needs CLIENT TRACKING, and answers are of use once
		DisableRetry: true, // a retry would only use up the time that mail waits
		ClientName:   "postern", ClientSetInfo: valkey.DisableClientSetInfo,
	}
	if f.of.User != "" || f.of.Password != nil {
		option.AuthCredentialsFn = credentials
	}
	c, err := valkey.NewClient(option)
	if err != nil {
		return nil, err
	}
	f.client = c
	return c, nil
}

// The keys of the store. What varies in them is a hash, a number, or the id of a
// notice. Each ends by itself.
func (f *fleet) pastKey(k Key) string { return f.of.Prefix + "p:" + idEncoding.EncodeToString(k[:]) }

func (f *fleet) rateKey(k Key, hour int64) string {
	return f.of.Prefix + "r:" + idEncoding.EncodeToString(k[:]) + ":" + strconv.FormatInt(hour, 10)
}

// Recall implements Store: at most five reads in one round trip.
func (f *fleet) Recall(ctx context.Context, k Keys) (r Recalled, err error) {
	c, err := f.connect()
	if err != nil {
		return r, err
	}
	now := f.of.Now()
	h := now.Unix() / hour
	var cmds []valkey.Completed
	read := func(key string, fields ...string) int {
		cmds = append(cmds, c.B().Hmget().Key(key).Field(fields...).Build())
		return len(cmds) - 1
	}
	past, client, domain := -1, -1, -1
	if !k.Who.IsZero() {
		past = read(f.pastKey(k.Who), "f", "d", "r")
	}
	if !k.Client.IsZero() {
		client = read(f.rateKey(k.Client, h), "m", "r", "u")
		read(f.rateKey(k.Client, h-1), "m", "r", "u")
	}
	if !k.Domain.IsZero() {
		domain = read(f.rateKey(k.Domain, h), "m")
		read(f.rateKey(k.Domain, h-1), "m")
	}
	if len(cmds) == 0 {
		return r, nil
	}
	answers := make([][]int64, len(cmds))
	for i, a := range c.DoMulti(ctx, cmds...) {
		if answers[i], err = numbers(a); err != nil {
			return Recalled{}, err
		}
	}
	if past >= 0 {
		n := answers[past]
		r.Past = Past{Delivered: n[1], Refused: n[2]}
		if n[0] > 0 {
			r.Past.First = time.Unix(n[0], 0)
		}
	}
	rate := func(n []int64) Rate {
		if len(n) == 1 {
			return Rate{Messages: n[0]}
		}
		return Rate{n[0], n[1], n[2]}
	}
	within := func(i int) Rate {
		return window{hour: h, now: rate(answers[i]), last: rate(answers[i+1])}.within(now)
	}
	if client >= 0 {
		r.Client = within(client)
	}
	if domain >= 0 {
		r.Domain = within(domain).Messages
	}
	return r, nil
}

// numbers reads a list of numbers, of which each may be missing.
func numbers(a valkey.ValkeyResult) ([]int64, error) {
	list, err := a.ToArray()
	if err != nil {
		return nil, err
	}
	out := make([]int64, len(list))
	for i := range list {
		if list[i].IsNil() {
			continue
		}
		if out[i], err = list[i].AsInt64(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Add implements Store: what the events add up to, in one round trip.
func (f *fleet) Add(ctx context.Context, keep time.Duration, events []Event) error {
	c, err := f.connect()
	if err != nil {
		return err
	}
	now := f.of.Now()
	h := now.Unix() / hour
	past, client, domain := map[Key]Past{}, map[Key]Rate{}, map[Key]int64{}
	for _, e := range events {
		if !e.Who.IsZero() && (e.Delivered > 0 || e.Refused > 0) {
			p := past[e.Who]
			past[e.Who] = Past{Delivered: p.Delivered + e.Delivered, Refused: p.Refused + e.Refused}
		}
		if !e.Client.IsZero() && !e.Rate.isZero() {
			client[e.Client] = client[e.Client].plus(e.Rate)
		}
		if !e.Domain.IsZero() && e.Messages > 0 {
			domain[e.Domain] += e.Messages
		}
	}
	var cmds []valkey.Completed
	add := func(key, field string, n int64) {
		if n != 0 {
			cmds = append(cmds, c.B().Hincrby().Key(key).Field(field).Increment(n).Build())
		}
	}
	expire := func(key string, after time.Duration) {
		cmds = append(cmds, c.B().Expire().Key(key).Seconds(int64(after/time.Second)).Build())
	}
	for k, p := range past {
		key := f.pastKey(k)
		cmds = append(cmds, c.B().Hsetnx().Key(key).Field("f").Value(strconv.FormatInt(now.Unix(), 10)).Build())
		add(key, "d", p.Delivered)
		add(key, "r", p.Refused)
		expire(key, keep)
	}
	for k, r := range client {
		key := f.rateKey(k, h)
		add(key, "m", r.Messages)
		add(key, "r", r.Refused)
		add(key, "u", r.Unknown)
		expire(key, rateLife)
	}
	for k, n := range domain {
		key := f.rateKey(k, h)
		add(key, "m", n)
		expire(key, rateLife)
	}
	if err := f.all(ctx, c, cmds); err != nil {
		return fmt.Errorf("%w: %w", errPerhaps, err) // a server that was stopped reads it later
	}
	return nil
}

func (f *fleet) all(ctx context.Context, c valkey.Client, cmds []valkey.Completed) error {
	var errs []error
	for _, a := range c.DoMulti(ctx, cmds...) {
		if err := a.Error(); err != nil && !valkey.IsValkeyNil(err) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errs[0]
	}
	return nil
}

// Ping implements Store. It writes, since a server that is full, or a replica,
// can be read.
func (f *fleet) Ping(ctx context.Context) error {
	c, err := f.connect()
	if err != nil {
		return err
	}
	return c.Do(ctx, c.B().Set().Key(f.of.Prefix+"ping").Value("1").ExSeconds(1).Build()).Error()
}

// Close implements Store.
func (f *fleet) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.client != nil {
		f.client.Close()
	}
	return nil
}

// Server is what is worth knowing of one server.
type Server struct {
	Version     string
	Eviction    string        // maxmemory-policy; "noeviction" loses no notice
	Persistence string        // "aof", "rdb", "none"; empty: it does not tell us
	Latency     time.Duration // of one round trip
	Skew        time.Duration // its clock ahead of ours
}

// Examine asks a server of the fleet's store about itself, for the doctor.
func Examine(ctx context.Context, s Store) (out Server, err error) {
	f, ok := s.(*fleet)
	if !ok {
		return out, errors.New("memory: the store is no server")
	}
	c, err := f.connect()
	if err != nil {
		return out, err
	}
	began := time.Now()
	clock, err := c.Do(ctx, c.B().Time().Build()).AsStrSlice()
	if err != nil {
		return out, err
	}
	out.Latency = time.Since(began)
	if len(clock) == 2 {
		sec, _ := strconv.ParseInt(clock[0], 10, 64)
		us, _ := strconv.ParseInt(clock[1], 10, 64)
		out.Skew = time.Unix(sec, us*1000).Sub(began.Add(out.Latency / 2))
	}
	info, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		return out, err
	}
	value := func(name string) string {
		for line := range strings.SplitSeq(info, "\n") {
			if v, ok := strings.CutPrefix(strings.TrimRight(line, "\r"), name+":"); ok {
				return v
			}
		}
		return ""
	}
	out.Version, out.Eviction = value("redis_version"), value("maxmemory_policy")
	if value("aof_enabled") == "1" {
		out.Persistence = "aof"
	} else if save, err := c.Do(ctx, c.B().ConfigGet().Parameter("save").Build()).AsStrMap(); err == nil {
		// NOT: an error where our user may not ask: it may do all that it needs to.
		out.Persistence = "rdb"
		if save["save"] == "" {
			out.Persistence = "none"
		}
	}
	return out, nil
}
