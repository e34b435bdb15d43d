package main

import (
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// idleTime is a time in which no gateway ran.
type idleTime struct{ from, to time.Time }

// idleTimes returns the times in which no gateway ran, as the journal knows them: from the last frame before each start to
// the start, and from the last frame of all to now. Times of which no clock knows are not among them. It is called before
// the journal runs.
func idleTimes(j *journal.Journal, now telemetry.Now) (idle []idleTime) {
	first, next := j.Bounds()
	add := func(seq uint64, to time.Time) {
		const most = 8 // tombstones and damage that are looked past
		var f journal.Frame
		for n := 0; n < most && seq > first; n++ {
			seq--
			if j.Read(seq, &f) != nil || f.Lost != nil {
				continue
			}
			if from, ok := f.Wall(f.T1); ok && !to.IsZero() && from.Before(to) {
				idle = append(idle, idleTime{from, to})
			}
			return
		}
	}
	starts, _ := j.Starts() // What the disk does not give is not known.
	for _, s := range starts {
		add(s.Seq, s.At)
	}
	add(next, now.Wall)
	return idle
}

// idleWithin returns for how much of the time of an age up to now no gateway ran.
func idleWithin(idle []idleTime, now telemetry.Now, age time.Duration) (sum time.Duration) {
	if now.Wall.IsZero() || age <= 0 {
		return 0
	}
	began := now.Wall.Add(-age)
	for _, t := range idle {
		from, to := t.from, t.to
		if from.Before(began) {
			from = began
		}
		if to.After(now.Wall) {
			to = now.Wall
		}
		sum += max(to.Sub(from), 0)
	}
	return min(sum, age)
}
