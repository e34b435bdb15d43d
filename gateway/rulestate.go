package main

import (
	"bytes"
	"context"
	le "encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"linli/internal/inplace"
	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/rules"
)

const (
	// ruleStateName is the file in the state directory that holds the timers and windows of the rules.
	ruleStateName = "rules.snapshot"
	// ruleStateEvery is how often it is written; a stop writes it too. What a crash may cost is that much of the windows.
	ruleStateEvery = 10 * time.Minute
	// ruleStateMax bounds what is read of it, in bytes.
	ruleStateMax = 128 << 20
)

// ruleState is the file's contents: when the snapshot was taken, and the engine's own bytes.
//
//	0        4         8           16          24        28     28+n
//	+--------+---------+-----------+-----------+---------+------+----------+
//	|LRS1    | CRC-32C | mono (ns) | wall (ns) | boot: n | boot | snapshot |
//	+--------+---------+-----------+-----------+---------+------+----------+
//
// The CRC covers everything after itself. wall is 0 where the clock was not set. Integers are little-endian.
type ruleState struct {
	boot     string
	mono     telemetry.Mono
	wall     time.Time
	snapshot []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *ruleState) encode() []byte {
	b := append([]byte("LRS1"), 0, 0, 0, 0)
	b = le.LittleEndian.AppendUint64(b, uint64(s.mono))
	wall := int64(0)
	if !s.wall.IsZero() {
		wall = s.wall.UnixNano()
	}
	b = le.LittleEndian.AppendUint64(b, uint64(wall))
	b = le.LittleEndian.AppendUint32(b, uint32(len(s.boot)))
	b = append(b, s.boot...)
	b = append(b, s.snapshot...)
	le.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

func decodeRuleState(b []byte) (*ruleState, error) {
	if len(b) < 28 || !bytes.HasPrefix(b, []byte("LRS1")) {
		return nil, errors.New("not a snapshot of rules")
	}
	if crc32.Checksum(b[8:], castagnoli) != le.LittleEndian.Uint32(b[4:]) {
		return nil, errors.New("the checksum does not match")
	}
	s := &ruleState{mono: telemetry.Mono(le.LittleEndian.Uint64(b[8:]))}
	if wall := int64(le.LittleEndian.Uint64(b[16:])); wall != 0 {
		s.wall = time.Unix(0, wall).UTC()
	}
	n := le.LittleEndian.Uint32(b[24:])
	if uint64(n) > uint64(len(b)-28) {
		return nil, errors.New("it ends too early")
	}
	s.boot, s.snapshot = string(b[28:28+n]), b[28+n:]
	return s, nil
}

// since returns by how much the snapshot's monotonic times are to be moved to the present line, and how long ago it was
// taken; false where nobody can tell, because the box has booted since and one of the two clocks was not set.
func (s *ruleState) since(boot string, now telemetry.Now) (by, ago time.Duration, ok bool) {
	if s.boot == boot {
		return 0, now.Mono.Sub(s.mono), now.Mono >= s.mono
	}
	if s.wall.IsZero() || now.Wall.IsZero() {
		return 0, 0, false
	}
	ago = now.Wall.Sub(s.wall)
	if ago < 0 {
		return 0, 0, false // One of the two clocks was wrong.
	}
	return now.Mono.Sub(s.mono) - ago, ago, true
}

// beginRules gives the plan's engine what was before the process started: the alerts that were active, its timers and
// windows. The journal is told, so that a backtest can do the same. It returns the open alerts that nothing stands for any
// more, which are to be closed.
func beginRules(st *stores, p *plan, clock *telemetry.Clock, log *zap.Logger) (gone []telemetry.Identity) {
	gone = goneAlerts(st.book.OpenAlerts(), p.engine.Restore(st.book.Active()), p.site.Inventory)
	mark := journal.Mark{Kind: journal.MarkStart, Rules: rulesName(p.engine)}
	if s, by := resumeRules(st.dir, p.engine, clock, log); s != nil {
		mark.Resumed, mark.Snapshot, mark.SnapshotBoot, mark.By = true, s.mono, s.boot, by
	}
	st.journal.Mark(clock.Mono(), mark)
	return gone
}

// rulesName is the same text for rules that decide the same, under the same version of this program.
func rulesName(e *rules.Engine) string { return productVersion() + " " + e.Fingerprint() }

// resumeRules gives the engine its timers and windows back, with the time since then taken into account. Without them it
// starts anew, which loses no alert; so nothing here is an error. It returns what it took over, nil for nothing, and by how
// much its times were moved.
func resumeRules(dir string, engine *rules.Engine, clock *telemetry.Clock, log *zap.Logger) (s *ruleState, by time.Duration) {
	path := filepath.Join(dir, ruleStateName)
	data, err := readAtMost(path, ruleStateMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0
	}
	if err == nil {
		s, err = decodeRuleState(data)
	}
	if err != nil {
		log.Warn("the rules' timers and windows start anew: their file cannot be used", zap.String("file", path), zap.Error(err))
		return nil, 0
	}
	by, ago, known := s.since(clock.Boot, clock.Now())
	if !known {
		log.Info("the rules' timers and windows start anew: nobody knows how long the box was off")
		return nil, 0
	}
	kept, err := engine.Resume(s.snapshot, by)
	if err != nil {
		log.Warn("some of the rules' timers and windows start anew", zap.String("file", path), zap.Int("kept", kept), zap.Error(err))
	}
	log.Info("the rules go on with their timers and windows", zap.Int("subjects", kept), zap.Duration("after", ago))
	return s, by
}

// rulesKeeper writes the rules' timers and windows into the state directory every ten minutes and at the end.
type rulesKeeper struct {
	dir   string
	in    *fanIn
	clock *telemetry.Clock
	log   *zap.Logger

	failing bool
}

// run keeps until ctx ends.
func (k *rulesKeeper) run(ctx context.Context) error {
	tick := time.NewTicker(ruleStateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			k.keep(ctx)
		}
	}
}

// keep writes a snapshot of the running engine. The engine is held up only while its bytes are made.
func (k *rulesKeeper) keep(ctx context.Context) {
	var s *ruleState
	if err := k.in.ask(ctx, func(e *rules.Engine) { s = k.in.snapshot(e) }); err != nil {
		return // The gateway is stopping: last writes it.
	}
	k.write(s)
}

// last writes the snapshot of an engine that has stopped.
func (k *rulesKeeper) last() error {
	return k.write(k.in.snapshot(k.in.engine))
}

func (k *rulesKeeper) write(s *ruleState) error {
	s.boot = k.clock.Boot
	err := inplace.Replace(filepath.Join(k.dir, ruleStateName), s.encode(), 0o640)
	if failing := err != nil; failing != k.failing {
		k.failing = failing
		if failing {
			k.log.Warn("the rules' timers and windows cannot be kept; a restart begins them anew", zap.Error(err))
		} else {
			k.log.Info("the rules' timers and windows are kept again")
		}
	}
	return err
}
