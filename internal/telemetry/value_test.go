package telemetry_test

import (
	"strings"
	"testing"

	"linli/internal/telemetry"
)

func TestTextsAreEqualByWhatTheySay(t *testing.T) {
	a, b := telemetry.TextValue(strings.Repeat("x", 3)), telemetry.TextValue("xxx")
	if a != b || a.Text() != "xxx" || a == telemetry.TextValue("xxy") {
		t.Errorf("%v and %v", a, b)
	}
	if e := telemetry.TextValue(""); e.Text() != "" || e.IsZero() || e != telemetry.ValueFromBits(telemetry.KindText, 0) || e.String() != `""` {
		t.Errorf("an empty text is %v", e)
	}
	if telemetry.FloatValue(1).Text() != "" || (telemetry.Value{}).Text() != "" {
		t.Error("a number has a text")
	}
}
