package journal

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"linli/internal/telemetry"
)

const (
	rollMagic       = "LINLIROL"
	rollVersion     = 1
	rollHeaderBytes = 96
	rollBlock       = 64      // points in a block, at most
	maxRollBlock    = 8 << 20 // of a block or an index, unpacked
	maxRollFile     = 1 << 30 // of a file
	maxRollPoints   = 1 << 18 // in a file
	maxRollName     = 1 << 10 // bytes of a name
	rollWrite       = 256 << 10
)

// rollLevel is how long the intervals of a rollup file are. The numbers are part of the format.
type rollLevel uint8

const (
	levelMinutes rollLevel = 1 // 60 minutes: the file of an hour
	levelHours   rollLevel = 2 // 24 hours: the file of a day
)

// rows is how many intervals a file has.
func (l rollLevel) rows() int {
	if l == levelHours {
		return 24
	}
	return 60
}

// width is the length of an interval.
func (l rollLevel) width() time.Duration {
	if l == levelHours {
		return time.Hour
	}
	return time.Minute
}

// length is what a file covers.
func (l rollLevel) length() time.Duration { return time.Duration(l.rows()) * l.width() }

const (
	suffixMinutes = ".minutes"
	suffixHours   = ".hours"
	suffixPart    = ".part" // of a rollup file that is being written
)

// rollID names a rollup file: its level, and when it begins in seconds since 1970.
type rollID struct {
	level rollLevel
	start int64
}

func (id rollID) name() string {
	t := time.Unix(id.start, 0).UTC()
	if id.level == levelHours {
		return t.Format("2006-01-02") + suffixHours
	}
	return t.Format("2006-01-02T15") + suffixMinutes
}

// from and to bound what the file covers, in ns since 1970.
func (id rollID) from() int64 { return id.start * 1e9 }
func (id rollID) to() int64   { return id.start*1e9 + int64(id.level.length()) }

// parseRollName is the inverse of rollID.name.
func parseRollName(name string) (id rollID, ok bool) {
	layout, base := "2006-01-02T15", ""
	if base, ok = strings.CutSuffix(name, suffixMinutes); ok {
		id.level = levelMinutes
	} else if base, ok = strings.CutSuffix(name, suffixHours); ok {
		id.level, layout = levelHours, "2006-01-02"
	} else {
		return id, false
	}
	t, err := time.Parse(layout, base)
	if err != nil || t.Unix() < 0 || t.Unix() >= latestRollup {
		return id, false
	}
	id.start = t.Unix()
	return id, id.name() == name
}

// seed starts the CRCs of the file, so that one under another name is not taken for it.
func (id rollID) seed() uint32 {
	var b [9]byte
	b[0] = byte(id.level)
	binary.LittleEndian.PutUint64(b[1:], uint64(id.start))
	return crc32.Checksum(b[:], castagnoli)
}

// rollHead is the header of a rollup file, as in the package comment.
type rollHead struct {
	uncertain   bool
	epoch       uint64
	first, last uint64 // frames that it was made of, between which may be others
	next        uint64 // every frame before it that has a part in this time is in it
	resume      uint64 // the first frame that files not written then may need
	index       uint32 // where it is
	packed      uint32
	unpacked    uint32
	indexCRC    uint32
	points      uint32
}

func (h *rollHead) put(id rollID) []byte {
	b := make([]byte, rollHeaderBytes)
	le := binary.LittleEndian
	copy(b, rollMagic)
	le.PutUint16(b[8:], rollVersion)
	le.PutUint16(b[10:], rollHeaderBytes)
	b[12] = byte(id.level)
	if h.uncertain {
		b[13] = 1
	}
	le.PutUint16(b[14:], uint16(id.level.rows()))
	le.PutUint64(b[16:], uint64(id.start))
	le.PutUint64(b[24:], h.epoch)
	le.PutUint64(b[32:], h.first)
	le.PutUint64(b[40:], h.last)
	le.PutUint64(b[48:], h.next)
	le.PutUint64(b[56:], h.resume)
	le.PutUint32(b[64:], h.index)
	le.PutUint32(b[68:], h.packed)
	le.PutUint32(b[72:], h.unpacked)
	le.PutUint32(b[76:], h.indexCRC)
	le.PutUint32(b[80:], h.points)
	le.PutUint32(b[92:], crc32.Update(id.seed(), castagnoli, b[:92]))
	return b
}

// parse reads the header of the file id, size bytes long.
func (h *rollHead) parse(id rollID, b []byte, size int64) error {
	le := binary.LittleEndian
	if len(b) < rollHeaderBytes || string(b[:8]) != rollMagic {
		return errCorrupt
	}
	if v := le.Uint16(b[8:]); v > rollVersion && v < 256 {
		return errNewer
	}
	if crc32.Update(id.seed(), castagnoli, b[:92]) != le.Uint32(b[92:]) || rollLevel(b[12]) != id.level ||
		int64(le.Uint64(b[16:])) != id.start || int(le.Uint16(b[14:])) != id.level.rows() {
		return errCorrupt
	}
	*h = rollHead{uncertain: b[13]&1 != 0, epoch: le.Uint64(b[24:]), first: le.Uint64(b[32:]), last: le.Uint64(b[40:]), next: le.Uint64(b[48:]),
		resume: le.Uint64(b[56:]), index: le.Uint32(b[64:]), packed: le.Uint32(b[68:]), unpacked: le.Uint32(b[72:]), indexCRC: le.Uint32(b[76:]), points: le.Uint32(b[80:])}
	if int64(h.index)+int64(h.packed) > size || h.index < rollHeaderBytes || h.unpacked > maxRollBlock || h.points > maxRollPoints || h.next >= maxSeq || h.last >= maxSeq {
		return errCorrupt
	}
	return nil
}

// rollKey orders the points of a file.
func rollKey(s *telemetry.Series) string {
	return s.Device + "\x00" + s.Point + "\x00" + s.Zone + "\x00" + s.Class + "\x00" + string(rune('0'+s.Kind))
}

func compareSeries(a, b telemetry.Series) int {
	return cmp.Or(strings.Compare(a.Device, b.Device), strings.Compare(a.Point, b.Point), strings.Compare(a.Zone, b.Zone),
		strings.Compare(a.Class, b.Class), cmp.Compare(a.Kind, b.Kind))
}

// rollPoint is a point of a rollup file with its intervals.
type rollPoint struct {
	series telemetry.Series
	carry  byte // state of what held at the end, as in hold
	cells  []cell
}

// held returns what holds on after the end of the file.
func (p *rollPoint) held() hold {
	h := hold{state: p.carry}
	if c := &p.cells[len(p.cells)-1]; h.has() {
		if !c.some {
			return hold{}
		}
		h.num = c.last
	}
	return h
}

// empty reports whether nothing at all is known of the point.
func (p *rollPoint) empty() bool {
	return p.carry == 0 && !slices.ContainsFunc(p.cells, func(c cell) bool { return c.some || c.bad > 0 })
}

// rollEntry is a block in the index of a file.
type rollEntry struct {
	first    string // key of its first point
	at       int64
	packed   int
	unpacked int
	crc      uint32
}

// rollWriter writes a rollup file: begin, points in their order, then finish or abandon.
type rollWriter struct {
	fs     fileSystem
	dir    string
	id     rollID
	enc    *zstd.Encoder
	f      file
	head   rollHead
	buf    []byte // not written yet
	at     int64  // of buf
	raw    []byte
	mem    blockScratch
	blocks []rollEntry
	points []rollPoint // of the block being filled; their memory is the writer's
	// sources says what a file of hours was made of: the rollHead.next of each hour's file, 0 where there was none.
	sources []uint64
}

func (w *rollWriter) path() string { return filepath.Join(w.dir, w.id.name()) }

// add takes a point. Its cells are copied.
func (w *rollWriter) add(p *rollPoint) error {
	if p.empty() {
		return nil
	}
	if len(w.points) == cap(w.points) && len(w.points) < rollBlock {
		w.points = append(make([]rollPoint, 0, rollBlock), w.points...)
	}
	w.points = w.points[:len(w.points)+1]
	q := &w.points[len(w.points)-1]
	q.series, q.carry, q.cells = p.series, p.carry, append(q.cells[:0], p.cells...)
	w.head.points++
	if len(w.points) == rollBlock {
		return w.block()
	}
	return nil
}

// block packs the points taken.
func (w *rollWriter) block() error {
	if len(w.points) == 0 {
		return nil
	}
	w.raw = appendBlock(w.raw[:0], w.id.level, w.points, &w.mem)
	e := rollEntry{first: rollKey(&w.points[0].series), at: w.at + int64(len(w.buf)), unpacked: len(w.raw)}
	from := len(w.buf)
	w.buf = w.enc.EncodeAll(w.raw, w.buf)
	e.packed = len(w.buf) - from
	e.crc = crc32.Update(w.id.seed(), castagnoli, w.buf[from:])
	w.blocks = append(w.blocks, e)
	w.points = w.points[:0]
	if len(w.buf) >= rollWrite {
		return w.write()
	}
	return nil
}

func (w *rollWriter) write() error {
	if w.f == nil {
		f, err := w.fs.Create(w.path() + suffixPart)
		if err != nil && !notExist(err) {
			// Left by a failed attempt.
			if rm := w.fs.Remove(w.path() + suffixPart); rm == nil {
				f, err = w.fs.Create(w.path() + suffixPart)
			}
		}
		if err != nil {
			return err
		}
		w.f = f
	}
	if w.at+int64(len(w.buf)) > maxRollFile {
		return fmt.Errorf("%s becomes larger than %d bytes", w.id.name(), int64(maxRollFile))
	}
	_, err := w.f.WriteAt(w.buf, w.at)
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return err
}

// begin makes room for the header.
func (w *rollWriter) begin() { w.buf, w.at = make([]byte, rollHeaderBytes, rollWrite), 0 }

// finish writes what is left and puts the file in its place. It returns its size.
func (w *rollWriter) finish() (int64, error) {
	if err := w.block(); err != nil {
		return 0, err
	}
	x := binary.AppendUvarint(nil, uint64(len(w.blocks)))
	for i := range w.blocks {
		e := &w.blocks[i]
		x = appendString(x, e.first)
		x = binary.AppendUvarint(x, uint64(e.packed))
		x = binary.AppendUvarint(x, uint64(e.unpacked))
		x = binary.LittleEndian.AppendUint32(x, e.crc)
	}
	x = binary.AppendUvarint(x, uint64(len(w.sources)))
	for _, next := range w.sources {
		x = binary.AppendUvarint(x, next)
	}
	from := len(w.buf)
	w.head.index, w.head.unpacked = uint32(w.at+int64(from)), uint32(len(x))
	w.buf = w.enc.EncodeAll(x, w.buf)
	w.head.packed = uint32(len(w.buf) - from)
	w.head.indexCRC = crc32.Update(w.id.seed(), castagnoli, w.buf[from:])
	size := w.at + int64(len(w.buf))
	head := w.head.put(w.id)
	if w.at == 0 {
		copy(w.buf, head)
		head = nil
	}
	if err := w.write(); err != nil {
		return 0, err
	}
	if head != nil {
		if _, err := w.f.WriteAt(head, 0); err != nil {
			return 0, err
		}
	}
	if err := w.f.Sync(); err != nil {
		return 0, err
	}
	f := w.f
	w.f = nil
	if err := f.Close(); err != nil {
		return 0, err
	}
	if err := w.fs.Rename(w.path()+suffixPart, w.path()); err != nil {
		return 0, err
	}
	return size, w.fs.SyncDir(w.dir)
}

// abandon gives up what was begun.
func (w *rollWriter) abandon() {
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
	if !w.fs.Gone(w.path() + suffixPart) {
		_ = w.fs.Remove(w.path() + suffixPart) // If that fails the next attempt meets it again.
	}
}

// rollReader reads one rollup file.
type rollReader struct {
	id      rollID
	f       file
	dec     *zstd.Decoder
	head    rollHead
	blocks  []rollEntry
	sources []uint64
	buf     []byte
	raw     []byte
}

// openRoll opens the file id in dir and reads its header, and its index where that is wanted. Errors but errCorrupt and
// errNewer are the disk's.
func openRoll(fs fileSystem, dir string, id rollID, dec *zstd.Decoder, index bool) (*rollReader, int64, error) {
	f, err := fs.Open(filepath.Join(dir, id.name()), false)
	if err != nil {
		return nil, 0, err
	}
	r := &rollReader{id: id, f: f, dec: dec}
	size, err := f.Size()
	if err == nil {
		err = r.load(size, index)
	}
	if err != nil {
		f.Close()
		return nil, size, err
	}
	return r, size, nil
}

func (r *rollReader) load(size int64, index bool) error {
	var b [rollHeaderBytes]byte
	n, err := r.f.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	if err := r.head.parse(r.id, b[:n], size); err != nil || !index {
		return err
	}
	x, err := r.unpack(int64(r.head.index), int(r.head.packed), int(r.head.unpacked), r.head.indexCRC)
	if err != nil {
		return err
	}
	c := cursor{b: x}
	at := int64(rollHeaderBytes)
	for range c.count() {
		e := rollEntry{first: c.string(), at: at}
		packed, unpacked := c.uvarint(), c.uvarint()
		if c.bad || packed > uint64(size) || unpacked > maxRollBlock || len(c.b) < 4 {
			return errCorrupt
		}
		e.packed, e.unpacked = int(packed), int(unpacked)
		e.crc = binary.LittleEndian.Uint32(c.b)
		c.b = c.b[4:]
		if at += int64(packed); at > int64(r.head.index) {
			return errCorrupt
		}
		r.blocks = append(r.blocks, e)
	}
	for range c.count() {
		r.sources = append(r.sources, c.uvarint())
	}
	if c.bad || len(r.sources) != 0 && len(r.sources) != r.id.level.rows() {
		return errCorrupt
	}
	return nil
}

// unpack reads a piece of the file.
func (r *rollReader) unpack(at int64, packed, unpacked int, crc uint32) ([]byte, error) {
	r.buf = slices.Grow(r.buf[:0], packed)[:packed]
	if n, err := r.f.ReadAt(r.buf, at); n < packed {
		if err == io.EOF {
			err = errCorrupt
		}
		return nil, err
	}
	if crc32.Update(r.id.seed(), castagnoli, r.buf) != crc {
		return nil, errCorrupt
	}
	var err error
	if r.raw, err = r.dec.DecodeAll(r.buf, r.raw[:0]); err != nil || len(r.raw) != unpacked {
		return nil, errCorrupt
	}
	return r.raw, nil
}

func (r *rollReader) close() { r.f.Close() }

// points calls yield for the points that match, in order. Only blocks are read that can have points from key first to key
// last, "" for no bound.
func (r *rollReader) points(first, last string, match func(*telemetry.Series) bool, yield func(*rollPoint) error) error {
	for i := range r.blocks {
		e := &r.blocks[i]
		if last != "" && e.first > last {
			break
		}
		if first != "" && i+1 < len(r.blocks) && r.blocks[i+1].first <= first && r.blocks[i+1].first != first {
			continue
		}
		b, err := r.unpack(e.at, e.packed, e.unpacked, e.crc)
		if err != nil {
			return err
		}
		if err := decodeBlock(b, r.id.level, match, yield); err != nil {
			return err
		}
	}
	return nil
}
