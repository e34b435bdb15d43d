package ingest

import (
	"testing"
	"time"
)

// Once the queue has refused a message it takes no more of this connection, also when there is room again: what came
// first is delivered first.
func TestQueueTakesNothingAfterItWasFull(t *testing.T) {
	q := &queue{max: 1000, ready: make(chan struct{}, 1)}
	m := &arrived{payload: make([]byte, 300)}
	if !q.put(m) || q.put(&arrived{payload: make([]byte, 500)}) {
		t.Fatal("the bound is not what it should be")
	}
	if q.put(&arrived{}) {
		t.Error("a small message overtook the one that was refused")
	}
	if got := q.gather(t.Context(), nil, 1<<20, time.Millisecond); len(got) != 1 || !q.spent() {
		t.Errorf("%d messages, spent %v", len(got), q.spent())
	}
	q.release(300)
	if q.bytes != 0 {
		t.Errorf("%d bytes in an empty queue", q.bytes)
	}
	if q.put(m) {
		t.Error("took a message again after it had been full")
	}
}
