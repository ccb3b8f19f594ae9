"""Judges mail by pyspf (Debian: python3-spf), out of zones on standard input.

A line is {"client": "192.0.2.1", "zone": {"a.example": [{"TXT": "v=spf1 -all"}]}};
the answer is a line with the result, a tab, and why."""

import json
import socket
import sys

import spf

zone = {}


def lookup(name, qtype, strict=True, timeout=None):
    answer = []
    for record in zone.get(name.lower(), []):
        for rrtype, value in record.items():
            if rrtype == "rcode":
                raise spf.TempError("DNS " + value)
            if rrtype != qtype:
                continue
            if rrtype == "TXT":
                value = [value.encode("latin-1")]
            elif rrtype == "AAAA":
                value = socket.inet_pton(socket.AF_INET6, value)
            elif rrtype == "MX":
                value = tuple(value)
            answer.append(((name, rrtype), value))
    return answer


spf.DNSLookup = lookup
for line in sys.stdin:
    case = json.loads(line)
    zone = case["zone"]
    query = spf.query(i=case["client"], s="user@a.example", h="client.example", strict=True, querytime=0)
    result, _, text = query.check()
    print(result, " ".join(str(query.perm_error or text).split()), sep="\t")
