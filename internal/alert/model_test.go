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

// model is what people believe an alert to be: three facts and how often it changed.
type model struct {
	holds, acknowledged, unknown bool
	severity                     telemetry.Severity
	changes                      int64
}

func (m *model) String() string {
	s := fmt.Sprintf("%v %d", m.severity, m.changes)
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
	byHand  map[telemetry.Identity]bool // closed by hand while active, and the engine was not told
}

var subjects = []telemetry.Identity{{Alert: "A", Subject: "x"}, {Alert: "A", Subject: "y"}, {Alert: "B", Subject: "x"}}

func (m *machine) start(t *rapid.T) {
	b, err := alert.OpenOn(alert.Config{}, nil, m.disk)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.b, m.cancel, m.done, m.byHand = b, cancel, make(chan error, 1), map[telemetry.Identity]bool{}
	go func() { m.done <- b.Run(ctx) }()
}

func (m *machine) engine(op telemetry.TransitionOp) func(*rapid.T) {
	return func(t *rapid.T) {
		id := rapid.SampledFrom(subjects).Draw(t, "identity")
		severity := telemetry.Severity(rapid.IntRange(1, 3).Draw(t, "severity"))
		condition := telemetry.Condition(rapid.IntRange(0, 2).Draw(t, "condition"))
		m.b.Submit(at(m.now), []telemetry.Transition{{Identity: id, Op: op, Severity: severity, Device: -1, Zone: -1, Condition: condition}})
		e := m.model[id]
		if e == nil {
			if holds := condition == telemetry.ConditionTrue; op == telemetry.Raise || holds && (op == telemetry.Known || op == telemetry.Changed) {
				delete(m.byHand, id)
				m.model[id] = &model{holds: true, severity: severity, changes: 1}
			}
			return
		}
		switch {
		case op == telemetry.Raise && !e.holds:
			e.holds, e.severity = true, severity
		case op == telemetry.Clear && e.holds:
			e.holds, e.unknown = false, false
		case op == telemetry.Unknown && e.holds && !e.unknown:
			e.unknown = true
		case (op == telemetry.Known || op == telemetry.Raise) && e.unknown:
			e.unknown = false
		case op == telemetry.Changed && e.holds && severity != e.severity:
			e.acknowledged = e.acknowledged && severity < e.severity
			e.severity = severity
		default:
			return
		}
		e.changes++
		if !e.holds && e.acknowledged {
			m.close(id)
		}
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
	if e.holds {
		m.byHand[a.Identity] = true
	}
	m.close(a.Identity)
	m.see(t, got)
}

// drain tells the engine what was closed by hand.
func (m *machine) drain(t *rapid.T) {
	ids := m.b.TakeClosedByHand()
	for _, id := range ids {
		if !m.byHand[id] {
			t.Fatalf("the engine was told that %v was closed by hand", id)
		}
	}
	if len(ids) != len(m.byHand) {
		t.Fatalf("the engine was told of %v, want %v", ids, m.byHand)
	}
	clear(m.byHand)
}

func (m *machine) remove(t *rapid.T) {
	id := rapid.SampledFrom(subjects).Draw(t, "identity")
	m.b.Remove(at(m.now), []telemetry.Identity{id})
	if m.model[id] != nil {
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
		m.model[a.Identity] = &model{holds: a.State.Active(), acknowledged: a.State == alert.ActiveAcknowledged,
			unknown: a.Unknown, severity: a.Severity, changes: a.Revision}
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
		e := model{holds: a.State.Active(), acknowledged: a.State == alert.ActiveAcknowledged, unknown: a.Unknown,
			severity: a.Severity, changes: a.Revision}
		got[a.Identity] = e.String()
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
				"fault": m.fault, "tell": m.tell, "drain": m.drain, "restart": m.restart, "crash": m.crash,
				"": m.check,
			})
			m.finish(t)
		})
	})
}
