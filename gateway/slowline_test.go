package main

import (
	"net"
	"sync"
	"testing"

	"linli/internal/testservers"
)

// slowLine is the network between the gateways and the broker.
type slowLine struct {
	address string
	target  string

	mu    sync.Mutex
	turn  *sync.Cond
	state string // "", stalled, cut
	conns map[net.Conn]bool
}

func startLine(t *testing.T, target string) *slowLine {
	t.Helper()
	l := testservers.Listen(t)
	s := &slowLine{address: l.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	s.turn = sync.NewCond(&s.mu)
	testservers.Serve(t, l, s.carry)
	t.Cleanup(func() { s.set("cut") })
	return s
}

// set makes the line stalled (what is sent waits), cut, or good ("").
func (s *slowLine) set(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	if state == "cut" {
		for c := range s.conns {
			c.Close()
		}
	}
	s.turn.Broadcast()
}

func (s *slowLine) carry(near net.Conn) {
	far, err := net.Dial("tcp", s.target)
	if err != nil {
		return
	}
	defer far.Close()
	s.mu.Lock()
	if s.state == "cut" {
		s.mu.Unlock()
		return
	}
	s.conns[near], s.conns[far] = true, true
	s.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			defer way[0].Close()
			defer way[1].Close()
			b := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(b)
				if err != nil {
					return
				}
				s.mu.Lock()
				for s.state == "stalled" {
					s.turn.Wait()
				}
				s.mu.Unlock()
				if _, err := way[1].Write(b[:n]); err != nil {
					return
				}
			}
		})
	}
	both.Wait()
	s.mu.Lock()
	delete(s.conns, near)
	delete(s.conns, far)
	s.mu.Unlock()
}
