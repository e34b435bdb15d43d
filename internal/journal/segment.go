package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	segmentMagic   = "LINLIJNL"
	segmentVersion = 1
	headerBytes    = 128
	maxBootID      = 64

	footerMagic  = "LJX1"
	trailerMagic = "LINLISEG"
	trailerBytes = 24
	maxFooter    = 32 << 20 // unpacked
)

// errNewer is about a segment that this version must not touch.
var errNewer = errors.New("written by a newer version of the program")

// segment is what is known of one segment file. The writer fills it before readers see it; afterwards Journal.mu
// guards it.
type segment struct {
	path         string
	epoch, first uint64
	seed         uint32

	boot      string
	offset    int64 // first known wall offset of the boot, in this segment or before it
	hasWall   bool  // offset is known
	uncertain bool  // offset is that of a clock that nobody vouches for
	start     bool  // a process began to write with it

	offs    []uint32 // file offset of frame first+i, 0 where that is missing
	counts  []uint16 // samples of each frame
	end     int64    // end of the last good frame
	size    int64    // of the file
	sealed  bool
	t0, t1  int64 // earliest and latest sample; of tombstones too
	samples uint64
	losses  []seqRange // told by tombstones in this segment

	// Of the frames that were written with the clock set: the earliest and the latest sample by the wall clock. hasExtent says
	// that there are such, and no others.
	wall0, wall1 int64
	hasExtent    bool
	unset        bool // there are others

	index frameIndex // while it is being sealed

	dict []entry // nil for a sealed segment: a reader loads it

	doomed bool // its loss has been queued; it goes when the tombstone is written
	gone   bool // deleted
	noted  bool // set aside already
}

// next is the seq after the segment's last good frame.
func (s *segment) next() uint64 { return s.first + uint64(len(s.offs)) }

// segmentName is the name of the segment file.
func segmentName(epoch, first uint64) string { return fmt.Sprintf("%016x-%020d.seg", epoch, first) }

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (epoch, first uint64, ok bool) {
	base, found := strings.CutSuffix(name, ".seg")
	if !found || len(base) != 37 || base[16] != '-' {
		return 0, 0, false
	}
	epoch, err1 := strconv.ParseUint(base[:16], 16, 64)
	first, err2 := strconv.ParseUint(base[17:], 10, 64)
	ok = err1 == nil && err2 == nil && first > 0 && first < maxSeq && segmentName(epoch, first) == name
	return epoch, first, ok
}

// putHeader returns the segment's first bytes.
func (s *segment) putHeader() []byte {
	b := make([]byte, headerBytes)
	le := binary.LittleEndian
	copy(b, segmentMagic)
	le.PutUint16(b[8:], segmentVersion)
	le.PutUint16(b[10:], headerBytes)
	b[12] = s.wallFlags()
	if s.start {
		b[12] |= 4
	}
	b[13] = byte(len(s.boot))
	le.PutUint64(b[16:], s.epoch)
	le.PutUint64(b[24:], s.first)
	le.PutUint64(b[32:], uint64(s.offset))
	copy(b[40:40+maxBootID], s.boot)
	le.PutUint32(b[124:], crc32.Update(s.seed, castagnoli, b[:124]))
	return b
}

// wallFlags is how header and footer say what is known of the boot's offset.
func (s *segment) wallFlags() (b byte) {
	if s.hasWall {
		b |= 1
	}
	if s.uncertain {
		b |= 2
	}
	return b
}

// parseHeader takes boot and offset from b. It returns errCorrupt when b is not this segment's header, also with what the
// file's name says of it put in place and any one bit of the rest turned over. What it put right is right in b as well then.
func (s *segment) parseHeader(b []byte) (mended bool, err error) {
	if len(b) < headerBytes {
		return false, errCorrupt
	}
	b = b[:headerBytes]
	if !s.goodHeader(b) {
		head, ok := s.mendHeader(b)
		if !ok {
			if v := binary.LittleEndian.Uint16(b[8:]); string(b[:8]) == segmentMagic && v > segmentVersion && v < 256 {
				return false, errNewer
			}
			return false, errCorrupt
		}
		copy(b, head)
		mended = true
	}
	s.hasWall, s.uncertain, s.start = b[12]&1 != 0, b[12]&2 != 0, b[12]&4 != 0
	s.offset = int64(binary.LittleEndian.Uint64(b[32:]))
	s.boot = string(b[40 : 40+int(b[13])])
	return mended, nil
}

// goodHeader reports whether b is this segment's header, undamaged.
func (s *segment) goodHeader(b []byte) bool {
	le := binary.LittleEndian
	return string(b[:8]) == segmentMagic && le.Uint16(b[8:]) == segmentVersion && crc32.Update(s.seed, castagnoli, b[:124]) == le.Uint32(b[124:]) &&
		le.Uint64(b[16:]) == s.epoch && le.Uint64(b[24:]) == s.first && int(b[13]) <= maxBootID
}

// mendHeader returns b put right, and false where that takes more than what the file's name says and one bit of the rest.
// CRC-32C tells any two headers of this size apart that differ in fewer than six bits, so the one bit that makes it right is
// the one that was turned over.
func (s *segment) mendHeader(b []byte) ([]byte, bool) {
	b = bytes.Clone(b)
	le := binary.LittleEndian
	copy(b, segmentMagic)
	le.PutUint16(b[8:], segmentVersion)
	le.PutUint16(b[10:], headerBytes)
	le.PutUint16(b[14:], 0)
	le.PutUint64(b[16:], s.epoch)
	le.PutUint64(b[24:], s.first)
	clear(b[40+maxBootID : 124])
	if s.goodHeader(b) {
		return b, true
	}
	for i := range 8 * headerBytes {
		bit := byte(1) << (i % 8)
		b[i/8] ^= bit
		if s.goodHeader(b) {
			return b, true
		}
		b[i/8] ^= bit
	}
	return nil, false
}

// putFooter returns the footer with its trailer. dict is the segment's whole dictionary.
func (s *segment) putFooter(enc *zstd.Encoder, dict []entry) []byte {
	var b []byte
	b = appendString(b, s.boot)
	b = append(b, s.wallFlags())
	b = binary.AppendVarint(b, s.offset)
	n := 0
	for _, o := range s.offs {
		if o != 0 {
			n++
		}
	}
	b = binary.AppendUvarint(b, uint64(n))
	missing, pos := uint64(0), int64(headerBytes)
	for i, o := range s.offs {
		if o == 0 {
			missing++
			continue
		}
		end := s.end
		for k := i + 1; k < len(s.offs); k++ {
			if s.offs[k] != 0 {
				end = int64(s.offs[k])
				break
			}
		}
		b = binary.AppendUvarint(b, missing)
		b = binary.AppendUvarint(b, uint64(int64(o)-pos))
		b = binary.AppendUvarint(b, uint64(end-int64(o)))
		b = binary.AppendUvarint(b, uint64(s.counts[i]))
		missing, pos = 0, end
	}
	b = binary.AppendVarint(b, s.t0)
	b = binary.AppendVarint(b, s.t1)
	b = binary.AppendUvarint(b, uint64(len(s.losses)))
	for _, l := range s.losses {
		b = binary.AppendUvarint(b, l.first)
		b = binary.AppendUvarint(b, l.last)
	}
	b = appendEntries(b, dict)
	b = s.appendExtent(b)

	out := enc.EncodeAll(b, []byte(footerMagic))
	var t [trailerBytes]byte
	le := binary.LittleEndian
	le.PutUint32(t[0:], uint32(len(out)))
	le.PutUint32(t[4:], uint32(len(b)))
	le.PutUint32(t[8:], crc32.Update(crc32.Update(s.seed, castagnoli, out), castagnoli, t[:8]))
	copy(t[16:], trailerMagic)
	return append(out, t[:]...)
}

// appendExtent appends what stands behind the dictionary in a footer.
func (s *segment) appendExtent(b []byte) []byte {
	var flags byte
	if s.hasExtent {
		flags |= 1
	}
	if len(s.index) > 0 {
		flags |= 2
	}
	b = append(b, flags)
	if s.hasExtent {
		b = binary.AppendVarint(b, s.wall0)
		b = binary.AppendVarint(b, s.wall1)
	}
	if len(s.index) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(s.index)))
	for _, bits := range s.index {
		b = binary.AppendUvarint(b, uint64(len(bits)))
		for _, x := range bits {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
	}
	return b
}

// parseExtent reads what appendExtent wrote. Footers of the first builds have none, and some not all of it.
func (s *segment) parseExtent(c *cursor, wantIndex bool) {
	s.hasExtent, s.index = false, nil
	if len(c.b) == 0 {
		return
	}
	flags := c.byte()
	if flags&1 != 0 {
		s.wall0, s.wall1 = c.varint(), c.varint()
		s.hasExtent = !c.bad
	}
	if flags&2 == 0 || !wantIndex {
		return
	}
	n := c.count()
	index := make(frameIndex, 0, n)
	for range n {
		k := c.count()
		if c.bad || k > len(c.b)/8 {
			c.bad = true
			return
		}
		bits := make([]uint64, k)
		for i := range bits {
			bits[i] = binary.LittleEndian.Uint64(c.b[8*i:])
		}
		c.b = c.b[8*k:]
		index = append(index, bits)
	}
	s.index = index
}

// readFooter returns the unpacked contents of the footer of f, or errCorrupt when it has no good one.
func (s *segment) readFooter(f io.ReaderAt, size int64, dec *zstd.Decoder) ([]byte, error) {
	var t [trailerBytes]byte
	if size < headerBytes+trailerBytes {
		return nil, errCorrupt
	}
	if _, err := f.ReadAt(t[:], size-trailerBytes); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	packed, unpacked := int64(le.Uint32(t[0:])), le.Uint32(t[4:])
	if string(t[16:]) != trailerMagic || packed > size-headerBytes-trailerBytes || unpacked > maxFooter {
		return nil, errCorrupt
	}
	b := make([]byte, packed)
	if _, err := f.ReadAt(b, size-trailerBytes-packed); err != nil {
		return nil, err
	}
	if crc32.Update(crc32.Update(s.seed, castagnoli, b), castagnoli, t[:8]) != le.Uint32(t[8:]) {
		return nil, errCorrupt
	}
	if !bytes.HasPrefix(b, []byte(footerMagic)) {
		return nil, errCorrupt
	}
	out, err := dec.DecodeAll(b[len(footerMagic):], nil)
	if err != nil || uint32(len(out)) != unpacked {
		return nil, errCorrupt
	}
	return out, nil
}

// parseFooter fills the segment from the footer's contents. The dictionary comes last, and only where it is wanted.
func (s *segment) parseFooter(b []byte, size int64, wantDict bool) error {
	c := cursor{b: b}
	boot := c.string()
	wall := c.byte()
	offset := c.varint()
	n := c.count()
	offs, counts := make([]uint32, 0, n), make([]uint16, 0, n)
	pos := uint64(headerBytes)
	var samples uint64
	for range n {
		missing, skip, length, count := c.uvarint(), c.uvarint(), c.uvarint(), c.uvarint()
		// What is missing took room: that bounds how much can be.
		if c.bad || skip > uint64(size) || length > uint64(size) || missing > skip/frameHeaderBytes || count > maxFrameSamples {
			return errCorrupt
		}
		for range missing {
			offs, counts = append(offs, 0), append(counts, 0)
		}
		pos += skip
		offs, counts = append(offs, uint32(pos)), append(counts, uint16(count))
		pos += length
		samples += count
		if pos > uint64(size) {
			return errCorrupt
		}
	}
	t0, t1 := c.varint(), c.varint()
	var losses []seqRange
	for range c.count() {
		l := seqRange{c.uvarint(), c.uvarint()}
		if c.bad || l.first == 0 || l.last < l.first || l.last > maxSeq {
			return errCorrupt
		}
		losses = append(losses, l)
	}
	var dict []entry
	if wantDict {
		dict = c.entries(nil)
	} else {
		c.skipEntries()
	}
	s.parseExtent(&c, wantDict)
	if c.bad || len(boot) > maxBootID {
		return errCorrupt
	}
	s.boot, s.hasWall, s.uncertain, s.offset = boot, wall&1 != 0, wall&2 != 0, offset
	s.offs, s.counts, s.end, s.samples = offs, counts, int64(pos), samples
	s.t0, s.t1, s.losses, s.sealed = t0, t1, losses, true
	s.dict = dict
	return nil
}

// tail says what follows the last good frame of a segment that has no footer.
type tail struct {
	torn bool   // neither zeros nor the end of the file
	last uint64 // the highest seq that a frame there claims, plausibly
}

// scan reads the whole segment, b being the file, and fills what a footer would have told. Frames from limit on do
// not count. It works without a good header, since the seed is known from the file's name; without the boot and its offset, which
// the header alone has, the frames' times mean nothing all the same (see judge). It returns the number of
// frames missing before good ones.
func (s *segment) scan(b []byte, limit uint64, dec *zstd.Decoder) (missing uint64, t tail) {
	s.offs, s.counts, s.losses, s.dict, s.samples, s.sealed = nil, nil, nil, nil, 0, false
	s.hasExtent, s.unset = false, false
	s.end = min(headerBytes, int64(len(b)))
	dictOK := true
	for pos := int(s.end); ; {
		h, payload, ok := parseFrame(b[pos:], s.seed)
		// A frame takes room: that bounds how far seq can have jumped.
		if !ok || h.seq < s.next() || h.seq-s.first > uint64(pos/frameHeaderBytes) {
			t = tail{}
			rest := b[pos:]
			if len(bytes.TrimLeft(rest, "\x00")) == 0 || bytes.HasPrefix(rest, []byte(footerMagic)) {
				return missing, t // A footer is begun only when everything before it is synced.
			}
			t.torn, t.last = true, s.next()
			skip := s.findFrame(rest, uint64(pos), &t)
			if skip < 0 {
				return missing, t
			}
			pos += skip
			continue
		}
		if h.seq >= limit {
			return missing, tail{}
		}
		if dictOK = s.takeDictionary(&h, payload, dec) && dictOK; !dictOK {
			// The file is as it was written, but not by us: do not go on with a dictionary that is not complete.
			return missing, tail{torn: true, last: h.seq}
		}
		for s.next() < h.seq {
			s.offs, s.counts = append(s.offs, 0), append(s.counts, 0)
			missing++
		}
		s.add(&h, uint32(pos))
		pos += h.length()
	}
}

// findFrame returns how far into b the next good frame begins, or -1. It notes the numbers that broken ones claim.
func (s *segment) findFrame(b []byte, pos uint64, t *tail) int {
	for at := 0; ; at++ {
		k := bytes.Index(b[at:], []byte(frameMagic))
		if k < 0 {
			return -1
		}
		at += k
		if at > 0 {
			if h, _, ok := parseFrame(b[at:], s.seed); ok && h.seq >= s.next() {
				return at
			}
		}
		if len(b)-at >= 32 {
			if seq := binary.LittleEndian.Uint64(b[at+24:]); seq >= s.first && seq-s.first <= (pos+uint64(at))/frameHeaderBytes {
				t.last = max(t.last, seq)
			}
		}
	}
}

// takeDictionary reads what a scan needs from a frame's payload.
func (s *segment) takeDictionary(h *frameHeader, payload []byte, dec *zstd.Decoder) bool {
	if h.flags&(flagDictionary|flagTombstone) == 0 {
		return true
	}
	raw, err := unpack(h, payload, nil, dec)
	if err != nil {
		return false
	}
	if h.flags&flagDictionary != 0 {
		var ok bool
		if s.dict, ok = dictionary(raw, s.dict); !ok {
			return false
		}
	}
	if h.flags&flagTombstone != 0 {
		l, err := decodeLoss(raw)
		if err != nil {
			return false
		}
		if l.FirstSeq != 0 {
			s.losses = append(s.losses, seqRange{l.FirstSeq, l.LastSeq})
		}
	}
	return true
}

// add appends a frame that begins at pos.
func (s *segment) add(h *frameHeader, pos uint32) {
	if len(s.offs) == 0 {
		s.t0, s.t1 = h.t0, h.t1
	}
	s.t0, s.t1 = min(s.t0, h.t0), max(s.t1, h.t1)
	if h.flags&flagClockSet != 0 && !s.hasWall {
		s.hasWall, s.uncertain, s.offset = true, h.flags&flagUncertain != 0, h.offset
	}
	if h.flags&flagTombstone == 0 {
		switch w0, w1 := h.t0+h.offset, h.t1+h.offset; {
		case h.flags&flagClockSet == 0:
			s.unset = true
		case s.hasExtent:
			s.wall0, s.wall1 = min(s.wall0, w0), max(s.wall1, w1)
		default:
			s.wall0, s.wall1, s.hasExtent = w0, w1, true
		}
		s.hasExtent = s.hasExtent && !s.unset
	}
	s.offs = append(s.offs, pos)
	s.counts = append(s.counts, uint16(h.count))
	s.samples += uint64(h.count)
	s.end = int64(pos) + int64(h.length())
}

// unpack returns the payload unpacked, into buf's memory where it was packed.
func unpack(h *frameHeader, payload, buf []byte, dec *zstd.Decoder) ([]byte, error) {
	if h.flags&flagZstd == 0 {
		return payload, nil
	}
	raw, err := dec.DecodeAll(payload, buf[:0])
	if err != nil || len(raw) != int(h.raw) {
		return nil, errCorrupt
	}
	return raw, nil
}

// newDecoder returns a zstd decoder that refuses what is larger than limit.
func newDecoder(limit uint64) (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(limit))
}
