package ingest

import (
	"context"
	"math"
	"sync"
	"time"
)

// messageRoom is what a message takes beside its payload.
const messageRoom = 256

// queue holds messages between the connection, which must not block, and the worker.
type queue struct {
	max   int
	ready chan struct{}

	mu       sync.Mutex // guards what follows
	messages []message
	size     int           // of the payloads of messages
	bytes    int           // of messages and of those being worked on
	wake     int           // with so many bytes of payload the worker is woken
	full     func()        // told when the queue has become full
	freed    chan struct{} // closed when there is room again; nil when nobody waits for it
}

// put takes a message. Who puts looks at room first: it may go over the limit by the one message that it had begun.
func (q *queue) put(m message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(m.Payload())
	q.size += n
	q.bytes += n + messageRoom
	q.messages = append(q.messages, m)
	if q.size >= q.wake {
		q.wake = math.MaxInt
		select {
		case q.ready <- struct{}{}:
		default:
		}
	}
}

// room returns nil while there is room, and otherwise a channel that is closed once there is.
func (q *queue) room() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes < q.max {
		return nil
	}
	if q.freed == nil {
		q.freed = make(chan struct{})
		q.full()
	}
	return q.freed
}

// release gives back the room of so many messages with so many bytes of payload, which are done with.
func (q *queue) release(messages, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= bytes + messageRoom*messages
	if q.bytes < q.max && q.freed != nil {
		close(q.freed)
		q.freed = nil
	}
}

// enough says whether messages with so many bytes of payload are there, and at least one. If not, the worker is woken once
// they are.
func (q *queue) enough(least int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) > 0 && q.size >= least {
		return true
	}
	q.wake = least
	return false
}

// take takes messages of about limit bytes out of the queue.
func (q *queue) take(limit int) []message {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.messages) && size < limit {
		size += len(q.messages[n].Payload())
		n++
	}
	out := append([]message(nil), q.messages[:n]...)
	clear(q.messages[:n])
	q.messages = q.messages[n:]
	q.size -= size
	return out
}

// gather waits for a message, and then a little until there are enough for a write. It returns early, perhaps
// empty-handed, when ctx ends or the connection is lost.
func (q *queue) gather(ctx context.Context, lost <-chan struct{}, limit int, age time.Duration) []message {
	var expired <-chan time.Time
	for _, least := range []int{0, limit} {
		for over := false; !over && !q.enough(least); {
			select {
			case <-q.ready:
			case <-expired:
				over = true
			case <-lost:
				return nil // all of it comes again
			case <-ctx.Done():
				return q.take(limit)
			}
		}
		if least == 0 {
			timer := time.NewTimer(age)
			defer timer.Stop()
			expired = timer.C
		}
	}
	return q.take(limit)
}
