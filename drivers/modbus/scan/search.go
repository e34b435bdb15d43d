package scan

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
)

// readOne is the request for one register or bit.
func readOne(t firmwareconfig.Table, address int) []byte {
	return readSome(t, address, 1)
}

// readSome is the request for count registers or bits.
func readSome(t firmwareconfig.Table, address, count int) []byte {
	b := binary.BigEndian.AppendUint16([]byte{byte(t)}, uint16(address))
	return binary.BigEndian.AppendUint16(b, uint16(count))
}

// outcome is what came back to one request.
type outcome uint8

const (
	silent    outcome = iota
	answered          // a whole answer, exceptions included
	late              // answers of the unit, but none that can be taken for the one to this request
	absent            // a gateway says that nobody is there (exceptions 10 and 11)
	garbled           // bytes that are no frame
	disturbed         // somebody else talked meanwhile
)

// ask sends one request and sorts what comes back. Only the loss of the line is an error.
func (s *scanner) ask(ctx context.Context, unit int, pdu []byte, timeout time.Duration) (drivers.Reply, outcome, error) {
	r, err := s.Conn.Ask(ctx, byte(unit), pdu, timeout)
	if err := s.lost(ctx, err); err != nil {
		return r, silent, err
	}
	if s.Plan.Kind != TCP {
		var echo bool
		if r.Heard, echo = cutEcho(byte(unit), pdu, r.Heard); echo {
			s.echoes++
		}
	}
	if err == nil && len(r.PDU) > 0 {
		if pdu[0]|0x80 == r.PDU[0] && len(r.PDU) > 1 && (r.PDU[1] == 10 || r.PDU[1] == 11) {
			return r, absent, nil
		}
		return r, answered, nil
	}
	return r, s.overheard(unit, r.Heard), nil
}

// overheard sorts the bytes that came instead of an answer: frames of others and text go to the traffic; what is left
// was a garbled answer.
func (s *scanner) overheard(unit int, heard []byte) outcome {
	if len(heard) == 0 || s.Plan.Kind == TCP {
		return silent
	}
	frames, text, rest := sift(heard)
	others, own := len(text) > 0, false
	for _, f := range frames {
		switch {
		case f.request:
			others = true
		case int(f.unit) == unit:
			own = true
		case slices.Contains(s.Plan.Stages[0].Units, int(f.unit)):
			// Who is there, and slower than we waited: it is asked again at the end.
			s.sight(int(f.unit)).late++
		}
	}
	if others {
		s.trafficAt(s.line).add(heard, 0)
	}
	switch {
	case own:
		return late
	case rest > 0:
		return garbled
	case others:
		return disturbed
	}
	return silent
}

// cutEcho takes our own request out of what was heard: an adapter that receives what it sends.
func cutEcho(unit byte, pdu, heard []byte) (rest []byte, ok bool) {
	own := append([]byte{unit}, pdu...)
	i := bytes.Index(heard, own)
	end := i + len(own) + 2
	if i < 0 || end > len(heard) || !crcRight(heard[i:end]) {
		return heard, false
	}
	return slices.Concat(heard[:i], heard[end:]), true
}

// search asks every address of the plan at every setting.
func (s *scanner) search(ctx context.Context) error {
	for _, st := range s.Plan.Stages {
		if err := s.setLine(ctx, st.Line); err != nil {
			return err
		}
		for _, u := range st.Units {
			if s.Plan.Kind == Serial && s.foundLike(u, st.Line) || s.Plan.Once && s.foundClean(u) {
				s.probes++
				continue // It answers with one stop bit: asking with two finds the same unit again.
			}
			s.tell("searching", u)
			if err := s.probe(ctx, u, firmwareconfig.HoldingRegister, s.timeout()); err != nil {
				return err
			}
			s.probes++
		}
		s.report.Asked = append(s.report.Asked, st.Line)
	}
	return nil
}

// timeout is the plan's, or less where the plan has a limit and lags behind it: a noisy line costs more than was
// computed.
func (s *scanner) timeout() time.Duration {
	if s.Plan.Limit == 0 {
		return s.Plan.Timeout
	}
	behind := time.Since(s.began) + s.Plan.left(s.probes) - time.Duration(float64(s.Plan.Limit)*searchPart)
	if behind <= 0 {
		return s.Plan.Timeout
	}
	less := behind / time.Duration(max(1, s.Plan.Probes()-s.probes))
	return max(s.Plan.Timeout-less, min(leastTimeout, s.Plan.Timeout))
}

// probe asks one address for one register and notes what comes back.
func (s *scanner) probe(ctx context.Context, unit int, table firmwareconfig.Table, timeout time.Duration) error {
	pdu := readOne(table, 0)
	r, o, err := s.ask(ctx, unit, pdu, timeout)
	if err != nil {
		return err
	}
	t := s.trafficAt(s.line)
	t.probes++
	switch o {
	case garbled:
		t.garbled++
		s.note(s.sight(unit), pdu, r, o)
	case answered, late:
		s.note(s.sight(unit), pdu, r, o)
	}
	return nil
}

// sight returns the record of an address at the present setting.
func (s *scanner) sight(unit int) *sighting {
	for _, f := range s.found {
		if f.address == unit && f.line == s.line {
			return f
		}
	}
	f := &sighting{address: unit, line: s.line}
	s.found = append(s.found, f)
	return f
}

// note adds one outcome to a record.
func (s *scanner) note(f *sighting, pdu []byte, r drivers.Reply, o outcome) {
	// After a request without an answer its late answer may come too, and the line may ask something else first: more
	// than one answer means nothing then.
	if !f.owing && s.Plan.Kind != TCP && answersIn(r.Heard, byte(f.address), pdu) > 1 {
		f.doubled++
	}
	f.owing = o != answered
	switch o {
	case garbled:
		f.garbled++
	case late:
		f.late++
	case answered:
		f.clean++
		if r.PDU[0]&0x80 != 0 {
			f.refused++
		} else {
			f.readable++
		}
		if f.fastest == 0 || r.Took < f.fastest {
			f.fastest = r.Took
		}
	}
}

// answersIn counts the whole answers of a unit to one request in what was heard.
func answersIn(heard []byte, unit byte, pdu []byte) int {
	frames, _, _ := sift(heard)
	n := 0
	for _, f := range frames {
		if f.unit == unit && !f.request && f.pdu[0]&0x7F == pdu[0] {
			n++
		}
	}
	return n
}

// foundLike reports whether something came from an address at a setting that differs in stop bits at most. Garbled
// bytes count: the address is asked again for them.
func (s *scanner) foundLike(unit int, line firmwareconfig.Line) bool {
	return slices.ContainsFunc(s.found, func(f *sighting) bool { return f.address == unit && sameFrames(f.line, line) })
}

// foundClean reports whether an address answered at any setting.
func (s *scanner) foundClean(unit int) bool {
	return slices.ContainsFunc(s.found, func(f *sighting) bool { return f.address == unit && f.clean > 0 })
}

// again asks the addresses that were silent once more, at the settings where others answered: with another function,
// for units that drop the first request after a pause, and with more patience, for slow ones.
func (s *scanner) again(ctx context.Context) error {
	if s.Plan.Kind == TCP {
		return nil // TCP loses nothing, and the wait was long.
	}
	var stages []Stage
	n := 0
	for _, st := range s.Plan.Stages {
		if !slices.ContainsFunc(s.found, func(f *sighting) bool { return f.line == st.Line && f.clean > 0 }) {
			continue
		}
		var missing []int
		for _, u := range st.Units {
			if !s.foundLike(u, st.Line) && !(s.Plan.Once && s.foundClean(u)) {
				missing = append(missing, u)
			}
		}
		if len(missing) > 0 && len(missing) < 248 {
			stages = append(stages, Stage{Line: st.Line, Units: missing})
			n += len(missing)
		}
	}
	timeout := max(patientTimeout, s.Plan.Timeout)
	// Of the limit, what asking who they are will take is kept; but a unit that is missed is worse than one that is not
	// identified, so half of what is left at most.
	kept := time.Duration(s.cleanUnits())*s.unitTakes() + time.Duration(s.doubtful())*doubtCost + lastRequest
	kept = min(kept, (s.Plan.Limit-time.Since(s.began))/2)
	for _, st := range stages {
		if err := s.setLine(ctx, st.Line); err != nil {
			return err
		}
		for _, u := range st.Units {
			wait := timeout
			if s.Plan.Limit > 0 {
				left := s.Plan.Limit - time.Since(s.began) - kept
				wait = min(wait, left/time.Duration(max(n, 1))-s.Plan.wire(st.Line))
				if wait < leastTimeout {
					return nil
				}
			}
			n--
			s.tell("asking again", u)
			if err := s.probe(ctx, u, firmwareconfig.InputRegister, wait); err != nil {
				return err
			}
		}
	}
	return nil
}

// unitCost is about what asking one ordinary unit who it is takes at 9600 baud, doubtCost what asking an address again
// takes from which garbled bytes came; unitRequests is about how many requests one unit gets.
const (
	unitCost     = time.Second
	doubtCost    = 800 * time.Millisecond
	unitRequests = 14
)

// doubtful counts the addresses that will be asked again because of garbled bytes.
func (s *scanner) doubtful() int {
	n := 0
	for _, f := range s.found {
		if f.clean == 0 && s.worthDoubt(f) {
			n++
		}
	}
	return min(n, doubtsMost)
}

func (s *scanner) cleanUnits() int {
	n := 0
	for _, f := range s.found {
		if f.clean > 0 {
			n++
		}
	}
	return n
}
