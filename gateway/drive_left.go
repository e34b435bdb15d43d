package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"

	"go.uber.org/zap"

	"linli/internal/telemetry"
	"linli/rules/response"
)

// leftName is the file in the state directory that names the outputs which rules have set and not let go of. With it, a
// siren whose alert was closed while its unit did not answer is switched off also where the gateway has died in between.
const (
	leftName = "outputs.driven"
	leftMax  = 1 << 20 // bytes read of it
)

// leftOver is one output of the file.
type leftOver struct {
	Point   string `json:"point"` // device.point
	Alert   string `json:"alert"`
	Subject string `json:"subject"`
}

// keeper writes the file. It belongs to drive.run.
type keeper struct {
	path    string // "": nothing is kept
	stir    chan struct{}
	failing bool
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
		err = json.Unmarshal(data, &left)
	}
	if err != nil {
		log.Warn("which outputs rules had set is not known any more; those that no alert wants stay as they are", zap.String("file", k.path), zap.Error(err))
		return nil
	}
	return left
}

// relieve sets to rest what rules have left as it was and no alert wants any more. It is called once what alerts want now
// is known, before run.
func (d *drive) relieve() {
	for _, l := range d.keeper.load(d.log) {
		for _, p := range d.points {
			s := d.inv.Series(p.point)
			if s.Device+"."+s.Point != l.Point {
				continue
			}
			p.mu.Lock()
			wanted := p.live
			p.mu.Unlock()
			if !wanted {
				d.want(response.Command{Point: p.point, Value: telemetry.ValueFromBits(d.inv.Points[p.point].Def.Kind, 0),
					For: telemetry.Identity{Alert: l.Alert, Subject: l.Subject}, Why: response.WhyClosed, Time: d.orders.clock.Mono()})
			}
		}
	}
}

// keepFile writes which outputs rules have set whenever that changes, until ctx ends.
func (d *drive) keepFile(ctx context.Context) {
	var written string
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.keeper.stir:
		}
		left := []leftOver{}
		for _, p := range d.points {
			p.mu.Lock()
			c, ours := p.want, p.ours
			p.mu.Unlock()
			if ours {
				s := d.inv.Series(p.point)
				left = append(left, leftOver{s.Device + "." + s.Point, c.For.Alert, c.For.Subject})
			}
		}
		data, err := json.Marshal(left)
		if err == nil && string(data) == written {
			continue
		}
		if err == nil {
			err = writeWhole(d.keeper.path, append(data, '\n'))
		}
		if failing := err != nil; failing != d.keeper.failing {
			d.keeper.failing = failing
			if failing {
				d.log.Warn("which outputs rules have set cannot be kept on the disk", zap.Error(err))
			} else {
				d.log.Info("which outputs rules have set is kept on the disk again")
			}
		}
		if err == nil {
			written = string(data)
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
