package alert

import (
	"errors"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// Every state against everything that can happen. A cell is the state after and the lines of history; "-" is "stays
// as it is, no history"; "!" is an error.
func TestDecideEveryStateAndOperation(t *testing.T) {
	t.Parallel()
	columns := []string{"none", "au", "au?", "aa", "aa?", "ru", "closed", "aus", "auq", "aas"}
	table := map[op][]string{
		//              none         au                 au?                  aa                 aa?                ru                          closed
		opRaise:       {"au raised", "-", "au known", "-", "aa known", "au raised_again", "-", "-", "-", "-"},
		opClear:       {"-", "ru returned", "ru returned", "closed closed", "closed closed", "-", "-", "ru returned", "closed closed", "closed closed"},
		opUnknown:     {"-", "au? unknown", "-", "aa? unknown", "-", "-", "-", "au?s unknown", "au?q unknown", "aa?s unknown"},
		opKnown:       {"au raised", "-", "au known", "-", "aa known", "-", "-", "-", "-", "-"},
		opChanged:     {"au raised", "au changed", "au? changed", "au changed", "au? changed", "-", "-", "aus changed", "auq changed", "aus changed"}, // to worse
		opAcknowledge: {"! not found", "aa acknowledged", "aa? acknowledged", "-", "-", "closed acknowledged closed", "-", "aas acknowledged", "aaq acknowledged", "-"},
		opClose:       {"! not found", "! active", "closed closed", "! active", "closed closed", "closed closed", "-", "! active", "! active", "! active"},
		opRemove:      {"-", "closed closed", "closed closed", "closed closed", "closed closed", "closed closed", "-", "closed closed", "closed closed", "closed closed"},
		opClockSet:    {"-", "au corrected", "au? corrected", "aa corrected", "aa? corrected", "ru corrected", "-", "aus corrected", "auq corrected", "aas corrected"},
		opEscalate:    {"-", "au escalated", "au? escalated", "-", "-", "ru escalated", "-", "-", "-", "-"},
		opSuppress:    {"-", "aus suppressed", "au?s suppressed", "aas suppressed", "aa?s suppressed", "-", "-", "-", "-", "-"},
		opUnsuppress:  {"-", "-", "-", "-", "-", "-", "-", "au unsuppressed", "au unsuppressed", "aa unsuppressed"},
	}
	if len(table) != int(opUnsuppress) {
		t.Fatalf("%d operations in the table, want %d", len(table), opUnsuppress)
	}
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := t0.Add(time.Hour)
	for o, cells := range table {
		for i, want := range cells {
			before := at(columns[i], t0)
			c := command{op: o, at: now, by: "Wang", note: "n", said: said(telemetry.Critical), holds: true, tier: Street, inhibitor: other}
			after, entries, err := decide(before, c)
			got := name(after)
			for n, e := range entries {
				got += " " + e.What
				if e.Revision != before.Revision+int64(n)+1 || e.Time != now || e.By != "Wang" {
					t.Errorf("op %d on %s: line %d is %+v", o, columns[i], n, e)
				}
			}
			if len(entries) == 0 {
				got = "-"
				if after != before {
					t.Errorf("op %d on %s: changed without history:\n%+v\n%+v", o, columns[i], before, after)
				}
			}
			switch {
			case errors.Is(err, ErrNotFound):
				got = "! not found"
			case errors.Is(err, ErrStillActive):
				got = "! active"
			}
			if got != want {
				t.Errorf("op %d on %s: got %q, want %q", o, columns[i], got, want)
			}
			if after.Revision != before.Revision+int64(len(entries)) {
				t.Errorf("op %d on %s: revision %d after %d", o, columns[i], after.Revision, before.Revision)
			}
			invariants(t, &after)
		}
	}
}

var other = telemetry.Identity{Alert: "B", Subject: "s"}

// at returns an alert in the named state; "?" is unknown, "s" suppressed, "q" so from the beginning.
func at(state string, t0 time.Time) Alert {
	if state == "none" {
		return Alert{}
	}
	a := said(telemetry.Warning)
	a.ID, a.State, a.RaisedAt, a.Revision, a.Durable = "x", ActiveUnacknowledged, t0, 7, true
	if rest := strings.TrimRight(state, "sq"); state != "closed" && rest != state {
		a.Suppressed, a.SuppressedBy, a.quiet = true, other, strings.HasSuffix(state, "q")
		state = rest
	}
	a.Unknown = strings.HasSuffix(state, "?")
	switch strings.TrimSuffix(state, "?") {
	case "aa":
		a.State, a.AcknowledgedAt, a.AcknowledgedBy = ActiveAcknowledged, t0, "Li"
	case "ru":
		a.State, a.ReturnedAt = ReturnedUnacknowledged, t0
	case "closed":
		a.State, a.ReturnedAt, a.AcknowledgedAt, a.AcknowledgedBy, a.ClosedAt, a.CloseReason = Closed, t0, t0, "Li", t0, ReasonReturned
	}
	return a
}

func said(s telemetry.Severity) Alert {
	return Alert{Identity: telemetry.Identity{Alert: "A", Subject: "s"}, Severity: s}
}

func name(a Alert) string {
	n := map[State]string{0: "none", ActiveUnacknowledged: "au", ActiveAcknowledged: "aa", ReturnedUnacknowledged: "ru", Closed: "closed"}[a.State]
	if a.Unknown {
		n += "?"
	}
	switch {
	case a.quiet:
		n += "q"
	case a.Suppressed:
		n += "s"
	}
	return n
}

// invariants of every alert that decide returns.
func invariants(t *testing.T, a *Alert) {
	t.Helper()
	if a.State == 0 {
		return
	}
	for what, bad := range map[string]bool{
		"acknowledged without a time or a name": a.State == ActiveAcknowledged && (a.AcknowledgedAt.IsZero() || a.AcknowledgedBy == ""),
		"unacknowledged with a time or a name":  (a.State == ActiveUnacknowledged || a.State == ReturnedUnacknowledged) && (!a.AcknowledgedAt.IsZero() || a.AcknowledgedBy != ""),
		"returned without a time":               a.State == ReturnedUnacknowledged && a.ReturnedAt.IsZero(),
		"active with a time of return":          a.State.Active() && !a.ReturnedAt.IsZero(),
		"closed without time or reason":         a.State == Closed && (a.ClosedAt.IsZero() || a.CloseReason == ""),
		"open with a time or reason of closing": a.State != Closed && (!a.ClosedAt.IsZero() || a.CloseReason != ""),
		"not active and unknown":                !a.State.Active() && a.Unknown,
		"never raised":                          a.RaisedAt.IsZero(),
		"suppressed and not active":             a.Suppressed && !a.State.Active(),
		"suppressed by nothing, or the reverse": a.Suppressed == (a.SuppressedBy == telemetry.Identity{}),
		"quiet and not suppressed":              a.quiet && !a.Suppressed,
		"milder than escalation asked for":      a.Severity < a.least,
	} {
		if bad {
			t.Errorf("%s: %+v", what, a)
		}
	}
}

func TestDecideDetails(t *testing.T) {
	t.Parallel()
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := t0.Add(time.Hour)

	milder := command{op: opChanged, at: now, by: BySensor, said: said(telemetry.Notice)}
	if a, _, _ := decide(at("aa", t0), milder); a.State != ActiveAcknowledged || a.Severity != telemetry.Notice || a.AcknowledgedBy != "Li" {
		t.Errorf("a milder severity took the acknowledgement back: %+v", a)
	}
	same := command{op: opChanged, at: now, by: BySensor, said: said(telemetry.Warning)}
	if _, entries, _ := decide(at("au", t0), same); len(entries) != 0 {
		t.Errorf("changed to the same: %+v", entries)
	}
	same.said.Detail = telemetry.Text{Zh: "82 °C", En: "82 °C"}
	a, entries, _ := decide(at("aa", t0), same)
	if a.State != ActiveAcknowledged || a.Detail != same.said.Detail || entries[0].Detail != same.said.Detail {
		t.Errorf("another detail: %+v, %+v", a, entries)
	}

	again := command{op: opRaise, at: now, by: BySensor, said: said(telemetry.Critical)}
	if a, _, _ := decide(at("ru", t0), again); a.RaisedAt != t0 || !a.ReturnedAt.IsZero() || a.Severity != telemetry.Critical || a.ID != "x" {
		t.Errorf("raised again: %+v", a)
	}

	reasons := map[string]command{
		ReasonReturned: {op: opClear, at: now, by: BySensor},
		ReasonByHand:   {op: opClose, at: now, by: "Wang"},
		ReasonRemoved:  {op: opRemove, at: now, by: BySite},
	}
	for want, c := range reasons {
		if a, _, _ := decide(at("aa?", t0), c); a.CloseReason != want || a.ClosedAt != now || a.AcknowledgedBy != "Li" {
			t.Errorf("closed: got %+v, want reason %s", a, want)
		}
	}
	if a, _, _ := decide(at("ru", t0), reasons[ReasonByHand]); a.AcknowledgedBy != "Wang" || a.ReturnedAt != t0 {
		t.Errorf("closed by hand without acknowledgement: %+v", a)
	}
	if a, _, _ := decide(at("au", t0), reasons[ReasonRemoved]); a.AcknowledgedBy != "" {
		t.Errorf("a removal acknowledged: %+v", a)
	}
}

// A severity that escalation asked for stays until the alert is closed, and takes back no acknowledgement.
func TestDecideEscalationAndSeverity(t *testing.T) {
	t.Parallel()
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := t0.Add(time.Hour)
	step := func(a Alert, o op, change func(*command)) (Alert, []Entry) {
		c := command{op: o, at: now, by: BySensor, said: said(telemetry.Warning)}
		change(&c)
		a, entries, err := decide(a, c)
		if err != nil {
			t.Fatal(err)
		}
		invariants(t, &a)
		return a, entries
	}
	to := func(tier Tier, s, least telemetry.Severity) func(*command) {
		return func(c *command) { c.tier, c.severity, c.least = tier, s, least }
	}
	says := func(s telemetry.Severity) func(*command) {
		return func(c *command) { c.said = said(s); c.said.Detail.Zh = s.String() }
	}
	a := at("au", t0)
	a, entries := step(a, opEscalate, to(Street, telemetry.Critical, 0))
	if a.Tier != Street || a.Severity != telemetry.Critical || len(entries) != 1 || entries[0].Detail.Zh != "无人确认，已升级至街道" {
		t.Fatalf("escalated: %+v, %+v", a, entries)
	}
	if _, entries := step(a, opEscalate, to(Community, telemetry.Warning, 0)); len(entries) != 0 {
		t.Errorf("went down: %+v", entries)
	}
	a, _ = step(a, opChanged, says(telemetry.Notice))
	if a.Severity != telemetry.Critical || a.said != telemetry.Notice || a.Detail.Zh != "notice" {
		t.Errorf("a milder condition undercuts the escalation: %+v", a)
	}
	a, _ = step(a, opAcknowledge, func(c *command) { c.by = "Wang" })
	a, _ = step(a, opChanged, says(telemetry.Critical))
	if a.State != ActiveAcknowledged || a.Severity != telemetry.Critical {
		t.Errorf("as severe as it was acknowledged, and asks again: %+v", a)
	}
	a, _ = step(a, opChanged, says(telemetry.Warning))
	if a.Severity != telemetry.Critical {
		t.Errorf("acknowledged, it falls below what the escalation asked for: %+v", a)
	}

	if a, entries := step(at("au", t0), opEscalate, to(Community, telemetry.Warning, 0)); a.Tier != Community || len(entries) != 1 || entries[0].Detail.Zh != "超时无人确认" {
		t.Errorf("to the community: %+v, %+v", a, entries)
	}

	// What a step asks for that is no worse than now holds for later.
	a, _ = step(at("au", t0), opChanged, says(telemetry.Critical))
	a, _ = step(a, opEscalate, to(District, telemetry.Critical, telemetry.Warning))
	a, _ = step(a, opChanged, says(telemetry.Notice))
	if a.Severity != telemetry.Warning || a.Tier != District {
		t.Errorf("got %v, %v", a.Severity, a.Tier)
	}
	a, _ = step(a, opClear, says(telemetry.Notice))
	a, _ = step(a, opRaise, says(telemetry.Notice))
	if a.State != ActiveUnacknowledged || a.Severity != telemetry.Warning || a.Tier != District {
		t.Errorf("raised again: %+v", a)
	}
}

// A suppression is told with the title of what suppresses, once for each of those.
func TestDecideSuppression(t *testing.T) {
	t.Parallel()
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := command{op: opSuppress, at: t0, by: ByGateway, inhibitor: other, because: telemetry.Text{Zh: "总线中断"}}
	a, entries, _ := decide(at("aa", t0), c)
	if !a.Suppressed || a.SuppressedBy != other || a.State != ActiveAcknowledged || len(entries) != 1 ||
		entries[0].Detail != (telemetry.Text{Zh: "被“总线中断”抑制", En: "Suppressed by “总线中断”"}) || entries[0].By != ByGateway {
		t.Fatalf("%+v, %+v", a, entries)
	}
	c.inhibitor.Alert = "C"
	if b, entries, _ := decide(a, c); len(entries) != 1 || b.SuppressedBy.Alert != "C" {
		t.Errorf("by another: %+v, %+v", b, entries)
	}
	quiet, _, _ := decide(at("auq", t0), command{op: opClear, at: t0, by: BySensor})
	if quiet.CloseReason != ReasonSuppressed || quiet.AcknowledgedBy != "" || quiet.ReturnedAt != t0 {
		t.Errorf("nobody was told, and nobody needs to acknowledge: %+v", quiet)
	}
}
