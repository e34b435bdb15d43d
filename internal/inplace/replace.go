package inplace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Replace writes a file anew: after a crash it is the old one or the new one. It is for what is written rarely, or grows.
// Of two that replace the same file at a time one may fail.
func Replace(path string, data []byte, perm os.FileMode) error {
	if err := swap(path, data, perm); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// swap puts a new file with these contents at the path.
func swap(path string, data []byte, perm os.FileMode) error {
	// One name, so that a process that is killed here leaves one file behind at most, which the next one writes over.
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// SyncDir has the names in a directory survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
