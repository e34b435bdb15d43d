package console_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/console"
	"linli/internal/live"
	"linli/internal/telemetry"
)

// book is a register of alerts that behaves as the real one, without a disk.
type book struct {
	mu      sync.Mutex
	alerts  map[string]alert.Alert
	history map[string][]alert.Entry
	changed chan struct{}
	fail    error         // of the next actions
	block   chan struct{} // actions wait for it where it is set
}

func newBook() *book {
	return &book{alerts: map[string]alert.Alert{}, history: map[string][]alert.Entry{}, changed: make(chan struct{})}
}

// put takes an alert as it stands, and what happened.
func (b *book) put(a alert.Alert, what, by, note string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(a, what, by, note)
}

func (b *book) set(a alert.Alert, what, by, note string) alert.Alert {
	a.Revision = b.alerts[a.ID].Revision + 1
	a.Durable = true
	b.alerts[a.ID] = a
	b.history[a.ID] = append(b.history[a.ID], alert.Entry{Revision: a.Revision, Time: time.Now().UTC(), What: what, By: by, Note: note})
	close(b.changed)
	b.changed = make(chan struct{})
	return a
}

func (b *book) list(open bool) []alert.Alert {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []alert.Alert
	for _, a := range b.alerts {
		if a.Open() == open {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(x, y alert.Alert) int {
		if x.Severity != y.Severity {
			return int(y.Severity) - int(x.Severity)
		}
		return y.RaisedAt.Compare(x.RaisedAt)
	})
	return out
}

func (b *book) OpenAlerts() []alert.Alert { return b.list(true) }

func (b *book) Recent(n int) ([]alert.Alert, error) {
	list := b.list(false)
	return list[:min(n, len(list))], nil
}

func (b *book) Get(id string) (alert.Alert, []alert.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.alerts[id]
	if !ok {
		return a, nil, alert.ErrNotFound
	}
	return a, slices.Clone(b.history[id]), nil
}

func (b *book) Acknowledge(ctx context.Context, id, by, note string) (alert.Alert, error) {
	return b.act(ctx, id, func(a *alert.Alert) (string, error) {
		if !a.AcknowledgedAt.IsZero() {
			return "", nil
		}
		a.AcknowledgedAt, a.AcknowledgedBy = time.Now().UTC(), by
		a.State = alert.ActiveAcknowledged
		if !a.ReturnedAt.IsZero() {
			a.State, a.ClosedAt, a.CloseReason = alert.Closed, time.Now().UTC(), alert.ReasonReturned
		}
		return alert.WhatAcknowledged, nil
	}, by, note)
}

func (b *book) CloseByHand(ctx context.Context, id, by, note string) (alert.Alert, error) {
	return b.act(ctx, id, func(a *alert.Alert) (string, error) {
		if !a.Unknown && a.ReturnedAt.IsZero() {
			return "", fmt.Errorf("close %s: %w", id, alert.ErrStillActive)
		}
		a.State, a.ClosedAt, a.CloseReason = alert.Closed, time.Now().UTC(), alert.ReasonByHand
		return alert.WhatClosed, nil
	}, by, note)
}

func (b *book) act(ctx context.Context, id string, do func(*alert.Alert) (string, error), by, note string) (alert.Alert, error) {
	b.mu.Lock()
	block := b.block
	b.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return alert.Alert{}, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return alert.Alert{}, b.fail
	}
	a, ok := b.alerts[id]
	if !ok {
		return a, alert.ErrNotFound
	}
	what, err := do(&a)
	if err != nil || what == "" {
		return a, err
	}
	return b.set(a, what, by, note), nil
}

func (b *book) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *book) failWith(err error) { b.mu.Lock(); defer b.mu.Unlock(); b.fail = err }

// stories are the demo's.
type stories struct {
	mu      sync.Mutex
	started []string
}

func (s *stories) List() []console.Scenario {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []console.Scenario{
		{Name: "fire-lane", Title: telemetry.Text{Zh: "消防通道被占", En: "Fire lane blocked"}, What: telemetry.Text{Zh: "一辆车停在东门消防通道，半分钟后开走。", En: "A car stops on the east gate's fire lane and leaves half a minute later."}},
		{Name: "smoke", Title: telemetry.Text{Zh: "烟感报警", En: "Smoke"}, What: telemetry.Text{Zh: "3号楼一层冒烟，两个探测器先后报警。", En: "Smoke on the first floor of building 3; two detectors agree."}},
		{Name: "bins", Title: telemetry.Text{Zh: "垃圾桶满", En: "Bins fill up"}, What: telemetry.Text{Zh: "2号投放点的厨余桶很快装满。", En: "The kitchen bin of station 2 fills quickly."}},
		{Name: "dead-device", Title: telemetry.Text{Zh: "设备失联", En: "Device goes silent"}, What: telemetry.Text{Zh: "一个烟感不再应答，状态变成未知。", En: "A smoke detector stops answering; its state becomes unknown."}},
		{Name: "noise", Title: telemetry.Text{Zh: "线路干扰", En: "Noise on the line"}, What: telemetry.Text{Zh: "串口线受干扰，坏帧增多，数据照常。", En: "The serial line is disturbed; bad frames grow, values go on."}},
	}
	for i := range list {
		list[i].Running = slices.Contains(s.started, list[i].Name)
	}
	return list
}

func (s *stories) Start(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.started, name) {
		return errors.New("it is playing already")
	}
	s.started = append(s.started, name)
	return nil
}

// community is a console over a small site that tests drive by hand.
type community struct {
	inv     *telemetry.Inventory
	clock   *telemetry.Clock
	live    *live.Table
	book    *book
	stories *stories
	status  func() console.Status
	server  *console.Server
}

func text(zh, en string) telemetry.Text { return telemetry.Text{Zh: zh, En: en} }

func classes() map[string]*telemetry.Class {
	on := telemetry.AlarmTrue
	return map[string]*telemetry.Class{
		"smoke_detector": {ID: "smoke_detector", Title: text("烟感探测器", "Smoke detector"), Points: []telemetry.PointDef{
			{Name: "alarm", Title: text("烟雾报警", "Smoke alarm"), Kind: telemetry.Bool, LifeSafety: true, AlarmWhen: on},
			{Name: "obscuration_dbm", Title: text("减光率", "Obscuration"), Kind: telemetry.Float, Unit: "dB/m", Optional: true},
			{Name: "temperature_c", Title: text("温度", "Temperature"), Kind: telemetry.Float, Unit: "°C", Optional: true},
			{Name: "battery_low", Title: text("电池电量低", "Battery low"), Kind: telemetry.Bool, Optional: true, Default: telemetry.BoolValue(false), AlarmWhen: on}}},
		"fire_lane_sensor": {ID: "fire_lane_sensor", Title: text("消防通道探测器", "Fire lane sensor"), Points: []telemetry.PointDef{
			{Name: "occupied", Title: text("占用", "Occupied"), Kind: telemetry.Bool, AlarmWhen: on},
			{Name: "distance_mm", Title: text("距离", "Distance"), Kind: telemetry.Int, Unit: "mm", Optional: true}}},
		"smart_bin": {ID: "smart_bin", Title: text("智能垃圾桶", "Smart bin"), Points: []telemetry.PointDef{
			{Name: "fill_pct", Title: text("满溢度", "Fill level"), Kind: telemetry.Float, Unit: "%"},
			{Name: "stream", Title: text("垃圾类别", "Waste stream"), Kind: telemetry.Enum, Optional: true, Default: telemetry.EnumValue(0), Enum: []telemetry.EnumName{
				{Code: 0, Name: "unsorted", Title: text("未分类", "Unsorted")}, {Code: 1, Name: "recyclable", Title: text("可回收物", "Recyclables")},
				{Code: 2, Name: "hazardous", Title: text("有害垃圾", "Hazardous waste")}, {Code: 3, Name: "kitchen", Title: text("厨余垃圾", "Kitchen waste")},
				{Code: 4, Name: "residual", Title: text("其他垃圾", "Residual waste")}}}}},
		"energy_meter": {ID: "energy_meter", Title: text("电能表", "Energy meter"), Points: []telemetry.PointDef{
			{Name: "power_w", Title: text("功率", "Power"), Kind: telemetry.Float, Unit: "W"},
			{Name: "energy_kwh", Title: text("电量", "Energy"), Kind: telemetry.Float, Unit: "kWh"},
			{Name: "voltage_v", Title: text("电压", "Voltage"), Kind: telemetry.Float, Unit: "V"},
			{Name: "current_a", Title: text("电流", "Current"), Kind: telemetry.Float, Unit: "A"},
			{Name: "power_factor", Title: text("功率因数", "Power factor"), Kind: telemetry.Float},
			{Name: "frequency_hz", Title: text("频率", "Frequency"), Kind: telemetry.Float, Unit: "Hz"}}},
		"door": {ID: "door", Title: text("门", "Door"), Points: []telemetry.PointDef{{Name: "open", Title: text("门开", "Open"), Kind: telemetry.Bool}}},
	}
}

// newCommunity builds three buildings, a fire lane and four bin stations. devices false leaves it empty.
func newCommunity(t testing.TB, cfg console.Config, devices bool) *community {
	t.Helper()
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	inv := &telemetry.Inventory{Site: "sunshine", Gateway: "gw1", Title: text("阳光社区", "Sunshine Community"),
		Place: telemetry.Place{City: "沈阳市", District: "浑南区", Street: "五三街道"}, Location: shanghai}
	if devices {
		install(inv)
	}
	c := &community{inv: inv, clock: telemetry.NewClock("boot", telemetry.Mono(time.Hour), time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)),
		live: live.New(len(inv.Points)), book: newBook(), stories: &stories{}}
	c.status = func() console.Status {
		return console.Status{Uplink: &console.UplinkStatus{Connected: true, Backlog: 2}, Journal: &console.JournalStatus{Bytes: 18 << 20, Frames: 5321},
			Buses: []console.BusStatus{{ID: "rs485_1", Units: []console.UnitStatus{{ID: "smoke_1", Online: true}, {ID: "smoke_2"}}}, {ID: "tcp_1", Units: []console.UnitStatus{{ID: "io1", Online: true}}}}}
	}
	c.open(t, cfg)
	return c
}

// open makes a (new) server over the same sources, as after a restart.
func (c *community) open(t testing.TB, cfg console.Config) {
	t.Helper()
	if cfg.Version == "" {
		cfg.Version = "0.1.0-test"
	}
	server, err := console.New(cfg, console.Sources{Inventory: c.inv, Clock: c.clock, Live: c.live, Alerts: c.book,
		Status: func() console.Status { return c.status() }, Scenarios: c.stories, Metrics: func(w io.Writer) { io.WriteString(w, "linli_test 1\n") }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.server = server
}

func install(inv *telemetry.Inventory) {
	cls := classes()
	add := func(id, class string, zone int, title telemetry.Text, constants ...telemetry.Value) {
		d := inv.AddDevice(telemetry.Device{ID: id, Class: cls[class], Zone: zone, Title: title, Constants: constants})
		for i, p := range cls[class].Points {
			if p.Name != "stream" && p.Name != "battery_low" {
				inv.ProvidePoint(d, i)
			}
		}
	}
	for b := 1; b <= 3; b++ {
		building := inv.AddZone(telemetry.Zone{ID: fmt.Sprintf("b%d", b), Parent: -1, Kind: "building", Title: text(fmt.Sprintf("%d号楼", b), fmt.Sprintf("Building %d", b))})
		for f := 1; f <= 2; f++ {
			floor := inv.AddZone(telemetry.Zone{ID: fmt.Sprintf("b%df%d", b, f), Parent: building, Kind: "floor", Title: text(fmt.Sprintf("%d层", f), fmt.Sprintf("Floor %d", f))})
			add(fmt.Sprintf("smoke_%d_%d", b, f), "smoke_detector", floor, text("走廊烟感", "Corridor smoke detector"))
		}
		add(fmt.Sprintf("door_%d", b), "door", building, text("单元门", "Entrance door"))
		add(fmt.Sprintf("meter_%d", b), "energy_meter", building, text(fmt.Sprintf("电表 %d", b), fmt.Sprintf("Meter %d", b)))
	}
	lane := inv.AddZone(telemetry.Zone{ID: "lane_east", Parent: -1, Kind: "lane", Title: text("东门消防通道", "East gate fire lane")})
	add("lane_e1", "fire_lane_sensor", lane, text("入口探测器", "Entry sensor"))
	add("lane_e2", "fire_lane_sensor", lane, text("转弯处探测器", "Corner sensor"))
	for s := 1; s <= 4; s++ {
		zone := inv.AddZone(telemetry.Zone{ID: fmt.Sprintf("bins_%d", s), Parent: -1, Kind: "bin_station", Title: text(fmt.Sprintf("%d号投放点", s), fmt.Sprintf("Bin station %d", s))})
		for code, name := range []string{"", "可回收物桶", "有害垃圾桶", "厨余垃圾桶", "其他垃圾桶"} {
			if code > 0 {
				add(fmt.Sprintf("bin_%d_%d", s, code), "smart_bin", zone, text(name, fmt.Sprintf("Bin %d", code)), telemetry.Value{}, telemetry.EnumValue(int64(code)))
			}
		}
	}
}

// point returns the id of a device's point.
func (c *community) point(t testing.TB, device, name string) telemetry.PointID {
	t.Helper()
	d, ok := c.inv.DeviceByID(device)
	if !ok {
		t.Fatalf("no device %s", device)
	}
	i := c.inv.Devices[d].Class.Point(name)
	if i < 0 || c.inv.Devices[d].Points[i] == telemetry.NoPoint {
		t.Fatalf("device %s has no point %s", device, name)
	}
	return c.inv.Devices[d].Points[i]
}

// read makes one good reading.
func (c *community) read(t testing.TB, device, name string, v telemetry.Value) {
	t.Helper()
	c.live.Apply([]telemetry.Sample{{Point: c.point(t, device, name), Time: c.clock.Mono(), Value: v}})
}

// quality makes all points of a device bad.
func (c *community) quality(t testing.TB, device string, q telemetry.Quality) {
	t.Helper()
	d, _ := c.inv.DeviceByID(device)
	for _, id := range c.inv.Devices[d].Points {
		if id != telemetry.NoPoint {
			c.live.Apply([]telemetry.Sample{{Point: id, Quality: q, Time: c.clock.Mono()}})
		}
	}
}

// readAll gives every point a plausible value.
func (c *community) readAll() {
	now := c.clock.Mono()
	for i, p := range c.inv.Points {
		s := telemetry.Sample{Point: telemetry.PointID(i), Time: now}
		switch p.Def.Name {
		case "temperature_c":
			s.Value = telemetry.FloatValue(19.4 + float64(i%7)*0.6)
		case "obscuration_dbm":
			s.Value = telemetry.FloatValue(0.02)
		case "fill_pct":
			s.Value = telemetry.FloatValue(float64(11 + i*17%70))
		case "distance_mm":
			s.Value = telemetry.IntValue(2410)
		case "power_w":
			s.Value = telemetry.FloatValue(842)
		case "energy_kwh":
			s.Value = telemetry.FloatValue(12034.7)
		case "voltage_v":
			s.Value = telemetry.FloatValue(231.2)
		case "current_a":
			s.Value = telemetry.FloatValue(3.71)
		case "power_factor":
			s.Value = telemetry.FloatValue(0.97)
		case "frequency_hz":
			s.Value = telemetry.FloatValue(50.01)
		default:
			s.Value = telemetry.BoolValue(false)
		}
		c.live.Apply([]telemetry.Sample{s})
	}
}

// raise raises an alert on a device, as old as age.
func (c *community) raise(t testing.TB, id, name, device string, sev telemetry.Severity, title, detail telemetry.Text, age time.Duration) alert.Alert {
	t.Helper()
	i, ok := c.inv.DeviceByID(device)
	if !ok {
		t.Fatalf("no device %s", device)
	}
	d := c.inv.Devices[i]
	a := alert.Alert{ID: id, Identity: telemetry.Identity{Alert: name, Subject: device}, Severity: sev, State: alert.ActiveUnacknowledged,
		Title: title, Detail: detail, Device: device, Class: d.Class.ID, Zone: c.inv.Zones[d.Zone].ID,
		Place:    text(strings.Join(c.inv.ZonePath(d.Zone, "zh"), " · "), strings.Join(c.inv.ZonePath(d.Zone, "en"), " · ")),
		RaisedAt: time.Now().Add(-age).UTC().Truncate(time.Millisecond)}
	c.book.put(a, alert.WhatRaised, alert.BySensor, "")
	return a
}

func (c *community) raiseSmoke(t testing.TB) alert.Alert {
	t.Helper()
	c.read(t, "smoke_3_1", "alarm", telemetry.BoolValue(true))
	c.read(t, "smoke_3_1", "obscuration_dbm", telemetry.FloatValue(0.31))
	return c.raise(t, "01SMOKE", "SmokeAlarm", "smoke_3_1", telemetry.Critical, text("3号楼1层烟感报警", "Smoke alarm at Building 3, Floor 1"),
		text("减光率 0.31 dB/m（限 0.15），两个探测器一致", "Obscuration 0.31 dB/m (limit 0.15), two detectors agree"), 2*time.Minute)
}

func (c *community) raiseLane(t testing.TB) alert.Alert {
	t.Helper()
	c.read(t, "lane_e1", "occupied", telemetry.BoolValue(true))
	return c.raise(t, "01LANE", "FireLaneBlocked", "lane_e1", telemetry.Warning, text("消防通道被占用", "Fire lane blocked"),
		text("已占用 3 分钟，没有登记车辆", "Occupied for 3 minutes, no registered vehicle"), 8*time.Minute)
}
