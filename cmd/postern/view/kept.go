package view

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"postern/configs"
	"postern/proxy/amtp/spool"
)

// Kept prints the mail that waits to be fetched.
func Kept(w io.Writer, list []spool.Kept, asJSON bool) error {
	if asJSON {
		if list == nil {
			list = []spool.Kept{}
		}
		return JSON(w, list)
	}
	if len(list) == 0 {
		_, err := io.WriteString(w, "no mail waits\n")
		return err
	}
	var b strings.Builder
	tabs := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(tabs, "MESSAGE\tARRIVED\tFROM\tRCPT\tSIZE\tSTAGE\tATTEMPTS\tNEXT\tLAST") // into a Builder
	for _, k := range list {
		last := k.Last
		if k.Twice {
			last = "it may arrive twice; " + last
		}
		_, _ = fmt.Fprintf(tabs, "%s\t%s\t%s\t%s\t%d\t%s\t%d\t%s\t%s\n", k.Message, shortTime(k.Arrived), k.From, k.To, k.Size, k.Stage, k.Attempts, shortTime(k.Next), last)
	}
	_ = tabs.Flush()
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}
