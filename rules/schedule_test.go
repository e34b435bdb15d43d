package rules

import (
	"math/rand/v2"
	"testing"

	"linli/internal/telemetry"
)

// TestTimersComeInOrder holds the timer heap against a plain list, over random settings, moves and removals.
func TestTimersComeInOrder(t *testing.T) {
	const n = 200
	rnd := rand.New(rand.NewPCG(1, 2))
	h := timerHeap{instances: make([]instance, n)}
	want := make([]telemetry.Mono, n)
	for i := range want {
		want[i] = telemetry.Never
		h.instances[i].due, h.instances[i].heapPos = telemetry.Never, -1
	}
	for range 20_000 {
		i := rnd.IntN(n)
		due := telemetry.Mono(rnd.IntN(50)) // many are equal
		if rnd.IntN(3) == 0 {
			due = telemetry.Never
		}
		h.set(uint32(i), due)
		want[i] = due
		first := 0
		for k := range want {
			if want[k] < want[first] {
				first = k
			}
		}
		if i, due := h.first(); due != want[first] || due != h.next() || due != telemetry.Never && int(i) != first {
			t.Fatalf("first is %d at %d, want %d at %d", i, due, first, want[first])
		}
	}
}
