// Package networktest makes files in MaxMind's format for tests.
package networktest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
)

// Record is what a file says of a network: texts, uint32 numbers, and maps of such.
type Record map[string]any

// System is a record as MaxMind's files of autonomous systems have it.
func System(number uint32, name string) Record {
	return Record{"autonomous_system_number": number, "autonomous_system_organization": name}
}

// Country is a record as MaxMind's files of countries have it.
func Country(code string) Record { return Record{"country": Record{"iso_code": code}} }

// Write makes a file of networks, which are written as 192.0.2.0/24 or 2001:db8::/32. It
// replaces the file in one step, as those do that fetch a new one.
func Write(tb testing.TB, path string, networks map[string]Record) {
	tb.Helper()
	if err := os.WriteFile(path+".new", File(networks), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

// File returns the octets of such a file (the format is MaxMind DB 2.0, with records of 32
// bits in a tree for IPv6, in which IPv4 stands below ::/96).
func File(networks map[string]Record) []byte {
	tree := []node{{}}
	var data []byte
	for _, network := range slices.Sorted(maps.Keys(networks)) {
		prefix := netip.MustParsePrefix(network)
		bits, address := prefix.Bits(), prefix.Addr().As16()
		if prefix.Addr().Is4() {
			bits += 96
			four := prefix.Addr().As4()
			address = [16]byte{12: four[0], 13: four[1], 14: four[2], 15: four[3]}
		}
		at := 0
		for i := range bits {
			side := &tree[at].sides[address[i/8]>>(7-i%8)&1]
			if i == bits-1 {
				*side = edge{data: true, to: len(data)}
				break
			}
			if side.to == 0 {
				side.to = len(tree)
				at = side.to
				tree = append(tree, node{})
				continue
			}
			at = side.to
		}
		data = append(data, encode(networks[network])...)
	}
	var file []byte
	for _, n := range tree {
		for _, side := range n.sides {
			value := side.to
			switch {
			case side.data:
				value += len(tree) + separator
			case side.to == 0:
				value = len(tree) // nothing is known
			}
			file = binary.BigEndian.AppendUint32(file, uint32(value))
		}
	}
	file = append(file, make([]byte, separator)...)
	file = append(append(file, data...), "\xab\xcd\xefMaxMind.com"...)
	return append(file, encode(Record{
		"binary_format_major_version": uint32(2), "binary_format_minor_version": uint32(0), "build_epoch": uint64(1700000000),
		"database_type": "Made-Up", "description": Record{}, "ip_version": uint32(6), "languages": []string{},
		"node_count": uint32(len(tree)), "record_size": uint32(32),
	})...)
}

// separator is how many zeros stand between the tree and the data.
const separator = 16

type node struct{ sides [2]edge }

type edge struct {
	to   int // a node, or an offset in the data
	data bool
}

// encode returns a value as the data section has it.
func encode(value any) []byte {
	switch v := value.(type) {
	case string:
		return append(control(2, len(v)), v...)
	case uint32:
		b := binary.BigEndian.AppendUint32(nil, v)
		return append(control(6, len(b)), b...)
	case uint64:
		b := binary.BigEndian.AppendUint64(nil, v)
		return append(control(9, len(b)), b...)
	case []string:
		b := control(11, len(v))
		for _, text := range v {
			b = append(b, encode(text)...)
		}
		return b
	case Record:
		b := control(7, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = append(append(b, encode(key)...), encode(v[key])...)
		}
		return b
	}
	panic(fmt.Sprintf("networktest: no value of a file: %T", value))
}

// control returns the octets that say of which type and how long a value is.
func control(kind, size int) []byte {
	var length, more byte
	switch {
	case size < 29:
		length = byte(size)
	case size < 29+256:
		length, more = 29, byte(size-29)
	default:
		panic("networktest: the value is too long")
	}
	var b []byte
	if kind <= 7 {
		b = append(b, byte(kind)<<5|length)
	} else {
		b = append(b, length, byte(kind-7))
	}
	if length == 29 {
		b = append(b, more)
	}
	return b
}
