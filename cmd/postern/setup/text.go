package setup

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Configuration is a first one for what was seen. It observes, and refuses nothing.
func (s *Seen) Configuration(journal string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by postern init. All keys, with their meaning: configs/README.md (a package has it in /usr/share/doc/postern).")
	line("")
	line("hostname: %q          # the name in your MX record", s.Hostname)
	line("")
	line("listeners:")
	line("  # Beside the MTA for now. When all is well, move port 25: address \":25\".")
	line("  - {name: mx, address: \":2525\", tls: starttls}")
	line("")
	if s.Certificate != "" {
		line("tls:")
		line("  certificates:        # until %s", s.Ends.Format(time.DateOnly))
		line("    - {certificate: %q, key: %q}", s.Certificate, s.Key)
	} else {
		line("# Without a certificate of your own, one is made at each start.")
		line("# tls:")
		line("#   certificates: [{certificate: /etc/postern/fullchain.pem, key: /etc/postern/key.pem}]")
	}
	line("")
	line("backends:")
	line("  - {name: mta, addresses: [%q], tls: off, identity: %s}", s.Backend, s.identity())
	line("")
	if len(s.Servers) > 0 {
		line("# The name servers are those of /etc/resolv.conf: %s.", strings.Join(s.Servers, ", "))
	}
	line("# dns: {servers: [\"127.0.0.1\"]}")
	line("")
	line("policy:")
	line("  mode: observe        # look, log and count, and refuse nothing. When postern report shows what you expect: enforce")
	line("")
	line("journal: {path: %q}    # for explain, find, report and replay", journal)
	line("")
	line("admin: {address: \"127.0.0.1:9125\"}     # the page, /metrics, /readyz")
	return b.String()
}

// identity is how the MTA is told who the client is.
func (s *Seen) identity() string {
	switch {
	case s.MTA == "postfix" || s.XCLIENT:
		return "xclient"
	case s.MTA == "exim":
		return "proxy-v2"
	}
	return "none"
}

// Report says what was seen, and what is to be done now.
func (s *Seen) Report(file string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Seen")
	line("  hostname     %s", s.Hostname)
	switch {
	case s.Answers != "":
		line("  MTA          %s at %s greets with %q", s.named(), s.Backend, s.Answers)
	default:
		line("  MTA          %s; it is to listen at %s", s.named(), s.Backend)
	}
	if len(s.Servers) > 0 {
		line("  DNS          %s", strings.Join(s.Servers, ", "))
	}
	if s.Certificate != "" {
		line("  certificate  %s, until %s", s.Certificate, s.Ends.Format(time.DateOnly))
	}
	for _, note := range s.Notes {
		line("  - %s", note)
	}
	line("")
	line("Written: %s. It observes: nothing is refused.", file)
	if s.Answers == "" || s.MTA == "postfix" && !s.XCLIENT {
		line("")
		b.WriteString(s.door())
	}
	line("")
	line("Then, as the user that the proxy runs as:")
	line("  runuser -u postern -- postern check-config -c %s", file)
	line("  runuser -u postern -- postern doctor -c %s", file)
	if filepath.Clean(file) == "/etc/postern/postern.yaml" {
		line("  systemctl enable --now postern")
	} else {
		line("  postern serve -c %s", file)
	}
	line("")
	line("Then send it something, on port 2525 of %s, and look what came of it:", s.Hostname)
	line("  postern find -c %s; postern explain ID -c %s", file, file)
	line("  http://127.0.0.1:9125/ is the page; from your desk: ssh -L 9125:127.0.0.1:9125 %s", s.Hostname)
	line("")
	line("Refusing, moving port 25, and the way back: deploy/README.md (a package has it in /usr/share/doc/postern).")
	return b.String()
}

func (s *Seen) named() string {
	if s.MTA == "" {
		return "an MTA that is not known here"
	}
	return map[string]string{"postfix": "Postfix", "exim": "Exim", "opensmtpd": "OpenSMTPD"}[s.MTA]
}

// door is what the MTA's configuration needs.
func (s *Seen) door() string {
	switch s.MTA {
	case "postfix":
		return "For Postfix, add to /etc/postfix/master.cf (the fifth column as in your line \"smtp inet\"), then: postfix reload\n\n" +
			s.Backend + ` inet n       -       y       -       200     smtpd
    -o syslog_name=postfix/postern
    -o smtpd_authorized_xclient_hosts=127.0.0.1
    -o smtpd_relay_restrictions=reject_unauth_destination
    -o smtpd_client_connection_count_limit=0
    -o smtpd_client_connection_rate_limit=0
    -o smtpd_tls_security_level=none
`
	case "exim":
		return fmt.Sprintf("For Exim, let it listen at %s for connections with a PROXY header from 127.0.0.1 (daemon_smtp_ports,\nhosts_proxy = 127.0.0.1). See deploy/README.md.\n", s.Backend)
	}
	return fmt.Sprintf("Let the MTA listen at %s, relay for nobody there, and see deploy/README.md for your MTA.\n", s.Backend)
}
