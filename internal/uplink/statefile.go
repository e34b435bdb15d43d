package uplink

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"linli/internal/inplace"
)

const (
	stateName  = "uplink.state"
	stateMagic = "LUS1"
	stateMost  = 16<<10 - 20 // more bytes than the longest text has
	stateSlow  = 10 * time.Second
)

// stateFile keeps the newest state on the disk without anybody waiting for the disk: in halves, or, of earlier versions, as
// the text alone. load is called before start; the other methods belong to one goroutine.
type stateFile struct {
	file *inplace.Halves // the writing goroutine's own, between start and stop

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
	return &stateFile{
		file: inplace.NewHalves(filepath.Join(dir, stateName), stateMagic, stateMost),
		work: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
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
	text, _, err := f.file.Read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeState(text)
}

// Taken returns how far an uplink with that state directory had come, at least: it has taken the frames before next of the
// journal of that epoch, and may have sent them. next is 0 where there is no state. It may be called beside a running gateway.
func Taken(stateDir string) (epoch, next uint64, err error) {
	f := newStateFile(stateDir)
	s, err := f.read()
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", f.file.Path(), err)
	}
	if s == nil {
		return 0, 0, nil
	}
	return s.epoch, s.next, nil
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
		return fmt.Errorf("write %s: the disk has not answered for %v", f.file.Path(), stateSlow), true
	}
	return nil, false
}

// run writes what it is given.
func (f *stateFile) run() {
	defer close(f.stopped)
	defer f.file.Close()
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
		err := f.file.Write(text)
		f.mu.Lock()
		f.since, f.done, f.err = time.Time{}, true, err
		f.mu.Unlock()
		close(ended)
	}
}
