package testservers

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	fiFreeze = 0xC0045877 // of linux/fs.h
	fiThaw   = 0xC0045878
)

// Disk is a small ext4 of its own, on a loop device, with the options that mkfs and mount take by themselves. It is
// unmounted when the test ends. Whoever uses files on it must have ended by then.
type Disk struct {
	Dir    string // where it is mounted
	Device string // name of the loop device, as in /sys/block
	image  string // the file behind it
	t      testing.TB
}

// StartDisk makes a disk of so many megabytes. It needs root, mkfs.ext4 and loop devices, and fails the test with a clear
// word where these are not there. Extra arguments are for losetup.
func StartDisk(t testing.TB, megabytes int, losetup ...string) *Disk {
	t.Helper()
	return startDisk(t, filepath.Join(t.TempDir(), "disk.img"), megabytes, losetup...)
}

func startDisk(t testing.TB, image string, megabytes int, losetup ...string) *Disk {
	t.Helper()
	needRoot(t)
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(int64(megabytes)<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	// 4 KiB blocks as on any disk that is not tiny; mkfs would take 1 KiB here.
	run(t, FindTool(t, "mkfs.ext4"), "-q", "-F", "-b", "4096", image)
	return mountImage(t, image, losetup...)
}

// CutDisk is a Disk whose power can be cut.
type CutDisk struct {
	*Disk
	outer *Disk // holds the image
}

// StartCutDisk makes a disk of so many megabytes whose power can be cut.
func StartCutDisk(t testing.TB, megabytes int) *CutDisk {
	t.Helper()
	outer := StartDisk(t, megabytes+megabytes/4+16)
	return &CutDisk{startDisk(t, filepath.Join(outer.Dir, "disk.img"), megabytes), outer}
}

// Cut is a power cut: afterwards the disk holds every write that the device had finished at some moment of the call, and
// nothing of what the kernel still held back. kill is called right after that moment and must end the programs that use the
// disk without waiting for them; gone waits for them.
func (d *CutDisk) Cut(kill, gone func()) {
	d.t.Helper()
	image := filepath.Join(d.t.TempDir(), "cut.img")
	// Freezing what the image lies on stops the device between two of its writes, without a word to the file system on it.
	d.outer.Freeze()
	kill()
	out, err := exec.Command("cp", "--sparse=always", d.image, image).CombinedOutput()
	d.outer.Thaw()
	if err != nil {
		d.t.Fatalf("cp: %v\n%s", err, out)
	}
	gone()
	d.unmount()
	run(d.t, "losetup", "--detach", "/dev/"+d.Device)
	run(d.t, "cp", "--sparse=always", image, d.image)
	run(d.t, "losetup", "/dev/"+d.Device, d.image)
	d.mount()
	if err := os.Remove(image); err != nil {
		d.t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts disks of its own and needs root: run make test as root (a container needs --privileged, for loop devices)")
	}
}

// mountImage mounts a file with a file system in it.
func mountImage(t testing.TB, image string, losetup ...string) *Disk {
	t.Helper()
	d := &Disk{Dir: t.TempDir(), image: image, t: t}
	device := strings.TrimSpace(run(t, FindTool(t, "losetup"), append(losetup, "--find", "--show", image)...))
	d.Device = filepath.Base(device)
	t.Cleanup(func() {
		_ = exec.Command("losetup", "--detach", device).Run() // It is free already where unmounting did it.
	})
	d.mount()
	t.Cleanup(d.unmount)
	return d
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// unmount is the end of the disk. A process that has just been killed may hold it for a moment.
func (d *Disk) unmount() {
	d.t.Helper()
	_ = d.freezing(fiThaw) // Fails where it is not frozen.
	var err error
	for range 100 {
		if err = unix.Unmount(d.Dir, 0); err == nil {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	d.t.Errorf("unmount %s: %v", d.Dir, err)
	_ = unix.Unmount(d.Dir, unix.MNT_DETACH) // So that the machine is left clean.
}

// Written returns the bytes that have been written to the device so far, by whomever.
func (d *Disk) Written() int64 {
	d.t.Helper()
	b, err := os.ReadFile("/sys/block/" + d.Device + "/stat")
	if err != nil {
		d.t.Fatal(err)
	}
	sectors, err := strconv.ParseInt(strings.Fields(string(b))[6], 10, 64)
	if err != nil {
		d.t.Fatal(err)
	}
	return sectors * 512
}

// Freeze holds every writing and every sync on the disk until Thaw, as a disk that hangs does. Reading goes on.
func (d *Disk) Freeze() {
	d.t.Helper()
	if err := d.freezing(fiFreeze); err != nil {
		d.t.Fatalf("freeze %s: %v", d.Dir, err)
	}
	// Before a process is killed that waits for it: it would not end.
	d.t.Cleanup(func() { _ = d.freezing(fiThaw) })
}

// Thaw ends a Freeze.
func (d *Disk) Thaw() {
	d.t.Helper()
	if err := d.freezing(fiThaw); err != nil {
		d.t.Fatalf("thaw %s: %v", d.Dir, err)
	}
}

func (d *Disk) freezing(request uintptr) error {
	f, err := os.Open(d.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, 0); errno != 0 {
		return errno
	}
	return nil
}

// Sync writes out what the kernel holds back of it.
func (d *Disk) Sync() {
	d.t.Helper()
	f, err := os.Open(d.Dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		d.t.Fatal(err)
	}
}

// ReadOnly makes the file system read-only under the programs that use it, as the kernel does after an error of the disk.
func (d *Disk) ReadOnly() {
	d.t.Helper()
	// A plain remount is refused while files are open for writing.
	if err := os.WriteFile("/sys/fs/ext4/"+d.Device+"/trigger_fs_error", []byte("1"), 0); err != nil {
		d.t.Fatal(err)
	}
}

// Repair ends ReadOnly: it checks and mounts the file system anew. Nobody may use it meanwhile.
func (d *Disk) Repair() {
	d.t.Helper()
	var err error
	for range 100 {
		if err = unix.Unmount(d.Dir, 0); err == nil {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if err != nil {
		d.t.Fatalf("unmount %s: %v", d.Dir, err)
	}
	// Exit code 1: errors were corrected.
	if out, err := exec.Command(FindTool(d.t, "fsck.ext4"), "-f", "-y", "/dev/"+d.Device).CombinedOutput(); err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 1 {
			d.t.Fatalf("fsck.ext4: %v\n%s", err, out)
		}
	}
	d.mount()
}

func (d *Disk) mount() {
	d.t.Helper()
	run(d.t, FindTool(d.t, "mount"), "-t", "ext4", "-o", "errors=remount-ro", "/dev/"+d.Device, d.Dir) // as Debian mounts its root
}

// Trace notes every write to the device from now on, until the returned function is called: it says how many bytes were
// written to which file. What belongs to no file is "(journal of ext4)" or "(metadata of ext4)". Files that were deleted
// meanwhile count as metadata. It is nil where the kernel has no tracing.
func (d *Disk) Trace() func() map[string]int64 {
	d.t.Helper()
	const root = "/sys/kernel/tracing"
	if _, err := os.Stat(root + "/instances"); err != nil {
		if err := unix.Mount("nodev", root, "tracefs", 0, ""); err != nil {
			return nil
		}
	}
	dir := root + "/instances/linli-" + d.Device
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil
	}
	d.t.Cleanup(func() { _ = os.Remove(dir) })
	var st unix.Stat_t
	if err := unix.Stat("/dev/"+d.Device, &st); err != nil {
		d.t.Fatal(err)
	}
	dev := uint64(unix.Major(st.Rdev))<<20 | uint64(unix.Minor(st.Rdev)) // as the kernel has it inside
	for name, value := range map[string]string{
		"buffer_size_kb":                      "8192",
		"events/block/block_rq_issue/filter":  fmt.Sprintf("dev == %d", dev),
		"events/block/block_bio_queue/filter": fmt.Sprintf("dev == %d", dev),
		"events/block/block_bio_queue/enable": "1",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil {
			d.t.Fatalf("tracing: %v", err)
		}
	}
	line := regexp.MustCompile(`block_bio_queue: \d+,\d+ ([A-Z]*W[A-Z]*) (\d+) \+ (\d+) `)
	return func() map[string]int64 {
		d.t.Helper()
		places := d.places()
		f, err := os.Open(dir + "/trace")
		if err != nil {
			d.t.Fatal(err)
		}
		defer f.Close()
		written := map[string]int64{}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			m := line.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			sector, err1 := strconv.ParseInt(m[2], 10, 64)
			count, err2 := strconv.ParseInt(m[3], 10, 64)
			if err1 != nil || err2 != nil {
				d.t.Fatalf("tracing: %q", lines.Text())
			}
			for ; count > 0; sector, count = sector+1, count-1 {
				written[places.of(sector*512)] += 512
			}
		}
		return written
	}
}

// place is a run of bytes on the device that belongs to a file.
type place struct {
	from, end int64
	name      string
}

type places []place

func (p places) of(at int64) string {
	i, found := slices.BinarySearchFunc(p, at, func(x place, at int64) int {
		switch {
		case at < x.from:
			return 1
		case at >= x.end:
			return -1
		}
		return 0
	})
	if !found {
		return "(metadata of ext4)"
	}
	return p[i].name
}

// places returns where the files of the disk and the journal of ext4 lie.
func (d *Disk) places() places {
	d.t.Helper()
	var all places
	err := filepath.WalkDir(d.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(d.Dir, path)
		if err != nil {
			return err
		}
		extents, err := extentsOf(path)
		for _, x := range extents {
			x.name = name
			all = append(all, x)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	// The journal is inode 8. "(0-1023):98304-99327", one or more of these.
	stat := run(d.t, FindTool(d.t, "debugfs"), "-R", "stat <8>", "/dev/"+d.Device)
	_, blocks, _ := strings.Cut(stat, "EXTENTS:")
	for _, m := range regexp.MustCompile(`\(\d+(?:-\d+)?\):(\d+)(?:-(\d+))?`).FindAllStringSubmatch(blocks, -1) {
		from, _ := strconv.ParseInt(m[1], 10, 64)
		last := from
		if m[2] != "" {
			last, _ = strconv.ParseInt(m[2], 10, 64)
		}
		all = append(all, place{from * 4096, (last + 1) * 4096, "(journal of ext4)"})
	}
	slices.SortFunc(all, func(a, b place) int { return int((a.from - b.from) >> 9) })
	return all
}

// extentsOf asks the file system where a file lies (FS_IOC_FIEMAP).
func extentsOf(path string) (extents places, err error) {
	const (
		fsIocFiemap = 0xC020660B
		head, each  = 32, 56
		most        = 512
		lastFlag    = 1
	)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for start := uint64(0); ; {
		b := make([]byte, head+most*each)
		binary.NativeEndian.PutUint64(b[0:], start)
		binary.NativeEndian.PutUint64(b[8:], ^uint64(0)-start)
		binary.NativeEndian.PutUint32(b[24:], most)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
			return nil, fmt.Errorf("where %s lies: %w", path, errno)
		}
		n := int(binary.NativeEndian.Uint32(b[20:]))
		for i := range n {
			e := b[head+i*each:]
			logical, physical, length := binary.NativeEndian.Uint64(e), binary.NativeEndian.Uint64(e[8:]), binary.NativeEndian.Uint64(e[16:])
			extents = append(extents, place{from: int64(physical), end: int64(physical + length)})
			start = logical + length
			if binary.NativeEndian.Uint32(e[40:])&lastFlag != 0 {
				return extents, nil
			}
		}
		if n == 0 {
			return extents, nil
		}
	}
}
