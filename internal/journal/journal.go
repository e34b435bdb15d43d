// Package journal keeps every sample on the box. To be written: the package comment specifies the format with byte
// drawings.
package journal

import (
	"context"
	"time"

	"linli/internal/telemetry"
)

// Config says where the journal is and how large it may be.
type Config struct {
	Dir          string
	SegmentBytes int64         // preallocated size of a segment; 0 means 4 MiB
	MaxBytes     int64         // bound of all segments together; 0 means 1 GiB
	MaxAge       time.Duration // 0 means 7 days
	CommitEvery  time.Duration // group commit; 0 means 1 s
	MaxPending   int           // samples waiting in memory for a commit; 0 means 200,000; beyond it the oldest are dropped and told by a tombstone
}

// Journal is an append-only log of frames. Append, Read and the accessors are safe for concurrent use.
type Journal struct{}

// Open opens or creates the journal. Damaged segments are set aside and counted; the rest is kept.
func Open(cfg Config, inv *telemetry.Inventory, clock *telemetry.Clock) (*Journal, error) {
	panic("to be written")
}

// Run commits at the interval until ctx ends, then once more.
func (j *Journal) Run(ctx context.Context) error { panic("to be written") }

// Close closes the files. Run must have returned.
func (j *Journal) Close() error { panic("to be written") }

// Append takes samples for the next commit. It copies them and never waits for the disk.
func (j *Journal) Append(samples []telemetry.Sample) { panic("to be written") }

// Epoch identifies this journal: sequence numbers count from 1 in each epoch, and a new disk is a new epoch.
func (j *Journal) Epoch() uint64 { panic("to be written") }

// Bounds returns the committed frames that can be read: first <= seq < next. Only synced frames are counted.
func (j *Journal) Bounds() (first, next uint64) { panic("to be written") }

// Changed returns a channel that is closed at the next commit.
func (j *Journal) Changed() <-chan struct{} { panic("to be written") }

// Read reads frame seq into f, reusing its memory. ErrNotFound: the frame is not (or no longer) there.
func (j *Journal) Read(seq uint64, f *Frame) error { panic("to be written") }

// Release says that every frame before seq has been acknowledged: it is history, and goes first when space is
// needed.
func (j *Journal) Release(seq uint64) { panic("to be written") }

// Stats returns the journal's counters.
func (j *Journal) Stats() Stats { panic("to be written") }

// Stats are counters since the journal was opened, and its size now.
type Stats struct {
	Epoch          uint64
	First, Next    uint64
	Bytes          int64
	Commits        uint64
	CommitFailures uint64
	SamplesWritten uint64
	SamplesLost    uint64 // told by tombstones
	DamagedFrames  uint64
	LastError      string // of the last failed commit, empty after a good one
}

// Frame is one group commit.
type Frame struct {
	Epoch, Seq uint64
	T0, T1     telemetry.Mono
	Boot       string
	Records    []Record
	// Lost is set in a tombstone: a frame that stands for samples that could not be kept.
	Lost *Loss
	// contents of the wall clock offset to be written
}

// Record is one sample of a frame.
type Record struct {
	Series  *telemetry.Series // owned by the frame, valid until the next Read into it
	Time    telemetry.Mono
	Quality telemetry.Quality
	Value   telemetry.Value
}

// Loss says what a tombstone stands for.
type Loss struct {
	Count  uint64
	Reason string // pending_full, disk_error, space, age
	// FirstSeq and LastSeq are the frames lost, both 0 where the samples never were in a frame.
	FirstSeq, LastSeq uint64
}

// Wall returns the wall clock time of m in the frame's boot, and false while that boot's clock has never been set.
func (f *Frame) Wall(m telemetry.Mono) (time.Time, bool) { panic("to be written") }
