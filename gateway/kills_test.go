package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// commitSlack is how long before a kill what was served may be lost: a commit interval and a second.
const commitSlack = 2 * time.Second

// kills is when a gateway was killed, and when each time it was gone.
type kills struct{ at, gone []time.Time }

// by notes what kill does.
func (k *kills) by(kill func()) {
	k.at = append(k.at, time.Now())
	kill()
	k.gone = append(k.gone, time.Now())
}

// excuse says whether a kill may have cost what was served at that moment.
func (k *kills) excuse(at time.Time) bool {
	for i, killed := range k.at {
		if at.After(killed.Add(-commitSlack)) && !at.After(k.gone[i]) {
			return true
		}
	}
	return false
}

// compare holds how often each value of a gateway's counter is in the database against what was served: all of it is there
// once, or a kill or a loss that was told of excuses it, and what is not known was never served.
func (k *kills) compare(t *testing.T, gateway string, all []servedValue, known map[int]bool, got map[int]int, told func(time.Time) bool) (there, byKill, byLoss int) {
	t.Helper()
	var missing []string
	for _, o := range all {
		switch {
		case got[o.n] == 1:
			there++
		case got[o.n] > 1:
			t.Errorf("%s: value %d is in the database %d times", gateway, o.n, got[o.n])
		case k.excuse(o.at):
			byKill++
		case told(o.at):
			byLoss++
		default:
			missing = append(missing, fmt.Sprintf("%d at %s", o.n, o.at.Format("15:04:05.000")))
		}
	}
	for n := range got {
		if !known[n] {
			t.Errorf("%s: value %d is in the database and was never served", gateway, n)
		}
	}
	if len(missing) > 0 {
		var when []string
		for _, at := range k.at {
			when = append(when, at.Format("15:04:05.000"))
		}
		t.Errorf("%s: %d of %d values served are not there: %s\nkills at %s", gateway, len(missing), len(all), tail(strings.Join(missing, ", "), 2000), strings.Join(when, ", "))
	}
	return there, byKill, byLoss
}
