package rules_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// thinner leaves out what says nothing new, as the gateway's fan-in does, once in the interval aside. Of what is older than
// the newest reading it lets the engine see that it is: by the last reading, where that was left out.
type thinner struct {
	every telemetry.Mono
	last  map[telemetry.PointID]telemetry.Sample // let through
	read  map[telemetry.PointID]telemetry.Mono
	due   map[telemetry.PointID]telemetry.Mono
	out   int // left out
}

func newThinner(every telemetry.Mono) *thinner {
	return &thinner{every: every, last: map[telemetry.PointID]telemetry.Sample{}, read: map[telemetry.PointID]telemetry.Mono{}, due: map[telemetry.PointID]telemetry.Mono{}}
}

func (th *thinner) take(s *site, now telemetry.Mono, samples []telemetry.Sample) (kept []telemetry.Sample) {
	for _, x := range samples {
		if int(x.Point) >= len(s.Points) || s.Points[x.Point].Def.Event {
			kept = append(kept, x)
			continue
		}
		at := min(x.Time, now)
		last, seen := th.last[x.Point]
		if seen && at < th.read[x.Point] {
			if held := th.read[x.Point]; held > last.Time {
				last.Time = held
				th.last[x.Point] = last
				kept = append(kept, last)
			}
			kept = append(kept, x)
			continue
		}
		th.read[x.Point] = at
		if seen && last.Value == x.Value && last.Quality == x.Quality && at < th.due[x.Point] {
			th.out++
			continue
		}
		last = x
		last.Time = at
		th.last[x.Point], th.due[x.Point] = last, at+th.every
		kept = append(kept, x)
	}
	return kept
}

// TestWhatSaysNothingNewDecidesNothing: the engine says the same whether or not it is given the readings that are as the one
// before, over random rules (windows, counts, coverage, for, undecided and all else that there is), random series with late and lost
// readings, restarts, reloads and alerts closed by hand.
func TestWhatSaysNothingNewDecidesNothing(t *testing.T) {
	count := uint64(150)
	if testing.Short() {
		count = 40
	}
	transitions, left, given := 0, 0, 0
	for seed := uint64(1); seed <= count; seed++ {
		sc := newScenario(seed, 300)
		sc.repeat(rand.New(rand.NewPCG(seed, 3)))
		n, th, failed := sc.playThinned(pick(rand.New(rand.NewPCG(seed, 4)), 5*second, 60*second, 3600*second))
		if failed != "" {
			t.Fatalf("seed %d: %s\n%s", seed, failed, sc.describe(failed))
		}
		transitions += n
		left += th.out
		for _, st := range sc.steps {
			given += len(st.samples)
		}
	}
	t.Logf("%d of %d samples were left out, %d transitions", left, given, transitions)
	if left*3 < given || transitions < 20*int(count) {
		t.Errorf("%d of %d samples were left out, %d transitions: the test shows little", left, given, transitions)
	}
}

// repeat has most points read in most steps, as they are: what a step reads anew comes before that.
func (sc *scenario) repeat(r *rand.Rand) {
	s := sc.build()
	newest := map[telemetry.PointID]telemetry.Sample{}
	for i := range sc.steps {
		st := &sc.steps[i]
		if st.restart {
			continue // Time is another one.
		}
		mine := map[telemetry.PointID]bool{}
		for _, x := range st.samples {
			mine[x.Point] = true
			if x.Time >= newest[x.Point].Time {
				newest[x.Point] = x
			}
		}
		for id := range s.Points {
			x, ok := newest[telemetry.PointID(id)]
			if !ok || mine[x.Point] || s.Points[id].Def.Event || s.Points[id].Device < 0 || r.IntN(3) == 0 || x.Time > st.now.Mono {
				continue
			}
			x.Time = st.now.Mono
			newest[x.Point] = x
			st.samples = append(st.samples, x)
		}
	}
}

// wallAt returns the wall clock of another moment, the zero time where the clock is not set.
func wallAt(now telemetry.Now, at telemetry.Mono) time.Time {
	if wall, ok := now.WallAt(at); ok {
		return wall
	}
	return time.Time{}
}

// playThinned gives the scenario to two engines, of which one gets what a thinner lets through.
func (sc *scenario) playThinned(every telemetry.Mono) (transitions int, th *thinner, failed string) {
	s, all, err := sc.compile()
	_, few, err2 := sc.compile()
	if err != nil || err2 != nil {
		return 0, newThinner(every), fmt.Sprint("compile: ", err, err2)
	}
	all.Restore(sc.restored)
	few.Restore(sc.restored)
	th = newThinner(every)
	active := map[telemetry.Identity]telemetry.ActiveAlert{}
	for _, a := range sc.restored {
		if all.Knows(a.Identity) {
			active[a.Identity] = a
		}
	}
	var one, two, ignored rules.Output
	moved, latest := time.Duration(0), telemetry.Mono(0)
	for i := range sc.steps {
		st := &sc.steps[i]
		// What follows from a close, or from setting the clock, is decided at the moment of the next sample, whatever that says.
		// Here it is at once.
		for _, e := range []*rules.Engine{all, few} {
			e.Closed(st.close)
			if i > 0 && !st.reload && !st.restart {
				e.Step(telemetry.Now{Mono: latest, Wall: wallAt(st.now, latest.Add(-moved))}, nil, &ignored)
			}
		}
		ignored.Reset()
		for _, id := range st.close {
			delete(active, id)
		}
		if st.reload || st.restart {
			clear(th.due) // Everything is told once after a start and a reload.
			oldAll, oldFew := all, few
			if _, all, err = sc.compile(); err != nil {
				return transitions, th, err.Error()
			}
			if _, few, err = sc.compile(); err != nil {
				return transitions, th, err.Error()
			}
			if st.reload && !st.restart {
				all.Adopt(oldAll)
				few.Adopt(oldFew)
			} else {
				clear(th.last)
				var list []telemetry.ActiveAlert
				for _, a := range active {
					list = append(list, a)
				}
				slices.SortFunc(list, func(a, b telemetry.ActiveAlert) int {
					return slices.Compare([]string{a.Alert, a.Subject}, []string{b.Alert, b.Subject})
				})
				moved += st.boot
				latest = 0
				for _, e := range [2][2]*rules.Engine{{all, oldAll}, {few, oldFew}} {
					e[0].Restore(list)
					if _, err := e[0].Resume(e[1].Snapshot(), st.boot); err != nil {
						return transitions, th, err.Error()
					}
				}
			}
		}
		one.Reset()
		two.Reset()
		now, samples := later(moved, st.now, st.samples)
		// As a bus hands them over: where a step's samples are jumbled, the moment of each is that of the latest before it.
		slices.SortStableFunc(samples, func(a, b telemetry.Sample) int { return cmp.Compare(a.Time, b.Time) })
		if now.Mono < latest { // The fan-in's moments never go back.
			now = telemetry.Now{Mono: latest, Wall: st.now.Wall}
		}
		latest = now.Mono
		kept := th.take(s, now.Mono, samples)
		all.Step(now, samples, &one)
		few.Step(now, kept, &two)
		for k := range max(len(one.Transitions), len(two.Transitions)) {
			if k >= len(one.Transitions) || k >= len(two.Transitions) || !reflect.DeepEqual(one.Transitions[k], two.Transitions[k]) {
				return transitions, th, fmt.Sprintf("step %d at %gs: with all readings\n%v\nwith those that say something\n%v", i,
					time.Duration(st.now.Mono).Seconds(), lines(one.Transitions), lines(two.Transitions))
			}
		}
		if !slices.Equal(one.Derived, two.Derived) {
			return transitions, th, fmt.Sprintf("step %d at %gs: with all readings %v is derived, with those that say something %v", i,
				time.Duration(st.now.Mono).Seconds(), one.Derived, two.Derived)
		}
		if all.Next() != few.Next() {
			return transitions, th, fmt.Sprintf("step %d at %gs: the next timers are at %v and %v", i, time.Duration(st.now.Mono).Seconds(), all.Next(), few.Next())
		}
		for _, x := range one.Transitions {
			transitions++
			switch x.Op {
			case telemetry.Clear:
				delete(active, x.Identity)
			default:
				active[x.Identity] = telemetry.ActiveAlert{Identity: x.Identity, Severity: x.Severity, Unknown: x.Op == telemetry.Unknown}
			}
		}
	}
	return transitions, th, ""
}
