package uplink_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// What a message says to be settled holds: whatever comes in frames with higher numbers is later, or its message says that
// its times are uncertain. Random schedules of the real journal: samples that are late on their way, slow commits, clocks
// that are unset, uncertain or set forth and back, overtaken backlogs, frames in parts, new processes, reboots.
func TestSettledNeverLies(t *testing.T) {
	said, marked, contradicted := 0, 0, 0
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			s := settledRun{t: t, calm: seed%2 == 0, seed: seed, rand: rand.New(rand.NewPCG(seed, 5)), dir: t.TempDir(), trust: telemetry.ClockSet}
			s.run()
			said, marked, contradicted = said+s.saidCount, marked+s.marked, contradicted+s.contradicted
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d claims, %d messages marked, of these %d against a claim", said, marked, contradicted)
	if said < 1000 || contradicted < 20 {
		t.Error("the test says nothing: too few claims, or none that the clock broke")
	}
}

// settledRun is one random schedule.
type settledRun struct {
	calm  bool // the clock is never set back: claims hold by themselves
	t     *testing.T
	seed  uint64
	rand  *rand.Rand
	dir   string
	trust telemetry.Trust
	off   time.Duration

	inv    *telemetry.Inventory
	points []telemetry.PointID
	boot   int
	base   telemetry.Mono
	clock  *telemetry.Clock
	j      *journal.Journal
	u      *uplink.Uplink
	lanes  *uplink.Lanes
	way    []telemetry.Sample // taken and not appended

	claimed                         int64
	claimedTo                       uint64
	saidCount, marked, contradicted int
	log                             []string
}

func (s *settledRun) open() {
	clock := telemetry.NewClock(fmt.Sprint("boot", s.boot), s.base, time.Unix(1_000_000, 0))
	s.clock = clock.JudgedBy(func(telemetry.Mono, bool) telemetry.Trust { return s.trust }).OffBy(func() time.Duration { return s.off })
	var err error
	if s.j, err = journal.Open(journal.Config{Dir: s.dir}, s.inv, s.clock); err != nil {
		s.t.Fatal(err)
	}
	s.u, err = uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{"tcp://127.0.0.1:1"}, StateDir: s.dir,
		Clock: s.clock, OnTheWay: func() telemetry.Mono {
			low := telemetry.Never
			for i := range s.way {
				low = min(low, s.way[i].Time)
			}
			return low
		}}, s.j, newBook(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.lanes, err = s.u.NewLanes(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *settledRun) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *settledRun) run() {
	s.inv = &telemetry.Inventory{Site: "riverside", Gateway: "gw1"}
	class := &telemetry.Class{ID: "counter", Points: []telemetry.PointDef{{Name: "n", Kind: telemetry.Int}}}
	zone := s.inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	for i := range 40 {
		s.points = append(s.points, s.inv.ProvidePoint(s.inv.AddDevice(telemetry.Device{ID: fmt.Sprint("c", i), Class: class, Zone: zone}), 0))
	}
	s.base = telemetry.Mono(time.Hour)
	s.open()
	if s.rand.IntN(2) == 0 {
		s.trust = telemetry.Trust(s.rand.IntN(3))
	}
	defer func() {
		if err := s.j.Close(); err != nil {
			s.t.Error(err)
		}
		if s.t.Failed() {
			s.t.Logf("seed %d\n%s", s.seed, strings.Join(s.log, "\n"))
		}
	}()
	for range 150 {
		s.act()
		if s.t.Failed() {
			return
		}
	}
	// When nothing disturbs, claims follow the present closely.
	s.trust, s.off = telemetry.ClockSet, s.off.Abs()+100*time.Hour
	s.appendWay()
	for range 80 {
		time.Sleep(250 * time.Millisecond)
		s.appendSamples()
		s.commit()
		s.sendAll()
	}
	if age := s.clock.Now().Wall.Sub(time.Unix(0, s.claimed)); age > 12*time.Second {
		s.t.Errorf("at the end the claim is %v old", age)
	}
}

func (s *settledRun) act() {
	switch n := s.rand.IntN(40); {
	case n < 8:
		d := time.Duration(s.rand.IntN(700)) * time.Millisecond
		if s.rand.IntN(15) == 0 {
			d = time.Duration(s.rand.IntN(90)) * time.Second
		}
		time.Sleep(d)
	case n < 14:
		s.appendSamples()
	case n < 17: // something is taken and stays on its way
		now := s.clock.Mono()
		if late := now.Add(-time.Duration(s.rand.IntN(9900)) * time.Millisecond); late > s.base {
			s.way = append(s.way, telemetry.Sample{Point: s.point(), Time: late, Value: telemetry.IntValue(1)})
		}
	case n < 19:
		s.appendWay()
	case n < 25:
		s.commit()
	case n < 32:
		s.send(s.lanes.Next(false, s.limit()))
	case n < 34:
		s.send(s.lanes.Next(true, s.limit()))
	case n < 35:
		if b := s.lanes.Idle(); b != nil {
			s.send([][]byte{b})
		}
	case n < 36:
		s.lanes.Overtake()
	case n < 37:
		before := s.off
		switch step := s.rand.IntN(8); {
		case step < 3:
			s.off += time.Duration(s.rand.IntN(100)-50) * time.Millisecond
		case step < 5:
			s.off += time.Duration(s.rand.IntN(7200)-3600) * time.Second
		case step < 6:
			s.trust = telemetry.Trust(s.rand.IntN(3))
		default:
			s.trust = telemetry.ClockSet
		}
		if s.calm {
			s.off = max(s.off, before)
		}
		s.note("clock off by %v, trust %d", s.off, s.trust)
	case n < 38 && s.rand.IntN(3) == 0: // a new process, or a new boot
		s.appendWay()
		s.commit()
		if s.rand.IntN(2) == 0 { // otherwise a crash
			s.u.Save()
		}
		if err := s.j.Close(); err != nil {
			s.t.Fatal(err)
		}
		s.base = s.clock.Mono().Add(time.Second)
		if s.rand.IntN(2) == 0 {
			s.boot++
			s.base = telemetry.Mono(time.Minute)
		}
		s.way = nil
		s.open()
		s.note("new process, boot %d", s.boot)
	default:
		s.lanes.Update()
	}
	s.u.SaveWhenDue()
}

func (s *settledRun) limit() int { return []int{1 << 10, 2 << 10, 64 << 10}[s.rand.IntN(3)] }

func (s *settledRun) point() telemetry.PointID { return s.points[s.rand.IntN(len(s.points))] }

func (s *settledRun) appendSamples() {
	now := s.clock.Now()
	var batch []telemetry.Sample
	for range 1 + s.rand.IntN(40) {
		batch = append(batch, telemetry.Sample{Point: s.point(), Time: now.Mono.Add(-time.Duration(s.rand.IntN(1000)) * time.Millisecond), Value: telemetry.IntValue(1)})
	}
	s.j.Append(now, batch)
	time.Sleep(time.Microsecond)
}

func (s *settledRun) appendWay() {
	if len(s.way) > 0 {
		s.j.Append(s.clock.Now(), s.way)
		s.way = nil
		time.Sleep(time.Microsecond)
	}
}

func (s *settledRun) commit() {
	if s.rand.IntN(4) > 0 {
		s.lanes.Update() // as it wakes several times a second
	}
	time.Sleep(time.Microsecond)
	if err := s.j.Commit(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *settledRun) sendAll() {
	s.lanes.Update()
	for _, late := range []bool{false, true} {
		for {
			p := s.lanes.Next(late, 64<<10)
			if len(p) == 0 {
				break
			}
			s.send(p)
		}
	}
}

// send is where the city hears the messages.
func (s *settledRun) send(payloads [][]byte) {
	for i, p := range payloads {
		line, rest := wire.NextLine(p)
		h, err := wire.ParseHeader(line)
		if err != nil {
			s.t.Fatal(err)
		}
		s.note("%s", line)
		if h.Settled != 0 && (h.Late || i != len(payloads)-1) {
			s.t.Errorf("%s: settled is not for this message", line)
		}
		first := int64(1) << 62
		for len(rest) > 0 {
			line, rest = wire.NextLine(rest)
			if ns, err := strconv.ParseInt(string(line[bytes.LastIndexByte(line, ' ')+1:]), 10, 64); err == nil {
				first = min(first, ns)
			}
		}
		if h.Uncertain {
			s.marked++
		}
		if h.To > s.claimedTo && first < s.claimed {
			if s.contradicted++; !h.Uncertain || s.calm {
				s.t.Errorf("seed %d: %s holds something of %d; everything before %d was said to be in frames up to %d", s.seed, line, first, s.claimed, s.claimedTo)
			}
		}
		if h.Settled != 0 {
			s.saidCount++
			switch {
			case h.To > s.claimedTo:
				s.claimed, s.claimedTo = h.Settled, h.To
			case h.To == s.claimedTo:
				s.claimed = max(s.claimed, h.Settled)
			}
		}
	}
}
