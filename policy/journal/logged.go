package journal

import "log/slog"

// AppendAttrs implements jsonline.Attrs: what the log shows of the record. What is more than a word
// has the JSON that it has in the line of Seal, until Release; null is what that leaves out.
func (r *Record) AppendAttrs(to []slog.Attr) []slog.Attr {
	e := r.sealed
	if e == nil {
		e = new(encoder)
	}
	p := &e.parts
	p[partTook].Value, p[partRecipients].Value, p[partTags].Value, p[partFacts].Value, p[partCandidate].Value = &r.Took, &r.Recipients, &r.Tags, &r.Facts, r.Candidate
	to = append(to,
		slog.String("id", r.ID),
		slog.String("session", r.Session),
		slog.String("client", r.Facts.Client.IP),
		slog.String("helo", r.Facts.Helo.Name),
		slog.String("from", r.Facts.Mail.From),
		slog.String("submitter", r.Facts.Submitter.Address),
		slog.String("stage", r.Stage),
		slog.String("rule", r.Rule),
		slog.String("rule_stage", r.RuleStage),
		slog.String("disposition", string(r.Disposition)),
		slog.Bool("observed", r.Observed),
		slog.String("outcome", string(r.Outcome)),
		slog.String("state", string(r.State)),
		slog.String("reply", r.Reply),
		slog.String("backend", r.Backend),
		slog.String("backend_reply", r.BackendReply),
		slog.String("error", r.Error),
		slog.Int64("bytes", r.Bytes),
		slog.Any("took", &p[partTook]),
		slog.Any("recipients", &p[partRecipients]),
		slog.Any("tags", &p[partTags]),
		slog.Any("facts", &p[partFacts]))
	if r.Candidate != nil {
		to = append(to, slog.Any("candidate", &p[partCandidate]))
	}
	return to
}

// LogValue implements slog.LogValuer, for the handlers that do not know jsonline.Attrs.
func (r *Record) LogValue() slog.Value { return slog.GroupValue(r.AppendAttrs(nil)...) }
