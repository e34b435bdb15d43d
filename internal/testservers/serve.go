package testservers

import (
	"net"
	"sync"
	"testing"
)

// Listen returns a listener on a free port of the loopback interface.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Serve gives each connection to serve, in a goroutine of its own, and closes it afterwards. When the test ends it closes the
// listener and whatever is open, and waits for all of them.
func Serve(t testing.TB, l net.Listener, serve func(c net.Conn)) {
	var all sync.WaitGroup
	var mu sync.Mutex // guards open and over
	open, over := map[net.Conn]bool{}, false
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			if over {
				c.Close()
			}
			mu.Unlock()
			all.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		over = true
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}
