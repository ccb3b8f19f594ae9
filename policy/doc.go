// Package policy judges. Facts is everything known about a transaction; a Chain
// of rules makes a Verdict of it; nothing here looks anything up. The same facts
// give the same verdict, whether they come from a live session, from a test or
// out of the journal.
//
// # Rules
//
// A rule has a condition (when) and what follows (do: reject, defer, tag, pass).
// The first reject, defer or pass from the top decides, whatever the stage at
// which facts become known: so a rule is decided at the earliest Stage at which
// its own facts, and those of every deciding rule above it, are known. Chain.Plan
// says when that is and why.
//
// # Conditions
//
// Conditions are written in a part of expr-lang. A value is a text ("x"), a whole
// number, yes or no, or a list of texts or numbers.
//
//	spf.result == "fail"   !=   <   <=   >   >=         numbers have all six, the others == and !=
//	spf.result in ["fail", "softfail"]                  not in; also "x" in tls.peer.names
//	client.ip in ["192.0.2.0/24", "2001:db8::1"]        addresses and networks, for client.ip alone
//	helo.name contains "x"  startsWith  endsWith        parts of a text; case matters
//	helo.name matches "^[0-9.-]+$"                      an RE2 pattern
//	lower(mail.from)  upper(..)  len(..)                len of a text is in characters, of a list in elements
//	any(dkim.domains, # endsWith ".example")            all, none; # is the element
//	in_list("forwarders", client.ip)                    see Lists.Contains
//	not (a == "x")  and  or                             not binds tighter than ==; ! && || are the same
//
// A comparison that can never hold (a result word that there is not, an address
// that is none, a domain in upper case) is a fault when the rule is loaded.
//
// # Overrides
//
// An override (configs.Override) becomes a part of the chain when that is
// compiled: "do: pass" a rule on top, "excuse" a guard on every rule that refuses
// by the check, and a pass rule at the end by which it can be counted. Their
// entries are in lists with a last day, so that Decide needs no clock.
//
// # Replies and headers
//
// ${fact} in a reply or in a field's value stands for a fact that is known when
// the rule is decided. What comes out is one line of printable ASCII, with ? for
// every other octet. A reply may leave out its text, its enhanced status code, or
// everything; what fits the facts that the rule reads is filled in.
package policy
