package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/drivers/modbus"
	"linli/internal/inplace"
)

const (
	// learnedHoles and learnedBytes bound what is kept of one bus.
	learnedHoles = 4096
	learnedBytes = 1 << 20
	// learnedRetry is how long a failing disk is left alone.
	learnedRetry = time.Minute
)

// learned keeps what the buses have learned about their units (registers that they refuse) in STATE/learned/BUS.json.
// Losing it costs some refused requests after the next start, nothing else: a file that is damaged or not ours is set
// aside and ignored, a disk that cannot be written leaves it in memory.
//
// run writes; the rest may be called from any goroutine.
type learned struct {
	dir  string
	log  *zap.Logger
	wake chan struct{}

	mu    sync.Mutex
	dirty map[string][]modbus.Hole // guarded by mu; by bus: not on the disk yet
}

// learnedFile is one file.
type learnedFile struct {
	Version int           `json:"version"`
	Holes   []modbus.Hole `json:"holes"`
}

// newLearned returns the memory of the buses of the gateway with the given state directory.
func newLearned(state string, log *zap.Logger) *learned {
	return &learned{dir: filepath.Join(state, "learned"), log: log, wake: make(chan struct{}, 1), dirty: map[string][]modbus.Hole{}}
}

// of returns the memory of one bus.
func (l *learned) of(bus string) modbus.Memory { return busMemory{l, bus} }

// busMemory is the memory of one bus.
type busMemory struct {
	l   *learned
	bus string
}

// Load reads what was learned before.
func (m busMemory) Load() []modbus.Hole { return m.l.load(m.bus) }

// Save keeps holes, in the background.
func (m busMemory) Save(holes []modbus.Hole) { m.l.save(m.bus, holes) }

func (l *learned) path(bus string) string { return filepath.Join(l.dir, bus+".json") }

func (l *learned) load(bus string) []modbus.Hole {
	path := l.path(bus)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var file learnedFile
	if err == nil {
		defer f.Close()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, learnedBytes+1)); err == nil {
			err = decodeLearned(data, &file)
		}
		if err != nil {
			err = errors.Join(err, os.Rename(path, path+".damaged"))
		}
	}
	if err != nil {
		l.log.Warn("what was learned about the bus cannot be read; learning anew", zap.String("bus", bus), zap.Error(err))
		return nil
	}
	return file.Holes
}

// decodeLearned reads a file and refuses whatever does not make sense.
func decodeLearned(data []byte, into *learnedFile) error {
	if len(data) > learnedBytes {
		return fmt.Errorf("larger than %d bytes", learnedBytes)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return err
	}
	if into.Version != 1 {
		return fmt.Errorf("version %d", into.Version)
	}
	if len(into.Holes) > learnedHoles {
		return fmt.Errorf("more than %d holes", learnedHoles)
	}
	for _, h := range into.Holes {
		hole := h.Count > 0 && h.Most == 0
		size := h.Count == 0 && h.Most > 0 && h.Most <= 2000 // bits in one read; registers have less
		if h.Address < 0 || h.Address > 1<<16 || h.Count > 1<<16 || h.Address+h.Count > 1<<16 || h.Table < 1 || h.Table > 4 || !hole && !size {
			return fmt.Errorf("hole %+v", h)
		}
	}
	return nil
}

func (l *learned) save(bus string, holes []modbus.Hole) {
	holes = append([]modbus.Hole{}, holes[:min(len(holes), learnedHoles)]...)
	l.mu.Lock()
	l.dirty[bus] = holes
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run writes what is saved until ctx ends, then what is left.
func (l *learned) run(ctx context.Context) error {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	failing := false
	for {
		err := l.flush()
		if err != nil {
			retry.Reset(learnedRetry)
			if !failing {
				l.log.Warn("what was learned about the buses cannot be written; it is kept in memory", zap.Error(err))
			}
		}
		failing = err != nil
		select {
		case <-l.wake:
		case <-retry.C:
		case <-ctx.Done():
			_ = l.flush() // Told above where the disk has been failing.
			return nil
		}
	}
}

// flush writes what is not on the disk.
func (l *learned) flush() error {
	l.mu.Lock()
	todo := l.dirty
	l.dirty = map[string][]modbus.Hole{}
	l.mu.Unlock()
	var errs []error
	for bus, holes := range todo {
		if err := l.write(bus, holes); err != nil {
			errs = append(errs, err)
			l.mu.Lock()
			if _, newer := l.dirty[bus]; !newer {
				l.dirty[bus] = holes
			}
			l.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// write replaces the file of a bus as a whole.
func (l *learned) write(bus string, holes []modbus.Hole) error {
	data, err := json.Marshal(learnedFile{Version: 1, Holes: holes})
	if err != nil {
		return err
	}
	return writeLearned(l.path(bus), data)
}

// writeLearned replaces a file of what was learned as a whole.
func writeLearned(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return inplace.Replace(path, data, 0o640)
}
