package alert_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

const early = telemetry.Mono(90 * time.Second) // since boot, when the process starts

// unsetClock returns a clock that is set in an hour.
func unsetClock(boot string, base telemetry.Mono) *telemetry.Clock {
	return telemetry.NewClock(boot, base, time.Now().Add(time.Hour))
}

// boot opens a book on d and runs it.
func boot(t *testing.T, d *alert.MemDisk, c *telemetry.Clock) (b *alert.Book, stop func()) {
	t.Helper()
	b, err := alert.OpenOn(alert.Config{Clock: c}, inventory(), d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return b, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// say submits what the engine says at this moment of c.
func say(b *alert.Book, c *telemetry.Clock, tr telemetry.Transition) time.Time {
	now := c.Now()
	tr.Time, tr.Wall = now.Mono, now.Wall
	b.Submit(now, []telemetry.Transition{tr})
	synctest.Wait()
	return time.Now().UTC().Truncate(time.Millisecond)
}

func since1970(m telemetry.Mono) time.Time { return time.Unix(0, int64(m)).UTC() }

func TestTimesArePutRight(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"one process": false, "restarted on the same boot": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, c := alert.NewMemDisk(), unsetClock("boot1", early)
				b, stop := boot(t, d, c)
				raised := say(b, c, smoke(telemetry.Raise, 0))
				time.Sleep(time.Minute)
				id := b.OpenAlerts()[0].ID
				acknowledged := time.Now().UTC()
				a, err := b.Acknowledge(t.Context(), id, "Wang", "")
				if err != nil || !a.TimeUncertain || a.RaisedAt != since1970(early) || a.AcknowledgedAt != since1970(early.Add(time.Minute)) {
					t.Errorf("while the clock is not set: %+v, %v", a, err)
				}
				_, lines, _ := b.Get(id)
				if !lines[0].TimeUncertain || !lines[1].TimeUncertain || lines[1].Time != a.AcknowledgedAt {
					t.Errorf("history while the clock is not set: %+v", lines)
				}
				o := b.Pending("mqtt", 10)
				if len(o) != 1 || o[0].At != a.AcknowledgedAt {
					t.Errorf("to be told while the clock is not set: %+v", o)
				}
				b.Told("mqtt", id, o[0].Seq)
				if restart {
					stop()
					b, stop = boot(t, d, c)
				}
				sleep(59*time.Minute - time.Millisecond)
				if a := b.OpenAlerts()[0]; a.Revision != 2 {
					t.Errorf("put right without a clock: %+v", a)
				}
				sleep(3 * time.Second)
				check := func() {
					t.Helper()
					a, lines, err := b.Get(id)
					if err != nil || a.TimeUncertain || a.RaisedAt != raised || a.AcknowledgedAt != acknowledged || a.Revision != 3 || !a.Durable ||
						a.State != alert.ActiveAcknowledged {
						t.Errorf("after the clock was set: %+v, %v", a, err)
					}
					if len(lines) != 3 || whats(lines) != "raised acknowledged corrected" || lines[2].By != "clock" || lines[2].Detail.Zh == "" {
						t.Fatalf("history: %+v", lines)
					}
					for i, want := range []time.Time{raised, acknowledged} {
						if lines[i].Time != want || lines[i].TimeUncertain {
							t.Errorf("line %d is %+v, want the time %v", i, lines[i], want)
						}
					}
				}
				check()
				if o := b.Pending("mqtt", 10); len(o) != 1 || o[0].Alert.Revision != 3 || o[0].At.Sub(raised) < time.Hour {
					t.Errorf("to be told after the clock was set: %+v", o)
				}
				sleep(time.Hour)
				check() // once
				stop()
				b, stop = boot(t, d, c)
				sleep(time.Hour)
				check()
				stop()
			})
		})
	}
}

// The box boots again before its clock was set: nobody knows any more when that was.
func TestTimesOfAnotherBootStayMarked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, c := alert.NewMemDisk(), unsetClock("boot1", early)
		b, stop := boot(t, d, c)
		say(b, c, smoke(telemetry.Raise, 0))
		stop()
		c = unsetClock("boot2", early)
		b, stop = boot(t, d, c)
		time.Sleep(time.Minute)
		acknowledged := time.Now().UTC()
		id := b.OpenAlerts()[0].ID
		if _, err := b.Acknowledge(t.Context(), id, "Wang", ""); err != nil {
			t.Fatal(err)
		}
		known := say(b, c, lane(telemetry.Raise, 0))
		sleep(time.Hour)
		a, lines, _ := b.Get(id)
		if !a.TimeUncertain || a.RaisedAt != since1970(early) || a.AcknowledgedAt != acknowledged || !lines[0].TimeUncertain || lines[1].TimeUncertain {
			t.Errorf("raised on one boot, acknowledged on the next: %+v, %+v", a, lines)
		}
		if a := b.OpenAlerts()[1]; a.TimeUncertain || a.RaisedAt != known {
			t.Errorf("raised on the second boot: %+v", a)
		}
		// It is told when its life ends, and still marked.
		returned := say(b, c, smoke(telemetry.Clear, 0))
		if a, _, _ := b.Get(id); a.State != alert.Closed || !a.TimeUncertain || a.ClosedAt != returned {
			t.Errorf("closed: %+v", a)
		}
		stop()
	})
}

func TestCloseByHandCarriesTheMark(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, c := alert.NewMemDisk(), unsetClock("boot1", early)
		b, stop := boot(t, d, c)
		b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0), smoke(telemetry.Unknown, 0)}) // with the clock set
		synctest.Wait()
		if a := b.OpenAlerts()[0]; a.TimeUncertain {
			t.Errorf("raised: %+v", a)
		}
		a, err := b.CloseByHand(t.Context(), b.OpenAlerts()[0].ID, "Wang", "")
		if err != nil || !a.TimeUncertain || a.RaisedAt != noon || a.ClosedAt != since1970(early) {
			t.Errorf("closed: %+v, %v", a, err)
		}
		stop()
	})
}

// On a real file, and with the time of a transition that the alert itself does not carry.
func TestTimesOnDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	start := time.Now()
	set, not := telemetry.NewClock("boot1", early, start.Add(-time.Hour)), telemetry.NewClock("boot1", early, start.Add(time.Hour))
	b, stop := running(t, alert.Config{Path: path, Clock: not})
	now := not.Now()
	b.Submit(now, []telemetry.Transition{{Identity: smokeAlarm, Op: telemetry.Raise, Severity: telemetry.Warning, Time: early, Device: -1, Zone: -1}})
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0), lane(telemetry.Unknown, time.Minute)})
	until(t, b, "both", func() bool { return len(b.OpenAlerts()) == 2 && b.Stats().Waiting == 0 })
	stop()

	b, stop = running(t, alert.Config{Path: path, Clock: set})
	until(t, b, "put right", func() bool {
		return b.OpenAlerts()[0].Revision == 2 && b.OpenAlerts()[1].Revision == 2 && b.Stats().Waiting == 0
	})
	stop()
	b, _ = running(t, alert.Config{Path: path, Clock: set})
	for _, o := range b.Pending("mqtt", 10) {
		_, lines, err := b.Get(o.Alert.ID)
		if err != nil || len(lines) != 2 || lines[1].Time != o.At || lines[0].TimeUncertain || o.Alert.TimeUncertain || lines[0].Time != o.Alert.RaisedAt {
			t.Errorf("%+v has the history %+v, %v", o, lines, err)
		}
		switch o.Alert.Identity {
		case laneBlocked:
			if o.What != "unknown" || o.At != noon.Add(time.Minute) {
				t.Errorf("to be told of the lane: %+v", o)
			}
		case smokeAlarm:
			if d := o.Alert.RaisedAt.Sub(start); d < -time.Second || d > time.Second || o.What != "corrected" {
				t.Errorf("to be told of the smoke: %+v, started %v", o, start)
			}
		}
	}
}
