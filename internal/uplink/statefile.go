package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"linli/internal/inplace"
)

const (
	stateName  = "uplink.state"
	stateMagic = "LUS1"
	stateHead  = 20
	stateHalf  = 16 << 10 // bytes of a half: more than the longest text
	stateSlow  = 10 * time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stateFile keeps the newest state on the disk without anybody waiting for the disk. It is written every few seconds for
// years, so it is written in place: two halves, of which the newer one that is whole counts and the other one is written
// over. After a power cut it is the state before or the new one. Its length is there from the start, so a full disk does
// not keep it from being written.
//
//	0        4         8           16        20     20+n
//	+--------+---------+-----------+---------+------+------+
//	|LUS1    | CRC-32C | number    | length n| text | ...  |  of each half
//	+--------+---------+-----------+---------+------+------+
//
// The CRC covers number, length and text. Integers are little-endian. What follows the text says nothing. A file of
// another length is the text alone, of earlier versions.
//
// load is called before start; the other methods belong to one goroutine.
type stateFile struct {
	path string

	// The writing goroutine's own, between start and stop.
	file   *inplace.File // nil where it could not be opened or made yet
	number uint64        // of the half written last

	work    chan struct{} // there is something in next, or stopped
	stopped chan struct{} // the writing goroutine has ended

	mu    sync.Mutex    // guards what follows
	next  []byte        // text to be written; nil: none
	ended chan struct{} // closed when next has been written, or that has failed
	since time.Time     // when writing began; zero: nothing is being written
	told  bool          // the writing that goes on has been reported as slow
	done  bool          // something was written, or failed, since outcome was asked last
	err   error         // how that went
	end   bool
}

func newStateFile(dir string) *stateFile {
	return &stateFile{path: filepath.Join(dir, stateName), work: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// load reads the state of the journal with this epoch. Without a state, or with one of another journal or a damaged one,
// it returns an error or nil and a state in which nothing is acknowledged: frames may go out twice, none is skipped.
func (f *stateFile) load(epoch uint64) (*state, error) {
	fresh := &state{epoch: epoch, next: 1}
	s, err := f.read()
	if err != nil || s == nil || s.epoch != epoch {
		return fresh, err
	}
	return s, nil
}

// read returns what is in the file, nil where there is none.
func (f *stateFile) read() (*state, error) {
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text := b
	if len(b) == 2*stateHalf {
		if text, f.number = newerHalf(b); f.number == 0 {
			return nil, fmt.Errorf("%w: neither half of it is whole", errState)
		}
	}
	return decodeState(text)
}

// Taken returns how far an uplink with that state directory had come, at least: it has taken the frames before next of the
// journal of that epoch, and may have sent them. next is 0 where there is no state. It may be called beside a running gateway.
func Taken(stateDir string) (epoch, next uint64, err error) {
	f := newStateFile(stateDir)
	s, err := f.read()
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", f.path, err)
	}
	if s == nil {
		return 0, 0, nil
	}
	return s.epoch, s.next, nil
}

// newerHalf returns the text of the newer whole half and its number, 0 for none.
func newerHalf(b []byte) (text []byte, number uint64) {
	for _, half := range [][]byte{b[:stateHalf], b[stateHalf:]} {
		n := binary.LittleEndian.Uint32(half[16:])
		if string(half[:4]) != stateMagic || n > stateHalf-stateHead {
			continue
		}
		half = half[:stateHead+n]
		if nr := binary.LittleEndian.Uint64(half[8:]); nr > number && crc32.Checksum(half[8:], castagnoli) == binary.LittleEndian.Uint32(half[4:]) {
			text, number = half[stateHead:], nr
		}
	}
	return text, number
}

// start begins the goroutine that writes.
func (f *stateFile) start() { go f.run() }

// stop waits until everything is written, or has failed, for limit at most, and ends the goroutine. One that the disk
// holds ends when the disk lets it go.
func (f *stateFile) stop(limit time.Duration) {
	f.mu.Lock()
	f.end = true
	f.mu.Unlock()
	f.wake()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-f.stopped:
	case <-timeout.C:
	}
}

// put has the text written; one that still waits is forgotten. The channel is closed when this text, or one after it, has
// been written, or that has failed.
func (f *stateFile) put(text []byte) <-chan struct{} {
	f.mu.Lock()
	f.next = text
	if f.ended == nil {
		f.ended = make(chan struct{})
	}
	ended := f.ended
	f.mu.Unlock()
	f.wake()
	return ended
}

func (f *stateFile) wake() {
	select {
	case f.work <- struct{}{}:
	default:
	}
}

// outcome returns how the last writing went, once; known is false where there is no news. A writing that takes long is
// told as an error too, and how it ends after it.
func (f *stateFile) outcome() (err error, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		f.done = false
		return f.err, true
	}
	if !f.told && !f.since.IsZero() && time.Since(f.since) > stateSlow {
		f.told = true
		return fmt.Errorf("write %s: the disk has not answered for %v", f.path, stateSlow), true
	}
	return nil, false
}

// run writes what it is given.
func (f *stateFile) run() {
	defer close(f.stopped)
	defer f.close()
	for {
		f.mu.Lock()
		text, ended, end := f.next, f.ended, f.end
		f.next, f.ended = nil, nil
		if text != nil {
			f.since, f.told = time.Now(), false
		}
		f.mu.Unlock()
		if text == nil {
			if end {
				return
			}
			<-f.work
			continue
		}
		err := f.write(text)
		f.mu.Lock()
		f.since, f.done, f.err = time.Time{}, true, err
		f.mu.Unlock()
		close(ended)
	}
}

// write puts a text into the file, and the file at its place where it is not there.
func (f *stateFile) write(text []byte) error {
	if len(text) > stateHalf-stateHead {
		return fmt.Errorf("write %s: %d bytes, there is room for %d", f.path, len(text), stateHalf-stateHead)
	}
	half := append([]byte(stateMagic), 0, 0, 0, 0)
	half = binary.LittleEndian.AppendUint64(half, f.number+1)
	half = binary.LittleEndian.AppendUint32(half, uint32(len(text)))
	half = append(half, text...)
	binary.LittleEndian.PutUint32(half[4:], crc32.Checksum(half[8:], castagnoli))
	offset := int64((f.number+1)%2) * stateHalf
	var err error
	if !f.there() {
		err = f.make(half, offset)
	} else if _, err = f.file.WriteAt(half, offset); err == nil {
		if err = f.file.Sync(); err == nil {
			f.number++ // Not after an error: the same half is to be written over then, and not the last good one.
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	return nil
}

// there opens the file where that is not done yet, and reports whether it is one to be written in place: somebody may have
// deleted it meanwhile.
func (f *stateFile) there() bool {
	if f.file == nil {
		file, err := inplace.Open(f.path)
		if err != nil {
			return false
		}
		f.file = file
	}
	is, err := f.file.Stat()
	at, err2 := os.Lstat(f.path)
	if err == nil && err2 == nil && os.SameFile(is, at) && is.Mode().IsRegular() && is.Size() == 2*stateHalf {
		return true
	}
	f.close()
	return false
}

// close closes the file where it is open: nothing is kept back in it.
func (f *stateFile) close() {
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

// make replaces the file by one of the full length, with the half in it: until then the old one counts.
func (f *stateFile) make(half []byte, offset int64) error {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	data := make([]byte, 2*stateHalf)
	copy(data[offset:], half)
	// One name, so that a process that is killed here leaves one file behind at most, which the next one writes over.
	file, err := os.OpenFile(f.path+".new", os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	if _, err = file.Write(data); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(file.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return errors.Join(err, file.Close())
	}
	f.number++
	if err := file.Close(); err != nil {
		return err
	}
	return syncDir(dir)
}
