package testservers

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// initramfs writes an archive that the Linux kernel unpacks as its first root file system: cpio in the "newc" form of
// the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. It is not compressed: an emulated processor
// unpacks more slowly than qemu copies. An error sticks and is returned by close.
type initramfs struct {
	file   *os.File
	w      *bufio.Writer
	dirs   map[string]bool // those that are in the archive
	inodes int
	err    error
}

func createInitramfs(name string) (*initramfs, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	a := &initramfs{file: f, w: bufio.NewWriterSize(f, 1<<20), dirs: map[string]bool{"/": true}}
	for _, dir := range []string{"/bin", "/dev", "/etc", "/proc", "/sys", "/tmp", "/var"} {
		a.dir(dir)
	}
	// The kernel gives the first process this device as its standard streams: character device 5, 1.
	a.entry("/dev/console", 0o020600, 0, nil, 5, 1)
	return a, nil
}

// dir adds a directory and those above it.
func (a *initramfs) dir(name string) {
	if a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, 0o040755, 0, nil, 0, 0)
}

// add adds a file with the given contents.
func (a *initramfs) add(name string, perm fs.FileMode, contents []byte) {
	a.dir(path.Dir(name))
	a.entry(name, 0o100000|uint32(perm.Perm()), int64(len(contents)), bytes.NewReader(contents), 0, 0)
}

// addFile adds a file of the host with its permissions.
func (a *initramfs) addFile(name, host string) {
	f, err := os.Open(host)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		a.fail(err)
	case !info.Mode().IsRegular():
		a.fail(fmt.Errorf("%s is not a regular file", host))
	default:
		a.dir(path.Dir(name))
		a.entry(name, 0o100000|uint32(info.Mode().Perm()), info.Size(), f, 0, 0)
	}
}

// entry writes one header, name and contents; name and contents are padded to four bytes.
func (a *initramfs) entry(name string, mode uint32, size int64, contents io.Reader, major, minor int) {
	if a.err != nil {
		return
	}
	if size > 1<<31 {
		a.fail(fmt.Errorf("%s is too long for an initramfs: %d bytes", name, size))
		return
	}
	a.inodes++
	const links, uid, gid, mtime, check = 1, 0, 0, 0, 0
	name = path.Clean("/" + name)[1:] // names are relative to the root
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inodes, mode, uid, gid, links, mtime, size, 0, 0, major, minor, len(name)+1, check, name)
	_, err := a.w.WriteString(head)
	a.fail(err)
	a.pad(len(head))
	if size > 0 {
		_, err = io.CopyN(a.w, contents, size)
		a.fail(err)
		a.pad(int(size))
	}
}

func (a *initramfs) pad(n int) {
	_, err := a.w.WriteString("\x00\x00\x00"[:-n&3])
	a.fail(err)
}

func (a *initramfs) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// close ends the archive and returns the first error there was.
func (a *initramfs) close() error {
	a.entry("TRAILER!!!", 0, 0, nil, 0, 0)
	a.fail(a.w.Flush())
	a.fail(a.file.Close())
	return a.err
}
