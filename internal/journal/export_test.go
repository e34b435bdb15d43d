package journal

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"linli/internal/telemetry"
)

// FileSystem and File let the tests put their own file system beneath a journal.
type (
	FileSystem = fileSystem
	File       = file
)

// OSFS is the real file system.
type OSFS = osFS

// OpenFS is Open on another file system.
func OpenFS(cfg Config, inv *telemetry.Inventory, clock *telemetry.Clock, fs FileSystem) (*Journal, error) {
	return open(cfg, inv, clock, fs)
}

// VerifyFS is Verify on another file system.
func VerifyFS(dir string, fs FileSystem) (Report, error) {
	return verify(context.Background(), dir, fs, nil)
}

// Kill closes the files as the end of the process would.
func (j *Journal) Kill() {
	j.cmu.Lock()
	defer j.cmu.Unlock()
	j.closeFiles()
}

// FixChecksums returns the segment b with every checksum right that has the look of one, as the segment of that
// name.
func FixChecksums(b []byte, epoch, first uint64) []byte {
	b = append([]byte(nil), b...)
	le := binary.LittleEndian
	s := seed(epoch, first)
	if len(b) < headerBytes {
		return b
	}
	if string(b[:8]) == segmentMagic {
		le.PutUint64(b[16:], epoch)
		le.PutUint64(b[24:], first)
		le.PutUint32(b[124:], crc32.Update(s, castagnoli, b[:124]))
	}
	for i, seq := headerBytes, first; i+frameHeaderBytes <= len(b) && string(b[i:i+4]) == frameMagic; seq++ {
		end := uint64(i) + frameHeaderBytes + uint64(le.Uint32(b[i+12:]))
		if end > uint64(len(b)) {
			break
		}
		le.PutUint64(b[i+24:], seq)
		le.PutUint32(b[i+4:], crc32.Update(s, castagnoli, b[i+8:end]))
		i = int(end)
	}
	if at := len(b) - trailerBytes; at >= headerBytes && string(b[at+16:]) == trailerMagic {
		if from := at - int(le.Uint32(b[at:])); from >= headerBytes && from <= at {
			le.PutUint32(b[at+8:], crc32.Update(crc32.Update(s, castagnoli, b[from:at]), castagnoli, b[at:at+8]))
		}
	}
	return b
}

// Unpacked returns the segment b, which is the file at path, without compression.
func Unpacked(b []byte, path string) []byte {
	return rewritten(b, path, func(raw []byte) []byte { return raw })
}

// WithoutSteps returns the segment b, which is the file at path, as the first builds would have written it.
func WithoutSteps(b []byte, path string) []byte {
	return rewritten(b, path, func(raw []byte) (out []byte) {
		c := cursor{b: raw}
		for len(c.b) > 0 {
			if tag, body := c.byte(), c.bytes(); tag != sectionSteps {
				out = appendString(append(out, tag), body)
			}
		}
		return out
	})
}

// rewritten returns the frames of the segment b with their payloads changed.
func rewritten(b []byte, path string, change func([]byte) []byte) []byte {
	epoch, first, _ := parseSegmentName(filepath.Base(path))
	sd := seed(epoch, first)
	dec, err := newDecoder(maxFooter)
	if err != nil {
		return nil
	}
	defer dec.Close()
	out := append([]byte(nil), b[:headerBytes]...)
	for b = b[headerBytes:]; ; {
		h, payload, ok := parseFrame(b, sd)
		if !ok {
			return out
		}
		raw, err := unpack(&h, payload, nil, dec)
		if err != nil {
			return out
		}
		b = b[h.length():]
		raw = change(raw)
		h.flags &^= flagZstd
		h.payload, h.raw = uint32(len(raw)), uint32(len(raw))
		at := len(out)
		out = append(append(out, make([]byte, frameHeaderBytes)...), raw...)
		h.put(out[at:], sd)
	}
}

// DecodeSteps decodes b as the steps section of a frame of n samples, and what its marks hold. It returns how many samples
// its steps have.
func DecodeSteps(b []byte, n int) (samples int, ok bool) {
	records := make([]Record, n)
	raw := appendString([]byte{sectionSteps}, b)
	leading, entries, ok := decodeSteps(raw, &frameHeader{t0: 1e9, offset: 1e18}, records, nil)
	samples = leading
	for i := range entries {
		samples += entries[i].n
		entries[i].now()
		var m Mark
		m.mark(entries[i].mark, entries[i].body)
	}
	return samples, ok
}

// NoPause lets rollups be made without pauses.
func (j *Journal) NoPause() { j.roll.pause = nil }

// RollSeed is a seed of the fuzzing of rollup files: a file, and one of its blocks unpacked.
type RollSeed struct{ File, Raw []byte }

// RollBlocks returns good ones.
func RollBlocks() []RollSeed {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		return nil
	}
	var points []rollPoint
	for i, kind := range []telemetry.Kind{telemetry.Float, telemetry.Int, telemetry.Bool, telemetry.Enum} {
		p := rollPoint{series: telemetry.Series{Class: "c", Device: "d", Zone: "z", Point: string(rune('a' + i)), Kind: kind}, carry: 1, cells: make([]cell, 60)}
		for k := range p.cells {
			c := &p.cells[k]
			*c = cell{good: 50e6, doubt: 1e6, bad: 9e6, count: uint32(k), changes: 1}
			a, _ := number(kind, telemetry.FloatValue(float64(k)/10))
			z, _ := number(kind, telemetry.FloatValue(float64(k)/10+3))
			c.include(a)
			c.include(z)
			c.sum = figure(kind, a) * 51
		}
		points = append(points, p)
	}
	raw := appendBlock(nil, levelMinutes, points, &blockScratch{})
	fs := &keepFS{}
	w := &rollWriter{fs: fs, dir: "j", id: rollID{levelMinutes, 1777888800}, enc: enc, head: rollHead{epoch: 1, first: 1, last: 2, next: 3}}
	w.begin()
	for i := range points {
		_ = w.add(&points[i])
	}
	_, _ = w.finish()
	return []RollSeed{{fs.b, raw}, {fs.b[:len(fs.b)/2], raw[:len(raw)/2]}}
}

// keepFS keeps what is written to its one file.
type keepFS struct {
	osFS
	b []byte
}

func (k *keepFS) Create(string) (file, error)       { return k, nil }
func (k *keepFS) Rename(string, string) error       { return nil }
func (k *keepFS) SyncDir(string) error              { return nil }
func (k *keepFS) ReadAt([]byte, int64) (int, error) { return 0, nil }
func (k *keepFS) Allocate(int64) error              { return nil }
func (k *keepFS) Truncate(int64) error              { return nil }
func (k *keepFS) Sync() error                       { return nil }
func (k *keepFS) Size() (int64, error)              { return int64(len(k.b)), nil }
func (k *keepFS) Close() error                      { return nil }
func (k *keepFS) WriteAt(b []byte, at int64) (int, error) {
	k.b = append(k.b, make([]byte, max(0, int(at)+len(b)-len(k.b)))...)
	return copy(k.b[at:], b), nil
}

// DecodeRollBlock decodes an unpacked block and returns how many intervals it has.
func DecodeRollBlock(b []byte) (n int) {
	_ = decodeBlock(b, levelMinutes, nil, func(p *rollPoint) error {
		n += len(p.cells)
		for i := range p.cells {
			p.cells[i].rollup(p.series.Kind)
		}
		return nil
	})
	return n
}

// FixRollChecksums returns the rollup file b with the checksums of header and index right.
func FixRollChecksums(b []byte, name string) []byte {
	b = append([]byte(nil), b...)
	id, _ := parseRollName(name)
	if len(b) < rollHeaderBytes {
		return b
	}
	le := binary.LittleEndian
	if at, n := int64(le.Uint32(b[64:])), int64(le.Uint32(b[68:])); at+n <= int64(len(b)) {
		le.PutUint32(b[76:], crc32.Update(id.seed(), castagnoli, b[at:at+n]))
	}
	le.PutUint64(b[16:], uint64(id.start))
	b[12] = byte(id.level)
	le.PutUint32(b[92:], crc32.Update(id.seed(), castagnoli, b[:92]))
	return b
}

// RollupAt is Rollup as if it were that late, without pauses.
func (j *Journal) RollupAt(ctx context.Context, wall time.Time) error {
	j.roll.pause = nil
	return j.rollup(ctx, wall)
}

// WhileRolling lets rollups call f now and then.
func (j *Journal) WhileRolling(ctx context.Context, wall time.Time, f func()) error {
	j.roll.pause = f
	return j.rollup(ctx, wall)
}

// KeptDictionaries is how many dictionaries of sealed segments are kept for Read.
func (j *Journal) KeptDictionaries() (n int) {
	j.rmu.Lock()
	defer j.rmu.Unlock()
	for _, o := range j.r.open {
		if o.dict != nil {
			n++
		}
	}
	return n
}
