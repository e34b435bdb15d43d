package journal

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"linli/internal/telemetry"
)

// Frame is one group commit, or a part of a large one.
type Frame struct {
	Epoch, Seq uint64
	// T0 and T1 are the times of the earliest and the latest sample; of a frame without samples (steps and marks only, see
	// Replay), of the commit; of a tombstone, of the samples lost, or, where only the frames are known that they were in, the end
	// of the frame before these and the beginning of the one after; of the first frames of a journal, both that beginning; of the
	// last, the end is when the journal was opened, or Skip was called. Times of an earlier boot are moved to the
	// time line of this one, so that Wall fits them, and both are the time of the commit where that cannot be known.
	T0, T1 telemetry.Mono
	Boot   string
	// ClockSet says that the wall clock had been set when the frame was written. Where it had not, Wall works with
	// what became known later in the same boot.
	ClockSet bool
	// Uncertain says that the wall clock times are an estimate: of a clock that nobody vouches for, or, where the boot
	// ended before its clock was set, as if the next boot had followed at once.
	Uncertain bool
	Records   []Record
	// Lost is set in a tombstone: a frame that stands for samples that could not be kept.
	Lost *Loss

	offset int64 // wall clock minus monotonic time, ns
	known  bool  // offset is known

	steps *frameSteps // nil: the steps are not wanted
	only  *wanted     // nil: the records are wanted whatever they are of
	start bool        // a process began to write with it
}

// frameSteps is what a Replay needs of a frame beside its samples.
type frameSteps struct {
	segment uint64 // number of the segment's first frame: which dictionary the records are numbered by
	leading int    // records before the first entry
	entries []stepEntry
	told    bool // the frame says how its samples came; otherwise entries is empty
}

// Record is one sample of a frame.
type Record struct {
	Series  *telemetry.Series // not to be changed
	Time    telemetry.Mono
	Quality telemetry.Quality
	entry   int32 // of the segment's dictionary
	Value   telemetry.Value
}

// Loss says what a tombstone stands for.
type Loss struct {
	Count  uint64 // samples; 0 where it is not known how many
	Reason string // one of the Loss constants
	// FirstSeq and LastSeq are the frames lost, both 0 where the samples never were in a frame.
	FirstSeq, LastSeq uint64
}

// Reasons of losses. They go over the wire and into the city's ledger.
const (
	LossPendingFull = "pending_full" // more arrived than could be written
	LossDiskError   = "disk_error"   // the disk failed, and the samples waiting in memory became too many
	LossSpace       = "space"        // unacknowledged frames deleted to stay within the bound of bytes
	LossAge         = "age"          // unacknowledged frames deleted because they were too old
	LossDamage      = "damage"       // frames that can no longer be read
	LossTorn        = "torn"         // what a power cut left of a commit
)

// Wall returns the wall clock time of m in the frame's boot, and false while that boot's clock has never been set and
// no later boot's has. The answer for a frame read anew may change from false to true, once; a time given is never taken back.
func (f *Frame) Wall(m telemetry.Mono) (time.Time, bool) {
	if !f.known {
		return time.Time{}, false
	}
	return time.Unix(0, int64(m)+f.offset).UTC(), true
}

// Sizes and limits of frames. The limits are checked before anything is allocated.
const (
	frameHeaderBytes = 56
	maxRawBytes      = maxSegmentBytes / 4
	maxFrameSamples  = 16384
	frameMagic       = "LJF1"
	maxSeq           = 1 << 62
	maxEntries       = 1 << 18
)

// Flags of a frame.
const (
	flagTombstone = 1 << iota
	flagClockSet
	flagDictionary
	flagZstd
	flagUncertain
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameHeader is a frame's first 56 bytes, as in the package comment.
type frameHeader struct {
	flags        byte
	payload, raw uint32
	count        uint32
	seq          uint64
	offset       int64
	t0, t1       int64
}

// seed starts the CRCs of a segment.
func seed(epoch, first uint64) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], epoch)
	binary.LittleEndian.PutUint64(b[8:], first)
	return crc32.Checksum(b[:], castagnoli)
}

// put writes the header into b, which holds the whole frame with its payload in place.
func (h *frameHeader) put(b []byte, seed uint32) {
	copy(b, frameMagic)
	b[8], b[9], b[10], b[11] = h.flags, 0, 0, 0
	le := binary.LittleEndian
	le.PutUint32(b[12:], h.payload)
	le.PutUint32(b[16:], h.raw)
	le.PutUint32(b[20:], h.count)
	le.PutUint64(b[24:], h.seq)
	le.PutUint64(b[32:], uint64(h.offset))
	le.PutUint64(b[40:], uint64(h.t0))
	le.PutUint64(b[48:], uint64(h.t1))
	le.PutUint32(b[4:], crc32.Update(seed, castagnoli, b[8:]))
}

// parseFrame returns the header and the payload of the frame that b starts with, and false when there is no whole,
// undamaged frame of that segment.
func parseFrame(b []byte, seed uint32) (h frameHeader, payload []byte, ok bool) {
	if len(b) < frameHeaderBytes || string(b[:4]) != frameMagic {
		return h, nil, false
	}
	le := binary.LittleEndian
	h = frameHeader{
		flags: b[8], payload: le.Uint32(b[12:]), raw: le.Uint32(b[16:]), count: le.Uint32(b[20:]),
		seq: le.Uint64(b[24:]), offset: int64(le.Uint64(b[32:])), t0: int64(le.Uint64(b[40:])), t1: int64(le.Uint64(b[48:])),
	}
	if uint64(h.payload) > uint64(len(b)-frameHeaderBytes) || h.raw > maxRawBytes || h.count > maxFrameSamples || h.seq == 0 || h.seq >= maxSeq {
		return h, nil, false
	}
	end := frameHeaderBytes + int(h.payload)
	if crc32.Update(seed, castagnoli, b[8:end]) != le.Uint32(b[4:]) {
		return h, nil, false
	}
	return h, b[frameHeaderBytes:end], true
}

// length returns the size of the whole frame.
func (h *frameHeader) length() int { return frameHeaderBytes + int(h.payload) }
