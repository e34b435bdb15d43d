package ingest

import (
	"context"
	"sync"
	"time"
)

// messageRoom is what a message takes beside its payload.
const messageRoom = 256

// queue holds messages between the connection, which must not block, and the worker.
type queue struct {
	max   int
	ready chan struct{}

	mu       sync.Mutex // guards messages and bytes
	messages []message
	bytes    int // of messages and of those being worked on
	full     bool
}

// put takes a message, or says that there is no room. After it has said so once it takes no more: messages stay in
// order.
func (q *queue) put(m message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := len(m.Payload()) + messageRoom
	if q.full || q.bytes+size > q.max && q.bytes > 0 {
		q.full = true
		return false
	}
	q.bytes += size
	q.messages = append(q.messages, m)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

// spent says that the queue has been full and is now empty.
func (q *queue) spent() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.full && len(q.messages) == 0
}

// release gives back the room of messages with so many bytes of payload that are done with.
func (q *queue) release(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= bytes
}

// take moves messages of about limit bytes from the queue to out.
func (q *queue) take(out []message, size, limit int) ([]message, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.messages) && size < limit {
		size += len(q.messages[n].Payload())
		n++
	}
	out = append(out, q.messages[:n]...)
	clear(q.messages[:n])
	q.messages = q.messages[n:]
	q.bytes -= messageRoom * n
	return out, size
}

// gather waits for a message, and then a little for more. It returns early, perhaps empty-handed, when ctx ends or
// the connection is lost.
func (q *queue) gather(ctx context.Context, lost <-chan struct{}, limit int, age time.Duration) []message {
	var out []message
	size := 0
	var timer *time.Timer
	var expired <-chan time.Time
	for {
		out, size = q.take(out, size, limit)
		if size >= limit || q.spent() {
			return out
		}
		if len(out) > 0 && timer == nil {
			timer = time.NewTimer(age)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-q.ready:
		case <-expired:
			return out
		case <-lost:
			return nil // all of it comes again
		case <-ctx.Done():
			return out
		}
	}
}
