package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// phases are those that a kill can hit.
var phases = []string{"write", "sync", "rotate", "acknowledge", "alerts", "rollup"}

// phaseOf names the phase in which a file of the state directory is changed.
func phaseOf(what, name string) string {
	base := filepath.Base(name)
	switch {
	case name == "uplink.state" || strings.HasPrefix(base, "uplink.state"):
		return "acknowledge"
	case strings.HasPrefix(base, "alerts.db"):
		return "alerts"
	case name == "journal": // the directory: a file was made, renamed or removed
		return "rotate"
	case !strings.HasPrefix(name, "journal/"):
		return ""
	case strings.HasSuffix(base, ".seg") && (what == "write" || what == "sync"):
		return what
	case strings.HasSuffix(base, ".seg"):
		return "rotate"
	case base == "lock":
		return ""
	}
	return "rollup"
}

// fileCalls are the system calls that change files, and take the file as their first argument.
var fileCalls = map[int]string{
	unix.SYS_PWRITE64: "write", unix.SYS_WRITE: "write", unix.SYS_FDATASYNC: "sync", unix.SYS_FSYNC: "sync",
	unix.SYS_FALLOCATE: "allocate", unix.SYS_FTRUNCATE: "cut",
}

// fileWatch looks at what the threads of a process do to the files below a directory. A write past the cache takes 50 µs, so
// the file that tells it of each thread stays open. It belongs to one goroutine.
type fileWatch struct {
	pid     int
	dir     string
	threads map[string]int // descriptors of /proc/PID/task/TID/syscall
	listed  time.Time      // when threads were
	buf     [256]byte
}

// watch begins to look at the gateway's files.
func (s *soak) watch() *fileWatch {
	return &fileWatch{pid: s.gateway.cmd.Process.Pid, dir: s.state + "/", threads: map[string]int{}}
}

func (w *fileWatch) close() {
	for _, fd := range w.threads {
		_ = unix.Close(fd)
	}
}

// phase says what the threads are doing to files just now, "" for nothing. Of several it is want, if that is among them.
func (w *fileWatch) phase(want string) string { return phaseOf(w.changing(want)) }

// changing is phase with the kind of call and the name of the file.
func (w *fileWatch) changing(want string) (what, name string) {
	w.list()
	seen := ""
	for _, fd := range w.threads {
		n, err := unix.Pread(fd, w.buf[:], 0)
		if err != nil { // The thread is gone.
			continue
		}
		number, args, _ := bytes.Cut(w.buf[:n], []byte(" "))
		nr, err := strconv.Atoi(string(number))
		if err != nil {
			continue // running
		}
		first, _, _ := bytes.Cut(args, []byte(" "))
		file, err := strconv.ParseUint(strings.TrimPrefix(string(first), "0x"), 16, 64)
		if err != nil {
			continue
		}
		call, path := w.call(nr, file)
		if p := phaseOf(call, path); p != "" && (want == "" || seen != want) {
			seen, what, name = p, call, path
		}
	}
	return what, name
}

// phaseOfCall names the phase that a system call with this first argument belongs to, "" for none.
func (w *fileWatch) phaseOfCall(number int, first uint64) string {
	return phaseOf(w.call(number, first))
}

// call returns the kind and the file, below the directory, of a system call that changes a file there.
func (w *fileWatch) call(number int, first uint64) (what, name string) {
	what, ok := fileCalls[number]
	if !ok {
		return "", ""
	}
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", w.pid, first))
	if name, ok = strings.CutPrefix(path, w.dir); !ok {
		return "", ""
	}
	return what, name
}

// list opens what is to be read of threads that are new.
func (w *fileWatch) list() {
	if time.Since(w.listed) < 20*time.Millisecond {
		return
	}
	w.listed = time.Now()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.pid))
	if err != nil {
		return
	}
	for _, task := range tasks {
		if _, ok := w.threads[task.Name()]; ok {
			continue
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/task/%s/syscall", w.pid, task.Name()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			w.threads[task.Name()] = fd
		}
	}
}
