package expr_test

import (
	"strings"
	"testing"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

func testScope() *expr.Scope {
	bin := &telemetry.Class{ID: "smart_bin", Points: []telemetry.PointDef{
		{Name: "fill_pct", Kind: telemetry.Float, Unit: "%"},
		{Name: "weight_kg", Kind: telemetry.Float, Unit: "kg"},
		{Name: "lid_open", Kind: telemetry.Bool},
		{Name: "fire", Kind: telemetry.Bool},
		{Name: "label", Kind: telemetry.KindText},
		{Name: "stream", Kind: telemetry.Enum, Enum: []telemetry.EnumName{{Code: 1, Name: "kitchen"}, {Code: 2, Name: "residual"}}},
	}}
	bin.Points = append(bin.Points, telemetry.PointDef{Name: "deposit", Kind: telemetry.Enum, Event: true, Enum: bin.Points[5].Enum},
		telemetry.PointDef{Name: "swipe", Kind: telemetry.KindText, Event: true})
	smoke := &telemetry.Class{ID: "smoke_detector", Points: []telemetry.PointDef{
		{Name: "alarm", Kind: telemetry.Bool}, {Name: "obscuration_dbm", Kind: telemetry.Float}}}
	params := map[string]string{"limit": "90", "dwell": "3m", "from": "22:00", "word": "kitchen", "share": "0.9", "hours": "deposit_hours"}
	return &expr.Scope{
		Subject: bin, Device: true, Classes: map[string]*telemetry.Class{"smart_bin": bin, "smoke_detector": smoke},
		Kinds: []string{"building"}, Params: []string{"limit", "dwell", "from", "word"},
		Param: func(n string) (string, bool) { v, ok := params[n]; return v, ok },
		Alert: func(n string) string {
			if n == "BinFull" {
				return ""
			}
			return "unknown alert " + n
		},
		Schedule: func(n string) string {
			if n == "deposit_hours" {
				return ""
			}
			return "unknown schedule " + n
		},
	}
}

func TestCheckAccepts(t *testing.T) {
	for src, want := range map[string]expr.Type{
		"fill_pct >= ${limit}":                                              expr.TypeBool,
		"lid_open and not fire":                                             expr.TypeBool,
		"stream == \"kitchen\" or \"residual\" != stream":                   expr.TypeBool,
		"stream == ${word}":                                                 expr.TypeBool,
		"label == \"a\"":                                                    expr.TypeBool,
		"fill_pct * 2 + weight_kg / -3":                                     expr.TypeNumber,
		"duration_true(lid_open, ${dwell}) / 1m":                            expr.TypeNumber,
		"duration_true(lid_open, 1h) * 2 + 3m - 1m / 2":                     expr.TypeDuration,
		"duration_true(fill_pct > 3, 1h) > 2 * 5m":                          expr.TypeBool,
		"any(zone.smoke_detector.alarm)":                                    expr.TypeBool,
		"all(building.smoke_detector.obscuration_dbm > 0.1)":                expr.TypeBool,
		"count(site.smart_bin.fill_pct > fill_pct)":                         expr.TypeNumber,
		"avg(site.smart_bin.fill_pct + site.smart_bin.weight_kg)":           expr.TypeNumber,
		"at_least(2, zone.smoke_detector.alarm and fire)":                   expr.TypeBool,
		"max(avg_over_time(site.smart_bin.fill_pct, 10m)) > 3":              expr.TypeBool,
		"avg_over_time(count(zone.smart_bin.fire), 1h)":                     expr.TypeNumber,
		"changes(lid_open, 1h) + changes(stream, 1h) + delta(fill_pct, 1h)": expr.TypeNumber,
		"between(\"${from}\", \"06:00\") and hour() > 3 and weekday() < 6":  expr.TypeBool,
		"between(${from}, \"06:00\")":                                       expr.TypeBool,
		"active(BinFull) or silent() or bad(fill_pct) or known(label) or provided(stream) or life_safety()": expr.TypeBool,
		"integral(fill_pct, 1h) + increase(weight_kg, 1h) / rate(weight_kg, 1h) + leq(fill_pct, 10m)":       expr.TypeNumber,
		"quantile_over_time(0.9, fill_pct, 10m) + quantile_over_time(${share}, fill_pct, 10m)":              expr.TypeNumber,
		"count_over_time(lid_open, 1m) + count_over_time(swipe, 1m) + count_over_time(deposit, 1m)":         expr.TypeNumber,
		"count_over_time(deposit == \"kitchen\" and not lid_open and fill_pct > 3, 1m) > 2":                 expr.TypeBool,
		"any(count_over_time(site.smart_bin.swipe == \"x\", 1m) > 2)":                                       expr.TypeBool,
		"absent_for(fill_pct)": expr.TypeDuration,
		"max(absent_for(zone.smart_bin.fill_pct)) > 5m and count_over_time(absent_for(fill_pct) > 1m, 1h) > 2":    expr.TypeBool,
		"avg_over_time(absent_for(fill_pct), 1h)":                                                                 expr.TypeDuration,
		"sequence(lid_open, not lid_open, deposit, swipe, 30s) and sequence(fire, fill_pct > 3, ${dwell})":        expr.TypeBool,
		"schedule(\"deposit_hours\") and not schedule(${hours}) and within(\"building\") and undecided(${dwell})": expr.TypeBool,
		"abs(fill_pct - 3) + greatest(fill_pct, 3, weight_kg) - least(1, 2)":                                      expr.TypeNumber,
		"round(fill_pct / 10) * 10":                                                    expr.TypeNumber,
		"greatest(absent_for(fill_pct), 3m) - abs(1m - 2m)":                            expr.TypeDuration,
		"any(bad(zone.smart_bin.fill_pct))":                                            expr.TypeBool,
		"no_reading() or no_protection() or faulty() and not is_a(\"smoke_detector\")": expr.TypeBool,
	} {
		n, err := expr.Parse(src)
		if err != nil {
			t.Errorf("%q: %v", src, err)
			continue
		}
		got, errs := expr.Check(n, testScope(), want)
		if len(errs) > 0 {
			t.Errorf("%q: %v", src, errs[0])
		} else if got.Type != want {
			t.Errorf("%q is %v, want %v", src, got.Type, want)
		}
	}
}

func TestCheckMistakes(t *testing.T) {
	for src, want := range map[string]string{
		"fil_pct > 3":                       `class smart_bin has no point "fil_pct", did you mean "fill_pct"?`,
		"hour > 3":                          "hour is a function: write hour(...)",
		"fill_pct":                          "the expression is a number, but must be true or false",
		"fill_pct and fire":                 "`and` needs true or false, but `fill_pct` is a number",
		"fire + 1 > 2":                      "`+` cannot be applied to true or false and a number",
		"-fire":                             "`-` needs a number",
		"fire == true":                      "write `x` or `not x`",
		"duration_true(fire, 1h) > 5":       "write durations with their unit",
		"1h + 5 > 3m":                       "or divide by one (/ 1m)",
		"1h * 1h > 3m":                      "cannot be applied to a duration and a duration",
		"fill_pct > \"90\"":                 "cannot compare a number with a text",
		"stream == \"kitchn\"":              `has no state "kitchn", did you mean "kitchen"? (kitchen, residual)`,
		"stream > \"kitchen\"":              "states have no order",
		"stream == 1":                       "a state is compared with its name in quotes",
		"stream == stream":                  "two states",
		"label < \"a\"":                     "texts have no order",
		"any(zone.smoke_detectr.alarm)":     `unknown class "smoke_detectr", did you mean "smoke_detector"?`,
		"any(zone.smoke_detector.alrm)":     `class smoke_detector has no point "alrm", did you mean "alarm"?`,
		"any(bilding.smoke_detector.alarm)": `unknown scope "bilding", did you mean "building"?`,
		"zone.smoke_detector.alarm":         "is many values: say what to do with them, as any(",
		"any(fire)":                         "any needs a group of devices inside",
		"any(zone.smoke_detector.alarm and site.smoke_detector.alarm)":        "one aggregate runs over one group",
		"any(any(zone.smoke_detector.alarm))":                                 "an aggregate cannot stand inside another",
		"any(zone.smoke_detector.obscuration_dbm)":                            "any needs true or false of each device",
		"avg(zone.smoke_detector.alarm) > 3":                                  "avg needs a number of each device",
		"at_least(zone.smoke_detector.alarm)":                                 "at_least is written at_least(2, zone.class.point)",
		"at_least(1.5, zone.smoke_detector.alarm)":                            "needs a whole number first",
		"avg_over_time(fill_pct) > 3":                                         "is written avg_over_time(number, 10m)",
		"avg_over_time(fill_pct, 10) > 3":                                     "needs a length of time at the end, as avg_over_time(number, 10m); lengths of time have a unit",
		"avg_over_time(fire, 10m) > 3":                                        "avg_over_time needs a number",
		"duration_true(fill_pct, 10m) > 3m":                                   "duration_true needs true or false",
		"avg_over_time(fill_pct, 500ms) > 3":                                  "a window is between 1s and 32d long",
		"avg_over_time(avg_over_time(fill_pct, 1m), 1m) > 3":                  "cannot stand inside avg_over_time",
		"avg_over_tme(fill_pct, 1m) > 3":                                      `unknown function "avg_over_tme", did you mean "avg_over_time"?`,
		"between(22, 6)":                                                      "two times of day in quotes",
		"between(\"25:00\", \"06:00\")":                                       "is not a time of day",
		"active(BinFul)":                                                      "unknown alert BinFul",
		"active(\"BinFull\")":                                                 "is written active(AlertName)",
		"fill_pct > ${limt}":                                                  `unknown parameter ${limt}, did you mean "limit"?`,
		"silent(fill_pct)":                                                    "is written silent()",
		"bad(fill_pct > 3)":                                                   "is written bad(point)",
		"no_reading(fill_pct)":                                                "is written no_reading()",
		"avg_over_time(avg_over_time(fill_pct, 1m), 1m) > 4":                  "cannot stand inside avg_over_time",
		"rate(fill_pct) > 1":                                                  "rate is written rate(point, 10m)",
		"rate(fill_pct, 60) > 1":                                              "rate needs a length of time at the end, as rate(point, 10m); lengths of time have a unit",
		"rate(fill_pct, weight_kg) > 1":                                       "rate needs a length of time at the end, as rate(point, 10m)",
		"increase(fire, 10m) > 1":                                             "increase needs a number, but `fire` is true or false",
		"increase(absent_for(fill_pct), 10m) > 1":                             "increase needs a number, but `absent_for(fill_pct)` is a duration",
		"integral(label, 10m) > 1":                                            "integral cannot follow a text",
		"changes(label, 10m) > 1":                                             "changes cannot follow a text",
		"leq(stream, 10m) > 1":                                                "leq needs a number, but `stream` is one of several states",
		"quantile_over_time(90, fill_pct, 10m) > 1":                           "needs a share from 0 to 1 first: quantile_over_time(0.9, number, 10m)",
		"quantile_over_time(fill_pct, fill_pct, 10m) > 1":                     "needs a share from 0 to 1 first",
		"quantile_over_time(-0.1, fill_pct, 10m) > 1":                         "needs a share from 0 to 1 first",
		"quantile_over_time(fill_pct, 10m) > 1":                               "quantile_over_time is written quantile_over_time(0.9, number, 10m)",
		"count_over_time(fill_pct, 10m) > 1":                                  "count_over_time needs true or false or an event point, but `fill_pct` is a number",
		"count_over_time(deposit == \"kitchen\" or swipe == \"x\", 10m) > 1":  "follows one event point, deposit: ask for `swipe` in a count_over_time of its own",
		"count_over_time(any(zone.smart_bin.swipe == \"x\"), 10m) > 1":        "counts the events of one device: write any(count_over_time(...))",
		"count_over_time(sequence(fire, lid_open, 1m), 10m) > 1":              "sequence cannot stand inside count_over_time",
		"sequence(fire, 30s)":                                                 "sequence takes two to 4 conditions and a length of time: sequence(first, second, 30s)",
		"sequence(fire, fire, fire, fire, fire, 30s)":                         "sequence takes two to 4 conditions",
		"sequence(fire, lid_open, 30)":                                        "sequence needs a length of time at the end",
		"sequence(fire, fill_pct, 30s)":                                       "sequence needs true or false or an event point, but `fill_pct` is a number",
		"sequence(fire, fill_pct > 3, 30d) and sequence(fire, lid_open, 40d)": "a window is between 1s and 32d long",
		"absent_for(swipe) > 3m":                                              "absent_for cannot follow swipe: its samples are events",
		"absent_for(fill_pct > 3) > 3m":                                       "is written absent_for(point)",
		"absent_for(fill_pct) > 3":                                            "write durations with their unit",
		"schedule(\"deposit_hour\")":                                          "unknown schedule deposit_hour",
		"schedule(fill_pct)":                                                  `takes a name in quotes, as schedule("deposit_hours")`,
		"schedule()":                                                          `is written schedule("deposit_hours")`,
		"within(\"bilding\")":                                                 `unknown kind of zone "bilding", did you mean "building"?`,
		"undecided()":                                                         "is written undecided(15m)",
		"undecided(15)":                                                       "undecided needs a length of time at the end, as undecided(15m); lengths of time have a unit",
		"abs(fire) > 1":                                                       "abs needs numbers or durations, but `fire` is true or false",
		"round(1, 2) > 1":                                                     "is written round(x)",
		"round(absent_for(fill_pct)) > 1":                                     "divide it by the unit that you mean",
		"abs(1, 2) > 1":                                                       "is written abs(x)",
		"greatest(fill_pct) > 1":                                              "is written greatest(x, y)",
		"least(fill_pct, 3m) > 1":                                             "least cannot compare a number with a duration: write durations with their unit",
		"quantile(0.9, fill_pct, 10m) > 1":                                    `unknown function "quantile"`,
		"incraese(fill_pct, 10m) > 1":                                         `did you mean "increase"?`,
		"is_a()":                                                              `is written is_a("smoke_detector")`,
		"is_a(fire)":                                                          "takes a class in quotes",
		"is_a(\"smoke_detectr\")":                                             `unknown class "smoke_detectr", did you mean "smoke_detector"?`,
	} {
		n, err := expr.Parse(src)
		if err != nil {
			t.Errorf("%q: %v", src, err)
			continue
		}
		_, errs := expr.Check(n, testScope(), expr.TypeBool)
		if len(errs) != 1 {
			t.Errorf("%q gives %d mistakes %v, want one", src, len(errs), errs)
			continue
		}
		if !strings.Contains(errs[0].Msg, want) {
			t.Errorf("%q: %s\nwant ...%s...", src, errs[0].Msg, want)
		}
	}
}

func TestCheckReportsEveryMistake(t *testing.T) {
	n, err := expr.Parse("fil_pct > 3 and lid_opn or active(Nobody)")
	if err != nil {
		t.Fatal(err)
	}
	_, errs := expr.Check(n, testScope(), expr.TypeBool)
	if len(errs) != 3 || errs[0].Offset != 0 || errs[1].Offset != 16 || errs[2].Offset != 34 {
		t.Errorf("got %v, want three mistakes at 0, 16 and 34", errs)
	}
}

func TestSubjectWithoutPoints(t *testing.T) {
	scope := testScope()
	scope.Subject, scope.Device = nil, false
	for src, want := range map[string]string{"alarm": "has no points of its own", "silent()": "is a zone or the site",
		"no_protection()": "is a zone or the site", "faulty()": "is a zone or the site", `is_a("smart_bin")`: "is a zone or the site"} {
		n, _ := expr.Parse(src)
		_, errs := expr.Check(n, scope, expr.TypeBool)
		if len(errs) != 1 || !strings.Contains(errs[0].Msg, want) {
			t.Errorf("%q: %v, want ...%s...", src, errs, want)
		}
	}
}
