package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"linli/rules/expr"
)

// Horizon returns about how long ago what happened can still decide something: the longest window over time with the times
// that the rule waits beside, and the same of the derived points that it may read.
func (e *Engine) Horizon() time.Duration {
	var alerts, records time.Duration
	for _, p := range e.programs {
		longest := longestWindow(p.cond)
		for _, s := range p.sev {
			longest = max(longest, longestWindow(s.cond))
		}
		if p.Record != "" {
			records = max(records, longest)
		} else {
			alerts = max(alerts, longest+max(p.wait, p.keep, p.sevFor))
		}
	}
	return alerts + records
}

func longestWindow(n *expr.Node) time.Duration {
	longest := n.Window
	for _, a := range n.Args {
		longest = max(longest, longestWindow(a))
	}
	return longest
}

// Wait returns the time for which the condition of an alert must be true before it is raised (`for`), 0 for an alert
// that is not there.
func (e *Engine) Wait(alert string) time.Duration {
	for _, p := range e.programs {
		if p.Alert == alert {
			return p.wait
		}
	}
	return 0
}

// Fingerprint is the same text for rules that decide the same: every rule with its condition, its times and the schedules
// that it asks for, the site's parameters put in. Titles do not count, nor do the devices and what follows from alerts.
func (e *Engine) Fingerprint() string {
	h := sha256.New()
	for _, p := range e.programs {
		fmt.Fprintf(h, "%s\x00%s %s %q\x00%s\x00%v %v %v %v %v\n", p.Name(), p.forEach.kind, p.forEach.class, p.forEach.zoneKinds, p.text,
			p.wait, p.keep, p.sevFor, p.Severity, p.coverage)
		for _, s := range p.sev {
			fmt.Fprintf(h, "%v\n", s.severity)
			p.hashSchedules(h, s.cond)
		}
		p.hashSchedules(h, p.cond)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// hashSchedules writes the schedules that a condition asks for.
func (p *program) hashSchedules(h io.Writer, cond *expr.Node) {
	cond.Walk(func(n *expr.Node) {
		if n.Op != expr.OpCall || n.Text != "schedule" || len(n.Args) != 1 {
			return
		}
		for _, t := range p.schedules[n.Args[0].Text].periods {
			fmt.Fprintf(h, "%d %d %d %v %d %d", t.days, t.from, t.to, t.once, t.begin.Unix(), t.end.Unix())
			for _, z := range t.zones {
				fmt.Fprintf(h, " %q", z.Value)
			}
			fmt.Fprintln(h)
		}
	})
}
