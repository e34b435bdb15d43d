package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"go.uber.org/zap"

	"linli/internal/inplace"
	"linli/internal/store"
)

// bookName is the alert book's file in a state directory.
const bookName = "alerts.db"

// copiedName is the file in memory that says that the alert book there began as the one of the disk, so that it may take
// its place again.
const copiedName = "copied"

// memoryDir returns the directory in memory that stands in for the state directory dir: always the same one, so that a
// process that has ended, in whatever way, leaves there what the next one goes on with. It goes with the box.
func memoryDir(dir string) string {
	parent := os.TempDir()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm" // in memory on every Linux
	}
	name := fnv.New64a()
	name.Write([]byte(dir))
	return filepath.Join(parent, fmt.Sprintf("linli-%016x", name.Sum64()))
}

// ourOwn reports whether a directory can hold only what we have written: everybody may make directories beside it.
func ourOwn(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not ours alone", dir)
	}
	return nil
}

// copyState brings along into memory what is open and what is on: neither must be forgotten because the disk can only be
// read. What is in memory already, from a process before, is newer and stays.
func copyState(dir, memory string) error {
	if err := os.MkdirAll(memory, 0o750); err != nil {
		return err
	}
	if err := ourOwn(memory); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(memory, bookName)); err == nil {
		return nil
	}
	var errs error
	for _, name := range []string{leftName, ruleStateName} {
		if err := copyFile(filepath.Join(dir, name), filepath.Join(memory, name)); err != nil {
			errs = errors.Join(errs, err) // The alerts matter more.
		}
	}
	err := os.WriteFile(filepath.Join(memory, copiedName), nil, 0o600)
	for _, name := range []string{bookName + "-wal", bookName} { // The file last: it says that the copy is whole.
		if err == nil {
			err = copyFile(filepath.Join(dir, name), filepath.Join(memory, name))
		}
	}
	if err != nil {
		_ = os.Remove(filepath.Join(memory, copiedName))
		_ = os.Remove(filepath.Join(memory, bookName+"-wal"))
	}
	return errors.Join(errs, err)
}

// copyFile copies a file, where there is one.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return inplace.Replace(to, data, 0o640)
}

// takeBack puts in the state directory dir what a process before has kept in memory, because dir could not be used then.
// It is called while dir is locked and none of its files is open. After an error everything is in memory still.
func takeBack(dir, memory string, log *zap.Logger) error {
	if _, err := os.Lstat(memory); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := ourOwn(memory); err != nil {
		log.Error("what the last run has kept in memory is not used", zap.Error(err))
		return nil
	}
	_, err := os.Stat(filepath.Join(memory, copiedName))
	descends := err == nil
	_, err = os.Stat(filepath.Join(memory, bookName))
	if there := err == nil; there && descends {
		before, err := store.Replace(filepath.Join(memory, bookName), filepath.Join(dir, bookName))
		if err != nil {
			return fmt.Errorf("take the alerts over from %s: %w", memory, err)
		}
		log.Warn("the alerts of the time in memory are taken over", zap.String("memory", memory), zap.String("before", before))
	} else if there {
		// It does not know what the book of the disk knows, which could not be read then.
		kept := filepath.Join(dir, "alerts-of-memory.db")
		if _, err := store.Replace(filepath.Join(memory, bookName), kept); err != nil {
			return fmt.Errorf("keep the alerts of %s: %w", memory, err)
		}
		log.Error("the alerts of the time in memory began without those of the disk; they are kept in a file of their own", zap.String("file", kept))
	}
	for _, name := range []string{leftName, ruleStateName} {
		if err := copyFile(filepath.Join(memory, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("take over from %s: %w", memory, err)
		}
	}
	return os.RemoveAll(memory)
}
