package firmwareconfig

import (
	"math"
	"strconv"
	"strings"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// DecodeDeadband reads a deadband of a point as files write it: a number in the point's unit, a share of the value
// reported last as 2%, or none. The error says what does not fit the point: it is no number, or each reading of it counts.
func DecodeDeadband(n *yamlfile.Node, def *telemetry.PointDef) (telemetry.Deadband, error) {
	var errs yamlfile.Errors
	fail := func(format string, args ...any) (telemetry.Deadband, error) {
		errs.Addf(n.Pos, format, args...)
		return telemetry.Deadband{}, errs
	}
	unit, name := "", "the point"
	if def.Unit != "" {
		unit = " in " + def.Unit
	}
	if def.Name != "" {
		name = def.Name
	}
	want := "a deadband is a number" + unit + ", as 0.5, or a share of the value reported last, as 2%, or none"
	if def.Unit == "%" {
		want = "a deadband is a number in %, as 0.5 for half of one percent, or none"
	}
	switch {
	case def.Kind != telemetry.Float && def.Kind != telemetry.Int:
		return fail("a deadband is for numbers, %s is %s: unchanged, it is reported once in the maximum interval as it is", name, def.Kind)
	case def.LifeSafety:
		return fail("%s protects life: each of its readings is reported, whatever the deadband", name)
	case def.Event:
		return fail("%s is an event: each one is reported, whatever the deadband", name)
	case !n.IsScalar():
		return fail("%s", want)
	}
	text := strings.TrimSpace(n.Scalar())
	if text == "none" {
		return telemetry.Deadband{}, nil
	}
	d := telemetry.Deadband{On: true}
	number, percent := strings.CutSuffix(text, "%")
	d.Percent = percent
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	switch {
	case err != nil && def.Unit != "" && strings.HasSuffix(text, def.Unit):
		return fail("%s, not %q: write the number alone, it is in %s", want, text, def.Unit)
	case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
		return fail("%s, not %q", want, text)
	case v < 0:
		return fail("a deadband is not negative")
	case percent && def.Unit == "%":
		return fail("%s is in %% itself: write %s for that many of its percent; a share of the value is not meant here", name, strings.TrimSpace(number))
	case percent && v == 0:
		return fail("write 0 for any change, without %%")
	case percent && v > 100:
		return fail("more than 100%% of the value is no deadband: it would hide that the value is gone")
	}
	d.Width = v
	return d, nil
}
