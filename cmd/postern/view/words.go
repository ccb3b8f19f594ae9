package view

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"postern/policy"
)

// titles are what people call the checks. One that has none here is called by its own name.
var titles = map[string]string{
	"submitter": "Named as responsible (SUBMITTER)", "spf": "Sender's domain (SPF)", "spf_helo": "Name of the computer (SPF)",
	"iprev": "Name of the address", "mx": "Way back to the sender", "dnsbl": "Lists of bad addresses", "past": "Known from before", "rate": "Within the last hour",
	"hold": "Held before", "pra": "Responsible by the header (Sender ID)", "dkim": "Signature (DKIM)", "dmarc": "Author's domain (DMARC)",
}

// Titled is what people call a check.
func Titled(check string) string { return cmp.Or(titles[check], check) }

// authorization is what a domain says of a computer, as SPF and its kin have it: %s is the domain.
var authorization = map[policy.Result]string{
	policy.Pass:      "%s says that this computer may send its mail.",
	policy.Fail:      "%s says that this computer may not send its mail.",
	policy.SoftFail:  "%s says that this computer should not send its mail, but is not sure.",
	policy.Neutral:   "%s does not say whether this computer may send its mail.",
	policy.None:      "%s has not published which computers may send its mail.",
	policy.PermError: "What %s has published on which computers may send its mail has a fault, and cannot be used.",
	policy.TempError: "Which computers may send mail of %s could not be learned: the answer did not come.",
}

// meanings say what a result of a check means. A check or a result that has none here is told in general words.
var meanings = map[string]map[policy.Result]string{
	"submitter": authorization, "spf": authorization, "spf_helo": authorization, "pra": authorization,
	"iprev": {
		policy.Pass:      "The address has the name %s, and that name leads back to the address.",
		policy.Fail:      "The address has no name that leads back to it.",
		policy.PermError: "The name of the address cannot be used: there is none, or it has a fault.",
		policy.TempError: "The name of the address could not be learned: the answer did not come.",
	},
	"mx": {
		policy.Pass:      "%s takes mail, so that an answer can reach the sender.",
		policy.Fail:      "%s says that it takes no mail at all: no answer could reach the sender.",
		policy.PermError: "%s does not exist, or nothing there takes mail: no answer could reach the sender.",
		policy.None:      "No domain was named to which an answer could go.",
		policy.TempError: "Whether %s takes mail could not be learned: the answer did not come.",
	},
	"dnsbl": {
		policy.Pass:      "No list that was asked has this sender on it.",
		policy.Fail:      "This sender is on a list: %s.",
		policy.None:      "No list is configured.",
		policy.TempError: "The lists did not answer.",
	},
	"past": {
		policy.Pass:      "This sender has been known here for %s.",
		policy.None:      "This sender has not written here before.",
		policy.TempError: "Whether this sender has written before could not be looked up.",
	},
	"rate": {
		policy.Pass:      "Within the hour this computer sent %s.",
		policy.None:      "This computer sent nothing else within the hour.",
		policy.TempError: "How much came within the hour could not be looked up.",
	},
	"hold": {
		policy.Pass:      "This message was asked to come again before, %s.",
		policy.None:      "This message was not asked to come again before.",
		policy.TempError: "Whether this message was asked to come again before could not be looked up.",
	},
	"dkim": {
		policy.Pass:      "The message bears a signature of %s that holds: it comes from there, and was not changed on the way.",
		policy.Fail:      "The message bears a signature, and it does not hold: the message was changed on the way, or the signature is made up.",
		policy.Neutral:   "The message bears a signature that cannot be used.",
		policy.None:      "The message bears no signature.",
		policy.PermError: "The message bears a signature that has a fault, or whose key is not there.",
		policy.TempError: "The key of the signature could not be fetched: the answer did not come.",
	},
	"dmarc": {
		policy.Pass:      "The domain of the author, %s, stands behind the message.",
		policy.Fail:      "Nothing shows that the message comes from the domain of its author, %s.",
		policy.None:      "The domain of the author says nothing on what to do with forged mail.",
		policy.PermError: "What the domain of the author says on forged mail has a fault, or there is no single author.",
		policy.TempError: "What the domain of the author says on forged mail could not be learned: the answer did not come.",
	},
}

var general = map[policy.Result]string{
	policy.Pass: "All was as it should be.", policy.Fail: "It was not as it should be.", policy.SoftFail: "It was probably not as it should be.",
	policy.Neutral: "It says nothing for or against.", policy.None: "There was nothing to look at.",
	policy.PermError: "What there was to look at has a fault.", policy.TempError: "It could not be looked at: an answer did not come.",
	policy.Skipped: "It was not looked at.",
}

// says is what a result means, in a sentence.
func says(f *policy.Facts, check string, r policy.Result) string {
	text := meanings[check][r]
	switch { // where nobody was named, nobody's domain has said anything
	case check == "submitter" && r == policy.None && f.Submitter.Address == "":
		text = "The client named nobody as responsible for sending."
	case check == "pra" && r == policy.None && f.PRA.Address == "":
		text = "The header names nobody as responsible for sending."
	}
	if text == "" {
		return cmp.Or(general[r], "It found "+string(r)+".")
	}
	if !strings.Contains(text, "%s") {
		return text
	}
	text = fmt.Sprintf(text, brief(about(f, check)))
	if strings.HasPrefix(text, "the ") {
		text = capital(text) // NOT: a domain
	}
	return text
}

// about is what stands for %s in the sentences of a check.
func about(f *policy.Facts, check string) string {
	const domain = "the sender's domain"
	switch check {
	case "submitter":
		return cmp.Or(f.Submitter.Domain, domain)
	case "spf":
		return cmp.Or(f.SPF.Domain, f.Mail.Domain, domain)
	case "spf_helo":
		return cmp.Or(f.SPFHelo.Domain, f.Helo.Domain, "the name that the computer gave")
	case "pra":
		return cmp.Or(f.PRA.Domain, "the responsible domain")
	case "iprev":
		return f.Iprev.Name
	case "mx":
		return cmp.Or(f.Mail.Domain, domain)
	case "dnsbl":
		return cmp.Or(strings.Join(f.DNSBL.Zones, ", "), "one that was asked")
	case "past":
		return Counted(f.Past.Days, "day") + ": " + Counted(int(f.Past.Delivered), "message") + " delivered, " + strconv.FormatInt(f.Past.Refused, 10) + " refused"
	case "rate":
		return Counted(int(f.Rate.Messages), "message") + ", of which " + strconv.FormatInt(f.Rate.Refused, 10) + " were refused"
	case "hold":
		return Counted(f.Hold.Tries, "time")
	case "dkim":
		return cmp.Or(strings.Join(f.DKIM.Domains, " and "), "a domain")
	case "dmarc":
		return cmp.Or(f.Header.FromDomain, f.DMARC.Domain, "its author's domain")
	}
	return ""
}
