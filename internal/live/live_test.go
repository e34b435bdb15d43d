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
