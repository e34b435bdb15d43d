package inplace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
)

// halfHead is how many bytes of a half come before its text.
const halfHead = 20

// maxHalves bounds what is read of such a file.
const maxHalves = 8 << 20

// Halves is a small text on the disk that is written again and again for years, so it is written in place: two halves, of
// which the newer one that is whole counts and the other one is written over. After a power cut it is the text before or
// the new one. The file has its whole length from the start, so that a full disk does not keep it from being written.
//
//	0        4         8           16        20     20+n
//	+--------+---------+-----------+---------+------+------+
//	|magic   | CRC-32C | number    | length n| text | ...  |  of each half
//	+--------+---------+-----------+---------+------+------+
//
// The CRC covers number, length and text. Integers are little-endian. What follows the text says nothing.
//
// It belongs to one goroutine.
type Halves struct {
	path   string
	magic  string
	size   int    // bytes of a half
	file   *File  // nil where it could not be opened or made yet
	number uint64 // of the half written last
}

// NewHalves returns the file at the path, which need not be there. Its halves begin with magic, four bytes, and have room for
// a text of most bytes. Nothing is opened before Read or Write.
func NewHalves(path, magic string, most int) *Halves {
	return &Halves{path: path, magic: magic, size: most + halfHead}
}

// Path returns where the file is.
func (h *Halves) Path() string { return h.path }

// Read returns the newer text that is whole. Where there is none, whole is false and text is all that the file holds: it may
// be of another form. It is called before the first Write, which goes on behind what it has found.
func (h *Halves) Read() (text []byte, whole bool, err error) {
	f, err := os.Open(h.path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHalves+1))
	if err != nil {
		return nil, false, err
	}
	if len(b) > maxHalves {
		return nil, false, fmt.Errorf("%s is larger than %d bytes", h.path, maxHalves)
	}
	if text, h.number = newerHalf(b, h.magic); h.number == 0 {
		return b, false, nil
	}
	return text, true, nil
}

// newerHalf returns the text of the newer whole half and its number, 0 for none.
func newerHalf(b []byte, magic string) (text []byte, number uint64) {
	for _, half := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		if len(half) < halfHead || !bytes.HasPrefix(half, []byte(magic)) {
			continue
		}
		n := binary.LittleEndian.Uint32(half[16:])
		if uint64(n) > uint64(len(half)-halfHead) {
			continue
		}
		half = half[:halfHead+n]
		// Behind the highest number there is none.
		if nr := binary.LittleEndian.Uint64(half[8:]); nr > number && nr < math.MaxUint64 && checksum(half[8:]) == binary.LittleEndian.Uint32(half[4:]) {
			text, number = half[halfHead:], nr
		}
	}
	return text, number
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Write puts a text into the file and syncs it, and puts the file at its place where it is not there, or not of its length.
// After an error the text before counts.
func (h *Halves) Write(text []byte) error {
	if most := h.size - halfHead; len(text) > most {
		return fmt.Errorf("write %s: %d bytes, there is room for %d", h.path, len(text), most)
	}
	half := append([]byte(h.magic), 0, 0, 0, 0)
	half = binary.LittleEndian.AppendUint64(half, h.number+1)
	half = binary.LittleEndian.AppendUint32(half, uint32(len(text)))
	half = append(half, text...)
	binary.LittleEndian.PutUint32(half[4:], checksum(half[8:]))
	offset := int64((h.number+1)%2) * int64(h.size)
	var err error
	if !h.there() {
		err = h.make(half, offset)
	} else if _, err = h.file.WriteAt(half, offset); err == nil {
		if err = h.file.Sync(); err == nil {
			h.number++ // Not after an error: the same half is to be written over then, and not the last good one.
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", h.path, err)
	}
	return nil
}

// there opens the file where that is not done yet, and reports whether it is one to be written in place: somebody may have
// deleted it meanwhile.
func (h *Halves) there() bool {
	if h.file == nil {
		file, err := Open(h.path)
		if err != nil {
			return false
		}
		h.file = file
	}
	is, err := h.file.Stat()
	at, err2 := os.Lstat(h.path)
	if err == nil && err2 == nil && os.SameFile(is, at) && is.Mode().IsRegular() && is.Size() == 2*int64(h.size) {
		return true
	}
	h.Close()
	return false
}

// Close closes the file where it is open: nothing is kept back in it. The next Write opens it again.
func (h *Halves) Close() {
	if h.file != nil {
		h.file.Close()
		h.file = nil
	}
}

// make replaces the file by one of the full length, with the half in it: until then the old one counts.
func (h *Halves) make(half []byte, offset int64) error {
	dir := filepath.Dir(h.path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	data := make([]byte, 2*h.size)
	copy(data[offset:], half)
	if err := swap(h.path, data, 0o640); err != nil {
		return err
	}
	h.number++
	return SyncDir(dir)
}
