package view

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"

	"postern/configs"
	"postern/policy"
	"postern/policy/audit"
)

// ReportFormats are the ways to write the report on senders, by the word that asks for each.
var ReportFormats = map[string]func(io.Writer, *audit.SenderReport) error{
	"text": writeReportText, "csv": writeReportCSV, "json": func(w io.Writer, r *audit.SenderReport) error { return JSON(w, r) }, "html": writeReportHTML,
}

// forwarderNames are a few of the domains that it forwards for.
func forwarderNames(f audit.Forwarder) string {
	const few = 5
	text := strings.Join(f.Domains[:min(few, len(f.Domains))], ", ")
	switch left := len(f.Domains) - few; {
	case left <= 0:
		return text
	case len(f.Domains) >= audit.SetSize:
		return text + " and many others"
	default:
		return text + " and " + Counted(left, "other")
	}
}

// resultsText shows the results in a table: pass/fail/neither.
func resultsText(t audit.Results) string {
	if t == (audit.Results{}) {
		return "-"
	}
	return fmt.Sprintf("%d/%d/%d", t.Pass, t.Fail, t.Other+t.Error+t.None)
}

// period is the time that the report is about.
func period(r *audit.SenderReport) string {
	const form = "2006-01-02 15:04"
	return r.From.Local().Format(form) + " to " + r.To.Local().Format(form+" MST")
}

func writeReportText(w io.Writer, r *audit.SenderReport) error {
	var b strings.Builder
	t := &r.Total
	fmt.Fprintf(&b, "%s\n%s: %d passed, %d tagged, %d held, %d deferred, %d rejected by the policy; %d delivered\n",
		period(r), Counted(t.Messages, "message"), t.Passed, t.Tagged, t.Held, t.Deferred, t.Rejected, t.Delivered)
	if t.Observed > 0 {
		fmt.Fprintf(&b, "The policy only observed: %d of the %d held, deferred and rejected were not refused.\n", t.Observed, t.Refused())
	}
	if text := known(r); text != "" {
		b.WriteString(text + ".\n")
	}
	b.WriteString("The columns of a check count pass/fail/neither; - is not measured.\n")
	tabled := func(title, name string, rows []*audit.SenderRow) {
		fmt.Fprintf(&b, "\n%s\n", title)
		tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		_, _ = fmt.Fprintf(tw, "  %s\tMESSAGES\tSPF\tDKIM\tDMARC\tSUBMITTER\tREFUSED\n", name) // into a Builder, as below
		for _, row := range rows {
			label := row.Name
			if row.Host != "" {
				label += " " + row.Host
			}
			_, _ = fmt.Fprintf(tw, "  %s\t%d\t%s\t%s\t%s\t%s\t%d\n", label, row.Messages,
				resultsText(row.SPF), resultsText(row.DKIM), resultsText(row.DMARC), resultsText(row.Submitter), row.Refused())
		}
		_ = tw.Flush()
	}
	tabled("Senders", "DOMAIN", r.Domains)
	tabled("Sources", "CLIENT", r.Sources)
	if len(r.Systems) > 0 {
		tabled("Networks", "SYSTEM", r.Systems)
	}
	if len(r.Countries) > 0 {
		tabled("Countries", "COUNTRY", r.Countries)
	}
	tabled("Rules, by what they decided for each recipient", "RULE", r.Rules)
	tabled("Recipients", "MAILBOX", r.Recipients)
	if len(r.Forwarders) > 0 {
		b.WriteString("\nForwarders: they fail SPF for domains that have nothing in common, and whose signatures pass\n")
		for i := range r.Forwarders {
			f := &r.Forwarders[i]
			fmt.Fprintf(&b, "  %s: %d of %d failures of SPF bore a good signature, for %s\n", strings.TrimSpace(f.Source+" "+f.Host), f.Signed, f.Failed, forwarderNames(*f))
		}
		b.WriteString("\nTo excuse them, look at each, and put this into the configuration. It excuses SPF alone: in the list\ntrusted_forwarders, the addresses of a large provider would let each of its customers send in the name of\nany domain, p=reject or not.\n\noverrides:\n")
		for _, f := range r.Forwarders {
			b.WriteString(f.Override)
		}
	}
	if len(r.Broken) > 0 {
		b.WriteString("\nBroken SPF records\n")
		tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		for _, x := range r.Broken {
			_, _ = fmt.Fprintf(tw, "  %s\t%s\t%s\n", x.Domain, Counted(int(x.Messages), "message"), x.Reason)
		}
		_ = tw.Flush()
	}
	b.WriteString(readTrouble(r.Read))
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}

// writeReportCSV writes one table; what a row is about stands in its first column.
func writeReportCSV(w io.Writer, r *audit.SenderReport) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true // RFC 4180 §2
	head := []string{"kind", "name", "host", "messages", "bytes", "passed", "tagged", "held", "deferred", "rejected", "delivered", "observed"}
	for _, check := range []string{"spf", "dkim", "dmarc", "submitter", "pra"} {
		for _, result := range []string{"pass", "fail", "other", "error", "none"} {
			head = append(head, check+"_"+result)
		}
	}
	rows := [][]string{append(head, "reason")}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	add := func(kind, name, host, reason string, t *audit.Traffic) {
		row := []string{kind, name, host}
		for _, n := range []int64{t.Messages, t.Bytes, t.Passed, t.Tagged, t.Held, t.Deferred, t.Rejected, t.Delivered, t.Observed} {
			row = append(row, number(n))
		}
		for _, x := range []audit.Results{t.SPF, t.DKIM, t.DMARC, t.Submitter, t.PRA} {
			row = append(row, number(x.Pass), number(x.Fail), number(x.Other), number(x.Error), number(x.None))
		}
		row = append(row, reason)
		for i := range row {
			row[i] = strings.ReplaceAll(configs.Printable(row[i]), "\n", `\n`)
			// What begins so is a formula to a spreadsheet, and names are the senders'.
			if row[i] != "" && strings.IndexByte("=+-@", row[i][0]) >= 0 {
				row[i] = "'" + row[i]
			}
		}
		rows = append(rows, row)
	}
	add("total", "", "", "", &r.Total)
	for _, level := range policy.Levels {
		if n := r.Identity[level]; n > 0 {
			add("identity", level, "", "", &audit.Traffic{Messages: n})
		}
	}
	for _, d := range r.Domains {
		add("domain", d.Name, "", "", &d.Traffic)
	}
	for _, s := range r.Sources {
		add("source", s.Name, s.Host, "", &s.Traffic)
	}
	for _, s := range r.Systems {
		add("system", s.Name, s.Host, "", &s.Traffic)
	}
	for _, c := range r.Countries {
		add("country", c.Name, "", "", &c.Traffic)
	}
	for _, x := range r.Rules {
		add("rule", x.Name, "", "", &x.Traffic)
	}
	for _, x := range r.Recipients {
		add("recipient", x.Name, "", "", &x.Traffic)
	}
	for _, f := range r.Forwarders {
		t := audit.Traffic{Messages: f.Failed}
		t.SPF.Fail, t.DKIM.Pass = f.Failed, f.Signed
		add("forwarder", f.Source, f.Host, strings.Join(f.Domains, " "), &t)
	}
	for _, x := range r.Broken {
		t := audit.Traffic{Messages: x.Messages}
		t.SPF.Error = x.Messages
		add("broken", x.Domain, "", x.Reason, &t)
	}
	if err := c.WriteAll(rows); err != nil {
		return err
	}
	return c.Error()
}

//go:embed report.html
var reportPage string

// reportTemplate is made for the first report.
var reportTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"period": period, "known": known, "names": forwarderNames, "results": resultsText,
	}).Parse(reportPage))
})

func writeReportHTML(w io.Writer, r *audit.SenderReport) error {
	var b strings.Builder
	if err := reportTemplate().Execute(&b, r); err != nil {
		return err
	}
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}
