package testservers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bootAllowance is what a machine may take to boot and to switch off, on top of the time for what runs in it. On an idle
// processor it is 4 s.
const bootAllowance = 60 * time.Second

// insideVM is the environment variable that a test binary finds set when it runs in the machine.
const insideVM = "LINLI_INSIDE_VM"

// InsideVM is for tests that need a real kernel's GPIO lines. Such a test begins with
//
//	func TestRelay(t *testing.T) {
//		if !testservers.InsideVM(t, time.Minute, map[string]string{"/bin/linli": "go:linli/gateway"}) {
//			return
//		}
//		chip, err := testservers.NewSimChip("bench", "bench", nil, 8)
//		...
//	}
//
// and everything below the call runs in the machine, as root. On the host, InsideVM compiles the test binary of the
// package in the working directory (which is the tested one) without cgo, runs this same test with it in the machine
// (RunInVM) and returns false when it has passed there; when it has not, or has not run, it fails the test with
// the console's text. In the machine it returns true at once. The timeout is for the test alone, not for the boot.
//
// Code above the call runs on both sides, so there should be none. In the machine the working directory is the root, and
// there is no testdata, no shell and no program but those in files (see RunInVM). Booting takes a few seconds, so make
// one test with subtests of what can share a machine. InsideVM itself does not belong into a subtest.
func InsideVM(t *testing.T, timeout time.Duration, files map[string]string) bool {
	t.Helper()
	if os.Getenv(insideVM) != "" {
		return true
	}
	binary := filepath.Join(t.TempDir(), "vm.test")
	compile(t, "test", "-c", "-o", binary, ".")
	all := map[string]string{"/vm.test": binary}
	for name, host := range files {
		all[name] = host
	}
	console := RunInVM(t, timeout+bootAllowance, all, insideVM+"=1", "/vm.test",
		"-test.v", "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.timeout="+timeout.String())
	if !strings.Contains(console, "--- PASS: "+t.Name()+" ") {
		t.Fatalf("%s did not run in the machine; its console:\n%s", t.Name(), console)
	}
	t.Logf("the machine's console:\n%s", console)
	return false
}

// RunInVM boots a machine with a Linux kernel of its own, emulated by qemu, runs a program in it as root, and returns
// what the serial console showed. The kernel has GPIO lines: the gpio-sim module is loaded (see SimChip). There is no
// disk and no network but the loopback interface; files are all that the program finds, by their path in the machine and
// from where on the host they are copied, with their permissions. "go:" and an import path in place of a path on the
// host stand for that package's program, which is built as the product is. Other programs must be static.
//
// The program is args[0] with the arguments behind it; words NAME=value before it are its environment, as with env(1).
// An exit code other than 0, a kernel panic and a machine that is not off before the timeout fail the test with the
// console's text. So do missing pieces, with the command that gets them.
//
// The machine has one processor and 512 MB of memory, of which the files take twice their size at first. It is always
// emulated in full: /dev/kvm is not used, so that a test takes the same way everywhere. Programs in it run about ten
// times slower than outside. Several machines may run at a time.
func RunInVM(t testing.TB, timeout time.Duration, files map[string]string, args ...string) (console string) {
	t.Helper()
	return Machine{}.Run(t, timeout, files, args...)
}

// Machine is the machine of RunInVM with more than it has there.
type Machine struct {
	// Network gives it a network card, eth0, which is down and has no address. As 10.0.2.15 it reaches the loopback
	// interface of the host under 10.0.2.2.
	Network bool
	// Clock is what its hardware clock reads at the start, as 1970-01-01T00:00:00 (UTC); "" is the right time.
	Clock string
}

// Run is RunInVM.
func (m Machine) Run(t testing.TB, timeout time.Duration, files map[string]string, args ...string) (console string) {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("qemu-system-x86_64 is not installed: run tools/gpio-vm.sh (make test does)")
	}
	kernel := filepath.Join(repository(t), ".tools", "gpio-vm")
	modules := []string{"configfs.ko", "gpio-sim.ko"} // in the order of loading
	var hardware []string
	if m.Network {
		modules = append(modules, "e1000.ko")
		hardware = append(hardware, "-nic", "user,model=e1000")
	}
	if m.Clock != "" {
		hardware = append(hardware, "-rtc", "base="+m.Clock)
	}
	for _, name := range append([]string{"vmlinuz"}, modules...) {
		if _, err := os.Stat(filepath.Join(kernel, name)); err != nil {
			t.Fatalf("%v: run tools/gpio-vm.sh (make test does)", err)
		}
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := packMachine(t, initrd, kernel, modules, files, args); err != nil {
		t.Fatalf("pack the machine's files: %v", err)
	}
	console, err = boot(t.Context(), timeout, qemu, filepath.Join(kernel, "vmlinuz"), initrd, hardware)
	if err != nil {
		t.Fatalf("the machine: %v; its console:\n%s", err, console)
	}
	return console
}

// packMachine writes the initramfs with the first process and its job.
func packMachine(t testing.TB, initrd, kernel string, modules []string, files map[string]string, args []string) error {
	var job struct{ Modules, Env, Args []string }
	for len(args) > 0 && strings.Contains(args[0], "=") {
		job.Env, args = append(job.Env, args[0]), args[1:]
	}
	if len(args) == 0 {
		return errors.New("no program is named")
	}
	job.Args = args

	archive, err := createInitramfs(initrd)
	if err != nil {
		return err
	}
	init := filepath.Join(t.TempDir(), "init")
	compile(t, "build", "-o", init, "linli/internal/testservers/testdata/vminit")
	archive.addFile("/init", init)
	for _, name := range modules {
		archive.addFile("/modules/"+name, filepath.Join(kernel, name))
		job.Modules = append(job.Modules, "/modules/"+name)
	}
	for name, host := range files {
		if pkg, ok := strings.CutPrefix(host, "go:"); ok {
			host = filepath.Join(t.TempDir(), "program")
			compile(t, "build", "-o", host, pkg)
		}
		archive.addFile(name, host)
	}
	text, err := json.Marshal(job)
	archive.fail(err)
	archive.add("/vminit.json", 0o644, text)
	return archive.close()
}

// compile runs the go command for a small static binary.
func compile(t testing.TB, args ...string) {
	t.Helper()
	args = append([]string{args[0], "-trimpath", "-ldflags=-s -w"}, args[1:]...)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// boot runs a machine until it is off.
func boot(ctx context.Context, timeout time.Duration, qemu, kernel, initrd string, hardware []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, append(hardware,
		"-machine", "pc", "-accel", "tcg", "-m", "512",
		// One processor: the kernel's irq_sim loops for ever when a line changes on one while another handles a change.
		"-smp", "1",
		// This model has random numbers, so that programs need not wait for the kernel to gather them.
		"-cpu", "max",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1")...)
	out := &consoleText{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	text := strings.ReplaceAll(out.text.String(), "\r\n", "\n")
	switch {
	case ctx.Err() != nil:
		return text, fmt.Errorf("not off within %v", timeout)
	case err != nil:
		return text, fmt.Errorf("qemu: %w", err)
	}
	ended := regexp.MustCompile(`(?m)^vminit: exit code (-?\d+)$`).FindAllStringSubmatch(text, -1)
	if len(ended) == 0 {
		return text, errors.New("ended before the program in it")
	}
	if code := ended[len(ended)-1][1]; code != "0" {
		return text, fmt.Errorf("the program ended with exit code %s", code)
	}
	return text, nil
}

// consoleText keeps what a machine prints, to a limit that ends the machine.
type consoleText struct{ text bytes.Buffer }

func (c *consoleText) Write(b []byte) (int, error) {
	const limit = 8 << 20
	if c.text.Len()+len(b) > limit {
		return 0, fmt.Errorf("the console is longer than %d bytes", limit)
	}
	return c.text.Write(b)
}

// repository returns the repository's top: the nearest directory above the working one that has a go.mod.
func repository(t testing.TB) string {
	t.Helper()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatalf("no go.mod above %s", wd)
		}
	}
}
