package policy

import "slices"

// TagNames returns the names of the header fields that tag rules write, each
// once. Incoming fields of these names were written by somebody else and are
// removed from every message, whichever rules match it.
func (c *Chain) TagNames() []string {
	var names []string
	for _, r := range c.rules {
		if name := r.header.name; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
