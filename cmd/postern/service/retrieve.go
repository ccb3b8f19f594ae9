package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"postern/cmd/postern/control"
	"postern/configs"
	"postern/metrics"
	"postern/proxy/etrn"
)

// keeper is a host that the configuration names to be asked for mail.
type keeper struct {
	etrn.Host
	atStart bool
}

// buildKeepers makes the hosts of a configuration; note is told what is wrong.
func buildKeepers(list []configs.Retrieve, note func(at string, err error)) (keepers []keeper) {
	for i, r := range list {
		k := keeper{Host: etrn.Host{Domain: r.Domain, Address: r.Host}, atStart: r.AtStart}
		if r.TLS == "verify" {
			host, _, _ := net.SplitHostPort(r.Host) // the loader has looked
			k.TLS = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
			if r.CA != "" {
				k.TLS.RootCAs = x509.NewCertPool()
				pem, err := os.ReadFile(r.CA)
				if err == nil && !k.TLS.RootCAs.AppendCertsFromPEM(pem) {
					err = fmt.Errorf("%s has no certificate", r.CA)
				}
				if err != nil {
					at := fmt.Sprintf("retrieve[%d].ca", i)
					note(at, fmt.Errorf("%s: %w", at, err))
				}
			}
		}
		keepers = append(keepers, k)
	}
	return keepers
}

// retriever asks hosts for the mail that they keep. One host is asked by one at a time:
// who releases a thousand notices does not open as many connections.
type retriever struct {
	log     *slog.Logger
	metrics *metrics.Metrics

	asking chan struct{} // of one place
}

var errNoKeeper = errors.New("no host is named for that domain: see retrieve in the configuration")

// ask asks the hosts of those domains, each once. Domains that have none are passed over.
func (r *retriever) ask(ctx context.Context, p *Parts, why string, wanted func(keeper) bool) (list []control.Retrieval) {
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return nil
	}
	asker := etrn.Asker{Hostname: p.Settings.Hostname}
	for _, k := range p.keepers {
		if !wanted(k) || ctx.Err() != nil {
			continue
		}
		got := control.Retrieval{Domain: k.Domain, Host: k.Address}
		reply, err := asker.Ask(ctx, k.Host)
		label := "error"
		if err != nil {
			got.Error = err.Error()
		} else {
			got.Reply, got.Begun, label = reply.String(), etrn.Begun(reply), strconv.Itoa(reply.Code)
		}
		r.metrics.Retrieval(label)
		level := slog.LevelInfo
		if !got.Begun {
			level = slog.LevelWarn
		}
		r.log.Log(ctx, level, "retrieval", "why", why, "domain", k.Domain, "host", k.Address, "reply", got.Reply, "error", got.Error)
		list = append(list, got)
	}
	return list
}

// ofDomain means the hosts of one domain.
func ofDomain(domain string) func(keeper) bool {
	return func(k keeper) bool { return strings.EqualFold(k.Domain, strings.TrimSuffix(domain, ".")) }
}
