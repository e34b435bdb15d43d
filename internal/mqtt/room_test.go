package mqtt

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/testservers"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// publishOf is a packet with a message with QoS 1.
func publishOf(id byte, payload string) []byte {
	return append([]byte{0x32, byte(5 + len(payload)), 0, 1, 't', 0, id}, payload...)
}

var yes = []byte{0x20, 2, 0, 0}

// Without room nothing is read, whatever comes; the library is told that the broker lives, and acknowledgements go out. After
// the farewell what still comes is read past.
func TestNoRoomReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		var mu sync.Mutex
		var full chan struct{}
		var got []paho.Message
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
		g := newGuard(ours, &Config{MaxPacket: 1024, WriteTimeout: time.Second}, &Options{
			Room: func() <-chan struct{} { mu.Lock(); defer mu.Unlock(); return full },
			OnMessage: func(m paho.Message) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, m)
				full = make(chan struct{}) // room for one
			},
		})
		var sent atomic.Int32
		go func() {
			_, _ = theirs.Write(yes)
			for i := range byte(4) {
				if _, err := theirs.Write(publishOf(i, "payload")); err == nil {
					sent.Add(1)
				}
			}
			theirs.Close()
		}()
		heard := make(chan []byte, 1)
		go func() {
			b := make([]byte, 100)
			n, _ := theirs.Read(b)
			heard <- b[:n]
		}()
		var answers atomic.Int32
		over := make(chan error)
		go func() {
			var rest []byte
			for {
				b := make([]byte, 100)
				n, err := g.Read(b)
				if err != nil {
					over <- err
					return
				}
				if rest = append(rest, b[:n]...); bytes.HasSuffix(rest, []byte{0xd0, 0}) {
					answers.Add(1)
				}
			}
		}()
		time.Sleep(time.Minute + time.Second)
		if n, a := count(), answers.Load(); n != 1 || sent.Load() > 2 || a != 30 {
			t.Errorf("in a minute without room %d messages taken, %d read, %d answers to pings", n, sent.Load(), a)
		}
		got[0].Ack()
		got[0].Ack()
		if b := <-heard; !bytes.Equal(b, []byte{0x40, 2, 0, 0}) {
			t.Errorf("the broker reads % x", b)
		}
		mu.Lock()
		close(full)
		mu.Unlock()
		synctest.Wait()
		if n := count(); n != 2 {
			t.Errorf("with room for one more there are %d", n)
		}
		g.leave(time.Second)
		if err := <-over; err == nil || sent.Load() != 4 || count() != 2 {
			t.Errorf("after the farewell: %v, %d read, %d taken", err, sent.Load(), count())
		}
	})
}

// A peer that ends the connection is noticed although nobody reads.
func TestEndIsNoticedWithoutRoom(t *testing.T) {
	for name, end := range map[string]func(c *net.TCPConn){
		"in order": func(c *net.TCPConn) { c.Close() },
		"its half": func(c *net.TCPConn) { _ = c.CloseWrite() },
		"reset":    func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each is noticed after two seconds
			took := make(chan struct{})
			l := testservers.Listen(t)
			defer l.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				_, _ = io.CopyN(io.Discard, c, 10)
				_, _ = c.Write(slices.Concat(yes, publishOf(1, "a"), publishOf(2, "b")))
				<-took
				end(c.(*net.TCPConn))
				_, _ = io.Copy(io.Discard, c)
			}()
			full := make(chan struct{})
			var taken atomic.Int32
			s, err := Connect(t.Context(), Config{ClientID: "a"}, "tcp://"+l.Addr().String(), Options{
				OnMessage: func(paho.Message) {
					if taken.Add(1) == 1 {
						close(took)
					}
				},
				Room: func() <-chan struct{} {
					if taken.Load() > 0 {
						return full
					}
					return nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(0)
			select {
			case <-s.Lost():
			case <-time.After(20 * time.Second):
				t.Error("not noticed")
			}
			if n := taken.Load(); n > 1 {
				t.Errorf("%d messages taken", n)
			}
			s.Close(0)
			<-done
		})
	}
}

// Acknowledgements that pile up while the broker reads slowly go out together and in order, before whatever is sent after them.
func TestAcknowledgementsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		g := newGuard(ours, &Config{MaxPacket: 1024, WriteTimeout: time.Minute}, &Options{})
		const n = 1000
		for i := range uint16(n) {
			g.ack(i)
			if i == 0 {
				synctest.Wait() // its write has begun
			}
		}
		go func() { _, _ = g.Write([]byte{0xe0, 0}) }()
		counted := &writes{r: theirs}
		r := bufio.NewReaderSize(counted, 8*n)
		for i := range uint16(n) {
			var b [4]byte
			if _, err := io.ReadFull(r, b[:]); err != nil || b != [4]byte{0x40, 2, byte(i >> 8), byte(i)} {
				t.Fatalf("acknowledgement %d is % x, %v", i, b, err)
			}
		}
		var b [2]byte
		if _, err := io.ReadFull(r, b[:]); err != nil || b != [2]byte{0xe0, 0} {
			t.Errorf("then % x, %v", b, err)
		}
		if counted.n > 3 {
			t.Errorf("%d writes", counted.n)
		}
	})
}

// writes counts what is read at once, which on a pipe is what was written at once.
type writes struct {
	r io.Reader
	n int
}

func (w *writes) Read(p []byte) (int, error) {
	w.n++
	return w.r.Read(p)
}
