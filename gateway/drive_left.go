package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/inplace"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/response"
)

// leftName is the file in the state directory that names the outputs which rules have set and not let go of. With it, a
// siren whose alert was closed while its unit did not answer is switched off also where the gateway has died in between.
//
// It is a list of leftOver in JSON, in halves (inplace.Halves); of earlier versions it is that list alone.
const (
	leftName  = "outputs.driven"
	leftMagic = "LOD1"
	leftMost  = 32<<10 - 20 // bytes of the list, more where there are very many outputs
	leftEach  = 512         // bytes of the list for each output
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

// keeper writes the file. It belongs to drive.run once that runs.
type keeper struct {
	file    *inplace.Halves // nil: nothing is kept
	stir    chan struct{}
	failing bool
	written []byte // the list that was written last; nil: not known
}

// newKeeper returns what keeps the list of so many outputs in a state directory, "" for nowhere.
func newKeeper(dir string, outputs int) keeper {
	if dir == "" {
		return keeper{}
	}
	return keeper{file: inplace.NewHalves(filepath.Join(dir, leftName), leftMagic, max(leftMost, leftEach*outputs)), stir: make(chan struct{}, 1)}
}

// load returns the outputs that the last process has left. Without the file there are none; one that cannot be read costs no
// start.
func (k *keeper) load(log *zap.Logger) (left []leftOver) {
	if k.file == nil {
		return nil
	}
	list, whole, err := k.file.Read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !whole && !bytes.HasPrefix(list, []byte("[")) {
		err = errors.New("neither half of it is whole")
	}
	if err == nil {
		err = json.Unmarshal(list, &left)
	}
	if err != nil {
		log.Warn("which outputs rules had set is not known any more; those that no alert wants stay as they are", zap.String("file", k.file.Path()), zap.Error(err))
		return nil
	}
	return left
}

// write puts a list into the file, where it is not what was written last.
func (k *keeper) write(left []leftOver) error {
	list, err := json.Marshal(left)
	if err != nil {
		return err
	}
	if bytes.Equal(list, k.written) {
		return nil
	}
	k.written = nil
	if err := k.file.Write(list); err != nil {
		return err
	}
	k.written = list
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
	defer k.file.Close()
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
	if d.keeper.file == nil {
		return
	}
	select {
	case d.keeper.stir <- struct{}{}:
	default:
	}
}
