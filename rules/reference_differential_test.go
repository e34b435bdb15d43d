package rules_test

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

var (
	referenceSteps = flag.Int("reference.steps", 100_000, "steps of the reference test")
	referenceSeed  = flag.Uint64("reference.seed", 0, "the only scenario that the reference test runs")
	shrinkFailure  = flag.Bool("reference.shrink", true, "look for a small scenario that fails")
)

// stepsOfScenario is how many steps a scenario has: long enough for windows to fill.
const stepsOfScenario = 160

// TestReference holds the engine against the reference, over random rules and series. Its first scenarios are always
// the same; then come some that were never run before.
func TestReference(t *testing.T) {
	if *referenceSeed != 0 {
		if failed, _ := newScenario(*referenceSeed, stepsOfScenario).play(); failed != "" {
			t.Fatal(shrink(*referenceSeed, stepsOfScenario))
		}
		return
	}
	fresh := rand.Uint64() >> 16
	t.Logf("new scenarios from seed %d", fresh)
	all := newTally()
	var mu sync.Mutex
	var group sync.WaitGroup
	failed, scenarios := uint64(0), uint64(0)
	next := func() (seed uint64, more bool) {
		mu.Lock()
		defer mu.Unlock()
		scenarios++
		if seed = scenarios; all.steps >= *referenceSteps*9/10 {
			seed += fresh
		}
		return seed, all.steps < *referenceSteps && failed == 0
	}
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				seed, more := next()
				if !more {
					return
				}
				wrong, seen := newScenario(seed, stepsOfScenario).play()
				mu.Lock()
				if all.add(seen); wrong != "" {
					failed = seed
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if failed != 0 && !*shrinkFailure {
		t.Fatalf("seed %d", failed)
	}
	if failed != 0 {
		t.Fatal(shrink(failed, stepsOfScenario))
	}
	t.Log(all)
	if all.share() < 0.3 {
		t.Errorf("only %.1f %% of the conditions were decided: the test shows little", 100*all.share())
	}
	if *referenceSteps >= 50_000 {
		for _, m := range all.missing() {
			t.Error(m)
		}
	}
}

// shrink looks for a smaller scenario that fails as well, and describes it.
func shrink(seed uint64, steps int) string {
	best := newScenario(seed, steps)
	failed, seen := best.play()
	best.steps = best.steps[:min(seen.steps, len(best.steps))]
	try := func(smaller scenario) bool {
		f, _ := smaller.play()
		if f == "" || strings.HasPrefix(f, "compile") {
			return false
		}
		best, failed = &smaller, f
		return true
	}
	for i := len(best.rules) - 1; i >= 0; i-- {
		smaller := *best
		smaller.rules, smaller.order = nil, nil
		for k, rule := range best.rules {
			if k != i {
				smaller.order = append(smaller.order, len(smaller.rules))
				smaller.rules = append(smaller.rules, rule)
			}
		}
		try(smaller)
	}
	for i := range best.restored {
		smaller := *best
		smaller.restored = slices.Delete(slices.Clone(best.restored), len(best.restored)-1, len(best.restored))
		if i > 20 || !try(smaller) {
			break
		}
	}
	for size := len(best.steps) / 2; size > 0; size /= 2 { // without some of the steps, then without one by one
		for i := len(best.steps) - size; i >= 0; i -= size {
			smaller := *best
			smaller.steps = slices.Delete(slices.Clone(best.steps), i, i+size)
			try(smaller)
		}
	}
	for i := range best.steps {
		for k := len(best.steps[i].samples) - 1; k >= 0; k-- {
			smaller := *best
			smaller.steps = slices.Clone(best.steps)
			smaller.steps[i].samples = slices.Delete(slices.Clone(best.steps[i].samples), k, k+1)
			try(smaller)
		}
	}
	return best.describe(failed)
}

func (sc *scenario) describe(failed string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d (go test -run TestReference -reference.seed=%d): %s\n%s", sc.seed, sc.seed, failed, sc.pack())
	s := sc.build()
	for i, d := range sc.devices {
		zone := "-"
		if d.Zone >= 0 {
			zone = sc.zones[d.Zone].ID
		}
		fmt.Fprintf(&b, "device %s in %s provides %v\n", d.ID, zone, sc.provides[i])
	}
	for i, a := range sc.restored {
		fmt.Fprintf(&b, "restored %d: %s %s %v\n", i, a.Alert, a.Subject, a.Severity)
	}
	for _, st := range sc.steps {
		fmt.Fprintf(&b, "step %gs", time.Duration(st.now.Mono).Seconds())
		if !st.now.Wall.IsZero() {
			fmt.Fprintf(&b, " (%s)", st.now.Wall.In(sc.location).Format(time.DateTime))
		}
		if len(st.close) > 0 {
			fmt.Fprintf(&b, " close %v", st.close)
		}
		if st.reload {
			b.WriteString(" reload")
		}
		if st.restart {
			fmt.Fprintf(&b, " restart, moved by %v", st.boot)
		}
		for _, x := range st.samples {
			name := "?"
			if int(x.Point) < len(s.Points) {
				name = s.Series(x.Point).Device + "." + s.Series(x.Point).Point
			}
			fmt.Fprintf(&b, " %s@%g=%v/%v", name, time.Duration(x.Time).Seconds(), x.Value, x.Quality)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// compile makes an engine of the scenario.
func (sc *scenario) compile() (*site, *rules.Engine, error) {
	s := sc.build()
	p, err := rules.ParsePack("pack.yaml", []byte(sc.pack()))
	if err != nil {
		return nil, nil, err
	}
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes,
		Params: map[string]map[string]string{"p": {"dwell": sc.params["dwell"]}}, MaxWindowBytes: 1 << 30})
	return s, e, err
}

// play runs the scenario through both and says what the first difference is; seen.steps is how far it came.
func (sc *scenario) play() (failed string, seen *tally) {
	seen = newTally()
	defer func() {
		if p := recover(); p != nil {
			failed = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	var list []*slowRule
	for i := range sc.rules {
		list = append(list, &sc.rules[i].slowRule)
	}
	sort.SliceStable(list, func(i, j int) bool { return !list[i].asksUndecided() && list[j].asksUndecided() })
	s, e, err := sc.compile()
	if err != nil {
		return "compile: " + err.Error(), newTally()
	}
	ref := newReference(sc.build(), list, sc.params, sc.periods)
	seen = ref.tally
	if gone, want := len(e.Restore(sc.restored)), ref.restore(sc.restored); gone != want {
		return fmt.Sprintf("%d restored alerts were taken as removed, want %d", gone, want), seen
	}
	var out rules.Output
	var moved time.Duration // by so much the engine's monotonic line lies after that of the reference
	derived := map[string]note{}
	for i := range sc.steps {
		st := &sc.steps[i]
		seen.steps++
		e.Closed(st.close)
		for _, id := range st.close {
			ref.closed(id)
		}
		if st.reload {
			was := e
			if s, e, err = sc.compile(); err != nil {
				return "compile: " + err.Error(), seen
			}
			e.Adopt(was)
		}
		if st.restart {
			snapshot, active := e.Snapshot(), ref.activeAlerts()
			if s, e, err = sc.compile(); err != nil {
				return "compile: " + err.Error(), seen
			}
			e.Restore(active)
			moved += st.boot
			if _, err := e.Resume(snapshot, st.boot); err != nil {
				return fmt.Sprintf("step %d: %v", i, err), seen
			}
			ref.restart(st.now.Mono)
			clear(derived)
		}
		out.Reset()
		now, samples := later(moved, st.now, st.samples)
		e.Step(now, samples, &out)
		for k := range out.Transitions {
			out.Transitions[k].Time -= telemetry.Mono(moved)
		}
		for k := range out.Derived {
			out.Derived[k].Time -= telemetry.Mono(moved)
		}
		ref.step(st.now, st.samples)
		if failed := same(ref, s, &out, derived); failed != "" {
			return fmt.Sprintf("step %d, at %gs: %s", i, time.Duration(st.now.Mono).Seconds(), failed), seen
		}
		if got := e.Stats(); got.Late != ref.late || got.Foreign != ref.foreign {
			return fmt.Sprintf("step %d: %d late and %d foreign samples, want %d and %d", i, got.Late, got.Foreign, ref.late, ref.foreign), seen
		}
		if next := e.Next(); next <= now.Mono {
			return fmt.Sprintf("step %d: the next timer is at %gs, which is not later than now", i, time.Duration(next).Seconds()), seen
		}
		for _, t := range out.Transitions {
			seen.transitions[t.Op.String()]++
		}
		seen.derived += len(out.Derived)
	}
	return "", seen
}

// later moves a moment and samples on the monotonic line.
func later(by time.Duration, now telemetry.Now, samples []telemetry.Sample) (telemetry.Now, []telemetry.Sample) {
	now.Mono = now.Mono.Add(by)
	moved := slices.Clone(samples)
	for i := range moved {
		moved[i].Time = moved[i].Time.Add(by)
	}
	return now, moved
}

// same compares what both said in a step. derived is what the engine has said of derived points so far.
func same(ref *reference, s *site, out *rules.Output, derived map[string]note) string {
	got, want := lines(out.Transitions), lines(ref.said)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("the engine says\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
	next := map[string][]note{}
	for _, d := range out.Derived {
		p := &s.Points[d.Point]
		key := p.Derived.Rule + " " + p.Derived.Subject
		n := note{d.Time, d.Quality, d.Value.Float()}
		was, ok := derived[key]
		if list := next[key]; len(list) > 0 {
			was, ok = list[len(list)-1], true
		}
		// Of two bounds the upper one may change alone.
		if ok && was.quality == n.quality && (n.quality.Bad() || was.value == n.value && n.quality != telemetry.Uncertain) {
			return fmt.Sprintf("%s is said to be %v of quality %v, as before", key, n.value, n.quality)
		}
		next[key] = append(next[key], n)
	}
	for key, list := range ref.noted {
		cur, ok := derived[key]
		if !ok {
			cur = note{quality: telemetry.BadSensor, value: math.NaN()}
		}
		for i, want := range list {
			for len(next[key]) > 0 && next[key][0].at <= want.at {
				cur = next[key][0]
				next[key] = next[key][1:]
			}
			if last := i == len(list)-1 || list[i+1].at > want.at; last && !want.near(cur) {
				return fmt.Sprintf("%s is %v of quality %v at %gs, want %v of quality %v", key, cur.value, cur.quality,
					time.Duration(want.at).Seconds(), want.value, want.quality)
			}
		}
		derived[key] = cur
	}
	for key, rest := range next {
		if len(rest) > 0 {
			return fmt.Sprintf("%s was derived as %v, and should not have been", key, rest)
		}
	}
	return ""
}

func (n note) near(o note) bool {
	if n.quality != o.quality {
		return false
	}
	return n.quality.Bad() || math.Abs(n.value-o.value) <= 1e-7*max(1, math.Abs(n.value))
}
