package ledger

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

// An hour that somebody has found complete need not be worked out again if nothing can have changed since. What can make
// an hour incomplete whose report was whole (see Report.Whole)?
//
//   - A row of the same epoch that has settled before the hour's end, with a higher frame: a clock was set back. Frames that
//     come again, or are told as lost, change nothing, since none is missing; nor does what settles later.
//   - Anything of another epoch. Its rows and losses carry the epoch, and its statuses do.
//
// So whoever writes something into the ledger that says something of an hour that may have been judged marks it
// (linli_late): the hour from which on it says something. And whoever judges binds his word to the epoch and to the marks that
// he saw before he looked: that is the seal. It is broken by any mark that came later, by another rule (ruleVersion), and by
// anybody who wrote the hour down again without it, since the moment of the look is in it too.
const (
	// ruleVersion changes whenever the rule does, so that what an older version has judged is judged again.
	ruleVersion = 1
	// markAfter is how long an hour is over when what comes for it is marked, and SealAfter when its verdict may be sealed.
	// Between them lies how far the clocks of two ingests may differ.
	markAfter = 2 * time.Minute
	SealAfter = 4 * time.Minute
	// MarksReach is how far marks reach forward, and Reader looks back for rows.
	MarksReach = 40 * 24 * time.Hour
)

// Mark returns the beginning of the hour to mark when something has come at now that says something of the time from
// since on; false where no hour can have been judged that it says something of.
func Mark(since, now int64) (start int64, ok bool) {
	since = max(since-int64(slack), now-int64(MarksReach-time.Hour))
	start = HourOf(since)
	return start, start+int64(time.Hour+markAfter) <= now
}

// HourOf returns the beginning of the hour in which ns is, UTC.
func HourOf(ns int64) int64 { return ns - ns%int64(time.Hour) }

// Marks is what has been marked of one node. The zero value is empty.
type Marks struct{ all []mark }

type mark struct {
	start int64
	sum   uint64
}

// Add takes a mark: by whom, which hour, when.
func (m *Marks) Add(client string, start, at int64) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(client))
	m.all = append(m.all, mark{start, mix(h.Sum64(), uint64(start), uint64(at))})
}

// sum depends on the marks that say something of the hour, in any order.
func (m *Marks) sum(hour int64) (sum uint64) {
	if m == nil {
		return 0
	}
	for _, k := range m.all {
		if k.start <= hour && k.start >= hour-int64(MarksReach) {
			sum += k.sum
		}
	}
	return sum
}

// Seal returns the number that binds the word that an hour is complete, found at the moment checked in the only epoch, to the
// marks (nil: none). It is never 0.
func Seal(hour, checked int64, epoch uint64, marks *Marks) int64 {
	return int64(mix(ruleVersion, uint64(hour), uint64(checked), epoch, marks.sum(hour)) | 1)
}

func mix(values ...uint64) uint64 {
	h := fnv.New64a()
	for _, v := range values {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, v))
	}
	return h.Sum64()
}
