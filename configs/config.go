// Package configs turns YAML, the environment and flags into one validated
// struct. It knows nothing of what the values do.
package configs

import (
	"time"
)

// Config is everything an operator can say. The yaml names are contract.
//
// The struct tags are all that the loader knows of a key, so a new field needs
// nothing but itself and a line in README.md:
//
//	yaml     the key
//	words    the words that a text may be, the empty text only where it is one of them
//	default  what stands in an element of a list when nothing is said (elsewhere: Default)
//	min      the least number, size or duration; else 1, or 50ms for a duration
//	path     "file": a relative path is taken from the folder of the configuration file
//
// A field X that has an XPosition beside it gets the place of its text there, and a
// struct that has a Position the place of its own.
type Config struct {
	Hostname  string     `yaml:"hostname"` // our name in greeting, Received and as authserv-id; default: the machine's
	Listeners []Listener `yaml:"listeners"`
	TLS       TLS        `yaml:"tls"`
	Backends  []Backend  `yaml:"backends"` // none: the embedded Maildir
	Routes    []Route    `yaml:"routes"`
	DNS       DNS        `yaml:"dns"`
	Checks    Checks     `yaml:"checks"`
	Lists     []List     `yaml:"lists"`
	Policy    Policy     `yaml:"policy"`
	Overrides []Override `yaml:"overrides"`
	Headers   Headers    `yaml:"headers"`
	Limits    Limits     `yaml:"limits"`
	Timeouts  Timeouts   `yaml:"timeouts"`
	Journal   Journal    `yaml:"journal"`
	State     State      `yaml:"state"`
	Admin     Admin      `yaml:"admin"`
	Control   Control    `yaml:"control"`
	Retrieve  []Retrieve `yaml:"retrieve"`
	AMTP      AMTP       `yaml:"amtp"`

	// Milters and PolicyServices are other people's, which rules may ask.
	Milters        []Milter        `yaml:"milters"`
	PolicyServices []PolicyService `yaml:"policy_services"`

	Log Log `yaml:"log"`

	// places holds where each value was said, by key path: "listeners[0].tls".
	places   map[string]Position
	included []string // the patterns of policy.include, with their folder
}

// Listener is one address to stand on.
type Listener struct {
	Name          string   `yaml:"name"`
	Address       string   `yaml:"address"`                                              // host:port; no host: all addresses
	Protocol      string   `yaml:"protocol" words:"smtp amtp" default:"smtp"`            // smtp | amtp
	TLS           string   `yaml:"tls" words:"off starttls implicit" default:"starttls"` // off | starttls | implicit
	ProxyProtocol []string `yaml:"proxy_protocol"`                                       // the peers (IPs, CIDRs) that must send a PROXY header; empty: none may
	// Pregreet is how long to wait, before the greeting, for clients that cannot.
	Pregreet time.Duration `yaml:"pregreet" min:"0"`
}

// ProtocolAMTP is the word of Listener.Protocol for AMTP.
const ProtocolAMTP = "amtp"

// TLS is what clients meet.
type TLS struct {
	Certificates       []Certificate      `yaml:"certificates"`                // first is the default, the rest by SNI; none: one made in memory
	MinVersion         string             `yaml:"min_version" words:"1.2 1.3"` // 1.2 | 1.3
	Suites             string             `yaml:"suites" words:"modern broad"` // modern | broad
	ClientCertificates ClientCertificates `yaml:"client_certificates"`
}

// Certificate names a chain and its key (PEM files).
type Certificate struct {
	Certificate string `yaml:"certificate" path:"file"`
	Key         string `yaml:"key" path:"file"`

	Position Position `yaml:"-"`
}

// ClientCertificates says whether clients are asked for one.
type ClientCertificates struct {
	Mode string `yaml:"mode" words:"none request require"` // none | request | require
	CA   string `yaml:"ca" path:"file"`                    // PEM file of the roots that make tls.peer.verified true
}

// Backend is an MTA, at one or more addresses.
type Backend struct {
	Name      string   `yaml:"name"`
	Addresses []string `yaml:"addresses"`                                                      // host:port; unix:/path
	TLS       string   `yaml:"tls" words:"off opportunistic verify" default:"opportunistic"`   // off | opportunistic | verify
	CA        string   `yaml:"ca" path:"file"`                                                 // PEM file of the roots to verify by; empty: the system's
	Identity  string   `yaml:"identity" words:"xclient xforward proxy-v2 none" default:"none"` // xclient | xforward | proxy-v2 | none
	// Connections is how many may be open to this backend at one time, over all
	// its addresses; 0: no limit. Postfix takes 100 (default_process_limit).
	Connections int `yaml:"connections" min:"0"`

	Position Position `yaml:"-"`
}

// Route sends recipients to a backend; the first that matches wins.
type Route struct {
	Recipients []string `yaml:"recipients"` // domains, *.domains, addresses
	Backend    string   `yaml:"backend"`

	Position Position `yaml:"-"`
}

// DNS is the resolver.
type DNS struct {
	Servers []string      `yaml:"servers"` // address, address:port, tls://address:port#name; empty: /etc/resolv.conf
	Timeout time.Duration `yaml:"timeout"` // of one try
	Total   time.Duration `yaml:"total"`   // of one check; then temperror (RFC 7208 §4.6.4)
	Cache   DNSCache      `yaml:"cache"`
	// Canaries are domains known to work, at most MaxCanaries, asked for when
	// much fails; none: what fails is judged by itself.
	Canaries []string `yaml:"canaries"`
}

// MaxCanaries bounds dns.canaries: all are asked at once.
const MaxCanaries = 16

// DNSCache bounds what the resolver keeps.
type DNSCache struct {
	Entries        int           `yaml:"entries"`
	MaxTTL         time.Duration `yaml:"max_ttl" min:"0s"`
	NegativeMaxTTL time.Duration `yaml:"negative_max_ttl" min:"0s"`
	ServeStale     time.Duration `yaml:"serve_stale" min:"0s"` // how long after its expiry an answer may stand in (RFC 8767); 0: never
}

// Checks configures those checks that can be configured.
type Checks struct {
	Submitter SubmitterCheck `yaml:"submitter"`
	DNSBL     DNSBLCheck     `yaml:"dnsbl"`
	Geo       GeoCheck       `yaml:"geo"`
}

// GeoCheck names the files that say to which network and country an address belongs.
type GeoCheck struct {
	Files []string `yaml:"files" path:"file"` // in MaxMind's format; none: nobody is asked
}

// SubmitterCheck says how SUBMITTER is read, and compared with the PRA.
type SubmitterCheck struct {
	Match string `yaml:"match" words:"address domain"` // address | domain
	// LenientXtext takes a parameter that is no xtext (RFC 3461 §4) for the mailbox
	// itself, as some old senders have it.
	LenientXtext bool `yaml:"lenient_xtext"`
}

// DNSBLCheck names the DNS lists that are asked (RFC 5782).
type DNSBLCheck struct {
	Zones []DNSBLZone `yaml:"zones"`
}

// DNSBLZone is one DNS list.
type DNSBLZone struct {
	Zone string `yaml:"zone"`
	// ZoneKeyFile holds the secret label that stands before the zone's name in what
	// is asked for; empty: there is none.
	ZoneKeyFile string `yaml:"zone_key_file" path:"file"`

	Weight int      `yaml:"weight" min:"-1000" default:"1"`                          // added to dnsbl.score where the zone lists; negative: an allow list
	Of     string   `yaml:"of" words:"client helo mail_from iprev" default:"client"` // client (default) | helo | mail_from | iprev
	Codes  []string `yaml:"codes"`                                                   // return codes or ranges that count; none: 127.0.0.0/8 less 127.255.255.0/24 and 127.0.0.1

	Position Position `yaml:"-"`
}

// List is a named set that rules read with in_list.
type List struct {
	Name    string   `yaml:"name"`
	Entries []string `yaml:"entries"`          // IPs, CIDRs, domains, addresses
	File    string   `yaml:"file" path:"file"` // one entry a line, # starts a comment

	Position Position `yaml:"-"`
}

// Policy is the chain.
type Policy struct {
	Mode string `yaml:"mode" words:"enforce observe"` // enforce | observe
	// BuiltIn says whether the built-in rules are read below these: BuiltInAfter or
	// BuiltInOff. Empty, as no file can have it, is off.
	BuiltIn string `yaml:"builtin" words:"after off"`
	// Candidate is a second file of rules, judged beside these on live mail.
	Candidate string `yaml:"candidate" path:"file"`
	Let       []Let  `yaml:"let"` // names for expressions that rules share
	Rules     []Rule `yaml:"rules"`
	// Include names files of rules, lets, lists and overrides, as patterns (path.Match)
	// relative to the file that has them; what they hold comes after its own.
	Include []string `yaml:"include"`
	// Overrides are those of the configuration: they become rules with the others.
	Overrides []Override `yaml:"-"`
	// Services and Milters are the names of the policy services and of the milters that rules
	// may read.
	Services []string `yaml:"-"`
	Milters  []string `yaml:"-"`

	BuiltInPosition Position `yaml:"-"`
}

// The words of Policy.BuiltIn.
const (
	BuiltInAfter = "after" // the site's own rules, then the built-in ones
	BuiltInOff   = "off"   // the site's own rules alone
)

// Override is an exception for somebody who is known, and what proves that it is
// them. It is a rule, or a guard on rules, by the name override:NAME.
type Override struct {
	Name   string   `yaml:"name"`
	Match  Match    `yaml:"match"`
	Proof  Proof    `yaml:"proof"`
	Excuse []string `yaml:"excuse"` // the checks whose results are excused: spf, dmarc, ...
	Do     string   `yaml:"do"`     // pass: excuse everything
	Owner  string   `yaml:"owner"`  // who is asked when it is in doubt
	Reason string   `yaml:"reason"` // why it is there
	Until  string   `yaml:"until"`  // the last day, 2027-03-01 (UTC)
	Unsafe bool     `yaml:"unsafe"` // to have it without a proof

	Position       Position `yaml:"-"`
	ExcusePosition Position `yaml:"-"`
}

// Match narrows an override down. What is not said matches all.
type Match struct {
	Addresses []string `yaml:"addresses"` // of the client: IPs, CIDRs
	Domains   []string `yaml:"domains"`   // of the sender: domains, *.domains
}

// Proof is what shows that it is them; each kind that is said must hold.
type Proof struct {
	Address     []string `yaml:"address"`     // the client's: IPs, CIDRs
	Name        []string `yaml:"name"`        // the client's, forward-confirmed: domains, *.domains
	DKIM        []string `yaml:"dkim"`        // the domain of a signature that passed
	Certificate []string `yaml:"certificate"` // a name in the client's certificate, verified
}

// Let names an expression, for the rules and the lets below it.
type Let struct {
	Name string `yaml:"name"`
	Is   string `yaml:"is"`

	Position   Position `yaml:"-"` // of the let
	IsPosition Position `yaml:"-"` // of the first octet of the expression's text
}

// Rule is one rule of the chain.
type Rule struct {
	Name   string `yaml:"name"`
	When   string `yaml:"when"`
	Do     string `yaml:"do"` // reject | defer | hold | tag | pass
	Reply  string `yaml:"reply"`
	Header string `yaml:"header"`
	At     string `yaml:"at"` // moves the decision to a later stage
	// For is how long hold holds; 0: until an operator releases it.
	For time.Duration `yaml:"for" min:"0s"`

	BuiltIn bool   `yaml:"-"` // it is one of those that the program carries
	Comment string `yaml:"-"` // what stands above it where it is written down

	Unless []string `yaml:"-"` // lets, each of which excuses from it: what overrides make of it

	Position       Position `yaml:"-"` // of the rule
	WhenPosition   Position `yaml:"-"` // of the first octet of the expression's text
	ReplyPosition  Position `yaml:"-"`
	HeaderPosition Position `yaml:"-"`
	ForPosition    Position `yaml:"-"`
}

// Headers switches the fields we put on top.
type Headers struct {
	AuthenticationResults bool `yaml:"authentication_results"`
	ReceivedSPF           bool `yaml:"received_spf"`
	Received              bool `yaml:"received"`
}

// Limits bounds what clients may use.
type Limits struct {
	MessageSize          Size `yaml:"message_size"`
	HeaderSize           Size `yaml:"header_size"`
	HeaderFields         int  `yaml:"header_fields"`
	Recipients           int  `yaml:"recipients"`
	Connections          int  `yaml:"connections"`
	ConnectionsPerClient int  `yaml:"connections_per_client"`
	// BackendConnectionsPerClient is how many connections to a backend one client
	// may have at a time; 0: as many as it leaves free for others.
	BackendConnectionsPerClient int `yaml:"backend_connections_per_client" min:"0"`

	// Octets of messages that are held, in memory and on disk, of all and of one
	// client. 0: a half of what is free on the disk, and an eighth of all.
	Held          Size `yaml:"held" min:"0"`
	HeldPerClient Size `yaml:"held_per_client" min:"0"`

	// Notices of mail that a rule holds and that was asked to come again, of all and of one
	// sender: the domain that is proven, or the client's network.
	Notices          int `yaml:"notices"`
	NoticesPerSender int `yaml:"notices_per_sender"`

	// Of one client, an IPv4 address or an IPv6 /64, in a minute; 0: no limit.
	ConnectionRate int `yaml:"connection_rate" min:"0"`
	MessageRate    int `yaml:"message_rate" min:"0"`
	ErrorRate      int `yaml:"error_rate" min:"0"`

	Errors int           `yaml:"errors"`         // of one session, those before a first good command double: then 421
	Tarpit time.Duration `yaml:"tarpit" min:"0"` // before each answer to an error from the fourth on

	// Unsynchronized is what becomes of clients that do not wait for our answer where
	// RFC 2920 §3.1 wants them to.
	Unsynchronized string `yaml:"unsynchronized" words:"refuse note"` // refuse | note
}

// Timeouts bounds waiting. Any duration from 50ms up is legal.
type Timeouts struct {
	Greeting       time.Duration `yaml:"greeting"`        // from accept to the first command of a client
	Command        time.Duration `yaml:"command"`         // a whole command line
	DataBlock      time.Duration `yaml:"data_block"`      // without progress in DATA or BDAT
	EndOfData      time.Duration `yaml:"end_of_data"`     // from the final dot to our reply; below the client's ten minutes
	BackendConnect time.Duration `yaml:"backend_connect"` // TCP connect and the backend's greeting
	BackendCommand time.Duration `yaml:"backend_command"` // EHLO, MAIL, RCPT, 354
	TLSHandshake   time.Duration `yaml:"tls_handshake"`
	Drain          time.Duration `yaml:"drain"`
}

// Journal is the record of transactions on disk.
type Journal struct {
	Path string        `yaml:"path" path:"file"` // folder; empty: no journal
	Keep time.Duration `yaml:"keep"`
	// RotateSize is how large a file may grow before another one is begun.
	RotateSize Size `yaml:"rotate_size" min:"64KiB"`
	// HashLocalParts replaces local parts of addresses by hashes, keyed with the
	// content of the file HashKey.
	HashLocalParts bool   `yaml:"hash_local_parts"`
	HashKey        string `yaml:"hash_key" path:"file"`
}

// State is where what is remembered between sessions is kept: in the file of one
// machine, or on servers that several share. Neither: in the memory of the process.
type State struct {
	Path    string        `yaml:"path" path:"file"`  // folder of the file; empty: none
	Servers []string      `yaml:"servers"`           // host:port of a Valkey or Redis, or the first of a cluster; none: none
	Timeout time.Duration `yaml:"timeout" min:"1ms"` // the longest that mail waits for an answer
	Keep    time.Duration `yaml:"keep" min:"1h"`     // how long a sender is remembered after its last message

	// Of servers alone.
	TLS          string `yaml:"tls" words:"off verify"` // off | verify
	CA           string `yaml:"ca" path:"file"`         // PEM file of the roots to verify by; empty: the system's
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file" path:"file"`
	Prefix       string `yaml:"prefix"` // of every key
}

// Configured says whether a place is named that outlives the process.
func (s *State) Configured() bool { return s.Path != "" || len(s.Servers) > 0 }

// Admin is the HTTP side.
type Admin struct {
	Address string `yaml:"address"` // host:port; empty: none
	// TokenFile holds what has to be shown to see the page; empty: it is shown on loopback alone.
	TokenFile string   `yaml:"token_file" path:"file"`
	Hosts     []string `yaml:"hosts"` // names by which it is asked, besides localhost, hostname, that of address and the machine's
}

// Log is the log on standard error.
type Log struct {
	Level  string `yaml:"level" words:"debug info warn error"` // debug | info | warn | error
	Format string `yaml:"format" words:"json text logfmt"`     // json | text | logfmt
	// NoQueue is the name of the program in lines such as Postfix has for a refusal, for
	// programs that read those: "postfix/smtpd"; empty: there are none.
	NoQueue string `yaml:"noqueue"`
}

// Default returns what is in effect where nothing is said.
func Default() *Config {
	return &Config{
		TLS: TLS{MinVersion: "1.2", Suites: "modern", ClientCertificates: ClientCertificates{Mode: "none"}},
		DNS: DNS{
			Timeout: 2 * time.Second, Total: 20 * time.Second,
			Cache: DNSCache{Entries: 100000, MaxTTL: 24 * time.Hour, NegativeMaxTTL: 15 * time.Minute, ServeStale: time.Hour},
		},
		Checks:  Checks{Submitter: SubmitterCheck{Match: "address"}},
		Policy:  Policy{Mode: "enforce", BuiltIn: BuiltInAfter},
		Headers: Headers{AuthenticationResults: true, ReceivedSPF: true, Received: true},
		Limits: Limits{
			MessageSize: 50 * MiB, HeaderSize: 256 * KiB, HeaderFields: 1000, Recipients: 1000,
			Notices: 500_000, NoticesPerSender: 1000,
			Connections: 10000, ConnectionsPerClient: 50, Errors: 20, Unsynchronized: "refuse",
		},
		Timeouts: Timeouts{
			Greeting: 30 * time.Second, Command: 5 * time.Minute, DataBlock: 3 * time.Minute, EndOfData: 8 * time.Minute,
			BackendConnect: 10 * time.Second, BackendCommand: 5 * time.Minute, TLSHandshake: 30 * time.Second, Drain: 30 * time.Second,
		},
		Journal: Journal{Keep: 14 * 24 * time.Hour, RotateSize: 256 * MiB},
		AMTP:    defaultAMTP(),
		State:   State{Timeout: 50 * time.Millisecond, Keep: 36 * 24 * time.Hour, TLS: "off", Prefix: "postern:"},
		Admin:   Admin{Address: "127.0.0.1:9125"},
		Log:     Log{Level: "info", Format: "json"},
	}
}
