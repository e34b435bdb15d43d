package journal

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
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

// cell is what is known of a point over one interval, while it is added up. Numbers of a float are its bits in an order
// that is the numbers' (see order), of others the number itself.
type cell struct {
	sum              float64 // value times seconds
	min, max, last   int64
	good, doubt, bad uint32 // µs
	count, changes   uint32
	some             bool // min, max and last are set
}

// hold is what a point's last reading says.
type hold struct {
	num   int64
	at    int64 // monotonic: until then it is in the cells
	state byte  // 0: nothing is known, otherwise 1 + its quality
}

// has reports whether there is a value.
func (h *hold) has() bool { return h.state != 0 && !telemetry.Quality(h.state-1).Bad() }

// order returns bits of a float so that they compare as the floats do. It is its own inverse.
func order(b int64) int64 { return b ^ int64(uint64(b>>63)>>1) }

func order32(b int32) int32 { return b ^ int32(uint32(b>>31)>>1) }

// number returns v as cells have it, of a point of kind; false where it has none.
func number(kind telemetry.Kind, v telemetry.Value) (int64, bool) {
	switch v.Kind() {
	case 0, telemetry.KindText:
		return 0, false
	}
	if kind == telemetry.Float {
		return order(int64(math.Float64bits(v.Float()))), true
	}
	return v.Int(), true
}

// value is the inverse of number.
func value(kind telemetry.Kind, num int64) telemetry.Value {
	switch kind {
	case telemetry.Float:
		return telemetry.FloatValue(math.Float64frombits(uint64(order(num))))
	case telemetry.Bool:
		return telemetry.BoolValue(num != 0)
	}
	return telemetry.ValueFromBits(kind, uint64(num))
}

// figure returns a number of a point of kind to reckon with.
func figure(kind telemetry.Kind, num int64) float64 {
	if kind == telemetry.Float {
		return math.Float64frombits(uint64(order(num)))
	}
	return float64(num)
}

// include lets num have held in the interval.
func (c *cell) include(num int64) {
	if !c.some {
		c.min, c.max, c.some = num, num, true
	}
	c.min, c.max, c.last = min(c.min, num), max(c.max, num), num
}

// add adds the interval o, which is a later part of c.
func (c *cell) add(o *cell) {
	if o.some {
		c.include(o.min)
		c.include(o.max)
		c.last = o.last
	}
	c.sum += o.sum
	c.good, c.doubt, c.bad = c.good+o.good, c.doubt+o.doubt, c.bad+o.bad
	c.count, c.changes = c.count+o.count, c.changes+o.changes
}

// mean returns the mean over the time with a value.
func (c *cell) mean(kind telemetry.Kind) float64 {
	if !c.some {
		return math.NaN()
	}
	lo, hi := figure(kind, c.min), figure(kind, c.max)
	m := figure(kind, c.last)
	if t := float64(c.good) + float64(c.doubt); t > 0 {
		m = c.sum / (t / 1e6)
	}
	return min(max(m, lo), hi)
}

// rollup returns the interval as readers get it.
func (c *cell) rollup(kind telemetry.Kind) Rollup {
	r := Rollup{Count: uint64(c.count), Changes: uint64(c.changes), Mean: math.NaN(),
		Good: time.Duration(c.good) * time.Microsecond, Doubtful: time.Duration(c.doubt) * time.Microsecond, Bad: time.Duration(c.bad) * time.Microsecond}
	if c.some {
		r.Last = value(kind, c.last)
		if kind != telemetry.Enum {
			r.Min, r.Max, r.Mean = value(kind, c.min), value(kind, c.max), c.mean(kind)
		}
	}
	return r
}

// rounded returns the times of the interval in ms, together no longer than width.
func (c *cell) rounded(width time.Duration) (good, doubt, bad uint64) {
	left := uint64(width / time.Millisecond)
	take := func(us uint32) uint64 {
		ms := min((uint64(us)+500)/1000, left)
		left -= ms
		return ms
	}
	return take(c.good), take(c.doubt), take(c.bad)
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

// The streams of a block, in their order.
const (
	rollNames = iota
	rollGood
	rollDoubt
	rollBad
	rollCount
	rollMin
	rollRange
	rollLast
	rollMean
	rollChanges
	rollCarry
	rollStreams
)

// rollForm returns the shortest form that all values of the cells have.
func rollForm(kind telemetry.Kind, cells []cell) byte {
	if kind != telemetry.Float {
		return formF64
	}
	fits := func(form byte) bool {
		for i := range cells {
			c := &cells[i]
			if !c.some {
				continue
			}
			for _, num := range [...]int64{c.min, c.max, c.last} {
				if _, ok := toForm(num, form); !ok {
					return false
				}
			}
		}
		return true
	}
	for e := byte(0); e <= maxExponent; e++ {
		if fits(formDecimal | e) {
			return formDecimal | e
		}
	}
	for e := byte(1); e <= maxExponent; e++ {
		if fits(formDecimal32 | e) {
			return formDecimal32 | e
		}
	}
	if fits(formF32) {
		return formF32
	}
	return formF64
}

// toForm returns the number to be written for a float; numbers of one form compare as the floats do.
func toForm(num int64, form byte) (int64, bool) {
	v := math.Float64frombits(uint64(order(num)))
	switch {
	case form == formF64:
		return num, true
	case form == formF32:
		f := float32(v)
		return int64(order32(int32(math.Float32bits(f)))), math.Float64bits(float64(f)) == math.Float64bits(v)
	}
	m, ok := decimal(v, form)
	if form&0xf0 == formDecimal32 && (m <= -200_000 || m >= 200_000) {
		return m, false
	}
	return m, ok
}

// fromForm is the inverse of toForm.
func fromForm(m int64, form byte) int64 {
	switch {
	case form == formF64:
		return m
	case form == formF32:
		return order(int64(math.Float64bits(float64(math.Float32frombits(uint32(order32(int32(m))))))))
	}
	return order(int64(math.Float64bits(undecimal(m, form))))
}

// longRuns writes a run-length column of numbers.
type longRuns struct {
	b    []byte
	v, n uint64
}

func (r *longRuns) add(v uint64) {
	if v != r.v {
		r.flush()
	}
	r.v = v
	r.n++
}

func (r *longRuns) flush() {
	if r.n > 0 {
		r.b = binary.AppendUvarint(binary.AppendUvarint(r.b, r.v), r.n)
	}
	r.n = 0
}

// blockScratch is memory for appendBlock.
type blockScratch struct {
	s     [rollStreams][]byte
	means []uint32
}

// appendBlock appends the points, unpacked, to b.
func appendBlock(b []byte, level rollLevel, points []rollPoint, mem *blockScratch) []byte {
	s := &mem.s
	for i := range s {
		s[i] = s[i][:0]
	}
	good, doubt, bad := longRuns{b: s[rollGood]}, longRuns{b: s[rollDoubt]}, longRuns{b: s[rollBad]}
	means := mem.means[:0]
	for i := range points {
		p := &points[i]
		kind := p.series.Kind
		form := rollForm(kind, p.cells)
		for _, name := range [...]string{p.series.Class, p.series.Device, p.series.Zone, p.series.Point} {
			s[rollNames] = appendString(s[rollNames], name[:min(len(name), maxRollName)])
		}
		s[rollNames] = append(s[rollNames], byte(kind), form)
		s[rollCarry] = append(s[rollCarry], p.carry)
		put := func(num int64) int64 {
			if kind == telemetry.Float {
				num, _ = toForm(num, form)
			}
			return num
		}
		var before int64
		for k := range p.cells {
			c := &p.cells[k]
			g, d, x := c.rounded(level.width())
			good.add(g)
			doubt.add(d)
			bad.add(x)
			n := uint64(c.count) << 1
			if c.some {
				n |= 1
			}
			s[rollCount] = binary.AppendUvarint(s[rollCount], n)
			if !c.some {
				continue
			}
			lo, hi := put(c.min), put(c.max)
			s[rollMin] = binary.AppendVarint(s[rollMin], lo-before)
			before = lo
			s[rollRange] = binary.AppendUvarint(s[rollRange], uint64(hi)-uint64(lo))
			if hi != lo {
				s[rollLast] = binary.AppendUvarint(s[rollLast], uint64(put(c.last))-uint64(lo))
				if kind != telemetry.Enum {
					a, z := figure(kind, c.min), figure(kind, c.max)
					means = append(means, uint32(math.Round(65535*fraction(c.mean(kind), a, z))))
				}
			}
			if kind == telemetry.Bool || kind == telemetry.Enum {
				s[rollChanges] = binary.AppendUvarint(s[rollChanges], uint64(c.changes))
			}
		}
	}
	good.flush()
	doubt.flush()
	bad.flush()
	s[rollGood], s[rollDoubt], s[rollBad] = good.b, doubt.b, bad.b
	s[rollMean] = appendPlanes(s[rollMean], means, 2)
	mem.means = means
	b = binary.AppendUvarint(b, uint64(len(points)))
	for i := range s {
		b = appendString(b, s[i])
	}
	return b
}

// fraction returns where between lo and hi m lies, 0 to 1; halves, because hi - lo may be more than a float can say.
func fraction(m, lo, hi float64) float64 {
	return min(max((m/2-lo/2)/(hi/2-lo/2), 0), 1)
}

// longRunReader reads a run-length column of numbers.
type longRunReader struct {
	c    cursor
	v, n uint64
}

func (r *longRunReader) next() uint64 {
	if r.n == 0 {
		if r.v, r.n = r.c.uvarint(), r.c.uvarint(); r.n == 0 {
			r.c.bad = true
			return 0
		}
	}
	r.n--
	return r.v
}

// decodeBlock calls yield for each point of the unpacked block b, whose cells are valid during the call. match says which
// points are wanted.
func decodeBlock(b []byte, level rollLevel, match func(*telemetry.Series) bool, yield func(*rollPoint) error) error {
	c := cursor{b: b}
	n := c.count()
	var s [rollStreams]cursor
	for i := range s {
		s[i].b = c.bytes()
	}
	rows := level.rows()
	if c.bad || len(s[rollCarry].b) != n || len(s[rollCount].b) < n*rows || len(s[rollMean].b)%2 != 0 {
		return errCorrupt
	}
	good, doubt, bad := longRunReader{c: s[rollGood]}, longRunReader{c: s[rollDoubt]}, longRunReader{c: s[rollBad]}
	means, nmeans, imean := s[rollMean].b, len(s[rollMean].b)/2, 0
	p := rollPoint{cells: make([]cell, rows)}
	most := uint64(level.width() / time.Millisecond)
	for range n {
		names := &s[rollNames]
		p.series = telemetry.Series{Class: names.string(), Device: names.string(), Zone: names.string(), Point: names.string()}
		p.series.Kind = telemetry.Kind(names.byte())
		form := names.byte()
		p.carry = s[rollCarry].byte()
		kind := p.series.Kind
		if names.bad || kind == 0 || kind >= telemetry.KindText || !validForm(form) || kind != telemetry.Float && form != formF64 {
			return errCorrupt
		}
		get := func(m int64) int64 {
			if kind == telemetry.Float {
				return fromForm(m, form)
			}
			return m
		}
		var before int64
		for k := range p.cells {
			g, d, x := good.next(), doubt.next(), bad.next()
			v := s[rollCount].uvarint()
			if g > most || d > most || x > most || g+d+x > most || v>>1 > math.MaxUint32 {
				return errCorrupt
			}
			q := cell{good: uint32(g * 1000), doubt: uint32(d * 1000), bad: uint32(x * 1000), count: uint32(v >> 1), some: v&1 != 0}
			if q.some {
				lo := before + s[rollMin].varint()
				before = lo
				span := s[rollRange].uvarint()
				q.min, q.max = get(lo), get(int64(uint64(lo)+span))
				q.last = q.min
				mean := figure(kind, q.min)
				if span != 0 {
					off := s[rollLast].uvarint()
					if q.last = get(int64(uint64(lo) + off)); off > span {
						return errCorrupt
					}
					if kind != telemetry.Enum {
						if imean >= nmeans {
							return errCorrupt
						}
						f := float64(uint(means[imean])|uint(means[nmeans+imean])<<8) / 65535
						imean++
						mean = figure(kind, q.min)*(1-f) + figure(kind, q.max)*f
					}
				}
				q.sum = mean * float64(g+d) / 1e3
				if kind == telemetry.Bool || kind == telemetry.Enum {
					q.changes = uint32(min(s[rollChanges].uvarint(), math.MaxUint32))
				}
			}
			p.cells[k] = q
		}
		for i := range s {
			if s[i].bad {
				return errCorrupt
			}
		}
		if good.c.bad || doubt.c.bad || bad.c.bad {
			return errCorrupt
		}
		if match == nil || match(&p.series) {
			if err := yield(&p); err != nil {
				return err
			}
		}
	}
	return nil
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
