// Package store opens, migrates and guards the SQLite files that hold what must survive a power cut: alerts, users.
//
// It guarantees that a file returned by Open has the schema asked for and passed SQLite's quick check, that a
// transaction for which Write returned nil is on the disk (WAL with synchronous=FULL), and that nothing is ever
// deleted: a damaged file is set aside under a new name, together with its WAL, and a fresh one takes its place. The
// caller finds the new name in DB.Damaged, and is expected to log it and show it. Only damage leads there: a full
// disk, a missing permission or a file of a newer program are errors, and the file stays where it is.
//
// The schema version is SQLite's user_version: the number of migrations that have been applied. Each migration runs
// in one transaction together with its version. Migrations are only ever appended; a file whose version is higher
// than the number of migrations was written by a newer program and is refused with a *NewerError.
//
// Files beside "x.db": "x.db-wal" (and "x.db-shm", of other programs) belong to SQLite and must be copied and moved with
// it. While it is open no other process can open it; OpenReadOnly reads a copy then. Set aside:
// "x.db.damaged-20060102T150405Z" (with "-wal" and "-shm" appended as SQLite expects, so that its own tools can try
// a recovery on the copy). Directories are created with mode 0750, files with 0600.
//
// A DB is safe for concurrent use: there is one writing connection, for which writers queue, and a few readers that
// see the last committed state and never wait for the writer. Nothing here retries and nothing logs. A hanging disk
// hangs the call; who cannot wait calls from a goroutine of its own.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"modernc.org/sqlite"
)

// DB is one open SQLite file.
type DB struct {
	// Path is the file, absolute.
	Path string
	// Damaged is the name that a damaged file was set aside under by Open; empty where the file was sound or new.
	Damaged string
	// Cause says what was wrong with the damaged file; nil where Damaged is empty.
	Cause error

	writer *sql.DB // one connection; transactions begin immediately, so that none fails halfway for want of the lock
	reader *sql.DB // query only
}

// NewerError says that a file was written by a program that knows more migrations than this one.
type NewerError struct {
	Path        string
	Have, Known int // schema version of the file, and the highest known here
}

// Error names the file and both versions.
func (e *NewerError) Error() string {
	return fmt.Sprintf("%s has schema version %d, this program knows versions up to %d: it was written by a newer version; install that one again, or restore a backup",
		e.Path, e.Have, e.Known)
}

// OlderError says that a file that is only to be read lacks migrations of this program.
type OlderError struct {
	Path       string
	Have, Want int // schema version of the file, and what this program reads
}

// Error names the file and both versions.
func (e *OlderError) Error() string {
	return fmt.Sprintf("%s has schema version %d, this program reads version %d: start the gateway of this version once, it brings the file forward",
		e.Path, e.Have, e.Want)
}

const (
	busyTimeout = 5 * time.Second // how long a connection waits for another process (the backup) to let go of the lock
	readers     = 4
	smallest    = 512 // bytes of SQLite's smallest page: no database is smaller
	// alone has SQLite keep the index of the WAL in our memory, and others out of the file. By itself it maps it from a file
	// beside the database, and a thread that touches that while the disk hangs stops in the middle of our code: with it
	// everything stops that the Go runtime wants to bring to a halt for a moment, which is the whole process.
	alone    = "&vfs=unix-excl"
	walLimit = 4 << 20 // bytes that the WAL is cut back to after a checkpoint; it can be larger during one
)

// Open opens the SQLite file at path, creating it and its directory where missing, checks it, and applies the
// migrations that it does not have yet.
func Open(path string, migrations []string) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	db, err := open(path, migrations)
	if isDamage(err) {
		cause := err
		aside, err := setAside(path, time.Now().UTC())
		if err != nil {
			return nil, fmt.Errorf("open store %s: damaged (%w), and setting it aside failed: %w", path, cause, err)
		}
		if db, err = open(path, migrations); err != nil {
			return nil, fmt.Errorf("open store %s after setting a damaged file aside as %s: %w", path, aside, err)
		}
		db.Damaged, db.Cause = aside, cause
		return db, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

// Replace puts a copy of the SQLite file from, with what is in its WAL, in the place of the file to, and returns the name
// under which that is kept; "" where there was none. Nobody may have to open. After a crash to is the old file or the new
// one; after an error it is the old one.
func Replace(from, to string) (before string, err error) {
	next := to + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next) // The first error is the one that says something.
		}
	}()
	// SQLite takes a file that is cut off for a new one.
	if info, err := os.Stat(from); err != nil {
		return "", err
	} else if info.Size() < smallest {
		return "", &damageError{fmt.Sprintf("%s is cut off after %d bytes", from, info.Size())}
	}
	db, err := sql.Open("sqlite", dsn(from)+"&mode=rw")
	if err != nil {
		return "", err
	}
	var sound string
	if err = db.QueryRow("PRAGMA quick_check(1)").Scan(&sound); err == nil && sound != "ok" {
		err = &damageError{sound}
	}
	if err == nil {
		_, err = db.Exec("VACUUM INTO ?", next)
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code()&0xff == 13 { // SQLITE_FULL
		err = errors.Join(err, syscall.ENOSPC)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return "", fmt.Errorf("copy %s: %w", from, err)
	}
	f, err := os.OpenFile(next, os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Sync(), f.Close())
	}
	if err != nil {
		return "", fmt.Errorf("copy %s: %w", from, err)
	}
	if before, err = settleWAL(to); err != nil {
		return "", fmt.Errorf("replace %s: %w", to, err)
	}
	if taken(to) {
		base := to + ".before-" + time.Now().UTC().Format("20060102T150405Z")
		before = base
		for n := 2; taken(before); n++ {
			before = base + "-" + strconv.Itoa(n)
		}
		// A second name first, so that there is a file at each moment.
		if os.Link(to, before) != nil { // not every file system has such
			if err := os.Rename(to, before); err != nil {
				return "", err
			}
		}
	}
	if err := os.Rename(next, to); err != nil {
		return "", err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return before, dir.Sync()
}

// settleWAL moves the WAL of a file into it, so that another file can take its place. A damaged file is set aside instead,
// under the name that it returns.
func settleWAL(path string) (aside string, err error) {
	if !taken(path + "-wal") {
		return "", nil
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return "", err
	}
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	err = errors.Join(err, db.Close())
	switch {
	case isDamage(err):
		return setAside(path, time.Now().UTC())
	case err == nil && taken(path+"-wal"):
		return "", errors.New("somebody has it open")
	}
	return "", err
}

// Write runs fn in a transaction on the writing connection and commits it. When it returns nil, the transaction is
// on the disk. After an error it must be taken as unknown whether it is.
func (d *DB) Write(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := d.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Reader returns the pool of reading connections. Writing through it is an error.
func (d *DB) Reader() *sql.DB { return d.reader }

// Close closes the file after moving the WAL into it.
func (d *DB) Close() error { return errors.Join(d.reader.Close(), d.writer.Close()) }

// damageError is damage that SQLite's own error codes do not show.
type damageError struct{ what string }

func (e *damageError) Error() string { return e.what }

// isDamage reports whether err says that the content of the file is wrong, as opposed to the file being out of reach.
func isDamage(err error) bool {
	if _, ok := errors.AsType[*damageError](err); ok {
		return true
	}
	const corrupt, notADatabase = 11, 26 // SQLITE_CORRUPT, SQLITE_NOTADB
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		primary := e.Code() & 0xff // the higher bits say where it was noticed
		return primary == corrupt || primary == notADatabase
	}
	return false
}

func open(path string, migrations []string) (_ *DB, err error) {
	created, err := prepare(path)
	if err != nil {
		return nil, err
	}
	d := &DB{Path: path}
	defer func() {
		if err == nil {
			return
		}
		_ = d.Close() // The first error is the one that says something.
		if info, err := os.Stat(path); created && err == nil && info.Size() == 0 {
			_ = os.Remove(path) // A full disk leaves no empty file behind: that would be damage next time.
		}
	}()
	if d.writer, err = sql.Open("sqlite", dsn(path, "journal_mode(WAL)", "synchronous(FULL)",
		"journal_size_limit("+strconv.Itoa(walLimit)+")")+alone+"&_txlock=immediate"); err != nil {
		return nil, err
	}
	d.writer.SetMaxOpenConns(1)
	if d.reader, err = sql.Open("sqlite", dsn(path, "query_only(1)")+alone); err != nil {
		return nil, err
	}
	d.reader.SetMaxOpenConns(readers)
	d.reader.SetMaxIdleConns(readers)
	if err := d.check(); err != nil {
		return nil, err
	}
	if err := d.migrate(migrations); err != nil {
		return nil, err
	}
	return d, nil
}

// prepare creates the file with our mode, since SQLite would use the umask's, and gives the WAL the mode of the file. It
// reports whether there was none before.
func prepare(path string) (created bool, err error) {
	_, err = os.Stat(path)
	created = errors.Is(err, os.ErrNotExist)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return created, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return created, err
		}
	}
	if info.Size() >= smallest {
		return created, nil
	}
	if info.Size() > 0 {
		// SQLite takes some of these for new files and writes over them.
		return created, &damageError{"the file is cut off after " + strconv.FormatInt(info.Size(), 10) + " bytes"}
	}
	// SQLite deletes a WAL that it finds beside an empty file. A file is never empty once it has a WAL, so somebody
	// or something cut it off, and what the WAL holds may be all that is left.
	if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
		return created, &damageError{"the file is empty but has a WAL of " + strconv.FormatInt(wal.Size(), 10) + " bytes"}
	}
	if !created {
		// One that we made has content within the same moment: this one has lost it.
		return false, &damageError{"the file is empty"}
	}
	return created, nil
}

func dsn(path string, pragmas ...string) string {
	q := "?_pragma=busy_timeout(" + strconv.FormatInt(busyTimeout.Milliseconds(), 10) + ")&_pragma=foreign_keys(1)"
	for _, p := range pragmas {
		q += "&_pragma=" + p
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path}).String() + q
}

// check runs SQLite's quick check: every page is reached and well formed, in time linear in the size of the file.
func (d *DB) check() error {
	// SQLite stays silently with its older journal where a file system has no shared memory: what Write promises
	// would still hold, but readers would wait for the writer.
	var mode string
	if err := d.writer.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("the file system does not support write-ahead logging (journal mode is %q)", mode)
	}
	rows, err := d.writer.Query("PRAGMA quick_check(1)")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return err
		}
		if s != "ok" {
			return &damageError{s}
		}
	}
	return rows.Err()
}

func (d *DB) migrate(migrations []string) error {
	var have int
	if err := d.writer.QueryRow("PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > len(migrations) {
		return &NewerError{Path: d.Path, Have: have, Known: len(migrations)}
	}
	for v := have; v < len(migrations); v++ {
		err := d.Write(context.Background(), func(tx *sql.Tx) error {
			if _, err := tx.Exec(migrations[v]); err != nil {
				return err
			}
			_, err := tx.Exec("PRAGMA user_version = " + strconv.Itoa(v+1))
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", v+1, err)
		}
	}
	return nil
}

// setAside renames the file and SQLite's files beside it and returns the new name. The file itself goes first: after
// a crash in between, the WAL left behind is recognised by prepare and set aside as well. The other way round, a
// file without its WAL could pass as sound while missing its last transactions.
func setAside(path string, now time.Time) (string, error) {
	base := path + ".damaged-" + now.Format("20060102T150405Z")
	aside := base
	for n := 2; taken(aside); n++ {
		aside = base + "-" + strconv.Itoa(n)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return aside, dir.Sync()
}

func taken(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, os.ErrNotExist)
}
