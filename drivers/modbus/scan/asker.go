package scan

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	firmwareconfig "linli/firmware-config"
)

// asker reads registers of one unit, each only once, and asks nothing that follows from what it knows.
type asker struct {
	s     *scanner
	f     *sighting
	words map[[2]int]Answer
	spans map[[3]int][]uint16
	// missing is what the unit says it does not have: no larger read that contains it succeeds.
	missing []span
	tables  map[firmwareconfig.Table]*tableState
	err     error // of the line, or errOverdue; nothing is asked after it

	disturbed int // requests that were repeated because somebody else talked
}

// tableState is whether a unit has a table at all.
type tableState struct {
	alive   bool // something of it was read, or an address of it refused
	no      int  // requests that were answered with "no such function", or not at all
	refused bool // the last of them was answered
}

// deadAfter is how many requests for different registers of a table show that the unit has none of it.
const deadAfter = 2

func newAsker(s *scanner, f *sighting) *asker {
	return &asker{s: s, f: f, words: map[[2]int]Answer{}, spans: map[[3]int][]uint16{}, tables: map[firmwareconfig.Table]*tableState{}}
}

// read returns one register or bit.
func (a *asker) read(ctx context.Context, t firmwareconfig.Table, address int) Answer {
	key := [2]int{int(t), address}
	if w, ok := a.words[key]; ok {
		return w
	}
	if ts := a.table(t); !ts.alive && ts.no >= deadAfter {
		return Answer{Refused: ts.refused, OK: ts.refused}
	}
	var out Answer
	words, refused, ok := a.request(ctx, t, address, 1)
	switch {
	case refused:
		out = Answer{Refused: true, OK: true}
	case ok:
		out = Answer{Word: words[0], OK: true}
	}
	if a.err == nil {
		a.words[key] = out
	}
	return out
}

// block returns several registers or bits, nil where the unit does not have all of them.
func (a *asker) block(ctx context.Context, sp span) []uint16 {
	key := [3]int{int(sp.table), sp.address, sp.count}
	if w, ok := a.spans[key]; ok {
		return w
	}
	if ts := a.table(sp.table); !ts.alive && ts.no >= deadAfter {
		return nil
	}
	if slices.ContainsFunc(a.missing, sp.contains) {
		return nil
	}
	if sp.count == 1 {
		if w := a.read(ctx, sp.table, sp.address); w.OK && !w.Refused {
			return []uint16{w.Word}
		}
		return nil
	}
	words, _, ok := a.request(ctx, sp.table, sp.address, sp.count)
	if !ok {
		words = nil
	}
	if a.err == nil {
		a.spans[key] = words
	}
	for i, w := range words {
		a.words[[2]int{int(sp.table), sp.address + i}] = Answer{Word: w, OK: true}
	}
	return words
}

// contains reports whether all of o lies within sp.
func (sp span) contains(o span) bool {
	return o.table == sp.table && o.address >= sp.address && o.address+o.count <= sp.address+sp.count
}

func (a *asker) table(t firmwareconfig.Table) *tableState {
	if a.tables[t] == nil {
		a.tables[t] = &tableState{}
	}
	return a.tables[t]
}

// request reads; once more where no answer came.
func (a *asker) request(ctx context.Context, t firmwareconfig.Table, address, count int) (words []uint16, refused, ok bool) {
	ts, unanswered := a.table(t), true
	for tries := 2; tries > 0; tries-- {
		if a.err == nil && a.s.overdue() {
			a.err = errOverdue
		}
		if a.err != nil {
			return nil, false, false
		}
		r, o, err := a.s.ask(ctx, a.f.address, readSome(t, address, count), patientTimeout)
		if err != nil {
			a.err = err
			return nil, false, false
		}
		a.f.tally(o)
		if o == disturbed && a.disturbed < disturbedMost {
			a.disturbed++
			tries++ // Another master was in the way; it is not always.
		}
		if o != answered {
			unanswered = unanswered && o == silent
			continue
		}
		if a.f.fastest == 0 || r.Took < a.f.fastest {
			a.f.fastest = r.Took
		}
		if r.PDU[0]&0x80 != 0 {
			a.f.refused++
			return nil, a.refusal(ts, r.PDU, span{table: t, address: address, count: count}), false
		}
		a.f.readable++
		ts.alive = true
		words = wordsOf(t, r.PDU, count)
		return words, false, words != nil
	}
	if unanswered {
		ts.no++
		ts.refused = false
	}
	return nil, false, false
}

// refusal learns from an exception, and reports whether it says that what was asked is not there.
func (a *asker) refusal(ts *tableState, pdu []byte, sp span) bool {
	if len(pdu) < 2 || pdu[1] < 1 || pdu[1] > 3 {
		return false // Busy or failing: that passes.
	}
	switch pdu[1] {
	case 1:
		ts.no++
		ts.refused = true
	case 2:
		ts.alive = true
		a.missing = append(a.missing, sp)
	}
	return true
}

// wordsOf takes the registers, or the bits as 0 and 1, out of an answer; nil where it has fewer than count.
func wordsOf(t firmwareconfig.Table, pdu []byte, count int) []uint16 {
	if len(pdu) < 2 {
		return nil
	}
	data := pdu[2:]
	words := make([]uint16, count)
	for i := range words {
		switch {
		case t.Bits() && i/8 < len(data):
			words[i] = uint16(data[i/8]>>(i%8)) & 1
		case !t.Bits() && 2*i+1 < len(data):
			words[i] = binary.BigEndian.Uint16(data[2*i:])
		default:
			return nil
		}
	}
	return words
}

// look names what can be read of a unit that no profile fits, at the addresses where most devices have something.
func (a *asker) look(ctx context.Context) []string {
	var there []string
	for t := firmwareconfig.Coil; t <= firmwareconfig.InputRegister; t++ {
		for _, address := range [...]int{0, 1} {
			if w := a.read(ctx, t, address); w.OK && !w.Refused {
				there = append(there, fmt.Sprintf("%s %d (%d)", t, address, w.Word))
			}
		}
	}
	return there
}
