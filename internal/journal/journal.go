// Package journal keeps every sample on the box until somebody has acknowledged it, and as history afterwards: an
// append-only log of numbered frames in preallocated segment files.
//
// # Guarantees
//
//   - Only synced frames are visible: what Bounds, Changed and Read show survives a power cut
//     (TestPowerCutAfterEveryOperation, TestFailedSyncThenKillThenPowerCut, TestKill).
//   - A frame's number (epoch, seq) never means two different frames to a reader. Within an epoch seq only grows
//     (TestModel).
//   - Samples come back exactly as they were appended, in order, once (TestInvariantExactlyAsAppended,
//     TestWrittenAgainIsReadOnce); a frame's times are the same at every read (TestInvariantTimesNeverChange).
//   - Append never waits for the disk. While the disk fails, samples wait in memory up to Config.MaxPending; then the
//     oldest are dropped and counted (TestInvariantAppendNeverWaitsAndDropsTheOldest, TestBlockedSync). Any one
//     operation on files may fail without a loss (TestEveryOperationFailsOnce).
//   - Every loss that can be told is a numbered frame itself, a tombstone: how many, when, why, which frames (all of
//     these tests).
//   - The segments stay within Config.MaxBytes (TestInvariantBytesStayWithinTheBound). See Journal.Release for what
//     goes first.
//   - Damage is contained: what can still be read is kept, the damaged file set aside as *.damaged (at most
//     maxAside of them) and counted. No file is removed to get past an error (TestInvariantDamageIsContained).
//
// Lost without a tombstone: at a crash, what was appended since the last commit, at most one commit interval.
//
// It does not interpret samples, suppress repetitions, or know who reads; alerts are not in it. It keeps the moments at
// which samples came to the rules engine, and what else happened to that, so that Replay can show another engine the same.
//
// Concurrency: everything exported on Journal may be called from any goroutine. A Frame belongs to one goroutine.
// Only one process may have a journal open for writing; a lock file sees to that.
//
// # Files
//
// One directory holds `lock`, `reserve`, rollups and the segments, named <epoch, 16 hex digits>-<first seq, 20 decimal digits>.seg. All
// integers of fixed size are little-endian; "uvarint" and "varint" (zig-zag) are those of encoding/binary. Every
// CRC is CRC-32C and is started with the segment's epoch and first seq (16 bytes, as in the name), so that a stale
// block of another segment is never taken for a frame.
//
//	segment = header | frame ... | zeros up to the preallocated size        while it is written
//	          header | frame ... | footer                                  sealed: after rotation or a clean stop
//
//	header, 128 bytes
//	  0         8       10        12  13      14  16       24          32            40        104       124   128
//	  +---------+-------+---------+---+-------+---+--------+-----------+-------------+---------+---------+-----+
//	  |LINLIJNL |version| 128     |flg|boot n | 0 | epoch  | first seq | boot offset | boot id | 0       | CRC |
//	  +---------+-------+---------+---+-------+---+--------+-----------+-------------+---------+---------+-----+
//	  version 1. flags bit 0: the boot offset is known, bit 1: it is
//	  uncertain, bit 2: a process began to write with it. A process starts a new segment, so that a segment has one boot.
//	  One bit that was turned over is put right, and what the file's name says too. A segment with neither a header nor a footer
//	  is lost and set aside: boot id and boot offset are nowhere else.
//
//	frame, 56 bytes and the payload
//	  0      4     8     9   12        16          20      24    32            40   48   56
//	  +------+-----+-----+---+---------+-----------+-------+-----+-------------+----+----+-----------------+
//	  | LJF1 | CRC |flags| 0 | payload | raw bytes | count | seq | wall offset | t0 | t1 | payload         |
//	  +------+-----+-----+---+---------+-----------+-------+-----+-------------+----+----+-----------------+
//	  The CRC covers everything after itself. flags: 1 tombstone, 2 the clock was set, 4 has dictionary entries,
//	  8 the payload is zstd (otherwise as it is), 16 nobody vouches for the clock. wall offset: wall clock minus monotonic time at the commit, in ns.
//	  t0, t1: the earliest and the latest sample, monotonic ns. count: samples. "raw bytes" is the size unpacked.
//
//	payload, unpacked = section ...        section = tag (1 byte) | uvarint length | contents
//	  1 dictionary, read only (5 has taken its place): uvarint n, n entries. Entries are numbered from 0 through the segment, in the order they come;
//	    entry = class, device, zone, point (each uvarint length | bytes) | kind (1) | form (1) | varint base
//	  2 samples: uvarint n, then twelve streams, each uvarint length | bytes:
//	     1 entry:    varint, minus (the previous one + 1); the first as if the previous one were -1
//	     2 time:     width w (1), w planes: per group of samples with equal time, zig-zag ns since the group before
//	                 (the first: since t0)
//	     3 group:    uvarint number of samples, per group
//	     4 quality:  runs: quality (1) | uvarint number of samples
//	     5 kind:     runs of the value's kind XOR the expected one (the entry's; 0 where the quality is bad)
//	     6 bools:    8 to a byte, the lowest bit first
//	     7 integers: (int, enum) varint, minus base
//	     8 forms:    runs of the float's form XOR the entry's form
//	     9 decimals: varint m, minus base; the value is m / 10^exponent
//	    10 float32:  zig-zag of the bits minus base; four planes
//	    11 float64:  zig-zag of the bits minus base; eight planes
//	    12 text:     uvarint length | bytes
//	    Planes: first the lowest bytes of all numbers, then the next ones, and so on.
//	    A float's form: 0x2e = decimal with exponent e, as float64; 0x3e = the same rounded to float32; 0x10 float32;
//	    0x00 float64. The base is the entry's only where the value has the entry's kind and form, otherwise 0.
//	  3 loss (of a tombstone): uvarint count | uvarint first seq | uvarint last seq | reason (uvarint length | bytes)
//	  4 is reserved for events
//	  5 dictionary: uvarint number of its first entry, then as in section 1. From time to time a frame repeats the
//	    whole dictionary of its segment from 0, so that a damaged frame does not take the names of the others with it.
//	  6 steps: how the samples came to the rules engine, so that a replay gives them to another one in the same way.
//	    uvarint unit | uvarint number of samples before the first entry | entry ...; each entry begins with uvarint u:
//	     u even: a step with the next u/2 samples: varint moment
//	     u = 1:  the wall clock of the steps that follow in this frame: flags (1 byte) bit 0: it is set, bit 1: it is
//	             uncertain | varint wall clock minus monotonic time, minus the header's wall offset
//	     u odd:  a mark of kind u/2: varint moment | uvarint length | contents. Kinds: 1 start, 2 reload, 3 snapshot,
//	             4 closed; others are skipped
//	    A moment is counted in units (ns): that of a step with samples since the latest of these, others since the entry
//	    before (the first: since t0). The samples before the first entry belong to the last step of the frame before.
//	    contents of start and reload: flags (1 byte) bit 0: a snapshot was taken over | rules (uvarint length | bytes)
//	      | with bit 0: varint its moment, varint by how much its times were moved, its boot id (uvarint length | bytes)
//	    contents of closed: uvarint n, n times alert, subject (each uvarint length | bytes); of snapshot: none
//	    A frame without samples, only with this section, has the time of its commit as t0 and t1.
//	  Unknown sections are skipped. Frames of the first builds have no section 6.
//
//	footer = LJX1 | contents, zstd | trailer, 24 bytes:
//	  0        4            8     12  16        24
//	  +--------+------------+-----+---+---------+      "packed" is the size of LJX1 and the zstd contents. The CRC
//	  | packed | unpacked   | CRC | 0 | LINLISEG|      covers these and bytes 0 to 8.
//	  +--------+------------+-----+---+---------+
//	  contents: boot id (uvarint length | bytes) | boot offset as the header's flags (1) | varint boot offset
//	    | uvarint frames, for each: uvarint seqs missing before it, bytes skipped before it, its length, its count
//	    | varint t0, t1 of all | uvarint losses, for each: first seq, last seq | uvarint entries, the dictionary
//	    | flags (1) | bit 0: varint wall clock of the earliest sample, of the latest (only where the clock was set in all frames)
//	    | bit 1: uvarint blocks of 64 frames, for each: uvarint words, so many words of 64 bits: a bit for each entry of the
//	      dictionary, set where one of the frames has a sample of it. The first builds end with the dictionary.
//
// The footer only saves reading the segment at start; a segment without a good one is read through.
//
// # Reading a directory
//
// A segment's frames end where the next segment's name begins: after a failed sync the batch is written again, with
// the same numbers, into a new segment, since nobody can have read it. Zeros or an end of file after the last good
// frame are a torn tail and dropped. Anything else there may have been a frame that was read, so its number is not
// used again and a tombstone says so (reason torn). A hole before a good frame is damage.
//
// # Full disk
//
// The active segment has its space from the start, and so has the next one: the file `reserve`, allocated ahead, never
// written to, and renamed when it is needed. At 440 samples a second each takes about an hour. When somebody else fills the
// disk, the journal goes on with these; to have a reserve again the oldest segment makes way, two at most in the life of an
// active one, unacknowledged ones with a tombstone (reason space). Where others take even that space, the last 64 KiB of the
// last segment are for tombstones alone: what waits in memory becomes too much after some minutes, and its loss is told on
// the full disk each minute, later each hour, and all of it once there is space (TestEveryLossIsToldOnAFullDisk). Rollups have
// no reserve: they wait. The alert book has its own, STATE/reserve, which the gateway keeps.
//
// # Rollups
//
// A rollup file says what was known of each point over the 60 minutes of an hour or the 24 hours of a day (UTC), so that a
// week can be drawn without its samples. It is made of committed frames, by a goroutine of its own that pauses between
// pieces of work, once the hour or the day is over by the wall clock; a file that is there under its name is whole and
// right as of the frame number in it. What there is to do follows from the files and the frames alone: after a kill, a
// power cut or a failure it is done anew from the samples, and nothing is counted twice (TestRollupsAreWhatTheSamplesSay,
// TestRollupsPowerCutAfterEveryOperation, TestRollupsEveryOperationFailsOnce). Samples that come later, or that a wall
// clock set back puts into an hour that is over, let its file be written anew with the next hour's; only where the
// samples that it was made of have gone since it stays as it is. Frames whose time nobody knows yet wait, and what comes
// behind them.
//
// A reading holds until the next one of its point. It ends where nothing can be known: at the end of a process, at a
// frame that is lost. Of the time that good, doubtful and bad leave of an interval nothing is known. Points of kind text are
// left out. Deleted are hours' files beyond 336 (14 days in which the box ran), days' files beyond 730, and, to stay within
// Config.RollupBytes, first hours' files down to 24, then days' files. Nothing is deleted because of what a clock reads.
//
//	<yyyy-mm-ddThh>.minutes: the minutes of an hour      <yyyy-mm-dd>.hours: the hours of a day
//	  written as *.part and renamed                          made of the files of its hours
//
//	file = header | block ... | index
//
//	header, 96 bytes
//	  0         8       10   12    13  14   16      24      32    40   48   56     64    68     72       76  80     84  92   96
//	  +---------+-------+----+-----+---+----+-------+-------+-----+----+----+------+-----+------+--------+---+------+---+----+
//	  |LINLIROL |version| 96 |level|flg|rows| start | epoch |first|last|next|resume|index|packed|unpacked|CRC|points| 0 | CRC|
//	  +---------+-------+----+-----+---+----+-------+-------+-----+----+----+------+-----+------+--------+---+------+---+----+
//	  level 1 minutes, 2 hours. flags bit 0: a time in it is uncertain. start: seconds since 1970. first, last: the frames
//	  that it was made of; next: of those before it none is missing here; resume: the first frame that a later file may
//	  need. index, packed, unpacked, CRC: of the index. The last CRC covers bytes 0 to 92. Every CRC is started with level (1
//	  byte) and start (8 bytes).
//
//	block, zstd = uvarint points (64 at most) | eleven streams, each uvarint length | bytes. The points are in order of device,
//	point, zone, class; "each interval" means each of the first point, then of the second, ...
//	   1 points:   class, device, zone, point (each uvarint length | bytes) | kind (1) | form (1) as in a dictionary
//	   2 good:     ms, each interval; runs: uvarint ms | uvarint number of intervals
//	   3 doubtful: the same: uncertain, over_range, under_range
//	   4 bad:      the same
//	   5 count:    uvarint, each interval: twice the readings with a value, plus 1 where something held; only such intervals
//	               are in the streams 6 to 10
//	   6 min:      varint, minus that of the interval before (the first: 0). Of a float the number that its form writes,
//	               or its bits in the order of the floats: b XOR (b >> 63, unsigned >> 1); of a bool 0 or 1
//	   7 range:    uvarint, max minus min
//	   8 last:     uvarint, last minus min; where range is not 0
//	   9 mean:     two planes, (mean - min) / (max - min) times 65535; where range is not 0, not of an enum
//	  10 changes:  uvarint; of a bool or an enum
//	  11 end:      per point: 0, or 1 + the quality of what holds on at the end of the file, whose value is the last last
//
//	index, zstd = uvarint blocks, for each: key of its first point (device 0 point 0 zone 0 class 0 kind + '0'; uvarint length
//	  | bytes) | uvarint packed | uvarint unpacked | CRC (4); then uvarint 0, or 24 and for each hour next of the file that
//	  it was taken from, 0 where there was none
//
// # Time
//
// Samples carry monotonic time. A frame written with the clock set carries its own wall offset. A frame written
// before the clock was set takes the boot's offset: that of the first frame of the boot that has one; every later
// segment's header repeats it. A boot that ended before its clock was set gets an estimate, marked uncertain, once
// the clock of a later boot is set: as if that one had begun when the earlier one wrote its last sample. Ages are
// counted in running time and not by the wall clock: one wrong reading of it must not make everything old.
package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/internal/telemetry"
)

// Config says where the journal is and how large it may be.
type Config struct {
	Dir          string
	SegmentBytes int64         // preallocated size of a segment; 0 means 4 MiB; at most an eighth of MaxBytes is used
	MaxBytes     int64         // bound of all segments together, with the space reserved for the next; 0 means 1 GiB
	RollupBytes  int64         // bound of all rollup files together; 0 means a quarter of MaxBytes, negative: none are written
	MaxAge       time.Duration // of running time: while the box is off nothing ages; 0 means 7 days
	CommitEvery  time.Duration // group commit; 0 means 1 s
	MaxPending   int           // samples, steps and marks waiting in memory for a commit; 0 means 200,000; beyond it the oldest are dropped and told by a tombstone

	// Log gets a line when commits begin to fail and when they work again; nil: silent.
	Log *zap.Logger

	// ReadOnly opens a journal to look at it, also while another process writes it: nothing is changed, nothing is
	// locked, Append and Commit do nothing.
	ReadOnly bool
}

const (
	minSegmentBytes = 16 << 10
	maxSegmentBytes = 64 << 20
)

// withDefaults returns the configuration with zero values replaced, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 4 << 20
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	if c.MaxAge == 0 {
		c.MaxAge = 7 * 24 * time.Hour
	}
	if c.CommitEvery == 0 {
		c.CommitEvery = time.Second
	}
	if c.RollupBytes == 0 {
		c.RollupBytes = c.MaxBytes / 4
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.MaxPending == 0 {
		c.MaxPending = 200_000
	}
	c.SegmentBytes = min(c.SegmentBytes, c.MaxBytes/8)
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("no directory"))
	}
	if c.SegmentBytes < minSegmentBytes || c.SegmentBytes > maxSegmentBytes {
		errs = append(errs, fmt.Errorf("segments of %d bytes (an eighth of all at most): want %d to %d", c.SegmentBytes, minSegmentBytes, maxSegmentBytes))
	}
	if c.MaxAge < 0 || c.CommitEvery < 0 || c.MaxPending < 0 {
		errs = append(errs, errors.New("a negative bound"))
	}
	return c, errors.Join(errs...)
}

// ErrNotFound is what Read returns (wrapped) for a frame that is not, or no longer, there: not committed yet, deleted
// for space or age, or damaged. Reading it again later does not help unless it was not committed yet.
var ErrNotFound = errors.New("frame not found")

// Journal is an append-only log of frames. See the package comment for what it guarantees.
type Journal struct {
	cfg   Config
	fs    fileSystem
	clock *telemetry.Clock
	lock  interface{ Close() error }
	kick  chan struct{} // wakes Run before its interval when much is pending

	// amu guards what Append touches. It is never held during I/O.
	amu  sync.Mutex
	pend pending

	// mu guards what readers see. It is never held during I/O.
	mu       sync.Mutex
	epoch    uint64
	segs     []*segment            // in order of seq; the last may be the active one
	next     uint64                // seq of the next frame to be committed
	released uint64                // frames below are acknowledged
	offsets  map[string]wallOffset // by boot
	told     ranges
	losses   []loss // to be told by the next commit
	changed  chan struct{}
	stats    Stats
	settled  telemetry.Mono
	aside    []*segment // damaged, still to be copied aside
	reserved bool       // the file of the next segment is there

	// cmu guards the committer's state: one commit at a time.
	cmu sync.Mutex
	w   writer

	// rmu guards the scratch memory and the open files of Read.
	rmu sync.Mutex
	r   reader

	roll rollups
}

// Open opens or creates the journal. Damaged segments are set aside and counted; the rest is kept. It fails when the
// configuration is wrong, another process has the journal open, the directory cannot be made, listed or synced, or a
// segment was written by a newer version. Only with Config.ReadOnly may inv and clock be nil.
func Open(cfg Config, inv *telemetry.Inventory, clock *telemetry.Clock) (*Journal, error) {
	return open(cfg, inv, clock, osFS{})
}

func open(cfg Config, inv *telemetry.Inventory, clock *telemetry.Clock, fs fileSystem) (*Journal, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if clock == nil && cfg.ReadOnly {
		clock = telemetry.NewClock("", 0, time.Time{})
	}
	if len(clock.Boot) > maxBootID {
		return nil, fmt.Errorf("journal: boot id of %d bytes, want at most %d", len(clock.Boot), maxBootID)
	}
	j := &Journal{
		cfg: cfg, fs: fs, clock: clock,
		kick:    make(chan struct{}, 1),
		changed: make(chan struct{}),
		offsets: map[string]wallOffset{},
	}
	j.roll.pause = rollPause
	j.pend.max = cfg.MaxPending
	j.pend.inv = inv
	if err := j.w.init(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := j.r.init(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := j.recover(); err != nil {
		j.closeFiles()
		return nil, fmt.Errorf("open journal %s: %w", cfg.Dir, err)
	}
	return j, nil
}

// Run commits at the interval until ctx ends, then once more. A failing disk does not end it (see Stats.LastError);
// the error returned is that of the last commit.
func (j *Journal) Run(ctx context.Context) error {
	t := time.NewTicker(j.cfg.CommitEvery)
	defer t.Stop()
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return j.Commit()
		case <-t.C:
			failed = j.commitPending(false) != nil
			j.forgetRead()
		case <-j.kick:
			if !failed { // A failing disk is asked again at the interval only.
				failed = j.commitPending(false) != nil
			}
		}
	}
}

// Close seals the active segment and closes the files. Run must have returned. It does not commit.
func (j *Journal) Close() error {
	j.cmu.Lock()
	defer j.cmu.Unlock()
	err := j.sealActive()
	return errors.Join(err, j.closeFiles())
}

// closeFiles closes what is open without writing anything.
func (j *Journal) closeFiles() error {
	var err error
	if j.w.file != nil {
		err = j.w.file.Close()
		j.w.file, j.w.seg = nil, nil
	}
	j.rmu.Lock()
	j.r.close()
	j.rmu.Unlock()
	if j.lock != nil {
		err = errors.Join(err, j.lock.Close())
		j.lock = nil
	}
	return err
}

// Append takes a step of the rules engine for the next commit: the moment now as the engine was given it, and the samples
// of the step, those that the engine computed last. It copies them and never waits for the disk. Text values longer than
// 1,024 bytes are cut. Samples of points that the inventory does not have are dropped and counted as lost.
//
// Each step is later than the one before; samples appended with the same now belong to one step, of which the first part
// has the earliest sample that was read, if any was. A step without samples tells that timers have run until then; see
// Replay for which of these are kept.
func (j *Journal) Append(now telemetry.Now, samples []telemetry.Sample) {
	if j.cfg.ReadOnly {
		return
	}
	j.amu.Lock()
	j.pend.add(now, samples)
	kick := j.pend.len() > j.cfg.MaxPending/2
	j.amu.Unlock()
	if kick {
		select {
		case j.kick <- struct{}{}:
		default:
		}
	}
}

// Mark writes down what happened to the rules engine after the last step appended and before the next one, at the
// moment now. It never waits for the disk. Names longer than 512 bytes are left out.
func (j *Journal) Mark(now telemetry.Mono, m Mark) {
	if j.cfg.ReadOnly {
		return
	}
	j.amu.Lock()
	defer j.amu.Unlock()
	for _, body := range m.bodies() {
		j.pend.addMark(markItem(now, m.Kind, body))
	}
}

// SetInventory says what the samples appended from now on refer to, after a new site file has become active.
func (j *Journal) SetInventory(inv *telemetry.Inventory) {
	j.amu.Lock()
	defer j.amu.Unlock()
	j.pend.inv = inv
}

// Epoch identifies this journal: sequence numbers count from 1 in each epoch, and a new disk is a new epoch.
func (j *Journal) Epoch() uint64 { return j.epoch }

// Bounds returns the committed frames that can be read: first <= seq < next. Only synced frames are counted. Single
// frames between them may be missing (damage); Read says so.
func (j *Journal) Bounds() (first, next uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bounds()
}

func (j *Journal) bounds() (first, next uint64) {
	for _, s := range j.segs {
		if len(s.offs) > 0 && !s.gone {
			return s.first, j.next
		}
	}
	return j.next, j.next
}

// Changed returns a channel that is closed at the next commit.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// Skip makes next the number of the next frame, if that is not lower already, and tells the numbers passed over as lost.
// It is for a journal that has come back shorter than it was (a restored copy, a tail that the disk forgot): a number
// that was told to somebody must not be given to other samples. from is the first number passed over.
func (j *Journal) Skip(next uint64) (from uint64, err error) {
	if j.cfg.ReadOnly || next >= maxSeq {
		return 0, fmt.Errorf("journal: cannot go on at frame %d", next)
	}
	j.cmu.Lock()
	defer j.cmu.Unlock()
	if next <= j.next { // Only who holds cmu changes it.
		return next, nil
	}
	if err := j.sealActive(); err != nil { // The numbers within a segment have no large gaps.
		return 0, fmt.Errorf("journal: %w", err)
	}
	l := loss{Loss: Loss{Reason: LossDamage, FirstSeq: j.next, LastSeq: next - 1}}
	j.between(&l)
	j.mu.Lock()
	defer j.mu.Unlock()
	from, j.next = j.next, next
	j.tell(l)
	return from, nil
}

// TellLost tells that samples of the time between the moments may be lost, nobody knows how many: a tombstone with the next
// commit. It fails where the clock has not been set.
func (j *Journal) TellLost(from, to time.Time) error {
	now := j.clock.Now()
	if j.cfg.ReadOnly || now.Wall.IsZero() || to.Before(from) {
		return fmt.Errorf("journal: cannot tell a loss from %v to %v", from, to)
	}
	mono := func(t time.Time) telemetry.Mono { return now.Mono.Add(t.Round(0).Sub(now.Wall.Round(0))) }
	j.mu.Lock()
	defer j.mu.Unlock()
	j.losses = append(j.losses, loss{Loss: Loss{Reason: LossDamage}, t0: mono(from), t1: mono(to), boot: j.clock.Boot, timed: true})
	return nil
}

// Settled returns a moment of the monotonic time line: everything appended before it has been committed. It is zero
// before the first commit of this process.
func (j *Journal) Settled() telemetry.Mono {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.settled
}

// Release says that every frame before seq has been acknowledged: it is history, and goes first when space is
// needed. It is not stored: say it again after Open, before the first commit. Where nobody acknowledges anything
// (no uplink), release math.MaxUint64: otherwise all that gets too old is told as a loss.
func (j *Journal) Release(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.released = max(j.released, seq)
}

// Stats returns the journal's counters.
func (j *Journal) Stats() Stats {
	j.amu.Lock()
	pend, lost := j.pend.len(), j.pend.lostTotal
	j.amu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.Epoch = j.epoch
	s.First, s.Next = j.bounds()
	s.Released = min(j.released, s.Next)
	s.Bytes = j.bytes()
	s.Segments = len(j.segs)
	s.Pending, s.Reserved = pend, j.reserved
	s.SamplesLost += lost
	s.Rollups = j.roll.figures()
	return s
}

func (j *Journal) bytes() int64 {
	var n int64
	for _, s := range j.segs {
		n += s.size
	}
	return n
}

// Stats are counters since the journal was opened, and its size now.
type Stats struct {
	Epoch          uint64
	First, Next    uint64
	Released       uint64 // frames below are acknowledged
	Bytes          int64
	Segments       int
	Reserved       bool // there is space for another segment, whatever others do to the disk
	Pending        int  // samples, steps and marks waiting in memory
	Commits        uint64
	CommitFailures uint64
	SamplesWritten uint64
	SamplesLost    uint64 // told by tombstones, or about to be
	DamagedFrames  uint64
	LastError      string // of the last failed commit, empty after a good one
	Rollups        RollupStats
}
