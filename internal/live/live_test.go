package live_test

import (
	"testing"

	"linli/internal/live"
	"linli/internal/telemetry"
)

func sample(at telemetry.Mono, q telemetry.Quality, v telemetry.Value) []telemetry.Sample {
	return []telemetry.Sample{{Point: 1, Time: at, Quality: q, Value: v}}
}

func TestTableKeepsWhatWasConfirmedApartFromWhatChanged(t *testing.T) {
	table := live.New(2)
	if e := table.Get(1); e.Known {
		t.Errorf("before the first sample: %+v", e)
	}
	table.Apply(sample(10, telemetry.Good, telemetry.FloatValue(21.5)))
	table.Apply(sample(20, telemetry.Good, telemetry.FloatValue(21.5)))
	_, version := table.Snapshot(nil)
	e := table.Get(1)
	if !e.Known || e.Confirmed != 20 || e.Changed != 10 || e.Version != version {
		t.Errorf("read twice with one value: %+v at version %d, want confirmed at 20 and changed at 10", e, version)
	}

	table.Apply(sample(30, telemetry.BadComm, telemetry.Value{}))
	e = table.Get(1)
	if !e.Quality.Bad() || !e.Value.IsZero() || e.Last != telemetry.FloatValue(21.5) || e.Confirmed != 20 || e.Changed != 30 {
		t.Errorf("after silence: %+v, want the last value with its age", e)
	}
	table.Apply(sample(40, telemetry.BadComm, telemetry.Value{}))
	if again := table.Get(1); again.Changed != 30 || again.Confirmed != 20 {
		t.Errorf("silence told again changed the entry: %+v", again)
	}
	table.Apply(sample(50, telemetry.OverRange, telemetry.FloatValue(100)))
	if e = table.Get(1); e.Confirmed != 50 || e.Last.Float() != 100 {
		t.Errorf("over range is a value: %+v", e)
	}
}

// TestTableIsConfirmedByWhatIsNotReported: what was read and says nothing new changes nothing but when that was.
func TestTableIsConfirmedByWhatIsNotReported(t *testing.T) {
	table := live.New(2)
	table.Confirm(sample(5, telemetry.Good, telemetry.FloatValue(1)))
	if e := table.Get(1); e != (live.Entry{}) {
		t.Errorf("confirmed before it is known: %+v", e)
	}
	table.Apply(sample(10, telemetry.Good, telemetry.FloatValue(21.5)))
	_, version := table.Snapshot(nil)
	want := table.Get(1)
	table.Confirm(sample(20, telemetry.Good, telemetry.FloatValue(21.6)))
	table.Confirm(sample(15, telemetry.Good, telemetry.FloatValue(21.6)))
	table.Confirm(sample(30, telemetry.BadComm, telemetry.Value{}))
	table.Confirm([]telemetry.Sample{{Point: 7, Time: 40}, {Point: telemetry.NoPoint, Time: 40}})
	want.Confirmed = 20
	if _, now := table.Snapshot(nil); table.Get(1) != want || now != version {
		t.Errorf("%+v at version %d, want %+v at %d", table.Get(1), now, want, version)
	}
}

// TestTableDoesNotGoBack: a sample that is older than the newest changes nothing, but each event is one.
func TestTableDoesNotGoBack(t *testing.T) {
	table := live.New(2)
	table.Apply(sample(20, telemetry.Good, telemetry.BoolValue(true)))
	want := table.Get(1)
	table.Apply(sample(10, telemetry.Good, telemetry.BoolValue(false)))
	table.Apply(sample(15, telemetry.BadComm, telemetry.Value{}))
	if got := table.Get(1); got != want {
		t.Errorf("after older ones: %+v, want %+v", got, want)
	}
	table = live.New(2, 1)
	table.Apply(sample(20, telemetry.Good, telemetry.TextValue("b")))
	table.Apply(sample(10, telemetry.Good, telemetry.TextValue("a")))
	if events, _ := table.Events(nil, 0); len(events) != 2 {
		t.Errorf("%d events, want 2", len(events))
	}
}

func TestTableIgnoresPointsThatDoNotExist(t *testing.T) {
	table := live.New(1)
	table.Apply([]telemetry.Sample{{Point: 7, Time: 1, Value: telemetry.BoolValue(true)}, {Point: telemetry.NoPoint, Time: 1}})
	entries, version := table.Snapshot(nil)
	if len(entries) != 1 || entries[0].Known || version != 0 {
		t.Errorf("entries %+v at version %d", entries, version)
	}
	if e := table.Get(7); e.Known {
		t.Errorf("point 7 is %+v", e)
	}
}

func TestSnapshotIsInOrderOfPoints(t *testing.T) {
	table := live.New(3)
	table.Apply([]telemetry.Sample{{Point: 2, Time: 5, Value: telemetry.IntValue(2)}, {Point: 0, Time: 5, Value: telemetry.IntValue(0)}})
	entries, version := table.Snapshot(make([]live.Entry, 0, 3))
	if len(entries) != 3 || entries[2].Value.Int() != 2 || entries[1].Known || version != 1 {
		t.Errorf("snapshot %+v at version %d", entries, version)
	}
}

func TestEventsAreKeptOneByOne(t *testing.T) {
	table := live.New(3, 1)
	card := telemetry.TextValue("a1")
	table.Apply([]telemetry.Sample{{Point: 1, Time: 10, Value: card}, {Point: 1, Time: 11, Value: card}, {Point: 2, Time: 11, Value: card}})
	_, before := table.Snapshot(nil)
	events, next := table.Events(nil, 0)
	if len(events) != 2 || events[0].Time != 10 || events[1].Time != 11 || next != 2 {
		t.Errorf("after the same card twice: %v, next %d", events, next)
	}
	table.Apply(sample(12, telemetry.Good, card))
	if _, after := table.Snapshot(nil); after == before {
		t.Error("a card that is presented again is no change")
	}
	table.Apply(sample(13, telemetry.BadSensor, telemetry.Value{}))
	if events, next = table.Events(events[:0], next); len(events) != 1 || events[0].Time != 12 || next != 3 {
		t.Errorf("once more: %v, next %d", events, next)
	}
	for i := range 3000 {
		table.Apply(sample(telemetry.Mono(100+i), telemetry.Good, card))
	}
	events, next = table.Events(nil, 0)
	if len(events) != 1024 || next != 3003 || events[0].Time != telemetry.Mono(100+3000-1024) || events[1023].Time != 3099 {
		t.Errorf("of 3003 events %d are kept, from %d to %d, next %d", len(events), events[0].Time, events[len(events)-1].Time, next)
	}
}

// All yields what Snapshot has, whatever the number of entries.
func TestAllIsTheWholeTable(t *testing.T) {
	for _, points := range []int{0, 1, 63, 64, 65, 128, 200} {
		table := live.New(points)
		for i := range points {
			table.Apply([]telemetry.Sample{{Point: telemetry.PointID(i), Time: 1, Value: telemetry.IntValue(int64(i))}})
		}
		want, version := table.Snapshot(nil)
		if got := table.Version(); got != version {
			t.Errorf("version %d, want %d", got, version)
		}
		n := 0
		for id, e := range table.All() {
			if int(id) != n || *e != want[n] {
				t.Fatalf("of %d: entry %d is number %d, %v", points, n, id, *e)
			}
			n++
		}
		if n != points {
			t.Errorf("%d entries, want %d", n, points)
		}
		for id := range table.All() {
			if id == 2 {
				break
			}
		}
	}
}
