package rules

import (
	"math"
	"slices"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
	"linli/rules/response"
)

// Engine decides. It is used by one goroutine; it allocates nothing per sample in the steady state.
type Engine struct {
	inv        *telemetry.Inventory
	loc        *time.Location
	byClass    map[string][]int     // devices of each class
	constants  map[expr.Cell]uint32 // which of cells is of a constant value
	derived    map[derivedKey]telemetry.PointID
	active     map[string]*activeCount
	alerts     map[string]*program
	alertsOf   map[string][]uint32 // subject -> alerts that undecided() asks; nil where nobody does
	askers     map[string][]uint32 // subject -> those that ask
	stateBytes int                 // that the states of all instances may come to take

	cells       []expr.Cell // by PointID; then the constants
	foreign     int         // points from here on are derived: nobody else may set them
	valueDeps   lists       // by PointID: instances to wake when value or quality changes
	qualityDeps lists       // by PointID: instances to wake when the quality changes
	calendars   []uint32    // instances that depend on the calendar

	plans     map[planKey]*response.Plan // those that were asked for
	instances []instance                 // in the order of evaluation: each after those whose results it reads
	ops       []uint32                   // which of cells the instances' expressions read, one instance after the other
	states    []expr.State               // what they remember, one instance after the other
	helds     []hold                     // time for which worse severities' conditions have been true, of those with a severity_for
	frame     expr.Frame                 // what the evaluation under way reads
	dirty     bitmap
	timers    timerHeap

	started bool
	began   telemetry.Mono // the first Step
	records []uint32       // by PointID from foreign on: the instances that make the derived points
	at      telemetry.Mono // everything up to here is decided
	now     telemetry.Now  // of the last Step, for the wall clock
	offset  time.Duration  // wall minus monotonic, to see the clock being set
	present expr.Present
	stats   Stats

	confirmed func(telemetry.PointID) telemetry.Mono // nil: when a sample came last; see Confirms

	programs []*program // in the order of evaluation
	costs    []cost     // parallel to programs
	meter    meter
	turns    []uint64 // by PointID: the turn in which an event of the point was last taken; nil where there are no event points
	turn     uint64
	later    []int32 // of the samples of a moment: events that must wait for others of their points

	warnings yamlfile.Errors
}

// instance is one rule for one subject. A site has many thousand: what they share is in their shape, and what has no fixed
// number in lists of the engine's.
type instance struct {
	*shape
	device, zone int32 // -1: a zone; the site
	// op, state and held are where its part of the engine's lists begins. Those of operands and states end where the next
	// instance's begin.
	op, state, held uint32
	point           telemetry.PointID // of a derived point

	heapPos int32          // of the timer heap
	due     telemetry.Mono // of the timer heap

	readAt  telemetry.Mono
	settles telemetry.Mono // see Engine.settles; 0 while not known

	active   bool
	asked    bool // some other rule asks whether it can be decided
	restored bool // taken over, and not decided since
	resumed  bool // goes on with everything that it had gathered before the process started
	hasRead  bool // every input has been read, at readAt first
	unknown  bool // active, and the last thing said is that it cannot be decided
	severity telemetry.Severity
	stuck    hold // time for which it has been undecidable; kept of those asked only
	pending  hold // time known true, until `for`
	clearing hold // time known false, until keep_firing_for
	easing   hold // time for which a lesser severity has stood, until keep_firing_for
}

// shape is what the instances of a rule have in common for whose subjects it became the same code.
type shape struct {
	prog     *program
	cond     func(*expr.Frame) expr.Tri
	num      func(*expr.Frame) expr.Num   // instead of cond, of derived points that are numbers
	sev      []func(*expr.Frame) expr.Tri // parallel to prog.sev
	calendar []func(time.Time) time.Time
	sample   []expr.State // the states of one of the instances
}

// frameOf returns what the expressions of instance i read. It holds until the next call.
func (e *Engine) frameOf(i uint32) *expr.Frame {
	e.frame.Cells, e.frame.Ops, e.frame.States = e.cells, e.opsOf(i), e.statesOf(i)
	return &e.frame
}

// opsOf returns which cells instance i reads.
func (e *Engine) opsOf(i uint32) []uint32 {
	if i+1 < uint32(len(e.instances)) {
		return e.ops[e.instances[i].op:e.instances[i+1].op]
	}
	return e.ops[e.instances[i].op:]
}

// statesOf returns what the expressions of instance i remember: updated before each evaluation, in this order.
func (e *Engine) statesOf(i uint32) []expr.State {
	if i+1 < uint32(len(e.instances)) {
		return e.states[e.instances[i].state:e.instances[i+1].state]
	}
	return e.states[e.instances[i].state:]
}

// heldsOf returns the watches of an instance's worse severities; none where they need not hold for any time.
func (e *Engine) heldsOf(in *instance) []hold {
	if in.prog.sevFor == 0 {
		return nil
	}
	return e.helds[in.held:][:len(in.prog.sev)]
}

// subject returns the id of the device, zone or site that an instance is about.
func (e *Engine) subject(in *instance) string {
	switch {
	case in.device >= 0:
		return e.inv.Devices[in.device].ID
	case in.zone >= 0:
		return e.inv.Zones[in.zone].ID
	}
	return e.inv.Site
}

// identity returns what an alert is known by.
func (e *Engine) identity(in *instance) telemetry.Identity {
	return telemetry.Identity{Alert: in.prog.Alert, Subject: e.subject(in)}
}

// find returns the instance of an alert.
func (e *Engine) find(id telemetry.Identity) (uint32, bool) {
	if p := e.alerts[id.Alert]; p != nil {
		return e.ofSubject(p, id.Subject)
	}
	return 0, false
}

// ofSubject returns a rule's instance for a subject. They are in the order of the inventory.
func (e *Engine) ofSubject(p *program, subject string) (uint32, bool) {
	device, zone := -1, -1
	switch p.forEach.kind {
	case "site":
	case "zone":
		zone, _ = e.inv.ZoneByID(subject)
	default:
		device, _ = e.inv.DeviceByID(subject)
	}
	list := e.instances[p.first:][:p.n]
	k, _ := slices.BinarySearchFunc(list, 0, func(in instance, _ int) int {
		if device >= 0 {
			return int(in.device) - device
		}
		return int(in.zone) - zone
	})
	return uint32(p.first + k), k < len(list) && e.subject(&list[k]) == subject
}

// lists is a list of instances for each of many points.
type lists struct {
	ends []uint32 // by PointID: where in all its list ends and the next one's begins
	all  []uint32
}

func newLists(of [][]uint32) lists {
	n := 0
	for _, list := range of {
		n += len(list)
	}
	l := lists{make([]uint32, len(of)), make([]uint32, 0, n)}
	for i, list := range of {
		l.all = append(l.all, list...)
		l.ends[i] = uint32(len(l.all))
	}
	return l
}

func (l *lists) of(id telemetry.PointID) []uint32 {
	from := uint32(0)
	if id > 0 {
		from = l.ends[id-1]
	}
	return l.all[from:l.ends[id]]
}

// hold is a stopwatch that stands still while the condition is unknown. The zero hold is not on.
type hold struct {
	since telemetry.Mono // when it last started or stopped
	told  int64          // one more than the nanoseconds until since, negative where it stands still; 0: it is not on
}

func newHold(since telemetry.Mono, sum time.Duration, running bool) hold {
	told := int64(sum) + 1
	if !running {
		told = -told
	}
	return hold{since, told}
}

func (h *hold) on() bool      { return h.told != 0 }
func (h *hold) running() bool { return h.told > 0 }

// sum is the time until since.
func (h *hold) sum() time.Duration {
	switch {
	case h.told > 0:
		return time.Duration(h.told - 1)
	case h.told < 0:
		return time.Duration(-h.told - 1)
	}
	return 0
}

// run lets the watch go on; after a stop of more than limit it starts again from zero.
func (h *hold) run(t telemetry.Mono, limit time.Duration) {
	switch {
	case !h.on():
		*h = newHold(t, 0, true)
	case !h.running():
		sum := h.sum()
		if t.Sub(h.since) > limit {
			sum = 0
		}
		*h = newHold(t, sum, true)
	}
}

func (h *hold) stop(t telemetry.Mono) {
	if h.running() {
		*h = newHold(t, h.elapsed(t), false)
	}
}

func (h *hold) elapsed(t telemetry.Mono) time.Duration {
	if !h.running() {
		return h.sum()
	}
	return h.sum() + t.Sub(h.since)
}

// Stats returns what the engine has done so far.
func (e *Engine) Stats() Stats { return e.stats }

// Warnings returns what Compile found that is allowed but probably not meant, sorted by place.
func (e *Engine) Warnings() yamlfile.Errors { return e.warnings }

// Instances returns how many rules times subjects there are.
func (e *Engine) Instances() int { return len(e.instances) }

// Restore takes over alerts that were active when the process last ran: they stay active until their condition is
// known to be gone. It returns those that no rule or subject exists for any more; the caller closes them with reason
// removed. It is called before the first Step.
//
// A restored alert says Unknown only once all its inputs have been read and its windows have had their length since,
// so that a restart is not shown as a failure; and it says Known when it is first decided where it was unknown when the
// process ended.
func (e *Engine) Restore(active []telemetry.ActiveAlert) (removed []telemetry.ActiveAlert) {
	for _, a := range active {
		i, ok := e.find(a.Identity)
		if !ok {
			removed = append(removed, a)
			continue
		}
		in := &e.instances[i]
		if in.active {
			continue
		}
		in.active, in.restored, in.unknown, in.severity = true, true, a.Unknown, a.Severity
		e.count(a.Alert, 1)
		e.dirty.set(i)
	}
	return removed
}

// Knows reports whether there is a rule and a subject for an alert.
func (e *Engine) Knows(id telemetry.Identity) bool {
	_, ok := e.find(id)
	return ok
}

// Closed takes note that people closed these alerts: they are not active any more. Where the condition is true at
// the next Step, or later, they are raised anew. It is called between steps; identities that are not active, or that
// nothing is known of, are ignored.
func (e *Engine) Closed(ids []telemetry.Identity) {
	for _, id := range ids {
		i, ok := e.find(id)
		if !ok || !e.instances[i].active {
			continue
		}
		in := &e.instances[i]
		in.active, in.unknown, in.restored = false, false, false
		in.pending, in.clearing, in.easing = hold{}, hold{}, hold{}
		e.count(id.Alert, -1)
		e.dirty.set(i)
	}
}

// count changes how many alerts of a name are active and wakes who asks.
func (e *Engine) count(name string, by int) {
	a := e.active[name]
	if a == nil {
		return
	}
	before := a.n > 0
	a.n += by
	if before != (a.n > 0) {
		e.wake(a.deps)
	}
}

func (e *Engine) wake(deps []uint32) {
	for _, i := range deps {
		e.dirty.set(i)
	}
}

// Step takes a batch of samples and the present moment (not before the samples'), evaluates the rules whose inputs
// or timers changed, and appends what follows to out. samples may be empty: then only timers are looked at. The
// same samples and moments always give the same output.
func (e *Engine) Step(now telemetry.Now, samples []telemetry.Sample, out *Output) {
	if now.Mono < e.at {
		// The monotonic clock does not go back; a caller that mixes up two moments must not undo timers.
		if !now.Wall.IsZero() {
			now.Wall = now.Wall.Add(e.at.Sub(now.Mono))
		}
		now.Mono = e.at
	}
	if !e.started {
		e.start(now, samples)
	}
	e.clock(now)
	for i := 0; i < len(samples); {
		t := min(max(samples[i].Time, e.at), now.Mono)
		e.runTimers(t-1, out)
		e.at = t
		from := i
		// A sample from the future is one of now.
		for i < len(samples) && (samples[i].Time <= t || t == now.Mono) {
			i++
		}
		e.moment(samples[from:i], out)
	}
	e.runTimers(now.Mono, out)
	e.at = now.Mono
	e.decide(out)
}

// longBefore is how old the first samples may be at most: an older one is taken at that moment.
const longBefore = time.Hour

// start evaluates everything once, at the first moment there is.
func (e *Engine) start(now telemetry.Now, samples []telemetry.Sample) {
	e.started = true
	e.at, e.began = now.Mono, now.Mono
	for i := range samples {
		e.at = min(e.at, max(samples[i].Time, now.Mono.Add(-longBefore)))
	}
	e.now = now
	for i := range e.instances {
		e.dirty.set(uint32(i))
	}
}

// clock notices that the wall clock was set or stepped, which moves every calendar.
func (e *Engine) clock(now telemetry.Now) {
	offset := time.Duration(math.MinInt64)
	if !now.Wall.IsZero() {
		offset = time.Duration(now.Wall.UnixNano() - int64(now.Mono))
	}
	if d := offset - e.offset; d > time.Second || d < -time.Second {
		e.wake(e.calendars)
		e.offset = offset
	}
	e.now = now
}

// runTimers lets every timer until t fire at its own moment.
func (e *Engine) runTimers(t telemetry.Mono, out *Output) {
	for {
		due := e.timers.next()
		if due > t {
			return
		}
		e.at = max(e.at, due)
		e.decide(out)
	}
}

// Next returns the moment of the earliest timer: Step must be called no later than that even without samples.
// telemetry.Never where no timer runs. It is the last Step's moment, so at once, where something else than a sample is
// to be decided on: what Closed or Adopt said.
func (e *Engine) Next() telemetry.Mono {
	if e.started && !e.dirty.empty() {
		return e.at
	}
	return e.timers.next()
}

func (e *Engine) apply(s *telemetry.Sample) {
	e.stats.Samples++
	if int64(s.Point) >= int64(e.foreign) {
		e.stats.Foreign++
		return
	}
	c := &e.cells[s.Point]
	taken := min(s.Time, e.now.Mono) // a sample from the future must not make those that follow late
	if c.Seen && taken < c.Time {
		e.stats.Late++
		return
	}
	def := e.inv.Points[s.Point].Def
	value, quality := c.Set(def.Kind, s.Value, s.Quality)
	c.Time = taken
	if def.Event && !c.Quality.Bad() {
		c.Events++ // the same value again is an event too
		value = true
	}
	if value {
		e.wake(e.valueDeps.of(s.Point))
	}
	if quality {
		e.wake(e.qualityDeps.of(s.Point))
	}
}

// decide evaluates what is due or was woken, at e.at, in the order of the instances. What one evaluation wakes comes
// later in that order, so that one pass is enough.
func (e *Engine) decide(out *Output) {
	for {
		i, due := e.timers.first()
		if due > e.at {
			break
		}
		e.timers.set(i, telemetry.Never)
		e.dirty.set(i)
	}
	if e.dirty.empty() {
		return
	}
	e.present.Mono = e.at
	if len(e.calendars) > 0 {
		e.present.Local = time.Time{}
		if wall, ok := e.now.WallAt(e.at); ok {
			e.present.Local = wall.In(e.loc)
		}
	}
	for {
		i, ok := e.dirty.take()
		if !ok {
			return
		}
		e.evaluate(i, out)
	}
}

func (e *Engine) evaluate(i uint32, out *Output) {
	in := &e.instances[i]
	c := &e.costs[in.prog.index]
	e.stats.Evaluations++
	c.evaluations++
	if !e.meter.next() {
		e.decideOne(i, in, out)
		return
	}
	began := e.meter.clock()
	e.decideOne(i, in, out)
	c.spent += measureEach * time.Duration(e.meter.clock()-began)
}

// decideOne evaluates one instance and sets its timer.
func (e *Engine) decideOne(i uint32, in *instance, out *Output) {
	due, f := telemetry.Never, e.frameOf(i)
	for _, w := range f.States {
		w.Update(e.at, f)
		due = min(due, w.Next(e.at))
	}
	if len(in.calendar) > 0 && !e.present.Local.IsZero() {
		due = min(due, e.calendarDue(in))
	}
	if in.prog.Record != "" {
		due = min(due, e.record(i, in, f, out))
	} else {
		due = min(due, e.alert(i, in, f, out))
	}
	e.timers.set(i, due)
}

// calendarDue returns when the calendar may next change what an instance says: at one of its own times, or when the
// clocks are put forward or back, which repeats some times of day and leaves others out.
func (e *Engine) calendarDue(in *instance) telemetry.Mono {
	due := telemetry.Never
	if _, end := e.present.Local.ZoneBounds(); !end.IsZero() {
		due = e.at.Add(end.Sub(e.present.Local))
	}
	for _, next := range in.calendar {
		if d := next(e.present.Local).Sub(e.present.Local); d > 0 {
			due = min(due, e.at.Add(d))
		}
	}
	return due
}

// alert moves one alert and returns when it must be looked at again.
func (e *Engine) alert(i uint32, in *instance, f *expr.Frame, out *Output) telemetry.Mono {
	c, wait, keep := in.cond(f), e.grade(in, f), in.prog.keep
	if in.asked {
		if in.settles == 0 {
			e.settles(i, in) // the windows have their length from now on, whatever is decided without them
		}
		wait = min(wait, e.stick(i, in, c))
	}
	if !in.active {
		return min(wait, e.inactive(i, in, c, f, out))
	}
	switch c {
	case expr.True:
		in.clearing = hold{}
	case expr.Unknown:
		in.clearing.stop(e.at)
	case expr.False:
		in.clearing.run(e.at, keep)
		if in.clearing.elapsed(e.at) >= keep {
			in.active, in.unknown, in.restored = false, false, false
			in.pending, in.clearing, in.easing = hold{}, hold{}, hold{}
			e.count(in.prog.Alert, -1)
			e.say(telemetry.Clear, i, in, c, out)
			return telemetry.Never
		}
		wait = min(wait, e.at.Add(keep-in.clearing.elapsed(e.at)))
	}
	switch unknown := c == expr.Unknown; {
	case unknown && in.restored && e.at < e.settles(i, in):
		wait = min(wait, e.settles(i, in))
	case unknown && !in.unknown:
		in.unknown, in.restored = true, false
		e.say(telemetry.Unknown, i, in, c, out)
	case !unknown && !in.unknown:
		in.restored = false
	case !unknown:
		in.unknown, in.restored = false, false
		e.say(telemetry.Known, i, in, c, out)
	}
	return min(wait, e.regrade(i, in, c, f, out))
}

// grade lets the time of severity_for run and returns when it must be looked at again.
func (e *Engine) grade(in *instance, f *expr.Frame) telemetry.Mono {
	limit, wait := in.prog.sevFor, telemetry.Never
	if limit == 0 {
		return wait
	}
	helds := e.heldsOf(in)
	for k, cond := range in.sev {
		held := &helds[k]
		switch cond(f) {
		case expr.False:
			*held = hold{}
		case expr.Unknown:
			held.stop(e.at)
		case expr.True:
			held.run(e.at, limit)
			if left := limit - held.elapsed(e.at); left > 0 {
				wait = min(wait, e.at.Add(left))
			}
		}
	}
	return wait
}

// regrade moves the severity of an active alert: up at once, down when the lesser one has stood for keep_firing_for,
// but not while the alert is on its way out. It returns when it must be looked at again.
func (e *Engine) regrade(i uint32, in *instance, c expr.Tri, f *expr.Frame, out *Output) telemetry.Mono {
	s, keep := e.severityNow(in, f, e.at), in.prog.keep
	if s < in.severity && c == expr.False && keep > 0 {
		in.easing = hold{}
		return telemetry.Never
	}
	if s < in.severity {
		in.easing.run(e.at, keep)
		if left := keep - in.easing.elapsed(e.at); left > 0 {
			return e.at.Add(left)
		}
	}
	in.easing = hold{}
	if s != in.severity {
		in.severity = s
		e.say(telemetry.Changed, i, in, c, out)
	}
	return telemetry.Never
}

func (e *Engine) inactive(i uint32, in *instance, c expr.Tri, f *expr.Frame, out *Output) telemetry.Mono {
	wait := in.prog.wait
	switch c {
	case expr.False:
		in.pending = hold{}
	case expr.Unknown:
		in.pending.stop(e.at)
	case expr.True:
		in.pending.run(e.at, wait)
		if in.pending.elapsed(e.at) < wait {
			return e.at.Add(wait - in.pending.elapsed(e.at))
		}
		in.active, in.severity = true, 0
		in.severity = e.severityNow(in, f, e.at)
		e.count(in.prog.Alert, 1)
		e.say(telemetry.Raise, i, in, c, out)
		in.pending, in.clearing = hold{}, hold{}
	}
	return telemetry.Never
}

// severityNow is the worst severity whose condition has been true for severity_for, or which was given and is still
// true or cannot be decided now.
func (e *Engine) severityNow(in *instance, f *expr.Frame, now telemetry.Mono) telemetry.Severity {
	s, helds := in.prog.Severity, e.heldsOf(in)
	for k, cond := range in.sev {
		worse := in.prog.sev[k].severity
		if worse <= s {
			continue
		}
		c := cond(f)
		if c != expr.False && in.severity >= worse || c == expr.True && (helds == nil || helds[k].elapsed(now) >= in.prog.sevFor) {
			s = worse
		}
	}
	return s
}

// record computes a derived point, says so when it changed, and returns when it must be looked at again.
func (e *Engine) record(i uint32, in *instance, f *expr.Frame, out *Output) telemetry.Mono {
	cell := &e.cells[in.point]
	next := expr.Cell{Num: expr.AnyNum(), Tri: expr.Unknown, Seen: true, Time: e.at}
	var v telemetry.Value
	if in.settles == 0 && e.settles(i, in) != telemetry.Never {
		e.wake(e.valueDeps.of(in.point)) // Whoever reads it settles after it, also where its value stays as it is.
	}
	if in.num != nil {
		next.Num = in.num(f)
		v, next.Quality = measured(next.Num)
	} else if next.Tri = in.cond(f); next.Tri == expr.Unknown {
		next.Quality = telemetry.BadSensor
	} else {
		v = telemetry.BoolValue(next.Tri == expr.True)
		next.Num = expr.Exact(v.Float())
	}
	if !cell.Seen && next.Quality.Bad() {
		// Not known yet is not news, but whoever depends on it must learn that no more is to be expected.
		if settles := e.settles(i, in); e.at < settles {
			return settles
		}
		*cell = next
		e.wake(e.valueDeps.of(in.point))
		e.wake(e.qualityDeps.of(in.point))
		return telemetry.Never
	}
	quality := !cell.Seen || cell.Quality != next.Quality
	if !quality && cell.Num == next.Num && cell.Tri == next.Tri {
		return telemetry.Never
	}
	*cell = next
	e.wake(e.valueDeps.of(in.point))
	if quality {
		e.wake(e.qualityDeps.of(in.point))
	}
	out.Derived = append(out.Derived, telemetry.Sample{Point: in.point, Quality: next.Quality, Time: e.at, Value: v})
	return telemetry.Never
}

// measured turns what is known of a number into a sample's value and quality: of two finite bounds the lower one,
// as uncertain.
func measured(n expr.Num) (telemetry.Value, telemetry.Quality) {
	low, high := math.IsInf(n.Lo, -1), math.IsInf(n.Hi, 1)
	switch {
	case low && high:
		return telemetry.Value{}, telemetry.BadSensor
	case high:
		return telemetry.FloatValue(n.Lo), telemetry.OverRange
	case low:
		return telemetry.FloatValue(n.Hi), telemetry.UnderRange
	case n.Lo != n.Hi:
		return telemetry.FloatValue(n.Lo), telemetry.Uncertain
	}
	return telemetry.FloatValue(n.Lo), telemetry.Good
}

var conditions = [...]telemetry.Condition{
	expr.Unknown: telemetry.ConditionUnknown, expr.False: telemetry.ConditionFalse, expr.True: telemetry.ConditionTrue,
}

// say appends a transition. It is the only place of a step that allocates.
func (e *Engine) say(op telemetry.TransitionOp, i uint32, in *instance, c expr.Tri, out *Output) {
	t := telemetry.Transition{
		Identity: e.identity(in),
		Op:       op, Condition: conditions[c], Time: e.at, Severity: in.severity, Device: int(in.device), Zone: int(in.zone), LifeSafety: in.prog.LifeSafety,
	}
	t.Wall, _ = e.now.WallAt(e.at)
	t.Title = e.title(in)
	t.Detail = e.detail(op, i, in)
	out.Transitions = append(out.Transitions, t)
}
