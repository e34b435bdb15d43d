package gpio

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/warthog618/go-gpiocdev"
	"github.com/warthog618/go-gpiocdev/uapi"
	"golang.org/x/sys/unix"
	periph "periph.io/x/conn/v3/gpio"

	"linli/internal/telemetry"
)

// kernel is the Host of the Linux character device, version 2 of its interface (Linux 5.10).
//
// gpiocdev finds the chips and gives the kernel's structures. Its Lines are not used: their watcher takes a thread for
// each, spins while a chip is unplugged (it takes EPOLLHUP for an edge), panics on errors of epoll and hides those of
// the line. Here a line is a file in Go's poller, and the end of its chip is an error of the read that waits.
type kernel struct{ clock *telemetry.Clock }

func kernelHost(clock *telemetry.Clock) Host { return kernel{clock} }

// offset is what turns the kernel's time stamps (CLOCK_MONOTONIC) into Monos. It is constant while the process runs:
// the Clock advances with Go's monotonic time, which is CLOCK_MONOTONIC.
func (k kernel) offset() (telemetry.Mono, error) {
	var ts unix.Timespec
	before := k.clock.Mono()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return before + (k.clock.Mono()-before)/2 - telemetry.Mono(ts.Nano()), nil
}

// Open implements Host.
func (k kernel) Open(name string) (Chip, error) {
	var all []*kernelChip // one for each chip, whatever it is called
	defer func() {
		for _, c := range all {
			c.f.Close()
		}
	}()
	paths := map[string]bool{}
	var refused error
	add := func(path string) *kernelChip {
		real, err := filepath.EvalSymlinks(path)
		if err == nil && !paths[real] {
			paths[real] = true
			var c *kernelChip
			if c, err = openChip(real); err == nil {
				all = append(all, c)
				return c
			}
		}
		if errors.Is(err, fs.ErrPermission) {
			refused = errors.Join(refused, err)
		}
		return nil
	}
	take := func(c *kernelChip) (Chip, error) {
		for i := range all {
			if all[i] == c {
				all = append(all[:i], all[i+1:]...)
				break
			}
		}
		var err error
		if c.offset, err = k.offset(); err != nil {
			c.f.Close()
			return nil, err
		}
		return c, nil
	}

	// A path or a name, also one that a udev rule gave (a link in /dev), is one chip and no search.
	path := name
	if !strings.Contains(name, "/") {
		path = "/dev/" + name
	}
	if _, err := os.Stat(path); err == nil {
		if c := add(path); c != nil {
			return take(c)
		}
		if refused != nil {
			return nil, refused
		}
	}
	for _, entry := range gpiocdev.Chips() {
		add("/dev/" + entry)
	}
	var fit []*kernelChip
	for _, c := range all {
		if c.label == name {
			fit = append(fit, c)
		}
	}
	switch {
	case len(fit) == 1:
		return take(fit[0])
	case len(fit) > 1:
		return nil, fmt.Errorf("%d chips are labelled %q: %s; name one of them, or give it a name of its own by a udev rule", len(fit), name, chipNames(fit))
	case refused != nil:
		return nil, refused
	case len(all) == 0:
		return nil, fmt.Errorf("no GPIO chip %q: this machine has none (no /dev/gpiochip*)", name)
	}
	return nil, fmt.Errorf("no GPIO chip is named or labelled %q; there is %s", name, chipNames(all))
}

func chipNames(chips []*kernelChip) string {
	var names []string
	for _, c := range chips {
		names = append(names, fmt.Sprintf("%s (%s, %d lines)", c.name, c.label, c.lines))
	}
	return strings.Join(names, ", ")
}

// openChip opens a character device and asks what it is.
func openChip(path string) (*kernelChip, error) {
	if err := gpiocdev.IsChip(path); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%w: %s", fs.ErrPermission, belongsTo(path))
		}
		return nil, err
	}
	info, err := uapi.GetChipInfo(f.Fd())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("ask %s what it is: %w", path, err)
	}
	return &kernelChip{
		f: f, name: uapi.BytesToString(info.Name[:]), label: uapi.BytesToString(info.Label[:]), lines: int(info.Lines),
	}, nil
}

// belongsTo says what would let this process open the device.
func belongsTo(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return path
	}
	group := strconv.Itoa(int(st.Gid))
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	who := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(who); err == nil {
		who = u.Username
	}
	if st.Gid == 0 {
		return fmt.Sprintf("%s belongs to group %s; a udev rule must give it to one that user %s is in", path, group, who)
	}
	return fmt.Sprintf("%s belongs to group %s, which user %s is not in", path, group, who)
}

// kernelChip is one open chip.
type kernelChip struct {
	f           *os.File
	name, label string
	lines       int
	offset      telemetry.Mono
	byName      map[string][]int // offsets of each line name; read at the first request
}

// Close implements Chip.
func (c *kernelChip) Close() error { return c.f.Close() }

// line finds a line by its name, or its number on the chip.
func (c *kernelChip) line(name string) (int, error) {
	if c.byName == nil {
		c.byName = map[string][]int{}
		for i := range c.lines {
			info, err := uapi.GetLineInfoV2(c.f.Fd(), i)
			if err != nil {
				c.byName = nil
				if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
					return 0, fmt.Errorf("%s: the kernel lacks version 2 of the GPIO interface, it must be Linux 5.10 or later: %w", c.name, err)
				}
				return 0, fmt.Errorf("%s: line %d: %w", c.name, i, err)
			}
			if n := uapi.BytesToString(info.Name[:]); n != "" {
				c.byName[n] = append(c.byName[n], i)
			}
		}
	}
	switch at := c.byName[name]; {
	case len(at) == 1:
		return at[0], nil
	case len(at) > 1:
		return 0, fmt.Errorf("%d lines of %s (%s) are named %s: numbers %s; use the number", len(at), c.name, c.label, name,
			strings.Trim(fmt.Sprint(at), "[]"))
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		if len(c.byName) == 0 {
			return 0, fmt.Errorf("no line %s: the lines of %s (%s) have no names, use the numbers 0 to %d", name, c.name, c.label, c.lines-1)
		}
		return 0, fmt.Errorf("no line %s on %s (%s, %d lines)", name, c.name, c.label, c.lines)
	}
	if n < 0 || n >= c.lines {
		return 0, fmt.Errorf("no line %d: %s (%s) has the lines 0 to %d", n, c.name, c.label, c.lines-1)
	}
	return n, nil
}

// eventBuffer is how many edges the kernel keeps for us, as many as it can (64 times 16): it throws away the oldest when
// they are not fetched in time.
const eventBuffer = 1024

// Request implements Chip.
func (c *kernelChip) Request(r Request) (Lines, error) {
	req := uapi.LineRequest{Lines: uint32(len(r.Lines))}
	offsets := make([]int, len(r.Lines))
	for i, name := range r.Lines {
		o, err := c.line(name)
		if err != nil {
			return nil, err
		}
		offsets[i], req.Offsets[i] = o, uint32(o)
	}
	copy(req.Consumer[:len(req.Consumer)-1], r.Consumer)
	var flags uapi.LineFlagV2
	if r.ActiveLow {
		flags |= uapi.LineFlagV2ActiveLow
	}
	if r.Out {
		return c.requestOut(r, req, flags, offsets)
	}
	flags |= uapi.LineFlagV2Input
	switch r.Pull {
	case periph.PullUp:
		flags |= uapi.LineFlagV2BiasPullUp
	case periph.PullDown:
		flags |= uapi.LineFlagV2BiasPullDown
	case periph.Float:
		flags |= uapi.LineFlagV2BiasDisabled
	}
	plain := flags
	if r.Edge == periph.RisingEdge || r.Edge == periph.BothEdges {
		flags |= uapi.LineFlagV2EdgeRising
	}
	if r.Edge == periph.FallingEdge || r.Edge == periph.BothEdges {
		flags |= uapi.LineFlagV2EdgeFalling
	}
	req.Config.Flags = flags
	if r.Edge != periph.NoEdge {
		req.EventBufferSize = eventBuffer
	}
	if r.Debounce > 0 {
		req.Config.AddAttribute(uapi.LineConfigAttribute{
			Attr: uapi.DebouncePeriod(r.Debounce).Encode(), Mask: uapi.NewLineBitMask(len(offsets)),
		})
	}
	l, err := c.take(r, req, offsets)
	switch {
	case err == nil, errors.Is(err, unix.EBUSY):
		return l, err
	case r.Debounce > 0:
		// What the chip lacks is found out by asking for less.
		less := req
		less.Config = uapi.LineConfig{Flags: flags}
		if l, e := c.take(r, less, offsets); e == nil {
			l.Close()
			return nil, fmt.Errorf("%w: %w", ErrNoDebounce, err)
		}
	}
	if r.Edge != periph.NoEdge {
		less := req
		less.Config, less.EventBufferSize = uapi.LineConfig{Flags: plain}, 0
		if l, e := c.take(r, less, offsets); e == nil {
			l.Close()
			return nil, fmt.Errorf("%w: %w", ErrNoEdges, err)
		}
	}
	return nil, err
}

// requestOut takes an output. With Keep a line that is an output already is taken as it is, read, and only then made
// ours with that same level: none of these steps changes it.
func (c *kernelChip) requestOut(r Request, req uapi.LineRequest, flags uapi.LineFlagV2, offsets []int) (Lines, error) {
	drive := func(level periph.Level) uapi.LineConfig {
		config := uapi.LineConfig{Flags: flags | uapi.LineFlagV2Output}
		value := 0
		if level {
			value = 1
		}
		config.AddAttribute(uapi.LineConfigAttribute{
			Attr: uapi.OutputValues(uapi.NewLineBitmap(value)).Encode(), Mask: uapi.NewLineBitMask(1),
		})
		return config
	}
	info, err := uapi.GetLineInfoV2(c.f.Fd(), offsets[0])
	if err != nil {
		return nil, fmt.Errorf("%s line %d: %w", c.name, offsets[0], err)
	}
	if !r.Keep || !info.Flags.IsOutput() {
		req.Config = drive(r.Initial)
		return c.take(r, req, offsets)
	}
	req.Config = uapi.LineConfig{Flags: flags}
	l, err := c.take(r, req, offsets)
	if err != nil {
		return nil, err
	}
	now := make([]periph.Level, 1)
	err = l.Read(now)
	if err == nil {
		config := drive(now[0])
		err = l.(*kernelLines).control(func(fd uintptr) error { return uapi.SetLineConfigV2(fd, &config) })
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("%s line %s: keep its level: %w", c.name, r.Lines[0], err)
	}
	return l, nil
}

// take makes the request and puts the lines into Go's poller.
func (c *kernelChip) take(r Request, req uapi.LineRequest, offsets []int) (Lines, error) {
	what := fmt.Sprintf("%s line %s", c.name, strings.Join(r.Lines, " and "))
	if err := uapi.GetLine(c.f.Fd(), &req); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("%s: in use by %s: %w", what, c.users(offsets), err)
		}
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	fd := int(req.Fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &kernelLines{
		f: os.NewFile(uintptr(fd), what), what: what, offsets: offsets, offset: c.offset,
		seen: make([]uint32, len(offsets)),
	}, nil
}

// users names who has the lines.
func (c *kernelChip) users(offsets []int) string {
	var names []string
	for _, o := range offsets {
		info, err := uapi.GetLineInfoV2(c.f.Fd(), o)
		if err != nil || !info.Flags.IsUsed() {
			continue
		}
		if n := uapi.BytesToString(info.Consumer[:]); n != "" {
			names = append(names, strconv.Quote(n))
		} else {
			names = append(names, "the kernel")
		}
	}
	if len(names) == 0 {
		return "another program"
	}
	return strings.Join(names, " and ")
}

// kernelLines are requested lines.
type kernelLines struct {
	f       *os.File
	what    string
	offsets []int
	offset  telemetry.Mono
	seen    []uint32 // the sequence number of each line's last edge; of the goroutine that waits
	buf     [edgesAtOnce * eventSize]byte
}

// eventSize is the size of struct gpio_v2_line_event.
const eventSize = 48

// Wait implements Lines.
func (l *kernelLines) Wait(ctx context.Context, edges []Edge) (int, error) {
	stop := context.AfterFunc(ctx, func() { l.f.SetReadDeadline(time.Unix(1, 0)) })
	n, err := l.f.Read(l.buf[:min(len(edges)*eventSize, len(l.buf))])
	stop()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", l.what, cause(err))
	}
	n /= eventSize
	for i := range n {
		b := l.buf[i*eventSize:]
		// struct gpio_v2_line_event: u64 timestamp_ns, u32 id, offset, seqno, line_seqno, padding.
		e := Edge{Time: telemetry.Mono(binary.NativeEndian.Uint64(b)) + l.offset, Line: -1}
		e.Level = uapi.LineEventID(binary.NativeEndian.Uint32(b[8:])) == uapi.LineEventRisingEdge
		at := int(binary.NativeEndian.Uint32(b[12:]))
		for k, o := range l.offsets {
			if o == at {
				e.Line = k
			}
		}
		if e.Line < 0 {
			return 0, fmt.Errorf("%s: the kernel told an edge of line %d", l.what, at)
		}
		seq := binary.NativeEndian.Uint32(b[20:])
		e.Lost = seq - l.seen[e.Line] - 1
		l.seen[e.Line] = seq
		edges[i] = e
	}
	return n, nil
}

// Read implements Lines.
func (l *kernelLines) Read(levels []periph.Level) error {
	v := uapi.LineValues{Mask: uapi.NewLineBitMask(len(l.offsets))}
	if err := l.control(func(fd uintptr) error { return uapi.GetLineValuesV2(fd, &v) }); err != nil {
		return fmt.Errorf("%s: read: %w", l.what, cause(err))
	}
	for i := range levels {
		levels[i] = v.Get(i) != 0
	}
	return nil
}

// Set implements Lines.
func (l *kernelLines) Set(level periph.Level) error {
	v := uapi.LineValues{Mask: 1}
	if level {
		v.Bits = 1
	}
	if err := l.control(func(fd uintptr) error { return uapi.SetLineValuesV2(fd, v) }); err != nil {
		return fmt.Errorf("%s: set: %w", l.what, cause(err))
	}
	return nil
}

// Close implements Lines.
func (l *kernelLines) Close() error { return l.f.Close() }

func (l *kernelLines) control(do func(fd uintptr) error) error {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(fd) }); err != nil {
		return err
	}
	return failed
}

// cause strips the file's name, which is in our own words already, and explains the end of a chip.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}
