package alert_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

// model is what people believe an alert to be: some facts and how often it changed.
type model struct {
	holds, acknowledged, unknown bool
	said, least                  telemetry.Severity
	tier                         alert.Tier
	by                           string // what suppresses it
	quiet                        bool
	changes                      int64
}

// believed returns the model of an alert as the book shows it.
func believed(a alert.Alert) *model {
	e := &model{holds: a.State.Active(), acknowledged: a.State == alert.ActiveAcknowledged, unknown: a.Unknown,
		tier: a.Tier, by: a.SuppressedBy.Alert, changes: a.Revision}
	e.said, e.least, e.quiet = alert.Hidden(a)
	return e
}

func (m *model) severity() telemetry.Severity { return max(m.said, m.least) }

func (m *model) String() string {
	s := fmt.Sprintf("%v (%v) %v by %q quiet %v, %d", m.severity(), m.said, m.tier, m.by, m.quiet, m.changes)
	switch {
	case !m.holds:
		s += " returned_unacknowledged"
	case m.acknowledged:
		s += " active_acknowledged"
	default:
		s += " active_unacknowledged"
	}
	if m.unknown {
		s += " unknown"
	}
	return s
}

// machine runs a book against the model, over a disk that fails, hangs and crashes, with a city that is told in part.
type machine struct {
	b      *alert.Book
	disk   *alert.MemDisk
	cancel context.CancelFunc
	done   chan error

	now     time.Duration
	model   map[telemetry.Identity]*model
	durable map[string]int64       // revision announced as durable, by id
	city    map[string]alert.Alert // what the city was told last, by id
	closed  int
	did     []alert.Doing // and the engine was not told
}

var subjects = []telemetry.Identity{{Alert: "A", Subject: "x"}, {Alert: "A", Subject: "y"}, {Alert: "B", Subject: "x"}}

func (m *machine) start(t *rapid.T) {
	b, err := alert.OpenOn(alert.Config{}, nil, m.disk)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.b, m.cancel, m.done, m.did = b, cancel, make(chan error, 1), nil
	go func() { m.done <- b.Run(ctx) }()
}

func (m *machine) engine(op telemetry.TransitionOp) func(*rapid.T) {
	return func(t *rapid.T) {
		id := rapid.SampledFrom(subjects).Draw(t, "identity")
		severity := telemetry.Severity(rapid.IntRange(1, 3).Draw(t, "severity"))
		condition := telemetry.Condition(rapid.IntRange(0, 2).Draw(t, "condition"))
		var quiet []alert.Decision
		if rapid.Bool().Draw(t, "suppressed at once") {
			quiet = append(quiet, alert.Decision{Identity: id, Kind: alert.Suppress, Inhibitor: telemetry.Identity{Alert: "C"}})
		}
		m.b.Submit(at(m.now), []telemetry.Transition{{Identity: id, Op: op, Severity: severity, Device: -1, Zone: -1, Condition: condition}}, quiet...)
		e := m.model[id]
		if len(quiet) > 0 {
			defer func() { m.suppress(id, "C", e == nil) }()
		}
		if e == nil {
			if holds := condition == telemetry.ConditionTrue; op == telemetry.Raise || holds && (op == telemetry.Known || op == telemetry.Changed) {
				m.forget(id, 0)
				if op != telemetry.Raise {
					m.did = append(m.did, alert.Doing{Identity: id, Kind: alert.RaisedAnew, Severity: severity})
				}
				m.model[id] = &model{holds: true, said: severity, changes: 1}
			}
			return
		}
		switch {
		case op == telemetry.Raise && !e.holds:
			e.holds, e.said = true, severity
		case op == telemetry.Clear && e.holds:
			if e.quiet && !e.acknowledged {
				m.do(id, alert.ClosedAlert)
				m.close(id)
				return
			}
			e.holds, e.unknown, e.by, e.quiet = false, false, "", false
		case op == telemetry.Unknown && e.holds && !e.unknown:
			e.unknown = true
		case (op == telemetry.Known || op == telemetry.Raise) && e.unknown:
			e.unknown = false
		case op == telemetry.Changed && e.holds && max(severity, e.least) != e.severity():
			if severity > e.severity() && e.acknowledged {
				e.acknowledged = false
				m.forget(id, alert.Acknowledged)
			}
			e.said = severity
		default:
			return
		}
		e.changes++
		if !e.holds && e.acknowledged {
			m.close(id)
		}
	}
}

// do takes down what the engine is to be told, and forget drops it.
func (m *machine) do(id telemetry.Identity, kind alert.DoingKind) {
	m.forget(id, kind)
	m.did = append(m.did, alert.Doing{Identity: id, Kind: kind, Severity: m.model[id].severity()})
}

func (m *machine) forget(id telemetry.Identity, kind alert.DoingKind) {
	m.did = slices.DeleteFunc(m.did, func(d alert.Doing) bool { return d.Identity == id && (kind == 0 || d.Kind == kind) })
}

func (m *machine) decision(kind alert.DecisionKind) func(*rapid.T) {
	return func(t *rapid.T) {
		d := alert.Decision{Identity: rapid.SampledFrom(subjects).Draw(t, "identity"), Kind: kind,
			Tier: alert.Tier(rapid.IntRange(0, 3).Draw(t, "tier")), Severity: telemetry.Severity(rapid.IntRange(1, 3).Draw(t, "severity")),
			Least: telemetry.Severity(rapid.IntRange(0, 3).Draw(t, "least")), Inhibitor: telemetry.Identity{Alert: rapid.SampledFrom([]string{"C", "D"}).Draw(t, "by")}}
		m.b.Submit(at(m.now), nil, d)
		e := m.model[d.Identity]
		switch {
		case e == nil:
		case kind == alert.Suppress:
			m.suppress(d.Identity, d.Inhibitor.Alert, false)
		case kind == alert.Unsuppress && e.by != "":
			e.by, e.quiet = "", false
			e.changes++
		case kind == alert.Escalate && !e.acknowledged && e.by == "":
			least := max(e.least, d.Least)
			if d.Severity > e.severity() {
				least = max(least, d.Severity)
			}
			if d.Tier > e.tier || max(least, e.said) > e.severity() {
				e.tier, e.least = max(e.tier, d.Tier), least
				e.changes++
			}
		}
	}
}

func (m *machine) suppress(id telemetry.Identity, by string, fresh bool) {
	if e := m.model[id]; e != nil && e.holds && e.by != by {
		e.quiet = e.quiet || fresh
		e.by = by
		e.changes++
	}
}

func (m *machine) close(id telemetry.Identity) {
	delete(m.model, id)
	m.closed++
}

func (m *machine) acknowledge(t *rapid.T) {
	a := m.pick(t)
	got, err := m.b.Acknowledge(context.Background(), a.ID, "Wang", "")
	if err != nil {
		t.Fatal(err)
	}
	e := m.model[a.Identity]
	if e.acknowledged {
		return
	}
	e.acknowledged = true
	e.changes++
	m.do(a.Identity, alert.Acknowledged)
	if !e.holds {
		m.close(a.Identity)
	}
	m.see(t, got)
}

func (m *machine) closeByHand(t *rapid.T) {
	a := m.pick(t)
	e := m.model[a.Identity]
	got, err := m.b.CloseByHand(context.Background(), a.ID, "Wang", "")
	if e.holds && !e.unknown {
		if !errors.Is(err, alert.ErrStillActive) {
			t.Fatalf("closed %v: %v", e, err)
		}
		return
	}
	if err != nil || got.State != alert.Closed {
		t.Fatalf("closing %v: %+v, %v", e, got, err)
	}
	m.do(a.Identity, alert.ClosedAlert)
	m.close(a.Identity)
	m.see(t, got)
}

// drain tells the engine what was done.
func (m *machine) drain(t *rapid.T) {
	if got := m.b.TakeDoings(nil); !slices.Equal(got, m.did) {
		t.Fatalf("the engine was told of %v, want %v", got, m.did)
	}
	m.did = nil
}

func (m *machine) remove(t *rapid.T) {
	id := rapid.SampledFrom(subjects).Draw(t, "identity")
	m.b.Remove(at(m.now), []telemetry.Identity{id})
	if m.model[id] != nil {
		m.do(id, alert.ClosedAlert)
		m.close(id)
	}
}

func (m *machine) pick(t *rapid.T) alert.Alert {
	open := m.b.OpenAlerts()
	if len(open) == 0 {
		t.Skip("nothing is open")
	}
	return rapid.SampledFrom(open).Draw(t, "alert")
}

func (m *machine) fault(t *rapid.T) {
	switch rapid.IntRange(0, 3).Draw(t, "fault") {
	case 0:
		m.disk.SetFault(func() error { return errDisk })
	case 1:
		m.disk.SetFault(func() error { time.Sleep(2 * time.Second); return nil })
	default:
		m.disk.SetFault(nil)
	}
}

func (m *machine) tell(t *rapid.T) {
	for _, o := range m.b.Pending("mqtt", rapid.IntRange(1, 5).Draw(t, "n")) {
		m.city[o.Alert.ID] = o.Alert
		m.b.Told("mqtt", o.Alert.ID, o.Seq)
	}
}

// restart ends the book in order: nothing at all is lost.
func (m *machine) restart(t *rapid.T) {
	m.disk.SetFault(nil)
	m.cancel()
	if err := errors.Join(<-m.done, m.b.Close()); err != nil {
		t.Fatal(err)
	}
	m.start(t)
}

// crash loses what was not committed; the engine takes over what the book then knows.
func (m *machine) crash(t *rapid.T) {
	m.disk.SetFault(func() error { return errDisk })
	m.cancel()
	<-m.done
	m.disk.SetFault(nil)
	m.start(t)
	m.model = map[telemetry.Identity]*model{}
	for _, a := range m.b.OpenAlerts() {
		m.model[a.Identity] = believed(a)
	}
	recent, err := m.b.Recent(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	m.closed = len(recent) // Some may not have reached the disk.
	for id, revision := range m.durable {
		if a, _, err := m.b.Get(id); err != nil || a.Revision < revision {
			t.Fatalf("revision %d of %s was announced as durable; after the crash: %+v, %v", revision, id, a, err)
		}
	}
}

func (m *machine) see(t *rapid.T, a alert.Alert) {
	if a.Durable {
		if a.Revision < m.durable[a.ID] {
			t.Fatalf("%s went back from revision %d to %d", a.ID, m.durable[a.ID], a.Revision)
		}
		m.durable[a.ID] = a.Revision
	}
}

// check holds after every action, a commit limit later.
func (m *machine) check(t *rapid.T) {
	m.now += time.Second
	time.Sleep(250 * time.Millisecond)
	synctest.Wait()
	open := m.b.OpenAlerts()
	got := map[telemetry.Identity]string{}
	for _, a := range open {
		m.see(t, a)
		got[a.Identity] = believed(a).String()
		shown, entries, err := m.b.Get(a.ID)
		if err != nil || shown != a || int64(len(entries)) != a.Revision || entries[len(entries)-1].Revision != a.Revision {
			t.Fatalf("get: %+v, %+v, %v, want %+v and its history", shown, entries, err, a)
		}
	}
	for id, e := range m.model {
		if got[id] != e.String() {
			t.Fatalf("%v: got %q, want %q", id, got[id], e)
		}
	}
	if len(open) != len(m.model) {
		t.Fatalf("open: got %v, want %v", got, m.model)
	}
	if !slices.IsSortedFunc(open, func(x, y alert.Alert) int { return int(y.Severity) - int(x.Severity) }) {
		t.Fatalf("not worst first: %v", open)
	}
	recent, err := m.b.Recent(1 << 20)
	if err != nil || len(recent) != m.closed {
		t.Fatalf("closed: got %d, %v, want %d", len(recent), err, m.closed)
	}
	for _, a := range recent {
		m.see(t, a)
	}
}

// finish heals the disk and tells the city everything: it must then know what the book knows, all of it durable.
func (m *machine) finish(t *rapid.T) {
	m.disk.SetFault(nil)
	time.Sleep(10 * time.Second)
	synctest.Wait()
	for _, o := range m.b.Pending("mqtt", 1<<20) {
		m.city[o.Alert.ID] = o.Alert
		m.b.Told("mqtt", o.Alert.ID, o.Seq)
	}
	recent, err := m.b.Recent(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range append(recent, m.b.OpenAlerts()...) {
		if m.city[a.ID] != a || !a.Durable {
			t.Fatalf("the city was told\n%+v, the book says\n%+v", m.city[a.ID], a)
		}
	}
	m.restart(t)
	if left := m.b.Pending("mqtt", 10); len(left) != 0 {
		t.Fatalf("told, yet listed after a restart: %+v", left)
	}
	m.cancel()
	<-m.done
}

func TestBookAgainstModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// The struct hides t's Deadline from rapid: a bubble does not allow to ask for it.
		rapid.Check(struct{ rapid.TB }{t}, func(t *rapid.T) {
			m := &machine{disk: alert.NewMemDisk(), model: map[telemetry.Identity]*model{}, durable: map[string]int64{}, city: map[string]alert.Alert{}}
			m.start(t)
			defer func() { // A failed run ends as well, so that rapid can shrink it.
				m.disk.SetFault(nil)
				m.cancel()
				time.Sleep(10 * time.Second)
			}()
			t.Repeat(map[string]func(*rapid.T){
				"raise": m.engine(telemetry.Raise), "clear": m.engine(telemetry.Clear), "unknown": m.engine(telemetry.Unknown),
				"known": m.engine(telemetry.Known), "changed": m.engine(telemetry.Changed),
				"acknowledge": m.acknowledge, "close by hand": m.closeByHand, "remove": m.remove,
				"escalate": m.decision(alert.Escalate), "suppress": m.decision(alert.Suppress), "unsuppress": m.decision(alert.Unsuppress),
				"fault": m.fault, "tell": m.tell, "drain": m.drain, "restart": m.restart, "crash": m.crash,
				"": m.check,
			})
			m.finish(t)
		})
	})
}
