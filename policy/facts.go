package policy

import (
	"fmt"
	"net/netip"
)

// Stage is a point in a session at which something becomes known
// (RFC 5321 §3.1 to §3.3).
type Stage int

// The stages in their order.
const (
	Connect Stage = iota
	Helo
	Mail
	Rcpt
	Header
	Message
)

var stageNames = [...]string{"connect", "helo", "mail", "rcpt", "header", "message"}

// String returns the stage's name as rules and logs write it.
func (s Stage) String() string { return stageNames[s] }

// MarshalText makes a stage its name in JSON.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name of a stage.
func (s *Stage) UnmarshalText(name []byte) error {
	st, ok := ParseStage(string(name))
	if !ok {
		return fmt.Errorf("policy: %q is no stage", name)
	}
	*s = st
	return nil
}

// Result is what a check found: one of the words of RFC 8601 §2.7, plus
// Skipped where the check was not run.
type Result string

// The result words.
const (
	None      Result = "none"
	Neutral   Result = "neutral"
	Pass      Result = "pass"
	Fail      Result = "fail"
	SoftFail  Result = "softfail"
	TempError Result = "temperror"
	PermError Result = "permerror"
	Skipped   Result = "skipped"
)

// Facts is everything known about one transaction. Checks fill it, rules read
// it, the log prints it, the journal keeps it. Plain data: it marshals to JSON,
// and replay judges what it unmarshals.
//
// The JSON names are the names that rules use. The stage tag says when a field
// becomes known; a nested field without one has that of the field around it.
// The results and words tags are the closed set of a field's values, for words
// besides the empty one; the form tag says what its texts look like, so that a
// rule that compares with something else is found when it is loaded.
// Addresses have their domain as A-labels in lower case, and the local part as
// received, unquoted where that is possible.
//
// The journal hashes the local part of what has the form of an address, and of every
// address that it finds in a text which has neither a form nor a closed set of words,
// unless private says no.
//
// A field that holds a result is a check's, and bears its name. All that the rest
// of the program has to know of the check are tags, of that field or of those in it:
//
//	needs     the checks whose findings it reads; also of facts that are no check's
//	untold    where it has a temperror, its facts but for the result are not measured,
//	          and a rule that hangs on them does not match, whichever way it is written
//	memory    it asks what lasts between sessions, which is done for rules alone; its
//	          facts are untold
//	by        the check that finds this fact, where it is not the one around it;
//	          client: nobody finds it, it is the client's word
//	trouble   the words (true or false of a bool) that an override may excuse
//	identity  the fact that names the domain which an override's match.domains means
//	of, given a trouble that belongs to another check, where a fact is not empty
//	refusal   code and text of the reply of a reject rule that reads the fact, or
//	          any fact of the check, and gives none (RFC 3463, RFC 7372 §3, RFC 4405
//	          §4.2, RFC 4406 §5); refusal_fail and refusal_permerror are for rules
//	          that compare with that word, fail before permerror
//	speaks    its turn where such a rule reads what several checks find; the last
//	          are those without
//	reason    the field tells people why the result is what it is, behind this text
type Facts struct {
	ID        string    `json:"id" expr:"-" private:"no"`
	Client    Client    `json:"client" expr:"client" stage:"connect"`
	Network   Network   `json:"network" expr:"network" stage:"connect" untold:""`
	Listener  string    `json:"listener" expr:"listener" stage:"connect" private:"no"`
	TLS       TLS       `json:"tls" expr:"tls" stage:"mail"`
	Helo      HeloName  `json:"helo" expr:"helo" stage:"helo"`
	Mail      MailFrom  `json:"mail" expr:"mail" stage:"mail"`
	Submitter Submitter `json:"submitter" expr:"submitter" stage:"mail" identity:"submitter.domain" speaks:"1"`
	SPF       SPF       `json:"spf" expr:"spf" stage:"mail" identity:"mail.domain" speaks:"3"`
	SPFHelo   SPFHelo   `json:"spf_helo" expr:"spf_helo" stage:"mail" identity:"mail.domain" speaks:"4"`
	Iprev     Iprev     `json:"iprev" expr:"iprev" stage:"mail" identity:"mail.domain" speaks:"7" refusal:"7.25 Reverse DNS validation failed."`
	MX        MX        `json:"mx" expr:"mx" stage:"mail" identity:"mail.domain" speaks:"8" refusal:"1.8 Sender domain takes no mail."`
	DNSBL     DNSBL     `json:"dnsbl" expr:"dnsbl" stage:"mail" identity:"mail.domain" speaks:"9" refusal:"7.1 Client address is listed."`
	DNS       DNS       `json:"dns" expr:"dns" stage:"mail"`
	Identity  Identity  `json:"identity" expr:"identity" stage:"mail" needs:"submitter spf iprev"`
	Past      Past      `json:"past" expr:"past" stage:"mail" needs:"submitter spf iprev" memory:"" refusal:"7.1 Sender is not well known here."`
	Rate      Rate      `json:"rate" expr:"rate" stage:"mail" needs:"submitter spf iprev" memory:"" refusal:"7.1 Too much from this sender within the hour."`
	State     State     `json:"state" expr:"state" stage:"mail"`
	Recipient           // whom the facts are about; see Chain.DecideFor
	Header    HeaderSum `json:"header" expr:"header" stage:"header"`
	PRA       PRA       `json:"pra" expr:"pra" stage:"header" identity:"pra.domain" speaks:"2" refusal:"7.1 Purported responsible address not allowed."`
	DKIM      DKIM      `json:"dkim" expr:"dkim" stage:"message" identity:"header.from_domain" speaks:"6" refusal:"7.20 No passing DKIM signature found."`
	DMARC     DMARC     `json:"dmarc" expr:"dmarc" stage:"message" identity:"header.from_domain" speaks:"5" refusal:"7.26 DMARC evaluation failed." needs:"spf dkim"`
	Milter    Milters   `json:"milter,omitempty" expr:"milter" stage:"message"`
	Message   MessageIs `json:"message" expr:"message" stage:"message"`
}

// Client is the SMTP client: the true one, where a PROXY header told it.
type Client struct {
	IP   string `json:"ip" expr:"ip" form:"ip"` // no brackets, no zone; IPv4-mapped addresses as IPv4
	Port int    `json:"port" expr:"port"`
	// Proxy is the load balancer that told the address in a PROXY header;
	// empty: the client connected to us itself.
	Proxy string `json:"proxy,omitempty" expr:"proxy" private:"no"`
	// Pregreet says that the client talked before it was greeted (RFC 5321 §3.1 wants
	// it to wait): what had come by then, or while the listener waited for that.
	Pregreet bool `json:"pregreet,omitempty" expr:"pregreet"`
	// Unsynchronized says that the client did not wait for our answer to EHLO,
	// STARTTLS or DATA (RFC 2920 §3.1). It is known once the header has come.
	Unsynchronized bool `json:"unsynchronized,omitempty" expr:"unsynchronized" stage:"header"`
	// Name is the forward-confirmed reverse name, empty if there is none. It
	// comes with iprev, so that a slow reverse zone delays no greeting.
	Name string `json:"name" expr:"name" stage:"mail" form:"domain" by:"iprev"`
	// ASN is the number of the autonomous system that the address belongs to, ASName its
	// holder, Country two capital letters (ISO 3166-1): by the files of checks.geo, zero
	// and empty where these say nothing of the address.
	ASN     int64  `json:"asn,omitempty" expr:"asn" by:"network"`
	ASName  string `json:"as_name,omitempty" expr:"as_name" by:"network" private:"no"`
	Country string `json:"country,omitempty" expr:"country" by:"network" form:"country"`
	// User is the address of a user who has logged in with AMTP, and Fetched the domain from whose own server, at IP, the
	// mail was fetched. Rules read either as identity.level amtp.
	User    string `json:"user,omitempty" expr:"-" form:"address"`
	Fetched string `json:"fetched,omitempty" expr:"-" form:"domain"`
}

// Network tells whether the files of checks.geo could be asked about the client's address:
// pass where one of them knows it, none where none does, temperror where one of them cannot
// be read.
type Network struct {
	Result Result `json:"result" expr:"result" results:"none pass temperror skipped"`
}

// Addr returns the client's address, the zero Addr if IP is none.
func (c Client) Addr() netip.Addr {
	a, _ := netip.ParseAddr(c.IP)
	return a
}

// TLS tells how the session is encrypted; all empty if it is not. It is known
// at mail, not before: until then the client may still say STARTTLS.
type TLS struct {
	Version string  `json:"version" expr:"version" words:"1.2 1.3"` // "1.2" or "1.3"
	Cipher  string  `json:"cipher" expr:"cipher" private:"no"`      // the IANA name
	Peer    TLSPeer `json:"peer" expr:"peer"`
}

// TLSPeer is the client's certificate.
type TLSPeer struct {
	Verified    bool     `json:"verified" expr:"verified"`                  // chains to a root of tls.client_certificates.ca
	Names       []string `json:"names" expr:"names" form:"domain"`          // its DNS names, lower case
	Fingerprint string   `json:"fingerprint" expr:"fingerprint" form:"hex"` // SHA-256 of the certificate, hexadecimal, lower case
}

// HeloName is the argument of EHLO or HELO.
type HeloName struct {
	Name   string `json:"name" expr:"name" private:"no"`      // as received, cleaned of what may not stand in a log
	Domain string `json:"domain" expr:"domain" form:"domain"` // as A-labels in lower case; empty if Name is no domain of two labels or more
}

// MailFrom is the MAIL command.
type MailFrom struct {
	From       string `json:"from" expr:"from" form:"address"`    // empty for the null reverse-path
	Domain     string `json:"domain" expr:"domain" form:"domain"` // empty for the null reverse-path
	Size       int64  `json:"size" expr:"size"`                   // octets declared with SIZE=, 0 if not
	SMTPUTF8   bool   `json:"smtputf8" expr:"smtputf8"`
	RequireTLS bool   `json:"requiretls" expr:"requiretls"`
}

// Submitter is the SUBMITTER parameter (RFC 4405) and what became of it.
type Submitter struct {
	Address string `json:"address" expr:"address" form:"address" by:"client"` // decoded; empty if none was given
	Domain  string `json:"domain" expr:"domain" form:"domain" by:"client"`
	Result  Result `json:"result" expr:"result" results:"none neutral pass fail softfail temperror permerror skipped" trouble:"fail softfail neutral permerror temperror" refusal:"7.1 Submitter not allowed."`
	Reason  string `json:"reason,omitempty" expr:"-" reason:""` // in words, for the record and for Received-SPF
}

// SPF is the result for MAIL FROM, or for postmaster@HELO where that is null
// (RFC 7208 §2.4).
type SPF struct {
	Result   Result `json:"result" expr:"result" results:"none neutral pass fail softfail temperror permerror skipped" trouble:"fail softfail neutral permerror temperror" refusal:"7.23 SPF validation failed." refusal_permerror:"7.24 SPF validation error."`
	Domain   string `json:"domain" expr:"domain" form:"domain"`
	Identity string `json:"identity" expr:"identity" words:"mailfrom helo"` // "mailfrom" or "helo"
	Reason   string `json:"reason" expr:"reason" reason:""`                 // in words: the mechanism that matched, or what went wrong
	// Explanation is the domain's own text for a fail (exp=, RFC 7208 §6.2),
	// reduced to printable ASCII and capped.
	Explanation string `json:"explanation,omitempty" expr:"explanation"`
}

// SPFHelo is the result for the HELO identity (RFC 7208 §2.3).
type SPFHelo struct {
	Result Result `json:"result" expr:"result" results:"none neutral pass fail softfail temperror permerror skipped" trouble:"fail softfail neutral permerror temperror" refusal:"7.23 SPF validation failed." refusal_permerror:"7.24 SPF validation error."`
	Domain string `json:"domain,omitempty" expr:"-" form:"domain"`
	Reason string `json:"reason,omitempty" expr:"-" reason:""`
}

// Iprev is the forward-confirmed reverse look-up (RFC 8601 §2.7.3).
type Iprev struct {
	Result Result `json:"result" expr:"result" results:"pass fail temperror permerror skipped" trouble:"fail permerror temperror"`
	Name   string `json:"name" expr:"name" form:"domain" reason:""` // confirmed; empty: none is
	// Reverse is the first name that the reverse zone has, confirmed or not: the
	// client's own word, which no rule reads. A backend may be told of it.
	Reverse string `json:"reverse,omitempty" expr:"-" form:"domain"`
}

// MX tells whether mail can be sent back to the domain of MAIL FROM: pass where it
// has an MX, or an address in its place (RFC 5321 §5.1), fail where it says that it
// takes none (a null MX, RFC 7505), permerror where it has nothing or is not there,
// none where there is no domain to ask. Its reply is RFC 3463 §3.2's, the domain does
// not exist or accepts no mail: which of the two, a rule may say itself (5.7.27 for a
// null MX alone, RFC 7505 §4.2).
type MX struct {
	Result Result `json:"result" expr:"result" results:"none pass fail temperror permerror skipped" trouble:"fail permerror temperror"`
	Reason string `json:"reason,omitempty" expr:"-" reason:""` // in words
}

// DNSBL is the sum of the DNS lists (RFC 5782).
type DNSBL struct {
	Listed bool     `json:"listed" expr:"listed" trouble:"true"`
	Score  int      `json:"score" expr:"score"`
	Zones  []string `json:"zones" expr:"zones" reason:"" private:"no"`
	Result Result   `json:"result" expr:"result" results:"none pass fail temperror skipped"`
}

// DNS is the state of our own resolver at the moment.
type DNS struct {
	Healthy bool `json:"healthy" expr:"healthy"`
}

// Identity is who the sender is, by the strongest proof that the session holds.
type Identity struct {
	// Level names the proof, weakest first: a forward-confirmed name, mail that was
	// fetched from the sender's own server, SPF pass, SUBMITTER pass, a verified client
	// certificate; "none" where there is none.
	Level  string `json:"level" expr:"level" words:"none iprev amtp spf submitter tls"`
	Domain string `json:"domain" expr:"domain" form:"domain"` // that is so proven
}

// The words of Identity.Level, weakest first.
const (
	LevelNone      = "none"
	LevelIprev     = "iprev"
	LevelAMTP      = "amtp"
	LevelSPF       = "spf"
	LevelSubmitter = "submitter"
	LevelTLS       = "tls"
)

// Levels are those words, weakest first.
var Levels = []string{LevelNone, LevelIprev, LevelAMTP, LevelSPF, LevelSubmitter, LevelTLS}

// Past is what this site remembers of Identity.Domain, or of the client's network
// (an IPv4 /24, an IPv6 /64) where there is no such domain: pass where it remembers
// something, none where it does not.
type Past struct {
	Result    Result `json:"result" expr:"result" results:"none pass temperror skipped"`
	Days      int    `json:"days" expr:"days"`           // since the first message, whole ones
	Delivered int64  `json:"delivered" expr:"delivered"` // messages that the backend took
	Refused   int64  `json:"refused" expr:"refused"`     // messages that a rule refused for good
}

// Rate is what came within the last hour, of the client (an IPv4 address, an IPv6 /64)
// and of Identity.Domain: none where nothing did, else pass.
type Rate struct {
	Result   Result `json:"result" expr:"result" results:"none pass temperror skipped"`
	Messages int64  `json:"messages" expr:"messages"` // of the client: passed to the backend or refused
	Refused  int64  `json:"refused" expr:"refused"`   // of these, refused for good by a rule
	Unknown  int64  `json:"unknown" expr:"unknown"`   // recipients that the backend did not know
	Domain   int64  `json:"domain" expr:"domain"`     // messages of Identity.Domain
	// Surge is how many times as many those are as this domain's usual in an hour,
	// rounded down; 0 for one that is known for less than a day.
	Surge int64 `json:"surge" expr:"surge"`
}

// State is the store of what lasts between sessions.
type State struct {
	Healthy bool `json:"healthy" expr:"healthy"` // it answered what was asked for this message
}

// Recipient is what is known of one recipient, and is another matter for each of a
// transaction's. The rest of the facts all of them have in common.
type Recipient struct {
	Rcpt RcptTo `json:"rcpt" expr:"rcpt" stage:"rcpt"`
	Hold Hold   `json:"hold" expr:"hold" stage:"rcpt" needs:"submitter spf iprev" memory:""`
	// Service is what policy services answered about it.
	Service Services `json:"service,omitempty" expr:"service" stage:"rcpt"`
}

// RcptTo is the RCPT command.
type RcptTo struct {
	Address string `json:"address" expr:"address" form:"address"` // "postmaster" alone where the client left the domain out (RFC 5321 §4.5.1)
	Domain  string `json:"domain" expr:"domain" form:"domain"`
}

// Hold is what is remembered of this mail, from this sender for the recipient in
// question, having been held before: pass where there is a notice of it, none where
// there is none, temperror where the store cannot tell.
type Hold struct {
	Result   Result `json:"result" expr:"result" results:"none pass temperror skipped"`
	Age      int    `json:"age" expr:"age"`           // seconds since it came first; 0: it never came
	Tries    int    `json:"tries" expr:"tries"`       // how often it was held before
	Released bool   `json:"released" expr:"released"` // by an operator
	// Notice is the id of the notice that is there, or was written: for postern release.
	Notice string `json:"notice,omitempty" expr:"-" private:"no"`
}

// Service is what a policy service of somebody else's answered about the recipient in
// question.
type Service struct {
	Name string `json:"-" private:"no"` // as the configuration has it
	// Action is the word that the service answers in Postfix's protocol, in lower case;
	// temperror where no answer came that one can understand. That a service answered with
	// a reply code is reject (5yz) or defer (4yz).
	Action Result `json:"action" expr:"action" words:"ok dunno reject defer defer_if_reject defer_if_permit discard hold filter redirect prepend bcc info warn temperror skipped" absent:"skipped"`
	Text   string `json:"text,omitempty" expr:"text"` // behind it, without reply code and enhanced status code
	Reason string `json:"reason,omitempty"`           // what went wrong, in our own words
	// Unasked is why the question did not go out; empty where it did.
	Unasked Unasked `json:"unasked,omitempty" private:"no"`
}

// Unasked is why a filter of somebody else's was not told what it was to judge.
type Unasked string

// The words of Unasked.
const (
	UnaskedAlone     Unasked = "alone"     // it had failed again and again, and nobody tried
	UnaskedUnkept    Unasked = "unkept"    // our own trouble: the message was not kept, and there was nothing to show it
	UnaskedUnreached Unasked = "unreached" // it took no connection, did not negotiate, or had no room for one more question
)

// HeaderSum is what rules may know of the header section.
type HeaderSum struct {
	FromDomain string `json:"from_domain" expr:"from_domain" form:"domain"` // of the one author; empty where Author is not one
	// Author says how clearly the header names its author. Every reading that
	// servers and mail programs are known to make is made.
	Author    string `json:"author" expr:"author" words:"one several none ambiguous"`
	FromCount int    `json:"from_count" expr:"from_count"` // number of From fields
	Count     int    `json:"count" expr:"count"`           // number of fields
}

// The words of HeaderSum.Author.
const (
	AuthorOne       = "one"       // every reading finds the same mailbox
	AuthorSeveral   = "several"   // one field, several mailboxes, all clear
	AuthorNone      = "none"      // no From, or none with a mailbox
	AuthorAmbiguous = "ambiguous" // readings differ
)

// PRA is the Purported Responsible Address (RFC 4407) and its authorization
// (RFC 4406).
type PRA struct {
	Result           Result `json:"result" expr:"result" results:"none neutral pass fail softfail temperror permerror skipped" trouble:"fail softfail neutral permerror temperror" refusal_fail:"7.1 Sender ID (PRA) Not Permitted."`
	Address          string `json:"address" expr:"address" form:"address"` // empty: no PRA could be determined
	Domain           string `json:"domain" expr:"domain" form:"domain"`
	MatchesSubmitter bool   `json:"matches_submitter" expr:"matches_submitter" trouble:"false" of:"submitter" given:"submitter.address" refusal:"7.1 Submitter does not match header."` // false also where either is missing
	Reason           string `json:"reason,omitempty" expr:"-" reason:""`
}

// DKIM is the best of the signatures read (RFC 6376, RFC 8601 §2.7.1).
type DKIM struct {
	Result     Result          `json:"result" expr:"result" results:"none neutral pass fail temperror permerror skipped" trouble:"fail neutral permerror temperror"`
	Domains    []string        `json:"domains" expr:"domains" form:"domain"`           // d= of those that passed, lower case
	Unknown    []string        `json:"unknown,omitempty" expr:"unknown" form:"domain"` // d= of those whose result is temperror, lower case: they might have passed
	Signatures []DKIMSignature `json:"signatures,omitempty" expr:"-" reason:""`
}

// DKIMSignature is one signature read, for Authentication-Results and explain.
type DKIMSignature struct {
	Domain   string `json:"domain" reason:"" form:"domain"`
	Selector string `json:"selector" reason:"/" form:"domain"`
	Result   Result `json:"result" reason:" "`
	Reason   string `json:"reason,omitempty" reason:" "`
}

// DMARC is the evaluation of the author domain's policy (RFC 9989).
type DMARC struct {
	Result Result `json:"result" expr:"result" results:"none pass fail temperror permerror skipped" trouble:"fail permerror temperror"`
	// Policy is "none", "quarantine" or "reject"; empty if there is no record, or
	// (with temperror, and rarely with pass) if the policy could not be learned.
	Policy string `json:"policy" expr:"policy" words:"none quarantine reject" reason:"p="`
	Domain string `json:"domain" expr:"domain" form:"domain" reason:" of "` // where the record was found
}

// Milter is what a milter of somebody else's said of the message.
type Milter struct {
	Name string `json:"-" private:"no"` // as the configuration has it
	// Action is its verdict: none (it has nothing against the message) or one of the
	// protocol's; temperror where there is none that one can understand, skipped where the
	// message was too large for it.
	Action Result   `json:"action" expr:"action" words:"none accept reject tempfail discard quarantine temperror skipped" absent:"skipped"`
	Reply  string   `json:"reply,omitempty" expr:"reply"`   // that it asks for, without reply code and enhanced status code
	Reason string   `json:"reason,omitempty" expr:"reason"` // of a quarantine, or in our own words: what went wrong, what was not done
	Fields []string `json:"fields,omitempty"`               // that it added, "Name: value"
	Told   string   `json:"told,omitempty" private:"no"`    // what it had been told by then, in words and numbers
	// Unasked is why it was told nothing; empty where it was, or is skipped.
	Unasked Unasked `json:"unasked,omitempty" private:"no"`
}

// MessageIs is what is known once the whole message was read.
type MessageIs struct {
	Size int64 `json:"size" expr:"size"` // octets received, CRLF counted, stuffed dots and the end mark not (RFC 1870 §5)
}

// Transaction returns the facts of a new transaction on f's connection: everything
// from MAIL on is forgotten, every result is Skipped until a check has run.
func (f Facts) Transaction(id string) Facts {
	t := Facts{Client: f.Client, Network: f.Network, Listener: f.Listener, TLS: f.TLS, Helo: f.Helo}
	t.Begin(id)
	return t
}

// Begin makes f, which holds what is known of the connection and no more, the
// facts of a new transaction, as Transaction does. They are large: what is made
// in place needs no copy, and its maker no stack for one.
func (f *Facts) Begin(id string) {
	f.ID = id
	f.Client.Name = "" // comes with iprev
	if f.Network.Result == "" {
		f.Network.Result = Skipped
	}
	if f.TLS.Peer.Names == nil {
		f.TLS.Peer.Names = []string{} // JSON shall say [], not null
	}
	f.Submitter.Result = Skipped
	f.SPF.Result = Skipped
	f.SPFHelo.Result = Skipped
	f.Iprev.Result = Skipped
	f.MX.Result = Skipped
	f.DNSBL.Zones, f.DNSBL.Result = []string{}, Skipped
	f.DNS.Healthy = true
	f.Identity.Level = LevelNone
	f.Past.Result, f.Rate.Result = Skipped, Skipped
	f.State.Healthy = true
	f.Hold.Result = Skipped
	f.PRA.Result = Skipped
	f.DKIM.Domains, f.DKIM.Result = []string{}, Skipped
	f.DMARC.Result = Skipped
}
