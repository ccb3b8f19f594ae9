package checks

import (
	"context"
	"slices"
	"testing"

	"postern/checks/dnstest"
	"postern/policy"
)

// expecting is a resolver that notes what it is asked ahead.
type expecting struct {
	*dnstest.Zone
	ahead []string
}

func (e *expecting) AheadTXT(_ context.Context, name string) { e.ahead = append(e.ahead, "TXT "+name) }

func (e *expecting) AheadAddr(_ context.Context, addr string) bool {
	e.ahead = append(e.ahead, "PTR "+addr)
	return true
}

// What a check will want is asked ahead: of a client and of an author whom somebody wants to know,
// and of no user who has logged in.
func TestWhatIsAskedAhead(t *testing.T) {
	const ptr, record = "PTR 192.0.2.1", "TXT _dmarc.d.example"
	for _, c := range []struct {
		name, user, from string
		wanted           []string
		ahead            []string
	}{
		{name: "all", from: "a@d.example", wanted: []string{"iprev", "dmarc"}, ahead: []string{ptr, record}},
		{name: "no reverse-path", wanted: []string{"iprev", "dmarc"}, ahead: []string{ptr}},
		{name: "no iprev", from: "a@d.example", wanted: []string{"dmarc"}, ahead: []string{record}},
		{name: "no DMARC", from: "a@d.example", wanted: []string{"iprev", "spf"}, ahead: []string{ptr}},
		{name: "a user", user: "ann", from: "a@d.example", wanted: []string{"iprev", "dmarc", "mx"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &expecting{Zone: parseZone(t, "d.example. MX 10 mx.d.example.")}
			set := NewSet(Deps{Resolver: r}, func(name string) bool { return slices.Contains(c.wanted, name) })
			f := transaction("192.0.2.1", "client.example", c.from)
			f.Client.User = c.user
			set.Expect(t.Context(), f.Client)
			set.Run(t.Context(), policy.Mail, f, Message{}, nil)
			if !slices.Equal(r.ahead, c.ahead) {
				t.Errorf("%q, want %q", r.ahead, c.ahead)
			}
		})
	}
}
