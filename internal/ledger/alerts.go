package ledger

import "time"

// Alerts says of one node and one window how many alerts it has raised and closed, and how many of these have arrived.
//
// Alerts have no numbers. But a gateway counts those that it has raised and closed since it has a book of alerts, and the
// counters are points of its own (class gateway: alerts_raised, alerts_closed), in frames like every other: where no frame is
// missing, they are right. What they grew by in the window is how many there must be; an alert is there when any message of
// it has arrived that says when it was raised, and closed when one does that says so. A book that began anew within the window,
// and an alert of which the last change alone is missing, are not seen.
type Alerts struct {
	// What the counters grew by between the last sample before the window, or the first in it, and the last in it.
	Raised, Closed int64
	// The alerts whose times lie there, give or take AlertSlack, and those whose times nobody knows.
	RaisedHere, ClosedHere int64
}

// AlertSlack is how far the time of an alert and that of the counter's sample may be apart: the gateway looks at its counters once a
// second, and its clock may be put right in between.
const AlertSlack = time.Minute

// Missing returns how many alerts, or how many that were closed, are not there: at least so many must come.
func (a *Alerts) Missing() uint64 {
	return uint64(max(0, a.Raised-a.RaisedHere, a.Closed-a.ClosedHere))
}
