package alert_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

// inventory: a fire lane sensor and a detector on the first floor of building 3.
func inventory() *telemetry.Inventory {
	inv := &telemetry.Inventory{Site: "lakeside", Gateway: "gw1", Title: telemetry.Text{Zh: "湖畔小区", En: "Lakeside"}}
	b3 := inv.AddZone(telemetry.Zone{ID: "b3", Parent: -1, Title: telemetry.Text{Zh: "3号楼", En: "Building 3"}})
	f1 := inv.AddZone(telemetry.Zone{ID: "b3f1", Parent: b3, Title: telemetry.Text{Zh: "1层", En: "Floor 1"}})
	lane := &telemetry.Class{ID: "fire_lane_sensor"}
	smoke := &telemetry.Class{ID: "smoke_detector"}
	inv.AddDevice(telemetry.Device{ID: "lane1", Class: lane, Zone: f1})
	inv.AddDevice(telemetry.Device{ID: "smoke1", Class: smoke, Zone: f1})
	return inv
}

var (
	laneBlocked = telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane1"}
	smokeAlarm  = telemetry.Identity{Alert: "SmokeDetected", Subject: "smoke1"}
	noon        = time.Date(2026, 11, 21, 4, 0, 0, 123e6, time.UTC)
)

func at(d time.Duration) telemetry.Now {
	return telemetry.Now{Mono: telemetry.Mono(d), Wall: noon.Add(d)}
}

func lane(op telemetry.TransitionOp, d time.Duration) telemetry.Transition {
	return telemetry.Transition{
		Identity: laneBlocked, Op: op, Time: telemetry.Mono(d), Wall: noon.Add(d), Severity: telemetry.Warning,
		Title: telemetry.Text{Zh: "消防通道被占用", En: "Fire lane blocked"}, Device: 0, Zone: 1,
		Detail: telemetry.Text{Zh: "占用", En: "occupied"},
	}
}

func smoke(op telemetry.TransitionOp, d time.Duration) telemetry.Transition {
	t := lane(op, d)
	t.Identity, t.Severity, t.LifeSafety, t.Device = smokeAlarm, telemetry.Critical, true, 1
	return t
}

// running opens a book on a real file and runs it; stop ends it and closes it.
func running(t *testing.T, cfg alert.Config) (b *alert.Book, stop func()) {
	t.Helper()
	b, err := alert.Open(cfg, inventory())
	if err != nil {
		t.Fatal(err)
	}
	return b, run(t, b)
}

func run(t *testing.T, b *alert.Book) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// until waits for an announcement after which cond holds.
func until(t *testing.T, b *alert.Book, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		changed := b.Changed()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited in vain: %s; open: %+v", what, b.OpenAlerts())
		}
	}
}

func whats(entries []alert.Entry) string {
	var w []string
	for i, e := range entries {
		if i > 0 && e.Revision != entries[i-1].Revision+1 {
			w = append(w, "(gap)")
		}
		w = append(w, e.What)
	}
	return strings.Join(w, " ")
}

func TestLifeOfAnAlert(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	b, stop := running(t, alert.Config{Path: path})
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
	until(t, b, "raised", func() bool { return len(b.OpenAlerts()) == 1 })

	a := b.OpenAlerts()[0]
	want := alert.Alert{
		ID: a.ID, Identity: laneBlocked, Severity: telemetry.Warning, State: alert.ActiveUnacknowledged,
		Title: telemetry.Text{Zh: "消防通道被占用", En: "Fire lane blocked"}, Detail: telemetry.Text{Zh: "占用", En: "occupied"},
		Device: "lane1", Class: "fire_lane_sensor", Zone: "b3f1",
		Place: telemetry.Text{Zh: "3号楼 · 1层", En: "Building 3 · Floor 1"}, RaisedAt: noon, Revision: 1, Durable: true,
	}
	if want = alert.Said(want, telemetry.Warning); a != want || len(a.ID) != 26 {
		t.Fatalf("raised:\ngot  %+v\nwant %+v", a, want)
	}
	if got := b.Active(); len(got) != 1 || got[0] != (telemetry.ActiveAlert{Identity: laneBlocked, Severity: telemetry.Warning, Since: noon}) {
		t.Errorf("active: got %+v", got)
	}
	pending := b.Pending("mqtt", 10)
	if len(pending) != 1 || pending[0].Alert != a || pending[0].What != "raised" {
		t.Fatalf("pending: got %+v", pending)
	}
	if got := b.Pending("sms", 10); len(got) != 0 {
		t.Errorf("pending on a channel that does not exist: %+v", got)
	}
	b.Told("mqtt", a.ID, pending[0].Seq)
	if got := b.Pending("mqtt", 10); len(got) != 0 {
		t.Errorf("pending after told: %+v", got)
	}

	got, err := b.Acknowledge(t.Context(), a.ID, " 王保安 ", "已派人")
	if err != nil || got.State != alert.ActiveAcknowledged || got.AcknowledgedBy != "王保安" || !got.Durable || got.AcknowledgedAt.IsZero() {
		t.Fatalf("acknowledged: got %+v, %v", got, err)
	}
	again, err := b.Acknowledge(t.Context(), a.ID, "李四", "")
	if err != nil || again != got {
		t.Errorf("acknowledged twice: got %+v, %v, want %+v", again, err, got)
	}
	if _, err := b.CloseByHand(t.Context(), a.ID, "王保安", ""); !errors.Is(err, alert.ErrStillActive) {
		t.Errorf("closed while active: got %v, want ErrStillActive", err)
	}

	// Everything is there after a restart, and what was not told still is to be.
	stop()
	b, stop = running(t, alert.Config{Path: path})
	if open := b.OpenAlerts(); len(open) != 1 || open[0] != got {
		t.Fatalf("after restart:\ngot  %+v\nwant %+v", open, got)
	}
	pending = b.Pending("mqtt", 10)
	if len(pending) != 1 || pending[0].Alert != got || pending[0].What != "acknowledged" {
		t.Fatalf("pending after restart: got %+v", pending)
	}

	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Unknown, 0)})
	until(t, b, "unknown", func() bool { active := b.Active(); return len(active) == 1 && active[0].Unknown })
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Known, 0)})
	until(t, b, "known", func() bool { active := b.Active(); return len(active) == 1 && !active[0].Unknown })
	b.Submit(at(time.Minute), []telemetry.Transition{lane(telemetry.Clear, time.Minute)})
	until(t, b, "closed", func() bool { return len(b.OpenAlerts()) == 0 })
	closed, entries, err := b.Get(a.ID)
	if err != nil || closed.State != alert.Closed || closed.CloseReason != "returned" ||
		closed.ClosedAt != noon.Add(time.Minute) || closed.ReturnedAt != closed.ClosedAt {
		t.Errorf("closed: got %+v, %v", closed, err)
	}
	if got := whats(entries); got != "raised acknowledged unknown known closed" || entries[1].By != "王保安" || entries[1].Note != "已派人" || entries[0].By != "sensor" {
		t.Errorf("history: got %s: %+v", got, entries)
	}
	if recent, err := b.Recent(5); err != nil || len(recent) != 1 || recent[0] != closed {
		t.Errorf("recent: got %+v, %v", recent, err)
	}
	if a, err := b.Acknowledge(t.Context(), a.ID, "x", ""); err != nil || a != closed {
		t.Errorf("acknowledging a closed alert: got %+v, %v", a, err)
	}
	if pending = b.Pending("mqtt", 10); len(pending) != 1 || pending[0].Alert.State != alert.Closed {
		t.Errorf("pending of the closed alert: %+v", pending)
	}
	b.Told("mqtt", a.ID, pending[0].Seq)

	b.Submit(at(time.Hour), []telemetry.Transition{lane(telemetry.Raise, time.Hour)})
	until(t, b, "raised anew", func() bool { return len(b.OpenAlerts()) == 1 })
	if id := b.OpenAlerts()[0].ID; id <= a.ID {
		t.Errorf("the next alert has id %s, want one after %s", id, a.ID)
	}
	stop()
	b, _ = running(t, alert.Config{Path: path})
	if pending = b.Pending("mqtt", 10); len(pending) != 1 || pending[0].What != "raised" {
		t.Errorf("what was told before the restart came back: %+v", pending)
	}
}

func TestCommandsAreChecked(t *testing.T) {
	t.Parallel()
	b, _ := running(t, alert.Config{Path: filepath.Join(t.TempDir(), "alerts.db")})
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
	until(t, b, "raised", func() bool { return len(b.OpenAlerts()) == 1 })
	id := b.OpenAlerts()[0].ID
	for name, c := range map[string]struct {
		id, by, note string
		want         error
	}{
		"no name":       {id, "  ", "", alert.ErrBadInput},
		"long name":     {id, strings.Repeat("名", 65), "", alert.ErrBadInput},
		"long note":     {id, "a", strings.Repeat("注", 501), alert.ErrBadInput},
		"not UTF-8":     {id, "a\xff", "", alert.ErrBadInput},
		"control":       {id, "a", "a\x00b", alert.ErrBadInput},
		"unknown alert": {"01ARZ3NDEKTSV4RRFFQ69G5FAV", "a", "", alert.ErrNotFound},
		"no id":         {"", "a", "", alert.ErrNotFound},
	} {
		if _, err := b.Acknowledge(t.Context(), c.id, c.by, c.note); !errors.Is(err, c.want) {
			t.Errorf("%s: acknowledge: got %v, want %v", name, err, c.want)
		}
		if _, err := b.CloseByHand(t.Context(), c.id, c.by, c.note); !errors.Is(err, c.want) {
			t.Errorf("%s: close: got %v, want %v", name, err, c.want)
		}
	}
	if a := b.OpenAlerts()[0]; a.Revision != 1 {
		t.Errorf("refused commands changed the alert: %+v", a)
	}
	if _, _, err := b.Get("nonsense"); !errors.Is(err, alert.ErrNotFound) {
		t.Errorf("get: got %v, want ErrNotFound", err)
	}
}

func TestOrderPlaceAndTimes(t *testing.T) {
	t.Parallel()
	b, _ := running(t, alert.Config{Path: filepath.Join(t.TempDir(), "alerts.db"), Channels: []string{"mqtt", "wecom"}})
	site := lane(telemetry.Raise, 0)
	site.Identity = telemetry.Identity{Alert: "Backlog", Subject: "lakeside"}
	site.Severity, site.Device, site.Zone = telemetry.Notice, -1, -1
	unset := smoke(telemetry.Raise, 0)
	unset.Identity.Alert, unset.Wall = "ClockUnset", time.Time{}
	unset.Detail.Zh = strings.Repeat("长", 2000) + "\xff"
	stray := lane(telemetry.Raise, time.Second)
	stray.Identity.Alert, stray.Device, stray.Zone = "Stray", 99, 99
	b.Submit(telemetry.Now{}, []telemetry.Transition{
		site, lane(telemetry.Raise, 0), smoke(telemetry.Raise, 0), unset, stray,
		{Identity: smokeAlarm}, {Identity: smokeAlarm, Op: 77},
	})
	durable(t, b, 5)
	var got []string
	for _, a := range b.OpenAlerts() {
		got = append(got, a.Alert)
	}
	if want := []string{"ClockUnset", "SmokeDetected", "Stray", "FireLaneBlocked", "Backlog"}; !slices.Equal(got, want) {
		t.Errorf("order: got %v, want %v", got, want)
	}
	open := b.OpenAlerts()
	if a := open[0]; !a.TimeUncertain || a.RaisedAt != time.Unix(0, 0).UTC() || len([]rune(a.Detail.Zh)) != 1001 {
		t.Errorf("raised with the clock unset: %+v", a)
	}
	if a := open[2]; a.Device != "" || a.Zone != "" {
		t.Errorf("an index out of range: %+v", a)
	}
	if a := open[4]; a.TimeUncertain || a.Place != (telemetry.Text{Zh: "湖畔小区", En: "Lakeside"}) || a.Device != "" || a.Zone != "" {
		t.Errorf("an alert of the site: %+v", a)
	}
	for _, ch := range []string{"mqtt", "wecom"} {
		pending := b.Pending(ch, 3)
		if len(pending) != 3 || !pending[0].Alert.LifeSafety || !pending[1].Alert.LifeSafety || pending[2].Alert.Alert != "Backlog" {
			t.Errorf("%s: life safety first, then oldest first: got %+v", ch, pending)
		}
	}
	s := b.Stats()
	if s.Open[telemetry.Critical] != 2 || s.Open[telemetry.Warning] != 2 || s.Open[telemetry.Notice] != 1 ||
		s.Unacknowledged != 5 || s.Outbox["mqtt"] != 5 || s.Outbox["wecom"] != 5 || s.Commits == 0 || s.Waiting != 0 {
		t.Errorf("stats: got %+v", s)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	b, _ := running(t, alert.Config{Path: filepath.Join(t.TempDir(), "alerts.db")})
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0), smoke(telemetry.Raise, 0)})
	b.Remove(at(time.Second), []telemetry.Identity{laneBlocked, {Alert: "Nothing"}})
	until(t, b, "one removed", func() bool { return len(b.OpenAlerts()) == 1 && b.Stats().Waiting == 0 })
	recent, err := b.Recent(10)
	if err != nil || len(recent) != 1 || recent[0].Identity != laneBlocked || recent[0].CloseReason != "removed" || recent[0].ClosedAt != noon.Add(time.Second) {
		t.Errorf("got %+v, %v", recent, err)
	}
	_, entries, err := b.Get(recent[0].ID)
	if err != nil || whats(entries) != "raised closed" || entries[1].By != "site" {
		t.Errorf("got %+v, %v", entries, err)
	}
}

// How many alerts were raised and closed is known after a restart too, and does not go down when old ones are thrown away.
func TestAlertsAreCounted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	want := func(b *alert.Book, raised, closed int64) {
		t.Helper()
		if s := b.Stats(); s.Raised != raised || s.Closed != closed {
			t.Errorf("%d raised, %d closed, want %d and %d", s.Raised, s.Closed, raised, closed)
		}
	}
	b, stop := running(t, alert.Config{Path: path, Keep: 2})
	want(b, 0, 0)
	b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0)})
	for i := range 9 {
		d := time.Duration(i) * time.Minute
		b.Submit(at(d), []telemetry.Transition{lane(telemetry.Raise, d)})
		want(b, int64(i)+2, int64(i)) // at once
		b.Submit(at(d), []telemetry.Transition{lane(telemetry.Raise, d)})
		b.Remove(at(d), []telemetry.Identity{laneBlocked})
		want(b, int64(i)+2, int64(i)+1)
	}
	until(t, b, "on the disk", func() bool { return b.Stats().Waiting == 0 })
	for _, o := range b.Pending("mqtt", 100) {
		b.Told("mqtt", o.Alert.ID, o.Seq)
	}
	stop()
	b, _ = running(t, alert.Config{Path: path, Keep: 2})
	want(b, 10, 9)
}

func TestClosedAlertsArePruned(t *testing.T) {
	t.Parallel()
	b, _ := running(t, alert.Config{Path: filepath.Join(t.TempDir(), "alerts.db"), Keep: 20})
	for i := range 60 {
		d := time.Duration(i) * time.Minute
		b.Submit(at(d), []telemetry.Transition{lane(telemetry.Raise, d)})
		b.Remove(at(d), []telemetry.Identity{laneBlocked})
		until(t, b, "closed", func() bool { return len(b.Pending("mqtt", 1)) == 1 && b.Stats().Waiting == 0 })
		if i == 30 {
			if recent, err := b.Recent(100); err != nil || len(recent) != 31 {
				t.Fatalf("what is still to be told was thrown away: %d left, %v", len(recent), err)
			}
		}
		if i > 30 {
			for _, o := range b.Pending("mqtt", 100) {
				b.Told("mqtt", o.Alert.ID, o.Seq)
			}
		}
	}
	recent, err := b.Recent(1000)
	if err != nil || len(recent) < 20 || len(recent) > 26 {
		t.Errorf("kept %d, %v, want 20 and a few", len(recent), err)
	}
	for i, a := range recent {
		if want := noon.Add(time.Duration(59-i) * time.Minute); a.RaisedAt != want {
			t.Fatalf("number %d was raised at %v, want %v: the last closed come first", i, a.RaisedAt, want)
		}
	}
}

// Which alerts changed last within a span of time, closed ones among them.
func TestWithin(t *testing.T) {
	t.Parallel()
	b, _ := running(t, alert.Config{Path: filepath.Join(t.TempDir(), "alerts.db")})
	var closed []string
	for i := range 100 { // each minute one is raised, and closed half a minute later
		d := time.Duration(i) * time.Minute
		b.Submit(at(d), []telemetry.Transition{lane(telemetry.Raise, d)})
		b.Remove(at(d+30*time.Second), []telemetry.Identity{laneBlocked})
		until(t, b, "closed", func() bool { return len(b.Pending("mqtt", 200)) == i+1 && b.Stats().Waiting == 0 })
	}
	b.Submit(at(50*time.Minute), []telemetry.Transition{smoke(telemetry.Raise, 50*time.Minute)})
	until(t, b, "an open one", func() bool { return len(b.OpenAlerts()) == 1 && b.OpenAlerts()[0].Durable })
	recent, err := b.Recent(100)
	if err != nil || len(recent) != 100 {
		t.Fatalf("%d, %v", len(recent), err)
	}
	for _, a := range recent {
		closed = append(closed, a.ID)
	}
	slices.Reverse(closed)
	open := b.OpenAlerts()[0].ID
	minute := func(m float64) time.Time { return noon.Add(time.Duration(m * float64(time.Minute))) }
	for _, c := range []struct {
		from, to float64
		want     []string
	}{
		{3.5, 5.5, closed[3:6]},
		{3.6, 3.9, nil},
		{49.7, 50.7, []string{open, closed[50]}},
		{-9, 2, closed[:2]},
		{98.5, 1000, closed[98:]},
	} {
		if got, err := b.Within(minute(c.from), minute(c.to)); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v to %v: %v, %v, want %v", c.from, c.to, got, err, c.want)
		}
	}
	if all, err := b.Within(time.Time{}, minute(1000)); err != nil || len(all) != 101 {
		t.Errorf("%d in all, %v", len(all), err)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	a := alert.Alert{
		ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Identity: laneBlocked, Severity: telemetry.Critical, State: alert.ReturnedUnacknowledged,
		LifeSafety: true, Title: telemetry.Text{Zh: "甲", En: "A"}, Device: "lane1", Class: "fire_lane_sensor", Zone: "b3f1",
		Place: telemetry.Text{Zh: "乙", En: "B"}, RaisedAt: noon, ReturnedAt: noon.Add(time.Second), Revision: 2, Durable: true,
	}
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","alert":"FireLaneBlocked","subject":"lane1","severity":"critical",` +
		`"state":"returned_unacknowledged","unknown":false,"life_safety":true,"suppressed":false,"title":{"zh":"甲","en":"A"},"device":"lane1",` +
		`"class":"fire_lane_sensor","zone":"b3f1","place":{"zh":"乙","en":"B"},"raised_at":"2026-11-21T04:00:00.123Z",` +
		`"returned_at":"2026-11-21T04:00:01.123Z","revision":2,"durable":true,"time_uncertain":false}`
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
	var back alert.Alert
	if err := json.Unmarshal(data, &back); err != nil || back != a {
		t.Errorf("read back: %+v, %v", back, err)
	}
	a.Tier, a.Suppressed, a.SuppressedBy = alert.Street, true, smokeAlarm
	data, err = json.Marshal(a)
	if part := `"tier":"street","suppressed":true,"suppressed_by":{"alert":"SmokeDetected","subject":"smoke1"},`; err != nil || !strings.Contains(string(data), part) {
		t.Errorf("got %s, %v, want %s in it", data, err, part)
	}
	if err := json.Unmarshal(data, &back); err != nil || back != a {
		t.Errorf("read back: %+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"severity":"notice","state":"closed"}`), &back); err != nil || back.Tier != 0 || back.Suppressed {
		t.Errorf("of an older gateway: %+v, %v", back, err)
	}
	for _, bad := range []string{`{"severity":"notice","state":"closed","tier":"moon"}`, `{"severity":"purple"}`, `{"severity":"notice","state":"gone"}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	data, err = json.Marshal(alert.Entry{Revision: 1, Time: noon, What: "raised", By: "sensor"})
	if want := `{"revision":1,"time":"2026-11-21T04:00:00.123Z","what":"raised","by":"sensor"}`; err != nil || string(data) != want {
		t.Errorf("entry: got %s, %v, want %s", data, err, want)
	}
}
