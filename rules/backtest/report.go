package backtest

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// Report is what a replay found.
type Report struct {
	Since, Until time.Time // what was compared: not before the journal begins
	Short        bool      // it begins after the moment asked for
	Begun, Ended time.Time // what was replayed
	Steps        uint64
	Samples      uint64
	Starts       int // of the gateway, within
	Guessed      int // steps whose moments nobody wrote down
	// Skipped is how many samples were left out because their points are no longer at the site. Who reads them sets it.
	Skipped uint64

	Same   int     // transitions that are in both, at the same moment
	Rows   []Row   // those that are not, in order of time
	Groups []Group // all of them by alert

	// NotCompared is how many differences were left out because they lie in a gap, or in what an alert's record has
	// forgotten. NotPlaced is how many transitions have no time on the wall clock.
	NotCompared, NotPlaced int
	GoneSubjects           []string // with recorded alerts, and no longer at the site
	Gaps                   []Gap
	Notes                  []Note // why the replay may be inexact
}

// Differs reports whether something appears, vanishes or moves.
func (r *Report) Differs() bool { return len(r.Rows) > 0 }

// RowKind is what has become of a transition.
type RowKind string

// The kinds of rows.
const (
	Appears  RowKind = "appears"  // only in the replay
	Vanishes RowKind = "vanishes" // only recorded
	Moved    RowKind = "moved"    // in both, at another moment
	Regraded RowKind = "severity" // in both, with another severity
)

// Row is a difference. Times and severities are zero on the side that lacks the transition; a recorded severity also
// where nobody wrote it down.
type Row struct {
	Kind RowKind
	telemetry.Identity
	Op                            telemetry.TransitionOp
	Recorded, Now                 time.Time
	RecordedSeverity, NowSeverity telemetry.Severity
	Title                         telemetry.Text
}

// at is the time by which a row is sorted.
func (r *Row) at() time.Time {
	if r.Recorded.IsZero() {
		return r.Now
	}
	return r.Recorded
}

// Group counts the transitions of one alert.
type Group struct {
	Alert string `json:"alert"`
	// Raised and WouldRaise are the raises, recorded and in the replay; the others are transitions of every sort.
	Raised     int `json:"raised"`
	WouldRaise int `json:"would_raise"`
	Same       int `json:"same"`
	Appear     int `json:"appear"`
	Vanish     int `json:"vanish"`
	Moved      int `json:"moved"`
	Regraded   int `json:"severity"`
}

func (g *Group) count(op telemetry.TransitionOp, recorded, said bool) *Group {
	if op == telemetry.Raise && recorded {
		g.Raised++
	}
	if op == telemetry.Raise && said {
		g.WouldRaise++
	}
	return g
}

// Killed is the reason of a gap between the last commit of a process and its end.
const Killed = "killed"

// Gap is a stretch that cannot be replayed.
type Gap struct {
	Stretch
	Reason          string
	Frames, Samples uint64
}

// lacks reports whether what was said at t, to the millisecond, may have been said in the gap.
func (g *Gap) lacks(t time.Time) bool { return !t.Before(stamp(g.From)) && t.Before(stamp(g.To)) }

// NoteKind is a reason for which a replay may be inexact.
type NoteKind string

// The kinds of notes.
const (
	MidRun       NoteKind = "mid_run"       // begins in the middle of a run of the gateway: windows and timers fill on the way
	OtherRules   NoteKind = "other_rules"   // other rules, or another version of the program, ran then
	NoStart      NoteKind = "no_start"      // a start of the gateway is not in the journal
	NoSnapshot   NoteKind = "no_snapshot"   // a snapshot that was taken over is from before the replay
	GuessedSteps NoteKind = "guessed_steps" // the moments of steps were not written down
	TooMany      NoteKind = "too_many"      // too many transitions: compared up to there
)

// Note is a reason for which the replay may be inexact: when first, and how often.
type Note struct {
	Kind  NoteKind
	At    time.Time
	Count int
}

func (r *Report) note(kind NoteKind, at time.Time, n int) {
	for i := range r.Notes {
		if r.Notes[i].Kind == kind {
			r.Notes[i].Count += n
			return
		}
	}
	r.Notes = append(r.Notes, Note{Kind: kind, At: at, Count: n})
}

func (r *Report) group(alert string) *Group {
	for i := range r.Groups {
		if r.Groups[i].Alert == alert {
			return &r.Groups[i]
		}
	}
	r.Groups = append(r.Groups, Group{Alert: alert})
	return &r.Groups[len(r.Groups)-1]
}

func (r *Report) finish() {
	slices.SortStableFunc(r.Rows, func(x, y Row) int { return x.at().Compare(y.at()) })
	slices.SortFunc(r.Groups, func(x, y Group) int { return cmp.Compare(x.Alert, y.Alert) })
}

// Print writes the report for people, times in loc, at most rows differences.
func (r *Report) Print(w io.Writer, loc *time.Location, rows int) {
	at := func(t time.Time) string { return t.In(loc).Format("2006-01-02 15:04:05.000") }
	short := func(t time.Time) string { return t.In(loc).Format("2006-01-02 15:04:05") }
	fmt.Fprintf(w, "compared %s to %s, replayed from %s: %d samples in %d steps", short(r.Since), short(r.Until), short(r.Begun), r.Samples, r.Steps)
	if r.Starts > 0 {
		fmt.Fprintf(w, ", starts of the gateway: %d", r.Starts)
	}
	fmt.Fprintln(w)
	if r.Short {
		fmt.Fprintf(w, "the journal has nothing from before %s\n", short(r.Begun))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n.text(short(n.At)))
	}
	for i, g := range r.Gaps {
		if i == 10 {
			fmt.Fprintf(w, "missing: %d more stretches\n", len(r.Gaps)-i)
			break
		}
		fmt.Fprintf(w, "missing: %s to %s (%s", at(g.From), at(g.To), g.Reason)
		if g.Frames > 0 {
			fmt.Fprintf(w, ", %d frames", g.Frames)
		}
		if g.Samples > 0 {
			fmt.Fprintf(w, ", %d samples", g.Samples)
		}
		fmt.Fprintln(w, ")")
	}
	if r.Skipped > 0 {
		fmt.Fprintf(w, "left out: %d samples of points that are no longer at the site\n", r.Skipped)
	}
	if r.NotCompared > 0 {
		fmt.Fprintf(w, "not compared: %d transitions for which the journal or the alerts' record lacks something\n", r.NotCompared)
	}
	if r.NotPlaced > 0 {
		fmt.Fprintf(w, "not compared: %d transitions from before the clock was set\n", r.NotPlaced)
	}
	if n := len(r.GoneSubjects); n > 0 {
		fmt.Fprintf(w, "not compared: alerts of %d subjects that are no longer at the site (%s ...)\n", n, r.GoneSubjects[0])
	}
	if !r.Differs() {
		fmt.Fprintf(w, "no difference: %d transitions are the same, to the millisecond\n", r.Same)
		return
	}
	r.printGroups(w)
	for i := range r.Rows {
		if i == rows {
			fmt.Fprintf(w, "... and %d more (--rows, --json)\n", len(r.Rows)-i)
			break
		}
		row := &r.Rows[i]
		fmt.Fprintf(w, "%-8s  %s  %-7s  %s %s  %s\n", row.Kind, at(row.at()), row.Op, row.Alert, row.Subject, row.what())
	}
}

// printGroups writes the alerts that differ.
func (r *Report) printGroups(w io.Writer) {
	wide, others := len("alert"), 0
	for _, g := range r.Groups {
		wide = max(wide, len(g.Alert))
	}
	fmt.Fprintf(w, "%-*s  %8s  %8s  %8s  %8s  %8s  %8s  %8s\n", wide, "alert", "raised", "now", "same", "appear", "vanish", "moved", "severity")
	for _, g := range r.Groups {
		if g.Appear+g.Vanish+g.Moved+g.Regraded == 0 {
			others++
			continue
		}
		fmt.Fprintf(w, "%-*s  %8d  %8d  %8d  %8d  %8d  %8d  %8d\n", wide, g.Alert, g.Raised, g.WouldRaise, g.Same, g.Appear, g.Vanish, g.Moved, g.Regraded)
	}
	fmt.Fprintf(w, "alerts without a difference: %d\n", others)
}

// what says more about a row: by how much it has moved, its severity, its title.
func (r *Row) what() string {
	var s string
	switch r.Kind {
	case Moved:
		sign := "+"
		if r.Now.Before(r.Recorded) {
			sign = "-"
		}
		s = sign + expr.FormatDuration(r.Now.Sub(r.Recorded).Abs()) + "  "
	case Regraded:
		s = r.RecordedSeverity.String() + " -> " + r.NowSeverity.String() + "  "
	}
	return s + r.Title.Zh + " · " + r.Title.En
}

// text says a note for people.
func (n *Note) text(at string) string {
	switch n.Kind {
	case MidRun:
		return "the replay begins in the middle of a run of the gateway (" + at + "): windows and timers fill from there on"
	case OtherRules:
		return "other rules, or another version of this program, ran from " + at + " on: what those recorded is compared"
	case NoStart:
		return fmt.Sprintf("%d starts of the gateway are not in the journal, the first at %s: windows and timers begin anew there", n.Count, at)
	case NoSnapshot:
		return fmt.Sprintf("%d starts went on with timers from before the replay, the first at %s", n.Count, at)
	case GuessedSteps:
		return fmt.Sprintf("%d steps are from before the journal kept their moments: transitions may be off by how late samples came", n.Count)
	case TooMany:
		return fmt.Sprintf("more than %d transitions: compared up to %s only", maxHeard, at)
	}
	return string(n.Kind)
}
