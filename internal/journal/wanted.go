package journal

import (
	"encoding/binary"

	"linli/internal/telemetry"
)

// wanted says which series the reader of a frame is interested in, so that the others need not be decoded.
type wanted struct {
	match   func(*telemetry.Series) bool
	segment uint64 // number of the first frame of the segment that entries is of
	entries []bool // of its dictionary

	block    uint64 // number of a block of the segment's index, plus 1
	hasBlock bool   // it has one of entries
}

// inBlock reports whether frame number i of the segment that was looked at may have a sample that is wanted.
func (w *wanted) inBlock(x frameIndex, i uint64) bool {
	if n := i/indexFrames + 1; n != w.block {
		w.block, w.hasBlock = n, x.has(i, w.entries)
	}
	return w.hasBlock
}

// look finds what of the dictionary of a segment is wanted.
func (w *wanted) look(segment uint64, dict []entry) {
	if segment != w.segment {
		w.segment, w.entries, w.block = segment, w.entries[:0], 0
	}
	for i := len(w.entries); i < len(dict); i++ {
		// Entries may be filled in later where the frame that held them is lost; their frames cannot be decoded before.
		w.entries = append(w.entries, dict[i].series.Kind != 0 && w.match(dict[i].series))
	}
}

// in reports whether the frame with the payload raw has a sample of a series that is wanted.
func (w *wanted) in(raw []byte, segment uint64, dict []entry) bool {
	w.look(segment, dict)
	c, ok := section(raw, sectionSamples)
	n := c.count()
	col := c.bytes()
	if !ok || c.bad {
		return true // let the decoder say what is wrong
	}
	for k := int64(-1); n > 0; n-- {
		v, used := binary.Varint(col)
		if used <= 0 {
			return true
		}
		col = col[used:]
		if k += v + 1; k < 0 || k >= int64(len(w.entries)) || w.entries[k] {
			return true
		}
	}
	return false
}

// frameIndex says which entries of the dictionary occur in which frames of a segment, by blocks of indexFrames frames: a bit
// for each entry. Nothing is known of the frames of a block that is not there.
type frameIndex [][]uint64

// indexFrames is how many frames a block of a frameIndex speaks of.
const indexFrames = 64

// has reports whether frame number i of the segment may have a sample of one of entries.
func (x frameIndex) has(i uint64, entries []bool) bool {
	if i/indexFrames >= uint64(len(x)) {
		return true
	}
	bits := x[i/indexFrames]
	for k, ok := range entries {
		if ok && k/64 < len(bits) && bits[k/64]>>(k%64)&1 != 0 {
			return true
		}
	}
	return false
}

// add notes that frame number i has samples of the entries in seen.
func (x *frameIndex) add(i int, seen []uint64) {
	for len(*x) <= i/indexFrames {
		*x = append(*x, nil)
	}
	b := &(*x)[i/indexFrames]
	for len(*b) < len(seen) {
		*b = append(*b, 0)
	}
	for k, bits := range seen {
		(*b)[k] |= bits
	}
}
