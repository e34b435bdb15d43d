package main

import (
	"bytes"
	le "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/response"
)

// leftName is the file in the state directory that names the outputs which rules have set and not let go of. With it, a
// siren whose alert was closed while its unit did not answer is switched off also where the gateway has died in between.
//
// It has its whole length from the start, so that a full disk does not keep it from being written: two halves, of which
// the newer one that is whole counts, and the other one is written over.
//
//	0        4         8           16        20     20+n
//	+--------+---------+-----------+---------+------+------+
//	|LOD1    | CRC-32C | number    | length n| JSON | ...  |  of each half
//	+--------+---------+-----------+---------+------+------+
//
// The CRC covers number, length and JSON, which is a list of leftOver. Integers are little-endian. What follows the JSON
// says nothing. A file that begins with "[" is such a list alone, of earlier versions.
const (
	leftName  = "outputs.driven"
	leftMagic = "LOD1"
	leftHead  = 20
	leftHalf  = 32 << 10 // bytes of a half, more where there are very many outputs
	leftEach  = 512      // bytes of a half for each output
	leftMax   = 8 << 20  // bytes read of the file
)

// leftWait is how long an output stays as it was left where nobody knows of its alert and its rule cannot be decided.
const leftWait = time.Minute

// leftOver is one output of the file.
type leftOver struct {
	Point   string `json:"point"` // device.point
	Alert   string `json:"alert"`
	Subject string `json:"subject"`
	Rest    bool   `json:"rest,omitempty"`  // it is to be at rest, and could not be set yet
	Since   int64  `json:"since,omitempty"` // Unix seconds at which it was wanted; 0: not known
}

// encodeLeft returns half number n of the file, at most size bytes.
func encodeLeft(left []leftOver, n uint64, size int) ([]byte, error) {
	data, err := json.Marshal(left)
	if err != nil {
		return nil, err
	}
	if leftHead+len(data) > size {
		return nil, fmt.Errorf("the list of outputs is %d bytes, there is room for %d", len(data), size-leftHead)
	}
	b := append([]byte(leftMagic), 0, 0, 0, 0)
	b = le.LittleEndian.AppendUint64(b, n)
	b = le.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	le.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b, nil
}

// decodeLeft reads the file's contents, and returns the number of the half that counts: 0 for none.
func decodeLeft(b []byte) (left []leftOver, n uint64, err error) {
	if bytes.HasPrefix(b, []byte("[")) {
		err = json.Unmarshal(b, &left)
		return left, 0, err
	}
	var list []byte
	for _, half := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		if len(half) < leftHead || !bytes.HasPrefix(half, []byte(leftMagic)) {
			continue
		}
		length := le.LittleEndian.Uint32(half[16:])
		if uint64(length) > uint64(len(half)-leftHead) {
			continue
		}
		half = half[:leftHead+length]
		number := le.LittleEndian.Uint64(half[8:])
		if number > n && number < math.MaxUint64 && crc32.Checksum(half[8:], castagnoli) == le.LittleEndian.Uint32(half[4:]) {
			list, n = half[leftHead:], number
		}
	}
	if n == 0 {
		return nil, 0, errors.New("neither half of it is whole")
	}
	err = json.Unmarshal(list, &left)
	return left, n, err
}

// keeper writes the file. It belongs to drive.run once that runs.
type keeper struct {
	path    string // "": nothing is kept
	stir    chan struct{}
	failing bool

	file    *os.File // nil where it could not be made yet
	half    int      // bytes of a half
	number  uint64   // of the half written last
	written []byte   // that half without its head; nil: not known
}

// load returns the outputs that the last process has left, "" in path for nowhere. Without the file there are none; one that
// cannot be read costs no start.
func (k *keeper) load(log *zap.Logger) (left []leftOver) {
	if k.path == "" {
		return nil
	}
	data, err := readAtMost(k.path, leftMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		left, k.number, err = decodeLeft(data)
	}
	if err != nil {
		log.Warn("which outputs rules had set is not known any more; those that no alert wants stay as they are", zap.String("file", k.path), zap.Error(err))
		return nil
	}
	return left
}

// write puts a list into the file, and the file at its place where it is not there yet.
func (k *keeper) write(left []leftOver) error {
	next, err := encodeLeft(left, k.number+1, k.half)
	if err != nil {
		return fmt.Errorf("write %s: %w", k.path, err)
	}
	if k.file != nil && bytes.Equal(next[leftHead:], k.written) {
		return nil
	}
	if k.file == nil && !k.open() {
		return k.make(next)
	}
	k.written = nil
	if _, err = k.file.WriteAt(next, int64(k.number+1)%2*int64(k.half)); err == nil {
		err = k.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", k.path, err)
	}
	k.number++
	k.written = next[leftHead:]
	return nil
}

// open opens a file that has its length, and reports whether there is one.
func (k *keeper) open() bool {
	f, err := os.OpenFile(k.path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	info, statErr := f.Stat()
	head := make([]byte, 1)
	_, readErr := f.ReadAt(head, 0)
	if statErr != nil || readErr != nil && readErr != io.EOF || !info.Mode().IsRegular() || info.Size() != 2*int64(k.half) || head[0] == '[' {
		f.Close()
		return false
	}
	k.file = f
	return true
}

// make replaces the file by one of the full length, with the half next in it: what is in the old one counts until then.
func (k *keeper) make(next []byte) error {
	data := make([]byte, 2*k.half)
	copy(data[int(k.number+1)%2*k.half:], next)
	err := writeWhole(k.path, data)
	if err != nil {
		return err
	}
	k.number++
	if k.file, err = os.OpenFile(k.path, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("write %s: %w", k.path, err)
	}
	k.written = next[leftHead:]
	return nil
}

// relieve takes over what rules have left as it was and no alert wants any more. What known knows of is set to rest: there
// is nothing to wait for. Everything else may be on for good reason, and the book that said so is lost: it stays as it is
// until release is told better. In a dry run it is only said. It is called once what alerts want now is known, before run.
func (d *drive) relieve(known func(leftOver) bool) {
	for _, l := range d.keeper.load(d.log) {
		for _, p := range d.points {
			s := d.inv.Series(p.point)
			if s.Device+"."+s.Point != l.Point {
				continue
			}
			id := telemetry.Identity{Alert: l.Alert, Subject: l.Subject}
			p.mu.Lock()
			if p.live || p.left {
				p.mu.Unlock()
				continue
			}
			p.left, p.ours = true, true
			p.want = response.Command{Point: p.point, Value: onOf(d.inv.Points[p.point].Def.Kind), For: id, Why: response.WhyReasserted, Time: d.orders.clock.Mono()}
			p.mu.Unlock()
			told := []zap.Field{zap.String("output", l.Point), zap.String("alert", l.Alert), zap.String("subject", l.Subject)}
			switch {
			case d.dry:
				d.log.Warn("an output was left as a rule had set it; in a dry run it stays so", told...)
			case l.Rest || known(l):
				d.rest(p)
			default:
				d.log.Warn("an output was left as a rule had set it, and nothing is known of the alert; it stays so until the rule can be decided",
					append(told, zap.Duration("at most", leftWait))...)
				d.orders.claim(p.point) // on_start does not decide that.
				d.lefts = append(d.lefts, p)
			}
		}
	}
	d.leftUntil = d.orders.clock.Mono().Add(leftWait)
	d.stirKeeper()
}

// onOf returns what an output is taken to be that a rule has set.
func onOf(k telemetry.Kind) telemetry.Value {
	if k == telemetry.Bool {
		return telemetry.BoolValue(true)
	}
	return telemetry.ValueFromBits(k, 0)
}

// rest sets an output to rest that is still as it was left.
func (d *drive) rest(p *driven) {
	d.orders.claim(p.point)
	p.mu.Lock()
	if !p.left {
		p.mu.Unlock()
		return
	}
	p.turn++
	p.left, p.live, p.done, p.keep, p.ours, p.hand = false, true, false, false, true, ""
	p.want.Value, p.want.Why = telemetry.ValueFromBits(d.inv.Points[p.point].Def.Kind, 0), response.WhyClosed
	p.want.Time = d.orders.clock.Mono()
	p.mu.Unlock()
	p.wake()
	d.orders.look(p.point)
	d.stirKeeper()
}

// release sets to rest what was left as it was and of which the engine has decided that nothing wants it, and in the end
// everything. It is called in the fan-in's goroutine after what follows from a step was wanted.
func (d *drive) release(now telemetry.Mono, e *rules.Engine) {
	if len(d.lefts) == 0 {
		return
	}
	rest := d.lefts[:0]
	for _, p := range d.lefts {
		p.mu.Lock()
		left, id := p.left, p.want.For
		p.mu.Unlock()
		switch {
		case !left: // wanted again, or taken over by hand
		case now >= d.leftUntil || e.Decided(id):
			d.rest(p)
		default:
			rest = append(rest, p)
		}
	}
	d.lefts = rest
}

// knownIn returns whether a book knows what became of the alert for which an output was left: it is open, and what it
// wants has been decided, or it was closed since.
func knownIn(book *alert.Book, log *zap.Logger) func(leftOver) bool {
	const newest = 1000
	var closed []alert.Alert
	read := false
	return func(l leftOver) bool {
		id := telemetry.Identity{Alert: l.Alert, Subject: l.Subject}
		for _, a := range book.OpenAlerts() {
			if a.Identity == id {
				return true
			}
		}
		if !read {
			var err error
			if closed, err = book.Recent(newest); err != nil {
				log.Warn("the closed alerts cannot be read", zap.Error(err))
			}
			read = true
		}
		for _, a := range closed {
			if a.Identity == id {
				return l.Since == 0 || a.TimeUncertain || a.ClosedAt.Unix() >= l.Since
			}
		}
		return false
	}
}

// leftNow returns the list of the file. At the end what was set to rest by the stop itself is not in it.
func (d *drive) leftNow(end bool) []leftOver {
	left := []leftOver{}
	now := d.orders.clock.Now()
	for _, p := range d.points {
		p.mu.Lock()
		c, ours, live := p.want, p.ours, p.live
		p.mu.Unlock()
		rest := telemetry.ValueFromBits(d.inv.Points[p.point].Def.Kind, 0)
		if !ours || end && d.orders.isKnown(p.point, rest) {
			continue
		}
		s := d.inv.Series(p.point)
		l := leftOver{Point: s.Device + "." + s.Point, Alert: c.For.Alert, Subject: c.For.Subject, Rest: live && c.Value == rest}
		if wall, ok := now.WallAt(c.Time); ok && !now.Uncertain {
			l.Since = wall.Unix()
		}
		left = append(left, l)
	}
	return left
}

// isKnown reports whether a point was last set to v, and that was confirmed.
func (o *orders) isKnown(point telemetry.PointID, v telemetry.Value) bool {
	p := o.outputs[point]
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.confirmed == v
}

// keepFile writes which outputs rules have set whenever that changes, and once more when served is closed: nothing is
// set after that.
func (d *drive) keepFile(served <-chan struct{}) {
	k := &d.keeper
	k.half = max(leftHalf, leftEach*len(d.points))
	defer func() {
		if k.file != nil {
			k.file.Close()
		}
	}()
	for end := false; ; {
		err := k.write(d.leftNow(end))
		if failing := err != nil; failing != k.failing {
			k.failing = failing
			if failing {
				d.log.Warn("which outputs rules have set cannot be kept on the disk", zap.Error(err))
			} else {
				d.log.Info("which outputs rules have set is kept on the disk again")
			}
		}
		if end {
			return
		}
		select {
		case <-served:
			end = true
		case <-k.stir:
		}
	}
}

// stirKeeper has the file looked at, where there is one.
func (d *drive) stirKeeper() {
	if d.keeper.path == "" {
		return
	}
	select {
	case d.keeper.stir <- struct{}{}:
	default:
	}
}

// leftPath returns where the file is kept in a state directory.
func leftPath(dir string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, leftName)
}
