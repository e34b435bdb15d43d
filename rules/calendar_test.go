package rules_test

import (
	"testing"
	"time"
	_ "time/tzdata"

	"linli/internal/telemetry"
)

// inPlace is a play at a place whose clocks are put forward and back, with a wall clock that stands at wall at 0.
func inPlace(t *testing.T, place, wall string, list ...string) func(d time.Duration) string {
	t.Helper()
	loc, err := time.LoadLocation(place)
	if err != nil {
		t.Fatal(err)
	}
	begin, err := time.Parse(time.RFC3339, wall)
	if err != nil {
		t.Fatal(err)
	}
	st := newSite()
	st.Location = loc
	all := ""
	for _, r := range list {
		all += r
	}
	p := &play{t: t, s: st, e: st.compile(t, pack(all))}
	return func(d time.Duration) string {
		p.out.Reset()
		p.e.Step(telemetry.Now{Mono: at(d), Wall: begin.Add(d)}, nil, &p.out)
		if n := p.e.Stats().Evaluations; n > 200 {
			t.Fatalf("%d evaluations until %v: it is looked at all the time", n, d)
		}
		got := ""
		for _, tr := range p.out.Transitions {
			got += tr.Op.String() + " " + tr.Alert + " " + tr.Wall.In(loc).Format("15:04 MST") + "; "
		}
		return got
	}
}

func TestClocksArePutBack(t *testing.T) {
	// 3:00 summer time is followed by 2:00 winter time.
	step := inPlace(t, "Europe/Berlin", "2026-10-25T00:00:00Z", // 2:00 summer time
		alert("A", "site", `between("02:30", "02:50")`, ""), alert("B", "site", "hour() == 2", ""), alert("C", "site", "weekday() == 1", ""))
	want := "raise B 02:00 CEST; raise A 02:30 CEST; clear A 02:50 CEST; raise A 02:30 CET; clear A 02:50 CET; clear B 03:00 CET; "
	if got := step(0) + step(22*time.Hour); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := step(24*time.Hour), "raise C 00:00 CET; "; got != want { // a day of 25 hours
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestClocksArePutForward(t *testing.T) {
	// 2:00 winter time is 3:00 summer time: there is no 2:30.
	step := inPlace(t, "Europe/Berlin", "2026-03-29T00:00:00Z", // 1:00 winter time
		alert("A", "site", `between("02:30", "03:30")`, ""), alert("B", "site", "hour() >= 2 and hour() < 4", ""))
	if got, want := step(0)+step(12*time.Hour), "raise A 03:00 CEST; raise B 03:00 CEST; clear A 03:30 CEST; clear B 04:00 CEST; "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Where midnight is left out, the day begins at one, and nothing waits for a moment that never comes.
func TestMidnightIsLeftOut(t *testing.T) {
	step := inPlace(t, "America/Havana", "2026-03-08T03:00:00Z", // Saturday 22:00
		alert("Sunday", "site", "weekday() == 7", ""), alert("Night", "site", `between("00:00", "01:30") or hour() == 0`, ""))
	if got, want := step(0)+step(12*time.Hour), "raise Sunday 01:00 CDT; raise Night 01:00 CDT; clear Night 01:30 CDT; "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
