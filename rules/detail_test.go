package rules_test

import (
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// On clear an `or` names only the parts that could have been true: those of the subject's own class and hour.
func TestDetailOfAClearedOr(t *testing.T) {
	st := newSite()
	st.zone("h", "building", "")
	st.device("m1", "meter", "h", "power_w", "voltage_v")
	p := meterWith(t, st, alert("A", "meter", `within("building") and (power_w > 55 or voltage_v > 300) or within("garage") and power_w > 40 or is_a("voice_horn") and power_w > 30`, ""))
	p.want(p.step(0, p.sample(0, "m1.power_w", 60.0), p.sample(0, "m1.voltage_v", 230.0)), "raise A m1")
	p.want(p.step(s, p.sample(s, "m1.power_w", 10.0)), "clear A m1")
	if got, want := p.out.Transitions[0].Detail.Zh, "power_w 10 W（限 55） · voltage_v 230 V（限 300）"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// Where none could, all are named.
	p = meterWith(t, st, alert("A", "meter", `schedule("x") and power_w > 55 or within("garage") and power_w > 40`, ""))
	p.e.Restore(restored("A", "m1"))
	p.want(p.step(0, p.sample(0, "m1.power_w", 10.0), p.sample(0, "m1.voltage_v", 230.0)), "clear A m1")
	if got, want := p.out.Transitions[0].Detail.Zh, "不在时段内（x） · power_w 10 W（限 55）"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What the calendar decided is said, and what is not known is called so.
func TestDetailOfTheCalendar(t *testing.T) {
	for _, c := range []struct{ expr, zh, en string }{
		{`between("22:00", "06:00") and armed`, "22:00–06:00 时段 · 启用", "between 22:00 and 06:00 · Armed"},
		{`not between("06:00", "22:00")`, "不在 06:00–22:00 时段", "not between 06:00 and 22:00"},
		{`hour() >= 22`, "23 时（限 22 时）", "hour 23 (limit 22)"},
		{`hour() == 23 and weekday() == 1`, "23 时 · 周一", "hour 23 · Monday"},
		{`weekday() <= 5`, "周一", "Monday"},
	} {
		p := newDoors(t, alert("A", "button", c.expr, ""))
		p.clocked(0, "2026-05-04 23:10:00", p.sample(0, "b1.armed", true))
		if len(p.out.Transitions) == 0 {
			t.Errorf("%s: not raised", c.expr)
		} else if got := p.out.Transitions[0].Detail; got.Zh != c.zh || got.En != c.en {
			t.Errorf("%s: got %q, %q", c.expr, got.Zh, got.En)
		}
	}
	p := newPlay(t, alert("A", "meter", "greatest(power_w, voltage_v) > 100", ""))
	p.want(p.step(0, p.sample(0, "m1.power_w", 150.0)), "raise A m1")
	if got := p.out.Transitions[0].Detail; got.Zh != "power_w 150 W · voltage_v 未知" || got.En != "power_w 150 W · voltage_v unknown" {
		t.Errorf("got %q, %q", got.Zh, got.En)
	}
}

// What an alert says of the functions over time: what was asked, the value, the limit.
func TestDetailsOverTime(t *testing.T) {
	minutes := func(n int) time.Duration { return time.Duration(n) * time.Minute }
	for _, c := range []struct{ class, expr, zh, en string }{
		{"button", "count_over_time(press, 10m) >= 2", "10 分钟内按下次数 2（限 2）", "times pressed in 10 min 2 (limit 2)"},
		{"reader", `count_over_time(card == "no", 10m) >= 2`, "10 分钟内刷卡次数 2（限 2）", "times card in 10 min 2 (limit 2)"},
		{"button", "count_over_time(armed and force_n > 5, 10m) >= 2", "10 分钟内force_n > 5 N 次数 2（限 2）", "times force_n > 5 N in 10 min 2 (limit 2)"},
		{"meter", "integral(power_w, 10m) > 36000", "10 分钟内power_w累计 78000 W·s（限 36000）", "total of power_w in 10 min 78000 W·s (limit 36000)"},
		{"meter", "increase(power_w, 10m) > 20", "10 分钟内power_w增加 50 W（限 20）", "rise of power_w in 10 min 50 W (limit 20)"},
		{"meter", "rate(power_w, 10m) > 0.05", "10 分钟内power_w增速 0.08 W/s（限 0.05）", "rate of power_w over 10 min 0.08 W/s (limit 0.05)"},
		{"meter", "quantile_over_time(0.9, power_w, 10m) > 120", "10 分钟内power_w 90% 分位 150 W（限 120）", "90 % quantile of power_w in 10 min 150 W (limit 120)"},
		{"meter", "leq(voltage_v, 10m) > 60", "10 分钟等效声级 63 V（限 60）", "equivalent level over 10 min 63 V (limit 60)"},
		{"meter", "duration_true(power_w > 120, 10m) > 2m", "10 分钟内power_w > 120 W 6 分钟（限 2 分钟）", "power_w > 120 W in 10 min 6 min (limit 2 min)"},
		{"meter", "max(avg_over_time(site.meter.power_w, 10m)) > 120 or power_w > 1000", "最高10 分钟平均power_w 130 W（限 120）", "highest 10 min average power_w 130 W (limit 120)"},
		{"meter", "absent_for(voltage_v) > 5m or power_w > 1000", "voltage_v无读数已 6 分钟", "voltage_v: no reading for 6 min"},
		{"button", "sequence(armed, press, 3m)", "3 分钟内先后：启用、按下", "Armed, then Pressed within 3 min"},
		{"meter", `not schedule("x") and power_w > 100`, "不在时段内（x） · power_w 150 W（限 100）", "outside x · power_w 150 W (limit 100)"},
		{"meter", "greatest(power_w, 10) > 120", "power_w 150 W", "power_w 150 W"},
		{"meter", "abs(power_w - 10) > 120", "power_w 150 W", "power_w 150 W"},
	} {
		t.Run(c.expr, func(t *testing.T) {
			p := doorsWith(t, "schedules: {x: []}\n", nil, alert("A", c.class, c.expr, ""))
			if c.class == "meter" {
				st := newSite()
				st.zone("h", "building", "")
				st.device("m1", "meter", "h", "power_w", "voltage_v")
				p = meterWith(t, st, alert("A", c.class, c.expr, ""))
			}
			step := func(d time.Duration, list ...telemetry.Sample) {
				t.Helper()
				p.step(d, list...)
			}
			if c.class == "meter" {
				step(0, p.sample(0, "m1.power_w", 100.0), p.sample(0, "m1.voltage_v", 63.0))
				if strings.HasPrefix(c.expr, "absent_for") {
					step(minutes(4), p.sample(minutes(4), "m1.voltage_v", telemetry.BadComm))
				}
				step(minutes(4), p.sample(minutes(4), "m1.power_w", 150.0))
			} else {
				step(0, p.sample(0, "b1.armed", false), p.sample(0, "b1.force_n", 1.0))
				step(minutes(8), p.sample(minutes(8), "b1.armed", true))
				for _, d := range []time.Duration{minutes(8) + 30*s, minutes(9)} {
					step(d, p.sample(d, "b1.press", true), p.sample(d, "b1.force_n", 7.0), p.sample(d, "r1.card", "no"))
				}
			}
			step(minutes(10))
			for _, subject := range []string{"m1", "b1", "r1"} {
				x, ok := p.e.Explain(telemetry.Now{Mono: at(minutes(10))}, "A", subject)
				if ok && (x.Condition.Value != "true" || x.State != "active") {
					t.Errorf("explained as %s, %s", x.Condition.Value, x.State)
				}
			}
			// The last word, whenever it was said: now, from the explanation of a change.
			p.e.Closed([]telemetry.Identity{{Alert: "A", Subject: "m1"}, {Alert: "A", Subject: "b1"}, {Alert: "A", Subject: "r1"}})
			step(minutes(10))
			if len(p.out.Transitions) != 1 {
				t.Fatalf("said %q", said(&p.out))
			}
			if got := p.out.Transitions[0].Detail; got.Zh != c.zh || got.En != c.en {
				t.Errorf("got  %q\n     %q\nwant %q\n     %q", got.Zh, got.En, c.zh, c.en)
			}
		})
	}
}

// What is computed of each device of a group has no value of its own that could be told.
func TestDetailsOfArithmeticOverAGroup(t *testing.T) {
	for expr, want := range map[string]string{
		"max(zone.meter.power_w - zone.meter.voltage_v) > 10":                                               "max(zone.meter.power_w - zone.meter.voltage_v) 20",
		"2 * avg(zone.meter.power_w + 1) > 10":                                                              "avg(zone.meter.power_w + 1) 31",
		"duration_true(max(zone.meter.power_w) > 5 and any(zone.meter.voltage_v > 5), 10s) / 1s >= 0":       "highest power_w 30 W · m1",
		"abs(max(absent_for(zone.meter.power_w)) - 3s) >= 0s and count(zone.meter.power_w + 1 > 3) * 2 > 1": "highest power_w without a reading 0 s · m1",
	} {
		p := newPlay(t, alert("A", "{zone: floor}", expr, ""))
		p.step(0, p.sample(0, "m1.power_w", 30.0), p.sample(0, "m1.voltage_v", 10.0))
		if len(p.out.Transitions) == 0 {
			t.Errorf("%s raised nothing", expr)
		} else if got := p.out.Transitions[0].Detail.En; got != want {
			t.Errorf("%s says %q, want %q", expr, got, want)
		}
	}
}
