package alert

import (
	"fmt"

	"linli/internal/telemetry"
)

// Tier is how far up an alert has climbed because nobody acknowledged it.
type Tier uint8

// The tiers, nearest first.
const (
	Community Tier = iota // where every alert begins
	Street
	District
)

var tierNames = [...]string{"community", "street", "district"}

var tierTitles = [...]telemetry.Text{{Zh: "小区", En: "community"}, {Zh: "街道", En: "street"}, {Zh: "区", En: "district"}}

// String returns the tier as rule files, messages and the API write it.
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// title returns the tier for people.
func (t Tier) title() telemetry.Text { return tierTitles[min(int(t), len(tierTitles)-1)] }

// MarshalText writes the tier as its name.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote. Nothing is Community: older writers know no tiers.
func (t *Tier) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Community
		return nil
	}
	for i, name := range tierNames {
		if name == string(text) {
			*t = Tier(i)
			return nil
		}
	}
	return fmt.Errorf("unknown tier %q", text)
}
