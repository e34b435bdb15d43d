package ingest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func newTestQueue(max int) (q *queue, full *int) {
	full = new(int)
	return &queue{max: max, ready: make(chan struct{}, 1), full: func() { *full++ }}, full
}

func payload(n int) *arrived { return &arrived{payload: make([]byte, n)} }

// There is room until the limit is reached, and again only when messages are done with, not when they are taken out.
func TestQueueHasRoomOrNot(t *testing.T) {
	q, full := newTestQueue(1000)
	for i := range 2 {
		if q.room() != nil {
			t.Fatalf("no room after %d messages", i)
		}
		q.put(payload(300))
	}
	wait := q.room()
	if wait == nil || q.room() != wait || *full != 1 {
		t.Fatalf("room for more than the limit, or told %d times that it is full", *full)
	}
	if got := q.gather(t.Context(), nil, 1<<20, time.Millisecond); len(got) != 2 {
		t.Fatalf("%d messages", len(got))
	}
	select {
	case <-wait:
		t.Error("room although the messages are not done with")
	default:
	}
	q.release(2, 600)
	select {
	case <-wait:
	default:
		t.Error("who waits for room is not told")
	}
	if q.room() != nil || q.bytes != 0 || q.size != 0 {
		t.Errorf("%d and %d bytes in an empty queue", q.bytes, q.size)
	}
}

// A batch is complete when it is large enough, or its first message old enough; the worker sleeps until then.
func TestGatherBySizeAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := newTestQueue(1 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		lost := make(chan struct{})
		began, got := time.Now(), make(chan int)
		go func() {
			for ctx.Err() == nil {
				got <- len(q.gather(ctx, lost, 1000, 200*time.Millisecond))
			}
		}()
		expect := func(n int, after time.Duration) {
			t.Helper()
			if have := <-got; have != n || time.Since(began) != after {
				t.Errorf("%d messages after %v, want %d after %v", have, time.Since(began), n, after)
			}
			began = time.Now()
		}
		q.put(payload(0)) // also an empty one
		time.Sleep(100 * time.Millisecond)
		q.put(payload(10))
		expect(2, 200*time.Millisecond)
		time.Sleep(time.Minute)
		for i := range 4 {
			q.put(payload(300))
			synctest.Wait()
			if i > 0 && i < 3 && len(q.ready) > 0 {
				t.Error("the worker is woken for a batch that is not complete")
			}
		}
		expect(4, time.Minute)
		for range 9 {
			q.put(payload(300))
		}
		expect(4, 0)
		expect(4, 0)
		expect(1, 200*time.Millisecond)
		q.put(payload(1))
		synctest.Wait()
		cancel() // a stop does not wait for more
		expect(1, 0)

		q.put(payload(1))
		close(lost) // it comes again
		if n := len(q.gather(t.Context(), lost, 1000, time.Hour)); n != 0 {
			t.Errorf("%d messages of a lost connection", n)
		}
	})
}
