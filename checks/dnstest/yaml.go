package dnstest

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"
)

// LoadYAML reads the zonedata of a document of the public SPF suites: a map of
// names to lists of records. Decode the document into a struct with a yaml.Node
// at "zonedata", and hand that over.
//
//	example.com:
//	  - TXT: v=spf1 -all              # a string, or a list of strings to be joined
//	  - SPF: v=spf1 -all              # served as TXT, unless the name has a TXT
//	  - MX: [10, mail.example.com]
//	  - A: 192.0.2.1                  # also AAAA, PTR, CNAME, NS
//	  - TXT: TIMEOUT                  # that type only
//	  - TXT: NONE                     # no such record
//	  - rcode: SERVFAIL               # or REFUSED, NXDOMAIN: every query for the name
//	  - TIMEOUT                       # every query that the items above do not answer
//
// A name that is not listed does not exist, even if there are names below it.
func LoadYAML(zonedata *yaml.Node) (*Zone, error) {
	z := newZone()
	z.flat = true
	if zonedata == nil || zonedata.Kind == 0 || zonedata.Tag == "!!null" {
		return z, nil
	}
	if zonedata.Kind != yaml.MappingNode {
		return nil, yamlError(zonedata, "zonedata is no map")
	}
	for i := 0; i+1 < len(zonedata.Content); i += 2 {
		name, items := zonedata.Content[i], zonedata.Content[i+1]
		if len(name.Value) > maxName {
			return nil, yamlError(name, fmt.Sprintf("a name of %d octets; at most %d", len(name.Value), maxName))
		}
		if items.Kind == yaml.ScalarNode && items.Tag == "!!null" {
			z.node(key(name.Value))
			continue
		}
		if items.Kind != yaml.SequenceNode {
			return nil, yamlError(items, "the records of a name are a list")
		}
		if err := z.loadName(key(name.Value), items.Content); err != nil {
			return nil, err
		}
	}
	return z, nil
}

func (z *Zone) loadName(name string, items []*yaml.Node) error {
	n := z.node(name)
	hasTXT := false
	for _, item := range items {
		if item.Kind == yaml.MappingNode && len(item.Content) > 0 && item.Content[0].Value == "TXT" {
			hasTXT = true
		}
	}
	for _, item := range items {
		if item.Kind == yaml.ScalarNode {
			if item.Value != "TIMEOUT" {
				return yamlError(item, "neither a record nor TIMEOUT")
			}
			n.rest = markTimeout
			continue
		}
		if item.Kind != yaml.MappingNode || len(item.Content) != 2 {
			return yamlError(item, "a record is a map of one type to its value")
		}
		kind, value := item.Content[0].Value, item.Content[1]
		if err := z.loadRecord(n, name, kind, value, hasTXT); err != nil {
			return err
		}
	}
	return nil
}

func (z *Zone) loadRecord(n *node, name, kind string, value *yaml.Node, hasTXT bool) error {
	switch {
	case kind == "rcode" && value.Value == "NXDOMAIN":
		return nil // what is not there does not exist
	case kind == "rcode":
		m := marks[value.Value]
		if m == markNone {
			return yamlError(value, "rcode is SERVFAIL, REFUSED or NXDOMAIN")
		}
		n.mark = m
		return nil
	case kind == "SPF" && hasTXT:
		return nil
	case kind == "SPF":
		kind = "TXT"
	}
	t, ok := dns.StringToType[kind]
	if !ok {
		return yamlError(value, "unknown record type "+strconv.Quote(kind))
	}
	switch {
	case value.Kind == yaml.ScalarNode && value.Value == "NONE":
		// The name exists through it, as NODATA.
		if n.records[t] == nil {
			n.records[t] = []dns.RR{}
		}
		return nil
	case value.Kind == yaml.ScalarNode && value.Value == "TIMEOUT":
		if n.marks == nil {
			n.marks = make(map[uint16]mark)
		}
		n.marks[t] = markTimeout
		return nil
	}
	rr, err := yamlRecord(t, value)
	if err != nil {
		return err
	}
	*rr.Header() = dns.RR_Header{Rrtype: t, Class: dns.ClassINET, Ttl: defaultTTL}
	z.add(name, rr)
	return nil
}

func yamlRecord(t uint16, value *yaml.Node) (dns.RR, error) {
	switch t {
	case dns.TypeTXT:
		var parts []string
		if err := value.Decode(&parts); err != nil {
			parts = []string{value.Value}
		}
		return &dns.TXT{Txt: characterStrings(parts)}, nil
	case dns.TypeA, dns.TypeAAAA:
		ip := net.ParseIP(value.Value)
		if ip == nil || (t == dns.TypeA) != (ip.To4() != nil && !strings.Contains(value.Value, ":")) {
			return nil, yamlError(value, "no address of that type")
		}
		if t == dns.TypeA {
			return &dns.A{A: ip.To4()}, nil
		}
		return &dns.AAAA{AAAA: ip.To16()}, nil
	case dns.TypeMX:
		if value.Kind != yaml.SequenceNode || len(value.Content) != 2 {
			return nil, yamlError(value, "an MX is [preference, host]")
		}
		pref, err := strconv.ParseUint(value.Content[0].Value, 10, 16)
		if err != nil {
			return nil, yamlError(value, "the preference of an MX is a number up to 65535")
		}
		return &dns.MX{Preference: uint16(pref), Mx: target(value.Content[1])}, nil
	case dns.TypePTR:
		return &dns.PTR{Ptr: target(value)}, nil
	case dns.TypeCNAME:
		return &dns.CNAME{Target: target(value)}, nil
	case dns.TypeNS:
		return &dns.NS{Ns: target(value)}, nil
	}
	return nil, yamlError(value, "a record type that no suite has")
}

// target is a name as a record's data.
func target(n *yaml.Node) string {
	name := strings.TrimSuffix(n.Value, ".")
	if name == "" {
		return "."
	}
	return escape(name)
}

// characterStrings escapes the strings of a TXT record, and cuts what is longer
// than one can be.
func characterStrings(parts []string) []string {
	var out []string
	for _, part := range parts {
		for first := true; first || len(part) > 0; first = false {
			n := min(len(part), 255)
			var b strings.Builder
			for i := range n {
				switch c := part[i]; {
				case c == '"' || c == '\\':
					b.WriteByte('\\')
					b.WriteByte(c)
				case c < ' ' || c > '~':
					fmt.Fprintf(&b, `\%03d`, c)
				default:
					b.WriteByte(c)
				}
			}
			out = append(out, b.String())
			part = part[n:]
		}
	}
	return out
}

func yamlError(n *yaml.Node, text string) error {
	return fmt.Errorf("dnstest: line %d: %s", n.Line, text)
}
