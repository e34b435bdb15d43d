package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/testservers"
)

var freezeFor = flag.Duration("freeze", 6*time.Second, "how long TestFrozenDisk holds every sync; make soak says 30s")

// round presses a button and lets it go again, and checks what people and devices see of it: the siren is switched by a
// write on the bus, the broker and the console are told. It returns the alert as it was first told on the broker, and how
// long the siren and the broker took.
func (s *soak) round(button int) (first alert.Alert, siren, told time.Duration) {
	t := s.t
	t.Helper()
	subject := "button_" + string(rune('0'+button))
	before := len(s.sub.all())
	pressed := time.Now()
	s.bus.set(2, button, true)
	switched := func(on bool) (after time.Duration, ok bool) {
		for _, w := range s.bus.writesSince(pressed) {
			if w.unit == 2 && w.address == 0 && w.on == on {
				return w.at.Sub(pressed), true
			}
		}
		return 0, false
	}
	waitFor(t, 5*time.Second, "the siren switched on", func() (ok bool) { siren, ok = switched(true); return ok })
	find := func(cond func(alert.Alert) bool) (found alert.Alert, ok bool) {
		for _, m := range s.sub.all()[before:] {
			if a, ok := alertIn(m); ok && a.Subject == subject && cond(a) {
				return a, true
			}
		}
		return alert.Alert{}, false
	}
	waitFor(t, 5*time.Second, "the alert on the broker", func() (ok bool) {
		first, ok = find(func(a alert.Alert) bool { return a.State.Active() })
		return ok
	})
	told = time.Since(pressed)
	waitFor(t, 5*time.Second, "the alert on the console", func() bool {
		for _, a := range s.pages.openAlerts() {
			if a.ID == first.ID && a.State.Active() {
				return true
			}
		}
		return false
	})
	s.bus.set(2, button, false)
	waitFor(t, 5*time.Second, "the siren switched off", func() bool { _, ok := switched(false); return ok })
	waitFor(t, 5*time.Second, "the alert returned, on the broker", func() bool {
		_, ok := find(func(a alert.Alert) bool { return a.ID == first.ID && !a.State.Active() })
		return ok
	})
	if code, answer := s.pages.post("/api/v1/alerts/"+first.ID+"/acknowledge", map[string]string{"by": "guard"}); code != 200 {
		t.Errorf("acknowledge: %d %s", code, answer)
	}
	return first, siren, told
}

// durable waits until everything about an alert has been told as durable.
func (s *soak) durable(id string) {
	s.t.Helper()
	waitFor(s.t, 20*time.Second, "alert "+id+" told as durable and closed", func() bool {
		a, ok := s.sub.announced()[id]
		return ok && a.State == alert.Closed
	})
}

// running starts the gateway and waits until it does its work.
func (s *soak) running() {
	s.t.Helper()
	s.start()
	before := len(s.bus.served())
	waitFor(s.t, 30*time.Second, "the gateway at work", func() bool {
		return len(s.bus.served()) > before+20 && s.pages.get("/api/v1/state", new(struct{}))
	})
}

// rounds has the gateway work for so long with whatever the disk is doing, and logs the slowest.
func (s *soak) rounds(during string, d time.Duration) (told []alert.Alert) {
	s.t.Helper()
	var siren, broker time.Duration
	for deadline := time.Now().Add(d); time.Now().Before(deadline) || len(told) < 2; {
		a, byBus, byBroker := s.round(len(told) % 8)
		siren, broker = max(siren, byBus), max(broker, byBroker)
		told = append(told, a)
		pause(time.Second) // An output is switched once a second at most.
	}
	s.t.Logf("%s: %d rounds; the siren within %s, the broker told within %s (polling of 100 ms included)", during, len(told), siren.Round(time.Millisecond), broker.Round(time.Millisecond))
	// 200 ms are what an alert waits for the disk at most; the rest is polling and a busy machine.
	if siren > time.Second || broker > 1500*time.Millisecond {
		s.t.Errorf("%s: the siren took %s, the broker %s", during, siren, broker)
	}
	return told
}

// soakOnDisk returns a gateway at work, with its state on a disk of its own.
func soakOnDisk(t *testing.T, mib int) (*testservers.Disk, *soak) {
	t.Helper()
	disk := testservers.StartDisk(t, mib)
	s := startSoak(t, filepath.Join(disk.Dir, "state"))
	s.running()
	s.rounds("before", 0)
	return disk, s
}

// TestFrozenDisk: every write and sync is held up. Rules, outputs and announcements go on throughout, alerts are told as not
// durable and again as durable, and nothing is lost.
func TestFrozenDisk(t *testing.T) {
	t.Parallel()
	disk, s := soakOnDisk(t, 64)
	disk.Freeze()
	told := s.rounds("frozen", *freezeFor)
	for _, a := range told {
		if a.Durable {
			t.Errorf("alert %s was told as durable while nothing could be written", a.ID)
		}
	}
	disk.Thaw()
	for _, a := range told {
		s.durable(a.ID)
	}
	for _, a := range s.rounds("after", 0) {
		s.durable(a.ID)
	}
	s.nothingLost()
}

// nothingLost ends the test: everything served is in the database, and everything announced in the book.
func (s *soak) nothingLost() {
	s.t.Helper()
	s.checkAll(60)
	s.checkBook(s.sub.announced()) // of the running gateway
	s.gateway.stop(15 * time.Second)
	s.checkBook(s.sub.announced())
}

// TestFullDisk: a stranger's file takes all the room, and is removed again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk, s := soakOnDisk(t, 32)
	stranger := filepath.Join(disk.Dir, "stranger")
	f, err := os.Create(stranger)
	if err != nil {
		t.Fatal(err)
	}
	fill := func() {
		for size := 1 << 20; size >= 4096; size /= 2 {
			for err == nil {
				_, err = f.Write(bytes.Repeat([]byte{1}, size))
			}
			err = nil
		}
	}
	fill()
	told := s.rounds("full", 5*time.Second)
	fill() // What was freed meanwhile.
	told = append(told, s.rounds("full", 5*time.Second)...)
	if err := errors.Join(f.Close(), os.Remove(stranger)); err != nil {
		t.Fatal(err)
	}
	for _, a := range append(told, s.rounds("freed", 0)...) {
		s.durable(a.ID)
	}
	s.nothingLost()
}

// TestReadOnlyDisk: the file system becomes read-only under the gateway, as it does after an error of the disk, stays so over
// a restart, and is repaired.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	disk, s := soakOnDisk(t, 64)
	s.bus.set(2, 7, true) // stays pressed to the end
	stays := s.pages.alertOf("ButtonPressed", "button_7", "told as durable", func(a alert.Alert) bool { return a.Durable })
	disk.ReadOnly()
	s.roundsBeside("read-only")
	s.kill()
	s.running()
	if a := s.pages.alertOf("ButtonPressed", "button_7", "in memory", func(alert.Alert) bool { return true }); a.ID != stays.ID {
		t.Errorf("in memory it is alert %s, was %s", a.ID, stays.ID)
	}
	s.roundsBeside("in memory")
	s.gateway.stop(15 * time.Second)
	disk.Repair()
	s.running()
	if a := s.pages.alertOf("ButtonPressed", "button_7", "repaired", func(a alert.Alert) bool { return a.Durable }); a.ID != stays.ID {
		t.Errorf("after the repair it is alert %s, was %s", a.ID, stays.ID)
	}
	s.bus.set(2, 7, false)
	waitFor(t, 10*time.Second, "the siren switched off", func() bool { return !s.bus.coil(2, 0) })
	s.rounds("repaired", 0)
	s.gateway.stop(15 * time.Second)
}

// roundsBeside are rounds while the siren is on for another alert already: only the broker and the console can tell.
func (s *soak) roundsBeside(during string) {
	s.t.Helper()
	for n := range 3 {
		subject := "button_" + string(rune('0'+n))
		s.bus.set(2, n, true)
		began := time.Now()
		a := s.pages.alertOf("ButtonPressed", subject, during, func(a alert.Alert) bool { return a.State.Active() })
		waitFor(s.t, 5*time.Second, "told on the broker", func() bool {
			for _, m := range s.sub.all() {
				if strings.Contains(m, a.ID) && strings.Contains(m, "/alert/") {
					return true
				}
			}
			return false
		})
		s.t.Logf("%s: console and broker told within %s", during, time.Since(began).Round(time.Millisecond))
		s.bus.set(2, n, false)
		s.pages.alertOf("ButtonPressed", subject, during+", returned", func(a alert.Alert) bool { return !a.State.Active() })
		s.tryPost("/api/v1/alerts/" + a.ID + "/acknowledge")
		s.pages.noAlertOf("ButtonPressed", subject)
	}
}
