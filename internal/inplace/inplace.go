// Package inplace writes small pieces into files of known length with as few bytes at the block device as can be.
//
// A page of 4 KiB is the least that the kernel writes through its cache, and the first write into a page that is only
// allocated costs ext4 or XFS an entry in their journal, 12 KiB and more, at the next sync. So on these two a File
//
//   - writes past the cache (O_DIRECT), in sectors of 512 bytes: at the end of a log that grows by a kilobyte a second
//     this is a third of the bytes;
//   - writes zeros ahead, 64 KiB at a time, so that the pages that follow need no such entry any more.
//
// Elsewhere, on disks with larger sectors, and once Truncate was called, it is an ordinary file. What was written is the
// same in any case, and so is what a power cut can do to it: sectors that were written since the last Sync may be old, new
// or, where zeros went ahead, zero.
//
// A File belongs to one goroutine, except that ReadAt may be called from any.
package inplace

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sector = 512
	page   = 4096
	ahead  = 64 << 10 // bytes of zeros that are written ahead
	kept   = 4 * ahead
)

// File is an open file.
type File struct {
	file   *os.File
	direct *os.File // the same without the cache; nil: not used
	size   int64    // of the file, where direct is used
	filled int64    // everything before has been written once
	end    int64    // nothing but zeros behind
	buf    []byte   // aligned to a page
	last   [sector]byte
	lastAt int64 // where last is in the file; -1: nowhere
}

// Create makes a new file for reading and writing and fails where there is one (os.O_EXCL).
func Create(path string, perm os.FileMode) (*File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, perm)
	if err != nil {
		return nil, err
	}
	return &File{file: f, lastAt: -1}, nil
}

// Open opens a file that has its length, all of it written.
func Open(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	o := &File{file: f, lastAt: -1, size: info.Size(), filled: info.Size(), end: info.Size()}
	if info.Mode().IsRegular() {
		o.openDirect()
	}
	return o, nil
}

// openDirect opens the file a second time, without the cache, where that is worth it.
func (f *File) openDirect() {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.file.Fd()), &fs) != nil || fs.Type != unix.EXT4_SUPER_MAGIC && fs.Type != unix.XFS_SUPER_MAGIC {
		return
	}
	direct, err := os.OpenFile(f.file.Name(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return
	}
	is, err1 := f.file.Stat()
	at, err2 := direct.Stat()
	if err1 != nil || err2 != nil || !os.SameFile(is, at) {
		direct.Close()
		return
	}
	f.direct = direct
}

// Allocate makes a new, empty file size bytes long and reserves the space where the file system can: where it cannot, a
// write may find the disk full.
func (f *File) Allocate(size int64) error {
	for {
		err := unix.Fallocate(int(f.file.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return f.file.Truncate(size)
		case err != nil:
			return err
		}
		f.size = size
		f.openDirect()
		return nil
	}
}

// ReadAt is io.ReaderAt.
func (f *File) ReadAt(p []byte, at int64) (int, error) { return f.file.ReadAt(p, at) }

// WriteAt is io.WriterAt. After an error nobody knows what is in the sectors that were to be written.
func (f *File) WriteAt(p []byte, at int64) (int, error) {
	from, end := at&^(sector-1), (at+int64(len(p))+sector-1)&^(sector-1)
	if f.direct == nil || end > f.size || len(p) == 0 {
		return f.file.WriteAt(p, at)
	}
	all := end
	if end > f.filled {
		all = min((end+page-1)&^(page-1)+ahead, f.size&^(sector-1))
	}
	b := f.buffer(int(all - from))
	if err := f.fill(b, from, at, at+int64(len(p)), end); err != nil {
		return 0, err
	}
	copy(b[at-from:], p)
	_, err := f.direct.WriteAt(b, from)
	if errors.Is(err, unix.EINVAL) {
		// Larger sectors, or a file system that does not do this. What there is of it now is in no cache.
		f.ordinary()
		return f.file.WriteAt(p, at)
	}
	if err != nil {
		f.lastAt = -1
		return 0, err
	}
	f.filled, f.end = max(f.filled, all), max(f.end, at+int64(len(p)))
	f.lastAt = end - sector
	copy(f.last[:], b[f.lastAt-from:])
	return len(p), nil
}

// fill puts into b, which begins at from, what stays as it is of the sectors that are written in part.
func (f *File) fill(b []byte, from, at, to, end int64) error {
	clear(b[to-from:])
	if to < end && to < f.end {
		if err := f.sector(b[end-sector-from:], end-sector); err != nil {
			return err
		}
	}
	if from < at {
		return f.sector(b, from)
	}
	return nil
}

// sector reads the sector at the offset.
func (f *File) sector(b []byte, at int64) error {
	if at == f.lastAt {
		copy(b, f.last[:])
		return nil
	}
	_, err := f.file.ReadAt(b[:sector], at)
	return err
}

// buffer returns n bytes that begin on a page.
func (f *File) buffer(n int) []byte {
	if n > len(f.buf) || len(f.buf) > kept && n <= kept {
		b := make([]byte, max(n, ahead+2*page)+page)
		skip := int(-uintptr(unsafe.Pointer(&b[0])) & (page - 1))
		f.buf = b[skip : len(b)-page+skip]
	}
	return f.buf[:n]
}

// ordinary ends writing past the cache.
func (f *File) ordinary() {
	if f.direct != nil {
		f.direct.Close() // Nothing is kept back in it.
		f.direct, f.buf = nil, nil
	}
}

// Truncate changes the length.
func (f *File) Truncate(size int64) error {
	f.ordinary()
	return f.file.Truncate(size)
}

// Sync makes what was written survive a power cut (fdatasync).
func (f *File) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.file.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Stat is that of os.File.
func (f *File) Stat() (os.FileInfo, error) { return f.file.Stat() }

// Close closes the file.
func (f *File) Close() error {
	f.ordinary()
	return f.file.Close()
}
