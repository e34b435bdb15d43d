package modbus_test

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// loose are the ways to reach a unit where frames have no ids that count.
var loose = map[string]modbus.Config{
	"rtu":          {Transport: modbus.RTU, Line: fast},
	"rtu over tcp": {Transport: modbus.RTUOverTCP, Line: fast},
	"ids ignored":  {Transport: modbus.TCP, IgnoreTID: true},
}

// overLoose runs f for each of them. units are those of countingBlocks: every block of a unit has one shape and a value
// of its own. handle sends its frames after so long; a pipe takes one at a time.
func overLoose(t *testing.T, handle func(send func(time.Duration, []byte), r request, ans []byte), check func(t *testing.T, r *rig, p *peer)) {
	for name, c := range loose {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, d := countingBlocks("a", 1, 0)
				for i := range u.Profile.Channels {
					u.Profile.Channels[i].Every = 300 * time.Millisecond
				}
				p := &peer{serial: c.Transport == modbus.RTU}
				box := newOutbox(t)
				p.handle = func(w io.ReadWriteCloser, r request) bool {
					handle(func(after time.Duration, frame []byte) { box.send(w, after, frame) }, r, r.frame(c.Transport != modbus.TCP, d.answer(r.pdu)))
					return true
				}
				c.Units = []firmwareconfig.Unit{u}
				r := newRig(t, c, p)
				r.run(time.Minute)
				checkCounting(t, r.all, 0, 1)
				check(t, r, p)
			})
		})
	}
}

// outbox writes frames one after another, each at its time.
type outbox struct{ due chan func() }

func newOutbox(t *testing.T) outbox {
	o := outbox{make(chan func(), 1000)}
	go func() {
		for {
			select {
			case write := <-o.due:
				write()
			case <-t.Context().Done():
				return
			}
		}
	}()
	return o
}

func (o outbox) send(w io.Writer, after time.Duration, frame []byte) {
	time.AfterFunc(after, func() { o.due <- func() { _, _ = w.Write(frame) } })
}

// A radio bridge that repeats one answer in fifty some milliseconds later, when the next request has gone out, causes no
// wrong value, the first time neither.
func TestRareRepetitionIsNoValue(t *testing.T) {
	for _, after := range []time.Duration{time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond, 6 * time.Millisecond, 9 * time.Millisecond, 14 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			repeated := 0
			overLoose(t, func(send func(time.Duration, []byte), r request, ans []byte) {
				send(6*time.Millisecond, ans)
				if r.nth%50 == 0 || r.nth == 7 {
					repeated++
					send(6*time.Millisecond+after, ans)
				}
			}, func(t *testing.T, r *rig, _ *peer) {
				h := r.unit(0)
				t.Logf("%d repeated, %+v", repeated, h)
				if repeated < 10 || h.Answers < 900 || h.Late == 0 {
					t.Errorf("%d repeated, health %+v", repeated, h)
				}
			})
		})
	}
}

// A unit whose every answer comes twice is read all the same.
func TestEverythingTwice(t *testing.T) {
	for _, after := range []time.Duration{0, 5 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			overLoose(t, func(send func(time.Duration, []byte), _ request, ans []byte) {
				if after == 0 {
					send(0, bytes.Repeat(ans, 2))
					return
				}
				send(0, ans)
				send(after, ans)
			}, func(t *testing.T, r *rig, _ *peer) {
				h := r.unit(0)
				t.Logf("%+v", h)
				if h.Answers < 950 || h.Late < 900 || h.Errors > 3 {
					t.Errorf("health %+v, want it read, and its repetitions counted as late", h)
				}
			})
		})
	}
}

// Two units with one address: nothing of them is believed, and the error says what it may be.
func TestTwoDifferentAnswersAreExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		p := &peer{serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
			_, _ = c.Write(append(r.frame(true, d.answer(r.pdu)), r.frame(true, []byte{3, 2, 0xDE, 0xAD})...))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: fast, Units: []firmwareconfig.Unit{u}}, p)
		r.run(10 * time.Second)
		h := r.bus.Health().Units[0]
		if h.Answers != 0 || !strings.Contains(h.LastError, "two units with this address") {
			t.Errorf("health %+v", h)
		}
	})
}

// Equal values of different registers are legitimate: they cost a short wait, no failure.
func TestEqualValuesAreNoRepetitions(t *testing.T) {
	for name, c := range loose {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const think = 50 * time.Millisecond
				d := newTables()
				u := unitOf("a", 1, 0, u16("a", 0), u16("b", 200), u16("c", 400), u16("d", 600))
				var busy time.Duration
				p := &peer{serial: c.Transport == modbus.RTU, handle: func(w io.ReadWriteCloser, r request) bool {
					time.Sleep(think)
					_, _ = w.Write(r.frame(c.Transport != modbus.TCP, d.answer(r.pdu)))
					return true
				}}
				c.Units = []firmwareconfig.Unit{u}
				r := newRig(t, c, p)
				r.run(time.Second)
				for range 100 {
					time.Sleep(max(0, r.next.Sub(r.clock.Mono())))
					r.next = 0
					start := time.Now()
					r.step()
					busy = max(busy, time.Since(start))
				}
				h := r.unit(0)
				t.Logf("at most %v, %+v", busy, h)
				if h.Errors+h.Timeouts+h.Late > 0 || busy > think*3/2+25*time.Millisecond {
					t.Errorf("a read took up to %v, health %+v", busy, h)
				}
			})
		})
	}
}

// An answer that nobody can have asked for any more, of the shape of what was believed last, has that read again at once.
func TestDoubtfulValueIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 7)
		x := u16("x", 0)
		x.Every = 10 * time.Second
		y := u16("y", 0)
		y.Every = 100 * time.Millisecond
		u, v := unitOf("a", 1, 0, x), unitOf("b", 2, 1, y)
		asked := 0
		p := &peer{serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
			if r.unit == 1 {
				if asked++; asked == 1 {
					// Something else of this shape comes first; the answer itself when it is believed already.
					_, _ = c.Write(r.frame(true, []byte{3, 2, 0, 99}))
					time.AfterFunc(40*time.Millisecond, func() { _, _ = c.Write(r.frame(true, []byte{3, 2, 0, 7})) })
					return true
				}
			}
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: fast, Units: []firmwareconfig.Unit{u, v}}, p)
		r.run(time.Second)
		r.want(0, 7, telemetry.Good)
		if asked != 2 {
			t.Errorf("asked %d times within a second, want the doubtful value read once more", asked)
		}
	})
}

// inOrder is a serial server: its units answer one after another after a while, and what comes goes to whoever is
// connected then. Every so many requests it closes the connection.
type inOrder struct {
	mu   sync.Mutex
	to   io.Writer
	busy time.Time
	nth  int
}

// The connection is closed while an answer is on its way: it goes to the next connection, and to nobody's request.
func TestAnswerOverTheNextConnectionIsNoValue(t *testing.T) {
	for _, c := range []modbus.Config{{Transport: modbus.RTUOverTCP, Line: fast}, {Transport: modbus.TCP, IgnoreTID: true}} {
		for _, think := range []time.Duration{10 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond} {
			t.Run(c.Transport+"/"+think.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					u, d := countingBlocks("a", 1, 0)
					s, box := &inOrder{}, newOutbox(t)
					p := &peer{handle: func(w io.ReadWriteCloser, r request) bool {
						s.mu.Lock()
						defer s.mu.Unlock()
						s.to = w
						if now := time.Now(); s.busy.Before(now) {
							s.busy = now
						}
						s.busy = s.busy.Add(think)
						ans := r.frame(c.Transport != modbus.TCP, d.answer(r.pdu))
						time.AfterFunc(time.Until(s.busy), func() {
							s.mu.Lock()
							to := s.to
							s.mu.Unlock()
							box.send(to, 0, ans)
						})
						s.nth++
						return s.nth%17 != 0
					}}
					c.Units = []firmwareconfig.Unit{u}
					r := newRig(t, c, p)
					r.run(2 * time.Minute)
					n := checkCounting(t, r.all, 0, 1)
					t.Logf("%d values, %+v, %d connections", n, r.unit(0), p.dials)
					if n < 400 || p.dials < 20 {
						t.Errorf("%d values over %d connections", n, p.dials)
					}
				})
			})
		}
	}
}

// A converter that closes the connection after each answer fails nothing: it is looked for before each request.
func TestCloseAfterEachAnswerFailsNothing(t *testing.T) {
	for _, c := range []modbus.Config{{Transport: modbus.RTUOverTCP, Line: fast}, {Transport: modbus.TCP}, {Transport: modbus.TCP, IgnoreTID: true}} {
		synctest.Test(t, func(t *testing.T) {
			u, d := countingBlocks("a", 1, 0)
			p := &peer{handle: func(w io.ReadWriteCloser, r request) bool {
				_, _ = w.Write(r.frame(c.Transport != modbus.TCP, d.answer(r.pdu)))
				return false
			}}
			c.Units = []firmwareconfig.Unit{u}
			r := newRig(t, c, p)
			r.run(time.Minute)
			n := checkCounting(t, r.all, 0, 1)
			h := r.bus.Health().Units[0]
			if n < 290 || h.Errors+h.Timeouts > 0 || h.Retries > 3 {
				t.Errorf("%s: %d values, health %+v", c.Transport, n, h)
			}
		})
	}
}

// A damaged or cut answer is one failure with a wrong checksum, and nothing else.
func TestDamageIsCountedOnce(t *testing.T) {
	for name, spoil := range map[string]func(frame []byte) []byte{
		"a bit":          func(f []byte) []byte { f[4] ^= 4; return f },
		"the unit":       func(f []byte) []byte { f[0] ^= 0x40; return f },
		"the byte count": func(f []byte) []byte { f[2] = 40; return f },
		"cut":            func(f []byte) []byte { return f[:len(f)-3] },
		"the first byte": func(f []byte) []byte { return f[1:] },
		"all but one":    func(f []byte) []byte { return f[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, d := countingBlocks("a", 1, 0)
				damaged := uint64(0)
				p := &peer{serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
					f := r.frame(true, d.answer(r.pdu))
					if r.nth%10 == 5 {
						damaged++
						f = spoil(f)
					}
					_, _ = c.Write(f)
					return true
				}}
				r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: fast, Units: []firmwareconfig.Unit{u}}, p)
				r.run(time.Minute)
				checkCounting(t, r.all, 0, 1)
				h := r.bus.Health()
				if v := h.Units[0]; damaged < 20 || v.CRC != damaged || v.Errors != damaged || v.Timeouts+v.Late+h.Late+h.Foreign != 0 {
					t.Errorf("%d damaged: %+v", damaged, h)
				}
			})
		})
	}
}

// A gateway that puts the id and the unit of the request on what is late of another unit, before the right answer.
func TestLateAnswerUnderTheNextIDIsNoValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		v, e := countingBlocks("b", 2, 10)
		dev := map[byte]*tables{1: d, 2: e}
		var mu sync.Mutex // A connection that is given up may still have a request in hand.
		var held []byte
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			ans := dev[r.unit].answer(r.pdu)
			mu.Lock()
			late := held
			held = nil
			if r.nth%7 == 0 {
				held = ans
			}
			mu.Unlock()
			if r.nth%7 == 0 {
				return true
			}
			if late != nil {
				_, _ = c.Write(r.frame(false, late))
				time.Sleep(3 * time.Millisecond)
			}
			_, _ = c.Write(r.frame(false, ans))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u, v}}, p)
		r.run(5 * time.Minute)
		if n := checkCounting(t, r.all, 0, 1) + checkCounting(t, r.all, 10, 2); n < 300 {
			t.Errorf("%d values, %+v %+v", n, r.unit(0), r.unit(1))
		}
	})
}
