package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"linli/internal/alert"
)

const (
	reserveName  = "reserve"
	reserveBytes = 2 << 20 // some thousands of changes of alerts
	// reserveFull: with less than this free the disk counts as full; reserveAgain: so much more than the reserve must be free
	// for it to be made.
	reserveFull, reserveAgain = 1 << 20, 8 << 20
)

// reserve is a file that takes space beside the alert book, so that there is some to be had when somebody else fills the
// disk: it is removed then, and made again once there is space. The journal has a reserve of its own.
type reserve struct {
	path    string
	waiting func() int   // changes of alerts that are not on the disk
	free    func() int64 // bytes that are free on the disk, negative where that is not known
	log     *zap.Logger

	waited bool // at the last look
}

func newReserve(dir string, book *alert.Book, log *zap.Logger) *reserve {
	return &reserve{path: filepath.Join(dir, reserveName), waiting: func() int { return book.Stats().Waiting }, free: func() int64 { return freeBytes(dir) }, log: log}
}

// freeBytes returns how much of the file system that holds dir is free for the gateway, -1 where that is not known.
func freeBytes(dir string) int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return -1
	}
	return int64(fs.Bavail) * int64(fs.Bsize)
}

// run keeps the reserve until ctx ends.
func (r *reserve) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		r.look()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look releases the reserve where alerts wait for a disk that is full, and makes it where there is none and space.
func (r *reserve) look() {
	waiting := r.waiting() > 0
	waited := r.waited
	r.waited = waiting // Every change waits for a moment; two looks in a row are trouble.
	free := r.free()
	switch {
	case waiting && waited && free >= 0 && free < reserveFull:
		releaseReserve(filepath.Dir(r.path), r.log)
	case !waiting && free >= reserveBytes+reserveAgain:
		if _, err := os.Lstat(r.path); errors.Is(err, fs.ErrNotExist) {
			if err := makeReserve(r.path); err != nil {
				_ = os.Remove(r.path) // It is tried again.
			}
		}
	}
}

// makeReserve writes a file of reserveBytes.
func makeReserve(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		_, err = f.Write(make([]byte, reserveBytes))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// releaseReserve removes the reserve in a state directory and reports whether that has made space.
func releaseReserve(dir string, log *zap.Logger) bool {
	path := filepath.Join(dir, reserveName)
	if err := os.Remove(path); err != nil {
		return false
	}
	log.Warn("the disk is full: the space reserved for alerts is released", zap.String("file", path))
	return true
}
