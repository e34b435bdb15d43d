package rules_test

import "testing"

// An alert that could be decided for long and cannot any more is undecidable from that moment on: its window has had its
// length long ago.
func TestUndecidedCountsFromWhenEverythingHadBeenRead(t *testing.T) {
	p := newPlay(t, alert("Mean", "meter", "power_w > 10 and avg_over_time(power_w, 60s) > 0", ""), alert("Stuck", "meter", "undecided(30s)", ""))
	p.want(p.step(0, p.sample(0, "m1.power_w", 5.0)), "")
	bad := p.sample(200*s, "m1.power_w", 0.0)
	bad.Quality = 4
	p.want(p.step(200*s, bad), "")
	p.want(p.step(229*s), "")
	p.want(p.step(230*s), "raise Stuck m1")
}

// Where a group has no devices there is no window to wait for: a restored alert says at once that it cannot be decided.
func TestNoWindowOfNoDeviceIsWaitedFor(t *testing.T) {
	p := newPlay(t, alert("Low", "site", "min(avg_over_time(floor.meter.power_w, 60s)) < 10", ""))
	p.e.Restore(restored("Low", "s1"))
	p.want(p.step(0), "unknown Low s1")
}
