package journal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"linli/internal/inplace"
)

// fileSystem is what the journal asks of files; the tests have others that fail and crash. Paths are joined by the
// caller. One goroutine changes segments at a time and one rollups; reading goes on meanwhile.
type fileSystem interface {
	MkdirAll(dir string) error
	// Lock takes the lock file at path, or fails when another process has it. It ends with the process.
	Lock(path string) (io.Closer, error)
	// List returns the names in dir, in no order.
	List(dir string) ([]string, error)
	// Create makes a new, empty file for reading and writing, and fails when there is one of that name.
	Create(path string) (file, error)
	// Open opens an existing file, for writing too when write is set.
	Open(path string, write bool) (file, error)
	// Rename takes the place of a file that is there.
	Rename(from, to string) error
	// Gone says that there is certainly no file at path.
	Gone(path string) bool
	Remove(path string) error
	// SyncDir makes creations, removals and renames in dir survive a power cut.
	SyncDir(dir string) error
}

// file is an open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	// Allocate makes the file size bytes long and reserves the space where the file system can.
	Allocate(size int64) error
	Truncate(size int64) error
	// Sync makes what was written survive a power cut. After it failed the file is not to be used again: the kernel
	// may have dropped what it could not write, and say yes the next time.
	Sync() error
	Size() (int64, error)
	Close() error
}

// osFS is the real file system.
type osFS struct{}

func (osFS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o750) }

func (osFS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s (another process has the journal open): %w", path, err)
	}
	return f, nil
}

func (osFS) List(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (osFS) Create(path string) (file, error) {
	f, err := inplace.Create(path, 0o640)
	if err != nil {
		return nil, err
	}
	return newFile{f}, nil
}

func (osFS) Open(path string, write bool) (file, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Gone(path string) bool {
	_, err := os.Lstat(path)
	return notExist(err)
}

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) SyncDir(dir string) error { return inplace.SyncDir(dir) }

// newFile is a file that Create has made.
type newFile struct{ *inplace.File }

func (f newFile) Size() (int64, error) { return sizeOf(f) }

// osFile is a file that was there.
type osFile struct{ *os.File }

// Allocate is only asked of files that were just made.
func (f osFile) Allocate(int64) error { return errors.ErrUnsupported }

func (f osFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f osFile) Size() (int64, error) { return sizeOf(f) }

func sizeOf(f interface{ Stat() (os.FileInfo, error) }) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}
