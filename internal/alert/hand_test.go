package alert_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

// The disk hangs when the book is to be closed: Close gives up, and the next start does not count on the mark.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"after Run gave up": true, "after Run ended well": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := alert.NewMemDisk()
				b, err := alert.OpenOn(alert.Config{}, inventory(), d)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- b.Run(ctx) }()
				b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0)})
				synctest.Wait()
				hang := func() error { time.Sleep(time.Minute); return errDisk }
				if early {
					d.SetFault(hang)
					o := b.Pending("mqtt", 1)[0]
					b.Told("mqtt", o.Alert.ID, o.Seq)
					sleep(1500 * time.Millisecond) // The transaction that deletes its row hangs.
				}
				cancel()
				if err := <-done; (err != nil) != early {
					t.Fatalf("Run: %v", err)
				}
				d.SetFault(hang)
				start := time.Now()
				if err := b.Close(); (err == nil) != early {
					t.Errorf("Close: %v", err)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("Close took %v", took)
				}
				sleep(2 * time.Minute)
				d.SetFault(nil)
				again, err := alert.OpenOn(alert.Config{}, inventory(), d)
				if err != nil {
					t.Fatal(err)
				}
				if got := again.Pending("mqtt", 10); len(got) != 1 || got[0].What != "raised" {
					t.Errorf("to be told after that: %+v", got)
				}
			})
		})
	}
}

// with gives a transition its condition.
func with(tr telemetry.Transition, c telemetry.Condition) telemetry.Transition {
	tr.Condition = c
	return tr
}

// did returns what was done since it was asked last.
func did(b *alert.Book) string {
	var s []string
	for _, d := range b.TakeDoings(nil) {
		what := map[alert.DoingKind]string{alert.Acknowledged: "acknowledged", alert.ClosedAlert: "closed", alert.RaisedAnew: "raised anew"}[d.Kind]
		if d.Severity == 0 {
			what += " without a severity"
		}
		s = append(s, d.Alert+" "+what)
	}
	return strings.Join(s, "; ")
}

// Closed by hand while silent: only a condition that is true raises a new alert.
func TestClosedByHandThenHeardOf(t *testing.T) {
	t.Parallel()
	const anew = "SmokeDetected active_unacknowledged 1 durable"
	for name, c := range map[string]struct {
		tr          telemetry.Transition
		want, doing string
	}{
		"known, false":       {with(smoke(telemetry.Known, time.Minute), telemetry.ConditionFalse), "", "SmokeDetected closed"},
		"known, unknown":     {smoke(telemetry.Known, time.Minute), "", "SmokeDetected closed"},
		"changed, unknown":   {with(smoke(telemetry.Changed, time.Minute), telemetry.ConditionUnknown), "", "SmokeDetected closed"},
		"changed, false":     {with(smoke(telemetry.Changed, time.Minute), telemetry.ConditionFalse), "", "SmokeDetected closed"},
		"unknown":            {smoke(telemetry.Unknown, time.Minute), "", "SmokeDetected closed"},
		"clear":              {with(smoke(telemetry.Clear, time.Minute), telemetry.ConditionFalse), "", "SmokeDetected closed"},
		"known, true":        {with(smoke(telemetry.Known, time.Minute), telemetry.ConditionTrue), anew, "SmokeDetected raised anew"},
		"changed, true":      {with(smoke(telemetry.Changed, time.Minute), telemetry.ConditionTrue), anew, "SmokeDetected raised anew"},
		"raised in the race": {with(smoke(telemetry.Raise, time.Minute), telemetry.ConditionTrue), anew, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onMem(t, func(t *testing.T, b *alert.Book, _ *alert.MemDisk) {
				b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0), smoke(telemetry.Unknown, 0)})
				synctest.Wait()
				if got := did(b); got != "" {
					t.Errorf("before anything was done: %s", got)
				}
				if _, err := b.CloseByHand(t.Context(), b.OpenAlerts()[0].ID, "Wang", ""); err != nil {
					t.Fatal(err)
				}
				b.Submit(at(time.Minute), []telemetry.Transition{c.tr})
				synctest.Wait()
				if got := shown(b); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				// Engine and book must agree: it hears of the close unless there is a new alert.
				if got := did(b); got != c.doing {
					t.Errorf("done: got %q, want %q", got, c.doing)
				}
				if got := did(b); got != "" {
					t.Errorf("taken twice: %s", got)
				}
			})
		})
	}
}

// What people do is told once, in order and at once; what the engine overtakes in the same moment is not.
func TestDoings(t *testing.T) {
	t.Parallel()
	worse := smoke(telemetry.Changed, time.Minute)
	for name, c := range map[string]struct {
		before []telemetry.Transition
		do     string
		after  []telemetry.Transition
		want   string
	}{
		"acknowledged":                         {nil, "ack", nil, "SmokeDetected acknowledged"},
		"acknowledged twice":                   {nil, "ack ack", nil, "SmokeDetected acknowledged"},
		"acknowledged and cleared":             {nil, "ack", []telemetry.Transition{smoke(telemetry.Clear, time.Minute)}, "SmokeDetected acknowledged"},
		"acknowledged, and worse":              {nil, "ack", []telemetry.Transition{worse}, ""},
		"acknowledged, and a new alert":        {nil, "ack", []telemetry.Transition{smoke(telemetry.Clear, time.Minute), smoke(telemetry.Raise, time.Minute)}, ""},
		"returned and acknowledged":            {[]telemetry.Transition{smoke(telemetry.Clear, 0)}, "ack", nil, "SmokeDetected acknowledged"},
		"returned and closed":                  {[]telemetry.Transition{smoke(telemetry.Clear, 0)}, "close", nil, "SmokeDetected closed"},
		"acknowledged and closed":              {[]telemetry.Transition{smoke(telemetry.Unknown, 0)}, "ack close", nil, "SmokeDetected acknowledged; SmokeDetected closed"},
		"closed, and raised again":             {[]telemetry.Transition{smoke(telemetry.Clear, 0)}, "close", []telemetry.Transition{smoke(telemetry.Raise, time.Minute)}, ""},
		"acknowledged, closed, and it is true": {[]telemetry.Transition{smoke(telemetry.Unknown, 0)}, "ack close", []telemetry.Transition{with(smoke(telemetry.Known, time.Minute), telemetry.ConditionTrue)}, "SmokeDetected raised anew"},
		"removed":                              {nil, "remove", nil, "SmokeDetected closed"},
		"still true":                           {nil, "close", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onMem(t, func(t *testing.T, b *alert.Book, _ *alert.MemDisk) {
				raised := smoke(telemetry.Raise, 0)
				raised.Severity = telemetry.Warning
				b.Submit(at(0), append([]telemetry.Transition{raised}, c.before...))
				synctest.Wait()
				id := b.OpenAlerts()[0].ID
				for _, do := range strings.Fields(c.do) {
					switch do {
					case "ack":
						if _, err := b.Acknowledge(t.Context(), id, "Wang", ""); err != nil {
							t.Fatal(err)
						}
					case "close":
						if _, err := b.CloseByHand(t.Context(), id, "Wang", ""); err != nil && !errors.Is(err, alert.ErrStillActive) {
							t.Fatal(err)
						}
					case "remove":
						b.Remove(at(0), []telemetry.Identity{smokeAlarm})
					}
				}
				b.Submit(at(time.Minute), c.after)
				select {
				case <-b.Done():
				default:
					if c.want != "" {
						t.Error("nobody was woken")
					}
				}
				if got := did(b); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// What is raised and explained in the same moment is never announced as if it asked for somebody, and needs nobody when
// it goes.
func TestRaisedSuppressed(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, _ *alert.MemDisk) {
		suppress := alert.Decision{Identity: laneBlocked, Kind: alert.Suppress, Inhibitor: smokeAlarm}
		told := map[string]int{}
		listen := func() {
			synctest.Wait()
			for _, o := range b.Pending("mqtt", 10) {
				if o.Alert.Identity == laneBlocked {
					told[fmt.Sprintf("%s %v %v", o.What, o.Alert.Suppressed, o.Alert.SuppressedBy.Alert)]++
				}
				b.Told("mqtt", o.Alert.ID, o.Seq)
			}
		}
		b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0), smoke(telemetry.Raise, 0)}, suppress)
		listen()
		if want := map[string]int{"suppressed true SmokeDetected": 1}; !maps.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		_, lines, err := b.Get(b.OpenAlerts()[1].ID)
		if err != nil || len(lines) != 2 || lines[1].What != alert.WhatSuppressed || lines[1].By != alert.ByGateway || lines[1].Detail.En != "Suppressed by “Fire lane blocked”" {
			t.Errorf("%+v, %v", lines, err)
		}
		b.Submit(at(time.Minute), []telemetry.Transition{lane(telemetry.Clear, time.Minute)})
		synctest.Wait()
		if got := shown(b); got != "SmokeDetected active_unacknowledged 1 durable" {
			t.Errorf("after it went: %s", got)
		}
		if got := did(b); got != "FireLaneBlocked closed" {
			t.Errorf("done: %s", got)
		}
		// One that people were told of first waits for them, and one that is released does.
		for i, released := range []bool{false, true} {
			now := at(time.Duration(i+2) * time.Hour)
			b.Submit(now, []telemetry.Transition{lane(telemetry.Raise, now.Mono.Sub(0))})
			if released {
				b.Submit(now, []telemetry.Transition{lane(telemetry.Clear, now.Mono.Sub(0)), lane(telemetry.Raise, now.Mono.Sub(0))}, suppress)
				b.Submit(now, nil, alert.Decision{Identity: laneBlocked, Kind: alert.Unsuppress})
			} else {
				b.Submit(now, nil, suppress)
			}
			synctest.Wait()
			if s := b.Stats(); released == (s.Suppressed == 1) {
				t.Errorf("%+v", s)
			}
			b.Submit(now, []telemetry.Transition{lane(telemetry.Clear, now.Mono.Sub(0))})
			synctest.Wait()
			open := b.OpenAlerts()
			if len(open) != 2 || open[1].State != alert.ReturnedUnacknowledged || open[1].Suppressed {
				t.Fatalf("released %v: %+v", released, open)
			}
			if _, err := b.Acknowledge(t.Context(), open[1].ID, "Wang", ""); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Tier, severity and suppression outlast a restart, and the engine gets its own severity back.
func TestEscalationOutlastsARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	b, stop := running(t, alert.Config{Path: path})
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0), smoke(telemetry.Raise, 0)})
	b.Submit(at(time.Minute), nil, alert.Decision{Identity: laneBlocked, Kind: alert.Escalate, Tier: alert.District, Severity: telemetry.Critical, Time: telemetry.Mono(time.Minute)})
	b.Submit(at(time.Minute), nil, alert.Decision{Identity: laneBlocked, Kind: alert.Suppress, Inhibitor: smokeAlarm, Time: telemetry.Mono(time.Minute)})
	durable(t, b, 2)
	before := b.OpenAlerts()
	stop()
	b, stop = running(t, alert.Config{Path: path})
	defer stop()
	after := b.OpenAlerts()
	if !slices.Equal(after, before) {
		t.Errorf("got\n%+v, want\n%+v", after, before)
	}
	i := slices.IndexFunc(after, func(a alert.Alert) bool { return a.Identity == laneBlocked })
	if a := after[i]; a.Tier != alert.District || a.Severity != telemetry.Critical || !a.Suppressed || a.SuppressedBy != smokeAlarm {
		t.Errorf("got %+v", a)
	}
	for _, a := range b.Active() {
		if a.Identity == laneBlocked && a.Severity != telemetry.Warning {
			t.Errorf("the engine gets %v", a.Severity)
		}
	}
	b.Submit(at(time.Hour), []telemetry.Transition{lane(telemetry.Changed, time.Hour)})
	if got := b.OpenAlerts()[i].Severity; got != telemetry.Critical {
		t.Errorf("after the restart the severity falls to %v", got)
	}
}

// After a crash the city may believe what never reached the disk, until it is told again: an orderly stop in between does
// not make that good.
func TestStoppedBeforeItWasToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := alert.NewMemDisk()
		var b *alert.Book
		once := func(f func()) {
			var err error
			if b, err = alert.OpenOn(alert.Config{}, inventory(), d); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- b.Run(ctx) }()
			synctest.Wait()
			f()
			cancel()
			if <-done == nil { // Some disks fail on purpose.
				_ = b.Close()
			}
		}
		tell := func() (told string) {
			synctest.Wait()
			for _, o := range b.Pending("mqtt", 10) {
				told += o.Alert.State.String() + " "
				b.Told("mqtt", o.Alert.ID, o.Seq)
			}
			return told
		}
		once(func() {
			b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0)})
			tell()
			sleep(2 * time.Second)
			d.SetFault(func() error { return errDisk })
			_, _ = b.Acknowledge(t.Context(), b.OpenAlerts()[0].ID, "Wang", "")
			if got := tell(); got != "active_acknowledged " {
				t.Fatalf("told %q", got)
			}
		})
		d.SetFault(nil)
		once(func() {}) // Started and stopped at once.
		once(func() {
			if got := tell(); got != "active_unacknowledged " {
				t.Errorf("told %q, and the city believes that somebody acknowledged", got)
			}
		})
		once(func() {
			if got := tell(); got != "" {
				t.Errorf("told once more: %q", got)
			}
		})
	})
}
