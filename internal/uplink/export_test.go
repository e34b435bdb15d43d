package uplink

import (
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// SetWall replaces Frame.Wall: a frame made by a test has no clock.
func (u *Uplink) SetWall(f func(*journal.Frame, telemetry.Mono) (time.Time, bool)) { u.frameWall = f }

// SettledAt is the time of an idle message.
func (u *Uplink) SettledAt() (int64, bool) { return u.settled() }
