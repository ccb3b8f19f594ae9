package memory

import (
	"context"
	"encoding/binary"
	"flag"
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

var measured = flag.String("valkey", "", "host:port of a Valkey or Redis to measure, which is written to; empty: none")

// BenchmarkMessage is what one message asks of each store: what is remembered of the
// sender, and what came of it added up, a thousand messages in one go. Of a store with
// a thousand senders, and of one with a million on demand (-benchtime does the rest).
func BenchmarkMessage(b *testing.B) {
	places := map[string]func(b *testing.B) Store{
		"process": func(*testing.B) Store { return NewProcess(time.Now) },
		"file": func(b *testing.B) Store {
			s, err := OpenFile(b.TempDir(), time.Now, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			return s
		},
	}
	if *measured != "" {
		places["server"] = func(*testing.B) Store {
			return NewFleet(Fleet{Servers: []string{*measured}, Prefix: "bench:", Timeout: 10 * time.Second, Now: time.Now})
		}
	}
	keys := func(i int) Keys {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], 10<<24|uint32(i))
		k := Keys{Client: ClientKey(netip.AddrFrom4(ip)), Domain: keyOf("bench", string(ip[:]))}
		k.Who = k.Domain
		return k
	}
	const senders, batch = 100_000, 1000
	for name, open := range places {
		s := open(b)
		events := make([]Event, batch)
		write := func(b *testing.B, from int) {
			for i := range events {
				events[i] = Event{Keys: keys((from + i) % senders), Delivered: 1, Rate: Rate{Messages: 1, Unknown: 1}}
			}
			if err := s.Add(context.Background(), keep, events); err != nil {
				b.Fatal(err)
			}
		}
		for from := 0; from < senders; from += batch {
			write(b, from)
		}
		b.Run(name+"/recall", func(b *testing.B) {
			m := New(s, Options{Timeout: time.Minute})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := m.Recall(context.Background(), keys(i%senders)); err != nil {
					b.Fatal(err)
				}
			}
			m.stop()
			m.done.Wait()
		})
		b.Run(name+"/add", func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%batch == 0 { // the time of a thousand is spread over them
					write(b, n)
				}
				n++
			}
		})
		if sizes, err := s.Sizes(context.Background()); err == nil && sizes.Entries["past"] > 0 {
			b.Logf("%s: %d senders take %d octets each, with their rates", name, sizes.Entries["past"], sizes.Bytes/sizes.Entries["past"])
		}
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}
}
