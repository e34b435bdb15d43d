package store_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"linli/internal/store"
)

// The test binary plays two other programs: one that commits until it is killed, one that has no right to write.
const (
	roleVar   = "LINLI_STORE_TEST_ROLE"
	pathVar   = "LINLI_STORE_TEST_PATH"
	writeRole = "write until killed"
	poorRole  = "open without rights"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case writeRole:
		writeUntilKilled(os.Getenv(pathVar))
	case poorRole:
		openWithoutRights(os.Getenv(pathVar))
	default:
		os.Exit(m.Run())
	}
}

var schema = []string{
	"CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT NOT NULL) STRICT",
	"CREATE TABLE u (n INTEGER REFERENCES t(n)) STRICT; CREATE INDEX u_n ON u(n)",
}

func open(t *testing.T, path string) *store.DB {
	t.Helper()
	db, err := store.Open(path, schema)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func insert(db *store.DB, n int) error {
	return db.Write(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO t VALUES (?, ?)", n, strings.Repeat("x", 500))
		return err
	})
}

func count(t *testing.T, db *store.DB) int {
	t.Helper()
	var n int
	if err := db.Reader().QueryRow("SELECT count(*) FROM t").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// filled returns the path of a closed store with 200 rows, some 30 pages.
func filled(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.db")
	db := open(t, path)
	err := db.Write(t.Context(), func(tx *sql.Tx) error {
		for n := range 200 {
			if _, err := tx.Exec("INSERT INTO t VALUES (?, ?)", n, strings.Repeat("x", 500)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenCreatesAndReopens(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "状态 50% #1?", "a.db")
	db := open(t, path)
	if err := insert(db, 1); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o600, "-wal": 0o600} {
		info, err := os.Stat(path + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %q: got %o, want %o", name, got, want)
		}
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("directory: got %v, %v, want mode 750", info.Mode(), err)
	}
	for pragma, want := range map[string]string{"synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000", "journal_mode": "wal", "user_version": "2"} {
		err := db.Write(t.Context(), func(tx *sql.Tx) error {
			var got string
			if err := tx.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil {
				return err
			}
			if got != want {
				t.Errorf("%s: got %s, want %s", pragma, got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path)
	if got := count(t, db); got != 1 {
		t.Errorf("rows after reopening: got %d, want 1", got)
	}
	if db.Damaged != "" || db.Cause != nil {
		t.Errorf("a sound file was set aside as %q: %v", db.Damaged, db.Cause)
	}
	if _, err := db.Reader().Exec("DELETE FROM t"); err == nil {
		t.Error("the reader wrote")
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := store.Open(path, schema[:1])
	if err != nil {
		t.Fatal(err)
	}
	if err := insert(db, 1); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	// A migration that fails halfway leaves nothing behind.
	_, err = store.Open(path, []string{schema[0], "CREATE TABLE half (n INTEGER); CREATE TABLE t (n INTEGER)"})
	if err == nil || !strings.Contains(err.Error(), "migrate to schema version 2") {
		t.Fatalf("got %v, want a failed migration", err)
	}
	db = open(t, path)
	if got := count(t, db); got != 1 {
		t.Errorf("rows after migration: got %d, want 1", got)
	}
	var n int
	if err := db.Reader().QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").Scan(&n); err != nil || n != 0 {
		t.Errorf("the failed migration left a table behind: %d, %v", n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	// A newer file is refused and left as it is.
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(path, schema[:1])
	newer, ok := errors.AsType[*store.NewerError](err)
	if !ok || newer.Have != 2 || newer.Known != 1 {
		t.Fatalf("got %v, want a NewerError from 2 to 1", err)
	}
	if !strings.Contains(err.Error(), "newer version") {
		t.Errorf("the error does not say what is wrong: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the refused file was changed: %v", err)
	}
}

func TestDamageIsSetAside(t *testing.T) {
	t.Parallel()
	cut := func(size func(int64) int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			info, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, size(info.Size()))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(at int64, data []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(data, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, damage := range map[string]func(*testing.T, string){
		"magic of the header":      write(0, []byte("garbage")),
		"page size in the header":  write(16, []byte{0, 3}),
		"cut to half":              cut(func(n int64) int64 { return n / 2 }),
		"cut to half, odd":         cut(func(n int64) int64 { return n/2 + 77 }),
		"cut within the header":    cut(func(int64) int64 { return 50 }),
		"a page of zeroes":         write(3*4096, make([]byte, 4096)),
		"a page of noise":          write(2*4096, bytes.Repeat([]byte{0xa5, 0x13, 0x77}, 1365)),
		"something else entirely":  func(t *testing.T, path string) { overwrite(t, path, []byte("version: 1\nsite: x\n")) },
		"nothing but a single 0":   func(t *testing.T, path string) { overwrite(t, path, []byte{0}) },
		"emptied":                  func(t *testing.T, path string) { overwrite(t, path, nil) },
		"emptied, but WAL is left": emptiedWithWAL,
		"gone, but WAL is left": func(t *testing.T, path string) {
			emptiedWithWAL(t, path)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filled(t)
			damage(t, path)
			before, _ := os.ReadFile(path) // Missing reads as empty, as which it is set aside.
			wal, _ := os.ReadFile(path + "-wal")

			db := open(t, path)
			if db.Damaged == "" || db.Cause == nil {
				t.Fatal("the damage was not reported")
			}
			if !strings.HasPrefix(db.Damaged, path+".damaged-") {
				t.Errorf("set aside as %s, want %s.damaged-<time>", db.Damaged, path)
			}
			if after, err := os.ReadFile(db.Damaged); err != nil || len(wal) == 0 && !bytes.Equal(before, after) {
				t.Errorf("what was set aside is not what was there: %v", err)
			}
			if len(wal) > 0 {
				if after, err := os.ReadFile(db.Damaged + "-wal"); err != nil || !bytes.Equal(wal, after) {
					t.Errorf("the WAL was not set aside: %v", err)
				}
			}
			if got := count(t, db); got != 0 {
				t.Errorf("rows in the fresh file: got %d, want 0", got)
			}
			if err := insert(db, 1); err != nil {
				t.Error(err)
			}
			first := db.Damaged
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}

			// Damaged again within the second: the first copy is not overwritten.
			overwrite(t, path, []byte("garbage again, long enough to be looked at by SQLite"))
			if db = open(t, path); db.Damaged == first {
				t.Errorf("the second damaged file was set aside over the first, %s", first)
			}
		})
	}
}

func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func emptiedWithWAL(t *testing.T, path string) {
	overwrite(t, path, nil)
	overwrite(t, path+"-wal", []byte("the last transactions"))
}

// A copy takes the place of a file as a whole, with what is in its WAL, and the file is kept.
func TestReplace(t *testing.T) {
	t.Parallel()
	from, to := filepath.Join(t.TempDir(), "from.db"), filepath.Join(t.TempDir(), "to.db")
	a, b := open(t, from), open(t, to)
	for i := range 3 {
		if err := insert(a, i+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := insert(b, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := store.Replace(from, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(to + "-wal"); err == nil {
		t.Error("it has the WAL of the one before")
	}
	if got := count(t, open(t, before)); got != 1 {
		t.Errorf("%d rows in what it replaced, want 1", got)
	}
	garbage := filepath.Join(t.TempDir(), "garbage.db")
	overwrite(t, garbage, []byte("something else entirely, which nobody can read"))
	if _, err := store.Replace(garbage, to); err == nil {
		t.Error("replaced by garbage")
	}
	if got := count(t, open(t, to)); got != 3 {
		t.Errorf("%d rows in the copy, and after garbage; want 3", got)
	}
}

// What is out of reach is not damaged: it must be left alone.
func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	path := filled(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	for mode, f := range map[os.FileMode]string{0o444: path, 0o555: dir, 0o755: filepath.Dir(dir)} {
		if err := os.Chmod(f, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	for name, target := range map[string]string{"existing": path, "new": filepath.Join(dir, "b.db"), "new directory": filepath.Join(dir, "d", "b.db")} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+poorRole, pathVar+"="+target)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		if !strings.Contains(string(out), "permission denied") || !strings.Contains(string(out), target) {
			t.Errorf("%s: got %q, want permission denied and the path", name, out)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory changed: %v, %v", entries, err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file changed: %v", err)
	}
}

// openWithoutRights gives up root's rights where the tests run as root, and prints why the store does not open.
func openWithoutRights(path string) {
	if os.Getuid() == 0 {
		if err := syscall.Setuid(65534); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	_, err := store.Open(path, schema)
	fmt.Println(err)
}

// Everything that was reported as committed is there after SIGKILL in the middle of committing.
func TestKilledWhileCommitting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+writeRole, pathVar+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := -1
		lines := bufio.NewReader(out)
		for wanted := 20 + 17*round; ; wanted-- {
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if n, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
				last = n
			}
			if wanted == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // It was killed.
		if info, err := os.Stat(path + "-wal"); err != nil || info.Size() == 0 {
			t.Fatalf("the killed writer left no WAL: %v", err)
		}
		db := open(t, path)
		if db.Damaged != "" {
			t.Fatalf("round %d: set aside: %v", round, db.Cause)
		}
		var missing int
		if err := db.Reader().QueryRow("SELECT ? + 1 - count(*) FROM t WHERE n <= ?", last, last).Scan(&missing); err != nil {
			t.Fatal(err)
		}
		if missing != 0 {
			t.Errorf("round %d: %d of %d committed rows are missing", round, missing, last+1)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func writeUntilKilled(path string) {
	db, err := store.Open(path, schema)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var n int
	if err := db.Reader().QueryRow("SELECT coalesce(max(n) + 1, 0) FROM t").Scan(&n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for ; ; n++ {
		if err := insert(db, n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func TestWritersQueueAndReadersDoNotWait(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 10 {
				if err := insert(db, w*10+n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	err := db.Write(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM t"); err != nil {
			return err
		}
		if got := count(t, db); got != 80 {
			t.Errorf("a reader beside an open transaction: got %d rows, want 80", got)
		}
		return errors.New("changed my mind")
	})
	if err == nil || count(t, db) != 80 {
		t.Errorf("a failed transaction: got %v and %d rows, want an error and 80", err, count(t, db))
	}
	err = db.Write(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO u VALUES (1000)")
		return err
	})
	if err == nil {
		t.Error("a foreign key that leads nowhere was accepted")
	}
}
