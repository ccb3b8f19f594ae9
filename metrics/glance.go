package metrics

// Glance is some of the counts as they stand, for a page that shows a person how they go.
type Glance struct {
	Sessions       float64            // open now
	DNS            map[string]float64 // look-ups by outcome, of all types
	Journal        map[string]float64 // records by what became of them
	OutcomeUnknown float64
	Held           map[string]float64 // mail that was told to come again, by rule, as counted within the last minute
	Reply          Cumulated          // time from the end of a message to the reply, in seconds
}

// Cumulated is a histogram: how many observations were at most Bounds[i].
type Cumulated struct {
	Bounds []float64
	Counts []uint64
}

// Glance reads them. It costs little: neither Go's nor the process's own numbers are
// gathered for it.
func (m *Metrics) Glance() Glance {
	g := Glance{DNS: map[string]float64{}, Journal: map[string]float64{}, Held: map[string]float64{}}
	if m == nil {
		return g
	}
	families, err := m.glanced.Gather()
	if err != nil {
		return g // it may have what there is; a mistake of the program's, which the scraper is told
	}
	for _, family := range families {
		for _, one := range family.GetMetric() {
			by := map[string]string{}
			for _, label := range one.GetLabel() {
				by[label.GetName()] = label.GetValue()
			}
			switch family.GetName() {
			case "postern_sessions_active":
				g.Sessions = one.GetGauge().GetValue()
			case "postern_dns_queries_total":
				g.DNS[by["outcome"]] += one.GetCounter().GetValue()
			case "postern_journal_records_total":
				g.Journal[by["result"]] += one.GetCounter().GetValue()
			case "postern_outcome_unknown_total":
				g.OutcomeUnknown = one.GetCounter().GetValue()
			case "postern_held":
				g.Held[by["rule"]] = one.GetGauge().GetValue()
			case "postern_time_to_final_reply_seconds":
				for _, b := range one.GetHistogram().GetBucket() {
					g.Reply.Bounds = append(g.Reply.Bounds, b.GetUpperBound())
					g.Reply.Counts = append(g.Reply.Counts, b.GetCumulativeCount())
				}
			}
		}
	}
	return g
}
