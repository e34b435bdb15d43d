package main

import (
	"context"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// TestOnTheWay: a batch is on its way from the moment its bus sends it until the journal has it, also while the queue is
// full.
func TestOnTheWay(t *testing.T) {
	f, _ := newTestFanIn(t)
	emit := f.emit(t.Context())
	if got := f.way.oldest(); got != telemetry.Never {
		t.Errorf("oldest %v before anything was sent", got)
	}
	for i := range fanInBatches {
		at := telemetry.Mono(time.Minute).Add(time.Duration(i))
		emit([]telemetry.Sample{{Time: at}, {Time: at - 5}})
	}
	if got, want := f.way.oldest(), telemetry.Mono(time.Minute)-5; got != want {
		t.Errorf("oldest %v with a full queue, want %v", got, want)
	}
	sent := make(chan struct{})
	go func() {
		emit([]telemetry.Sample{{Time: 7}})
		close(sent)
	}()
	waitFor(t, 10*time.Second, "the batch that waits for the queue", func() bool { return f.way.oldest() == 7 })
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.run(stopped); err != nil {
		t.Fatal(err)
	}
	<-sent
	waitFor(t, 10*time.Second, "what was taken in", func() bool { return len(f.batches) > 0 || f.way.oldest() == telemetry.Never })
}
