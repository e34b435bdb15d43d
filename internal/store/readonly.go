package store

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
)

// OpenReadOnly opens a file that another process may have open and be writing, for reading alone, and checks nothing but
// that its schema has the given version (NewerError, OlderError). Where another process has it open, what is read is the
// file as it was when it was opened, from a copy. A file that does not exist is an error. The caller closes it.
func OpenReadOnly(path string, version int) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db, err := readOnly(path, version)
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code()&0xff == 5 { // SQLITE_BUSY
		db, err = readCopy(path, version)
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

func readOnly(path string, version int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(path, "busy_timeout(200)", "query_only(1)")+"&mode=ro")
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	db.SetMaxOpenConns(readers)
	var have int
	err = db.QueryRow("PRAGMA user_version").Scan(&have)
	switch {
	case err != nil:
		err = fmt.Errorf("open store %s: %w", path, err)
	case have > version:
		err = &NewerError{Path: path, Have: have, Known: version}
	case have < version:
		err = &OlderError{Path: path, Have: have, Want: version}
	}
	if err != nil {
		_ = db.Close() // The first error is the one that says something.
		return nil, err
	}
	return db, nil
}

// readCopy opens a copy, which is gone when it is closed, whatever happens.
func readCopy(path string, version int) (*sql.DB, error) {
	dir, err := os.MkdirTemp("", "linli-read-")
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	to := filepath.Join(dir, filepath.Base(path))
	if err := copyRunning(path, to); err != nil {
		return nil, fmt.Errorf("open store %s: copy it: %w", path, err)
	}
	// What is in the WAL moves into the file, so that one connection needs only one open file.
	merged, err := sql.Open("sqlite", dsn(to, "journal_mode(DELETE)"))
	if err == nil {
		err = errors.Join(merged.Ping(), merged.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: read its copy: %w", path, err)
	}
	db, err := readOnly(to, version)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // The one that is open: another one would not find the file.
	return db, nil
}

// copyRunning copies a file and its WAL while somebody writes them. The copy is good where the WAL did not begin anew
// meanwhile: then everything that a checkpoint may have moved into the file since is in the WAL too.
func copyRunning(from, to string) error {
	for range 20 {
		before, err := walHead(from)
		if err != nil {
			return err
		}
		if err := copyFile(from, to); err != nil {
			return err
		}
		if err := copyFile(from+"-wal", to+"-wal"); err != nil {
			return err
		}
		after, err := walHead(to)
		if err != nil {
			return err
		}
		if bytes.Equal(before, after) {
			return nil
		}
	}
	return errors.New("it is written too fast")
}

// walHead returns what names the present WAL of a file; nothing where there is none.
func walHead(path string) ([]byte, error) {
	f, err := os.Open(path + "-wal")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 32)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return head[:n], err
}

// copyFile copies a file; where there is none, there is none after it.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
