package mqtt

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// Pings and acknowledgements, on which the library sets no deadline, must not hang either: every write has one.
func TestEveryWriteHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe() // nobody reads theirs
		defer theirs.Close()
		g := newGuard(ours, &Config{MaxPacket: 1024, WriteTimeout: 3 * time.Second}, &Options{})
		began := time.Now()
		stuck := time.AfterFunc(time.Minute, func() { ours.Close() })
		defer stuck.Stop()
		if _, err := g.Write([]byte{0xc0, 0}); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("write: %v after %v, want a timeout after 3s", err, time.Since(began))
		}
		select {
		case <-g.lost:
		default:
			t.Error("the connection is still taken for good")
		}
	})
}

// While a large message comes in slowly, the answer to a ping is stuck behind it: the library is told that the broker
// lives, so that it does not end the connection and ask for the same message again.
func TestLargeMessageKeepsTheConnectionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		told := 0
		g := newGuard(ours, &Config{MaxPacket: 1024, WriteTimeout: time.Second}, &Options{OnOversized: func(m *Oversized) { told += m.Size }})
		go func() {
			_, _ = theirs.Write([]byte{0x20, 2, 0, 0, 0x30, 0x80, 0x80, 0x40, 0, 1, 't'}) // 1 MiB in all
			for range 1<<20/1024 - 1 {
				time.Sleep(20 * time.Millisecond)
				_, _ = theirs.Write(make([]byte, 1024))
			}
			_, _ = theirs.Write(append(make([]byte, 1024-3), 0xd0, 0))
			theirs.Close()
		}()
		answers, b := 0, make([]byte, 2)
		for range 2 { // the CONNACK
			if _, err := g.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		for {
			n, err := g.Read(b)
			if err != nil {
				break
			}
			if n != 2 || b[0] != 0xd0 || b[1] != 0 {
				t.Fatalf("the library gets % x", b[:n])
			}
			answers++
		}
		if told != 1<<20 || answers < 8 || answers > 12 {
			t.Errorf("told of %d bytes, %d answers to pings in 20 s", told, answers)
		}
	})
}
