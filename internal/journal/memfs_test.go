package journal_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"linli/internal/journal"
)

var (
	errFault   = errors.New("injected fault")
	errCrashed = errors.New("crashed")
)

const blockBytes = 512

// memFS is a file system in memory that knows what a power cut would leave: of every block written and not synced
// either the old or the new contents, and of directory changes not synced any subset.
type memFS struct {
	mu      sync.Mutex
	cur     map[string]*inode
	durable map[string]*inode
	changes []dirChange

	ops      int    // operations so far
	failAt   int    // this operation fails, if not negative
	crashAt  int    // after this operation everything fails, if not negative
	failed   bool   // a fault has been injected
	capacity int64  // bytes, 0 for no bound
	full     bool   // writes, allocations and creations fail
	syncErr  bool   // every sync fails
	lastOp   string // the one that failed
}

type inode struct {
	data    []byte // what the kernel shows
	durable []byte // what the disk has
	dirty   map[int]bool
}

// dirChange is one change of a name not yet synced. A nil inode is a removal.
type dirChange struct {
	name string
	node *inode
}

func newMemFS() *memFS {
	return &memFS{cur: map[string]*inode{}, durable: map[string]*inode{}, failAt: -1, crashAt: -1}
}

// op counts an operation and says whether it fails.
func (m *memFS) op(name string) error {
	n := m.ops
	m.ops++
	if m.crashAt >= 0 && n > m.crashAt {
		return errCrashed
	}
	if n == m.failAt {
		m.failed, m.lastOp = true, name
		return errFault
	}
	return nil
}

// powerCut returns the file system as it would be found after a power cut now.
func (m *memFS) powerCut(r *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := maps.Clone(m.durable)
	for _, c := range m.changes {
		if r.IntN(2) == 0 {
			continue
		}
		if c.node == nil {
			delete(names, c.name)
		} else {
			names[c.name] = c.node
		}
	}
	out := newMemFS()
	for name, n := range names {
		size := len(n.durable)
		if r.IntN(2) == 0 {
			size = len(n.data)
		}
		data := make([]byte, size)
		copy(data, n.durable)
		for _, b := range slices.Sorted(maps.Keys(n.dirty)) {
			if lo, hi := b*blockBytes, min((b+1)*blockBytes, len(n.data), size); r.IntN(2) == 0 && lo < hi {
				copy(data[lo:hi], n.data[lo:hi])
			}
		}
		node := &inode{data: data, durable: slices.Clone(data), dirty: map[int]bool{}}
		out.cur[name], out.durable[name] = node, node
	}
	return out
}

// restart returns the file system as a new process finds it when the old one was killed.
func (m *memFS) restart() *memFS {
	m.failAt, m.crashAt = -1, -1
	return m
}

func (m *memFS) used() (n int64) {
	for _, x := range m.cur {
		n += int64(len(x.data))
	}
	return n
}

func (m *memFS) MkdirAll(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.op("mkdir")
}

func (m *memFS) Lock(string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return io.NopCloser(nil), m.op("lock")
}

func (m *memFS) List(string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.op("list"); err != nil {
		return nil, err
	}
	var names []string
	for name := range m.cur {
		names = append(names, filepath.Base(name))
	}
	return names, nil
}

func (m *memFS) Create(path string) (journal.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.op("create"); err != nil {
		return nil, err
	}
	if m.cur[path] != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: syscall.EEXIST}
	}
	if m.full {
		return nil, &fs.PathError{Op: "create", Path: path, Err: syscall.ENOSPC}
	}
	n := &inode{dirty: map[int]bool{}}
	m.cur[path] = n
	m.changes = append(m.changes, dirChange{path, n})
	return &memFile{m, n}, nil
}

func (m *memFS) Open(path string, _ bool) (journal.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.op("open"); err != nil {
		return nil, err
	}
	if m.cur[path] == nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	return &memFile{m, m.cur[path]}, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.op("rename"); err != nil {
		return err
	}
	n := m.cur[from]
	delete(m.cur, from)
	m.cur[to] = n
	m.changes = append(m.changes, dirChange{to, n}, dirChange{from, nil})
	return nil
}

func (m *memFS) Gone(path string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cur[path] == nil
}

func (m *memFS) Remove(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.op("remove"); err != nil {
		return err
	}
	if m.cur[path] == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: syscall.ENOENT}
	}
	delete(m.cur, path)
	m.changes = append(m.changes, dirChange{path, nil})
	return nil
}

func (m *memFS) SyncDir(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.op("syncdir"); err != nil {
		return err
	}
	if m.syncErr {
		return errFault
	}
	m.durable = maps.Clone(m.cur)
	m.changes = nil
	return nil
}

type memFile struct {
	fs   *memFS
	node *inode
}

func (f *memFile) ReadAt(b []byte, at int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.op("read"); err != nil {
		return 0, err
	}
	if at >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, at int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.op("write")
	if errors.Is(err, errCrashed) {
		return 0, err
	}
	if f.fs.full {
		return 0, syscall.ENOSPC
	}
	if grow := int(at) + len(b) - len(f.node.data); f.fs.capacity > 0 && grow > 0 && f.fs.used()+int64(grow) > f.fs.capacity {
		return 0, syscall.ENOSPC
	}
	if err != nil {
		b = b[:len(b)/2] // a short write
	}
	f.resize(max(len(f.node.data), int(at)+len(b)))
	copy(f.node.data[at:], b)
	for k := int(at) / blockBytes; k <= (int(at)+len(b))/blockBytes; k++ {
		f.node.dirty[k] = true
	}
	return len(b), err
}

func (f *memFile) resize(n int) {
	if n <= len(f.node.data) {
		f.node.data = f.node.data[:n:n]
		return
	}
	f.node.data = append(f.node.data, make([]byte, n-len(f.node.data))...)
}

func (f *memFile) Allocate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.op("allocate"); err != nil {
		return err
	}
	if f.fs.full || f.fs.capacity > 0 && f.fs.used()+size > f.fs.capacity {
		return syscall.ENOSPC
	}
	f.resize(int(size))
	return nil
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.op("truncate"); err != nil {
		return err
	}
	f.resize(int(size))
	return nil
}

// Sync that fails behaves as Linux does: the blocks count as clean although the disk does not have them.
func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.op("sync")
	if errors.Is(err, errCrashed) {
		return err
	}
	if f.fs.syncErr {
		err = errFault
	}
	if err == nil {
		size := len(f.node.data)
		old := f.node.durable
		f.node.durable = make([]byte, size)
		copy(f.node.durable, old)
		for b := range f.node.dirty {
			if lo, hi := b*blockBytes, min((b+1)*blockBytes, size); lo < hi {
				copy(f.node.durable[lo:hi], f.node.data[lo:hi])
			}
		}
	}
	clear(f.node.dirty)
	return err
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.node.data)), f.fs.op("size")
}

func (f *memFile) Close() error { return nil }
