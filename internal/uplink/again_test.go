package uplink_test

import (
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// A transition is told with its own time, and told again as the same message: by another process, of an alert that
// only the broker has lost, whatever the transition was.
func TestAlertIsToldWithTheTimeOfItsTransition(t *testing.T) {
	h := startHostile(t, ackAll)
	h.forget(true)
	events := func() (all []wire.AlertEvent) {
		for _, m := range h.on("/alert/01A") {
			e, err := wire.ParseAlert(m.payload)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		return all
	}
	for revision, what := range []string{"raised", "unknown", "known", "changed", "returned", "raised_again", "acknowledged"} {
		b := newBook()
		b.say("01A", alert.ActiveUnacknowledged, what, int64(revision))
		before := len(events())
		u := start(t, uplink.Config{Brokers: []string{h.url}}, newJournal(1), b)
		eventually(t, what+" told", func() bool { return b.toldCount() == 1 })
		u.stop()
		// Another process: nothing is left to be told, but the broker has forgotten what it retained.
		u = start(t, uplink.Config{Brokers: []string{h.url}}, newJournal(1), b)
		eventually(t, what+" told again", func() bool { return len(events()) >= before+2 })
		u.stop()
		for _, e := range events()[before:] {
			if want := time.Date(2026, 11, 21, 8, 0, revision, 0, time.UTC); e.What() != what || e.Time != want {
				t.Errorf("%s at %v told as %s at %v (%s)", what, want, e.What(), e.Time, strings.TrimSpace(e.ID))
			}
		}
	}
}
