package proxy

import (
	"strconv"
	"strings"

	"postern/proxy/backend"
	"postern/proxy/fields"
)

// limitsKeyword announces what would otherwise be found out by trying
// (RFC 9422).
func (set *Settings) limitsKeyword(caps backend.Capabilities) string {
	var b strings.Builder
	n := set.Limits.Recipients
	if theirs := caps.Limits.RcptMax; theirs > 0 {
		n = min(n, theirs)
	}
	b.WriteString(" RCPTMAX=" + strconv.Itoa(n))
	domains := caps.Limits.RcptDomainMax
	if set.Chain.OneDomain() && !set.Observe {
		domains = 1
	}
	if domains > 0 {
		b.WriteString(" RCPTDOMAINMAX=" + strconv.Itoa(domains))
	}
	// NOT: the backend's MAILMAX. Its connections are ours, and more than one may
	// serve a session.
	return "LIMITS" + b.String()
}

// sizeLimit is the largest message that we and the backend take.
func (set *Settings) sizeLimit(caps backend.Capabilities) int64 {
	limit := int64(set.Limits.MessageSize)
	if caps.HasSize && caps.Size > 0 {
		limit = min(limit, max(caps.Size-set.addedSize(), 1))
	}
	return limit
}

// addedSize is how many octets the fields on top of a message may come to: the
// SIZE that is announced leaves them room below the backend's, and the one that
// the backend is told of a message counts them. It is a bound, or the backend
// would refuse for good what we have announced to take.
func (set *Settings) addedSize() int64 {
	tags := set.Chain.TagsSize()
	return int64(fields.TraceSize + tags + recipientTags(tags))
}
