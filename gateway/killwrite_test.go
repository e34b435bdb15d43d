package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// killWriting kills the gateway while it writes a segment of the journal, if it does within limit, and returns whether it was
// in the write. Where the device answers at once, a thread that writes has a processor all the time, and /proc does not tell
// what it does: so its system calls are traced; from the first that is a write to a segment it may go on, and a moment later,
// while that has not returned, it is killed. Another process does that, for whoever traces its own child takes its stops for
// its end (wait4).
func (s *soak) killWriting(limit time.Duration) bool {
	s.t.Helper()
	cmd := exec.Command(os.Args[0], killWritingArg, strconv.Itoa(s.gateway.cmd.Process.Pid), s.state, limit.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Errorf("%s: %v\n%s", cmd, err, out)
	}
	s.kill()
	at, err := strconv.ParseInt(string(out), 10, 64)
	if err != nil {
		return false
	}
	s.killed.at[len(s.killed.at)-1] = time.Unix(0, at)
	return true
}

const killWritingArg = "kill-writing" // of the test binary, before a process, a directory, and for how long

// killWritingMain is the process that traces the one of args and kills it, and says when.
func killWritingMain(args []string) int {
	runtime.LockOSThread() // Only the thread that began to trace may.
	pid, err1 := strconv.Atoi(args[0])
	limit, err2 := time.ParseDuration(args[2])
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	t := tracer{watch: &fileWatch{pid: pid, dir: args[1] + "/"}}
	met, err := t.untilWriting(limit)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if met {
		at := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err == nil {
			fmt.Print(at.UnixNano())
		}
	}
	return 0
}

// tracer stops the threads of a process at each system call. It belongs to one thread.
type tracer struct {
	watch   *fileWatch
	threads []int
}

// syscallInfo is struct ptrace_syscall_info, as far as the entry of a call.
type syscallInfo struct {
	op     uint8
	_      [3]uint8
	_      uint32 // architecture
	_, _   uint64 // instruction and stack pointers
	number uint64
	args   [6]uint64
}

// untilWriting lets the process run until one of its threads is within a write to a segment.
func (t *tracer) untilWriting(limit time.Duration) (bool, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.watch.pid))
	if err != nil {
		return false, err
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
		_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, options, 0, 0)
		if errno == unix.ESRCH {
			continue // It ended just now.
		}
		if errno != 0 {
			return false, fmt.Errorf("trace thread %d: %w", tid, errno)
		}
		t.threads = append(t.threads, tid)
		_ = unix.PtraceInterrupt(tid)
	}
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		for _, tid := range t.threads {
			if stop, ok := stopped(tid); ok && t.handle(tid, stop) {
				return true, nil
			}
		}
	}
	return false, nil
}

// stopped returns how a thread has stopped, if it has.
func stopped(tid int) (unix.WaitStatus, bool) {
	var status unix.WaitStatus
	got, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil)
	return status, err == nil && got == tid && status.Stopped()
}

// handle lets a thread that has stopped go on, and returns whether it is within a write to a segment.
func (t *tracer) handle(tid int, status unix.WaitStatus) bool {
	signal := status.StopSignal()
	switch event := int(status) >> 16; {
	case event == unix.PTRACE_EVENT_CLONE:
		if thread, err := unix.PtraceGetEventMsg(tid); err == nil {
			t.threads = append(t.threads, int(thread)) // The new one stops by itself.
		}
		signal = 0
	case event == unix.PTRACE_EVENT_STOP:
		signal = 0
	case signal == unix.SIGTRAP|0x80:
		signal = 0
		var info syscallInfo
		_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
		if errno == 0 && info.op == unix.PTRACE_SYSCALL_INFO_ENTRY && t.watch.phaseOfCall(int(info.number), info.args[0]) == "write" {
			return unix.PtraceSyscall(tid, 0) == nil && !returned(tid, rand.N(100*time.Microsecond))
		}
	}
	_ = unix.PtraceSyscall(tid, int(signal))
	return false
}

// returned says whether the call that a thread is in returns within the time. If so the thread goes on.
func returned(tid int, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); {
		if _, ok := stopped(tid); ok {
			_ = unix.PtraceSyscall(tid, 0)
			return true
		}
	}
	return false
}
