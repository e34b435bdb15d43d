package modbus

import (
	"errors"
	"time"
)

// Budget is what a bus will cost, computed before it runs from baud, gaps, turnarounds and the plan.
type Budget struct {
	Bus       string
	Occupancy float64 // share of the line's time that the plan takes, 1 is all of it
	Groups    []GroupBudget
	// DeadReturn is the longest time until a unit that was dead is read again, with half of the units dead.
	DeadReturn time.Duration
	Units      []UnitBudget // most expensive first
	// Problems are what cannot be met, each with its arithmetic; a bus with problems must not be started.
	Problems []string
}

// GroupBudget is one class of points that are read at one interval.
type GroupBudget struct {
	LifeSafety bool
	Every      time.Duration // as asked for
	Cycle      time.Duration // as it will be in the worst case
	Requests   int
	Points     int
	Time       time.Duration // line time of one round
}

// UnitBudget is one unit's part.
type UnitBudget struct {
	Unit     string
	Share    float64 // of the line's time
	Requests int     // in one round of all its groups
}

// ComputeBudget returns the budget of a bus.
func ComputeBudget(c Config) (Budget, error) { return Budget{}, errors.New("not built yet") }
