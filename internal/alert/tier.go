package alert

import (
	"fmt"

	"linli/internal/telemetry"
)

// Tier is how far up an alert has climbed because nobody acknowledged it.
type Tier uint8

// The tiers, nearest first. The zero Tier is where every alert begins: those who watch are told, and nobody else.
const (
	Community Tier = iota + 1
	Street
	District
)

var tierNames = [...]string{"", "community", "street", "district"}

// tierTexts are what is said of an alert that has climbed there.
var tierTexts = [...]telemetry.Text{
	{Zh: "无人确认，级别已提高", En: "Nobody acknowledged: more severe now"},
	{Zh: "超时无人确认", En: "Nobody acknowledged in time"},
	{Zh: "无人确认，已升级至街道", En: "Nobody acknowledged: escalated to the street"},
	{Zh: "无人确认，已升级至区", En: "Nobody acknowledged: escalated to the district"},
}

// String returns the tier as rule files, messages and the API write it; the zero Tier is empty.
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// text says for people that an alert has climbed there.
func (t Tier) text() telemetry.Text { return tierTexts[min(int(t), len(tierTexts)-1)] }

// MarshalText writes the tier as its name.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (t *Tier) UnmarshalText(text []byte) error {
	for i, name := range tierNames {
		if name == string(text) {
			*t = Tier(i)
			return nil
		}
	}
	return fmt.Errorf("unknown tier %q", text)
}
