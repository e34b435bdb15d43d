package scan

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	firmwareconfig "linli/firmware-config"
)

const (
	// rounds is how often a unit is asked the same after the search did, to see whether two answer.
	rounds = 2
	// doubtRounds is how often where something was garbled before.
	doubtRounds = 6
	// secondAnswer is how long the line is listened to after an answer, for a second one: first after the first
	// request, for units with a slow processor, then shortly.
	secondAnswer = 180 * time.Millisecond
	shortAnswer  = 40 * time.Millisecond
	// liveRounds is how often a measured value is asked where nothing is in doubt.
	liveRounds = 3
	// disturbedMost bounds the requests to one unit that are repeated because somebody else talked.
	disturbedMost = 20
	// doubtsMost bounds the addresses that are asked again because of garbled answers: with more, the line is at fault.
	doubtsMost = 40
)

// worthDoubt reports whether an address where only garbled bytes came deserves to be asked again: not on a line where
// everything is garbled; and where nobody answers cleanly, only if there is time and no talk at another setting that
// explains the bytes.
func (s *scanner) worthDoubt(f *sighting) bool {
	if s.trafficAt(f.line).noisy() {
		return false
	}
	if slices.ContainsFunc(s.found, func(o *sighting) bool { return o.line == f.line && o.clean > 0 }) || f.late > 0 {
		return true
	}
	for line, t := range s.traffic {
		if line != f.line && (len(t.text) > 0 || len(polls(t.frames)) > 0) {
			return false
		}
	}
	return s.Plan.Limit == 0 || time.Since(s.began) < s.Plan.Limit
}

// answersEverywhere reports whether all addresses asked answered, as from a TCP device that does not look at them.
func (s *scanner) answersEverywhere() bool {
	return s.Plan.Kind == TCP && len(s.Plan.Stages) > 0 && len(s.Plan.Stages[0].Units) >= 8 &&
		s.cleanUnits() == len(s.Plan.Stages[0].Units)
}

// doubt asks an address the same several times: two units that share it answer at once (garbled), one after the other
// (two frames), or differently.
func (s *scanner) doubt(ctx context.Context, f *sighting) error {
	if s.Plan.Kind == TCP {
		return nil
	}
	n := rounds
	if f.garbled > 0 || f.late > 0 {
		n = doubtRounds
	}
	first, quiet := "", 0
	for i := range n {
		if s.overdue() {
			return nil
		}
		owing, pdu := f.owing, readOne(firmwareconfig.HoldingRegister, 0)
		if owing {
			// Where an answer may still be on its way, one of another form cannot be taken for it.
			pdu = readSome(firmwareconfig.Table(1+i%4), 0, 1+i/4)
		}
		if i == 2 && f.clean == 0 && quiet == 2 {
			return nil // What was heard before were somebody else's bytes.
		}
		wait := patientTimeout
		if f.clean+f.late == 0 && i > 0 {
			wait = max(s.Plan.Timeout, usualTimeout)
		}
		r, o, err := s.ask(ctx, f.address, pdu, wait)
		if err != nil {
			return err
		}
		s.note(f, pdu, r, o)
		if o == silent {
			quiet++
		}
		if o != answered {
			continue
		}
		if shape := shapeOf(r.PDU); shape != "" && !owing {
			if first != "" && shape != first && f.differ == "" {
				f.differ = first + ", then " + shape
			}
			first = cmp.Or(first, shape)
		}
		if i > 0 && f.doubled+f.trailing+f.garbled == 0 {
			continue
		}
		d := shortAnswer
		if i == 0 || f.doubled > 0 {
			d = secondAnswer
		}
		heard, err := s.Conn.Hear(ctx, d)
		if err := s.lost(ctx, err); err != nil {
			return err
		}
		switch {
		case answersIn(heard, byte(f.address), pdu) > 0:
			if !owing {
				f.doubled++
			}
		case s.overheard(f.address, heard) == garbled:
			f.trailing++
		}
	}
	return nil
}

// shapeOf is what must not change between two answers of one unit to the same request; "" where that cannot be said.
func shapeOf(pdu []byte) string {
	if pdu[0]&0x80 == 0 {
		return "a value"
	}
	switch pdu[1] {
	case 1, 2, 3:
		return fmt.Sprintf("exception %d", pdu[1])
	}
	return "" // Busy or failing: that passes.
}

// tally counts an answer to a request of the identification. Two units that give the same answer at the same moment are
// heard as one; over many requests they are not always that exact.
func (f *sighting) tally(o outcome) {
	switch o {
	case garbled:
		f.spoilt++
		fallthrough
	case answered:
		f.more++
	}
}

// broken returns how many answers of an address were garbled, of how many in all.
func (f *sighting) broken() (bad, all int) {
	return f.garbled + f.trailing + f.spoilt, f.garbled + f.clean + f.more
}

// live asks for a register that holds a measured value, where one is known: two units seldom measure the same, so that
// their answers, unlike their exceptions, break each other, or come in turn.
func (a *asker) live(ctx context.Context, u *Unit) error {
	sp, ok := a.liveSpan(u)
	if a.s.Plan.Kind == TCP || !ok {
		return nil
	}
	var values []int
	n := liveRounds
	for i := 0; i < n; i++ {
		words, _, ok := a.request(ctx, sp.table, sp.address, sp.count)
		if a.err != nil {
			return a.err
		}
		if ok {
			values = append(values, int(words[0]))
		}
		if bad, _ := a.f.broken(); bad > 0 || len(values) > 1 && far(values[0], values[len(values)-1]) {
			n = doubtRounds
		}
	}
	a.f.turns = inTurn(values)
	return nil
}

// liveSpan returns where a unit has a measured value: as its best candidate says, or any register that is not 0.
func (a *asker) liveSpan(u *Unit) (span, bool) {
	if len(u.Candidates) > 0 {
		if p := a.s.profile(u.Candidates[0].Profile); p != nil {
			for i := range p.Channels {
				if ch := &p.Channels[i]; !ch.Table.Bits() && ch.Unit != "" && !ch.NoReadBack {
					return span{table: ch.Table, address: ch.Address, count: ch.Registers()}, true
				}
			}
		}
	}
	var best [2]int
	for key, w := range a.words {
		t := firmwareconfig.Table(key[0])
		if w.OK && !w.Refused && w.Word != 0 && !t.Bits() && (best == [2]int{} || key[0] > best[0] || key[0] == best[0] && key[1] < best[1]) {
			best = key // Input registers before holding registers, the lowest first.
		}
	}
	return span{table: firmwareconfig.Table(best[0]), address: best[1], count: 1}, best != [2]int{}
}

// far reports whether two values of a register are too far apart for two readings within a second.
func far(a, b int) bool {
	d := a - b
	if d < 0 {
		d = -d
	}
	return d > max(5, max(a, b)/50)
}

// inTurn says which two values come in turn, "" where that is not so: each is seen again after the other.
func inTurn(values []int) string {
	changes := 0
	for i, v := range values {
		if i == 0 {
			continue
		}
		if far(v, values[i-1]) {
			changes++
		}
		for _, w := range values[:i] {
			if far(v, w) && far(v, values[0]) && far(w, values[0]) {
				return "" // Three different ones: it changes fast.
			}
		}
	}
	if changes < 3 {
		return ""
	}
	other := values[slices.IndexFunc(values, func(v int) bool { return far(v, values[0]) })]
	return fmt.Sprintf("%d and %d", values[0], other)
}
