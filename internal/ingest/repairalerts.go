package ingest

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"linli/internal/ledger"
	"linli/internal/ledger/read"
	"linli/internal/wire"
)

const (
	// alertsWindow is the time whose alerts are counted at each look; once an hour all of the horizon is.
	alertsWindow = 24 * time.Hour
	// alertSlots is for how many slots the command for alerts is the same: a gateway sends them once in that time.
	alertSlots = 6
)

// alerts finds the gateways that have counted more alerts than have arrived, and notes whom to ask to tell them again.
func (r *Repairer) alerts(ctx context.Context, now time.Time) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, max(5*r.cfg.Repair.Every, 10*time.Second))
	defer cancel()
	windows := []time.Duration{min(alertsWindow, r.cfg.Repair.Horizon)}
	if ledger.HourOf(now.UnixNano()) != ledger.HourOf(now.Add(-10*r.cfg.Repair.Every).UnixNano()) && r.cfg.Repair.Horizon > alertsWindow {
		windows = append(windows, r.cfg.Repair.Horizon)
	}
	short, counted, missing := map[string]bool{}, 0, uint64(0)
	for _, window := range windows {
		from, to := ledger.HourOf(now.UnixNano())-int64(window), now.Add(-r.cfg.Repair.Grace).UnixNano()
		all, err := r.read.Alerts(ctx, "", from, to, now.UnixNano())
		if err != nil {
			return err
		}
		counted = max(counted, len(all))
		for _, node := range slices.Sorted(maps.Keys(all)) {
			n := all[node].Missing()
			if n == 0 || short[node] {
				continue
			}
			short[node] = true
			missing += n
			w := ledger.NewWindow(to-int64(time.Minute), to)
			if err := r.read.Load(ctx, read.Query{Node: node, From: to - int64(time.Minute), To: to, Now: now.UnixNano()}, func(string) *ledger.Window { return w }); err != nil {
				return err
			}
			if report := w.Report(now.UnixNano()); !report.Status.Offline() {
				r.asks[node] = append([]asked{{alertsSince: from}}, r.asks[node]...)
			}
		}
	}
	r.count(func(s *RepairStats) { s.AlertsMissing = missing })
	if missing > 0 {
		r.log.Info("alerts are missing", zap.Int("gateways", len(short)), zap.Uint64("alerts", missing))
	}
	r.lines = wire.AppendCheckLine(r.lines, r.name, &wire.Check{Kind: "alerts", Nodes: counted, Gaps: len(short), Missing: missing, Took: int64(time.Since(began))}, now.UnixNano())
	return nil
}
