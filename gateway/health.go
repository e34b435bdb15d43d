package main

import (
	"fmt"
	"io"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"linli/drivers"
	"linli/internal/alert"
	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/journal"
	"linli/internal/live"
	"linli/internal/telemetry"
	"linli/internal/uplink"
)

// health gathers what the parts of the gateway know about themselves, for the console and for /metrics: one source
// for both. It is safe for concurrent use.
type health struct {
	inv     *telemetry.Inventory
	clock   *telemetry.Clock
	table   *live.Table
	book    *alert.Book
	journal *journal.Journal
	trouble error          // why the stores are in memory, nil where they are on the disk
	uplink  *uplink.Uplink // nil for a box that works alone
	lines   []*drivers.Line
	dialIns []namedRunner // where converters dial in
	fanIn   *fanIn
	audit   *audit.Record
}

func (h *health) status() console.Status {
	j := h.journal.Stats()
	d := h.fanIn.respond.drive
	s := console.Status{DryRun: d.dry, Outputs: d.inDemand(), Journal: &console.JournalStatus{
		Bytes: j.Bytes, Frames: j.Next - j.First, CommitFailures: j.CommitFailures, SamplesLost: j.SamplesLost,
		DamagedFrames: j.DamagedFrames, LastError: j.LastError,
	}}
	if j.LastError == "" && j.Rollups.LastError != "" {
		s.Journal.LastError = "rollups: " + j.Rollups.LastError
	}
	if h.trouble != nil {
		s.Journal.LastError = h.trouble.Error()
	}
	if h.uplink != nil {
		u := h.uplink.Status()
		s.Uplink = &console.UplinkStatus{Connected: u.Connected, Since: u.Since, Backlog: u.BacklogFrames, Error: u.LastError}
	}
	for _, line := range h.lines {
		b := line.Health()
		bus := console.BusStatus{ID: b.Bus, Error: b.LastError}
		for _, u := range b.Units {
			bus.Units = append(bus.Units, console.UnitStatus{ID: u.Unit, Online: u.Online, Error: u.LastError})
		}
		s.Buses = append(s.Buses, bus)
	}
	return s
}

// register adds the gateway's metrics to set. Each is read when it is asked for.
func (h *health) register(set *metrics.Set) {
	gauge := func(name string, f func() float64) { set.NewGauge(name, f) }
	set.NewGauge(fmt.Sprintf("linli_info{version=%q,node=%q}", productVersion(), h.inv.Node()), func() float64 { return 1 })
	started := time.Now()
	gauge("linli_uptime_seconds", func() float64 { return time.Since(started).Seconds() })
	gauge("linli_samples_total", func() float64 { return float64(h.fanIn.samples.Load()) })
	for why := range reasons {
		name := "linli_samples_held_total"
		if why.reported() {
			name = "linli_samples_reported_total"
		}
		gauge(fmt.Sprintf("%s{reason=%q}", name, reasonNames[why]), func() float64 { return float64(h.fanIn.report.counted(why)) })
	}
	gauge("linli_fanin_queue_batches", func() float64 { return float64(len(h.fanIn.batches)) })
	gauge("linli_fanin_last_step_age_seconds", func() float64 {
		return h.clock.Mono().Sub(telemetry.Mono(h.fanIn.stepped.Load())).Seconds()
	})

	gauge("linli_state_in_memory", func() float64 { return oneIf(h.trouble != nil) })
	gauge("linli_journal_bytes", func() float64 { return float64(h.journal.Stats().Bytes) })
	gauge("linli_journal_commits_total", func() float64 { return float64(h.journal.Stats().Commits) })
	gauge("linli_journal_commit_failures_total", func() float64 { return float64(h.journal.Stats().CommitFailures) })
	gauge("linli_journal_samples_written_total", func() float64 { return float64(h.journal.Stats().SamplesWritten) })
	gauge("linli_journal_samples_lost_total", func() float64 { return float64(h.journal.Stats().SamplesLost) })
	gauge("linli_journal_damaged_frames_total", func() float64 { return float64(h.journal.Stats().DamagedFrames) })
	gauge("linli_journal_space_reserved", func() float64 { return oneIf(h.journal.Stats().Reserved) })
	for name, value := range map[string]func(journal.RollupStats) float64{
		"linli_rollup_bytes":          func(s journal.RollupStats) float64 { return float64(s.Bytes) },
		"linli_rollup_hours_waiting":  func(s journal.RollupStats) float64 { return float64(s.Waiting) },
		"linli_rollup_files_total":    func(s journal.RollupStats) float64 { return float64(s.Built) },
		"linli_rollup_failures_total": func(s journal.RollupStats) float64 { return float64(s.Failures) },
		"linli_rollup_damaged_total":  func(s journal.RollupStats) float64 { return float64(s.Damaged) },
	} {
		gauge(name, func() float64 { return value(h.journal.Stats().Rollups) })
	}

	for severity := telemetry.Notice; severity <= telemetry.Critical; severity++ {
		gauge(fmt.Sprintf("linli_alerts_open{severity=%q}", severity), func() float64 { return float64(h.book.Stats().Open[severity]) })
	}
	for name, value := range map[string]func(alert.Stats) int64{
		"linli_alerts_not_durable":           func(s alert.Stats) int64 { return int64(s.Waiting) },
		"linli_alerts_commits_total":         func(s alert.Stats) int64 { return s.Commits },
		"linli_alerts_commit_failures_total": func(s alert.Stats) int64 { return s.CommitFailures },
		"linli_alerts_slow_commits_total":    func(s alert.Stats) int64 { return s.SlowCommits },
		"linli_alerts_dropped_total":         func(s alert.Stats) int64 { return s.WaitingDropped + s.OutboxDropped + s.HistoryDropped },
		"linli_alerts_untold": func(s alert.Stats) int64 {
			n := 0
			for _, waiting := range s.Outbox {
				n += waiting
			}
			return int64(n)
		},
	} {
		gauge(name, func() float64 { return float64(value(h.book.Stats())) })
	}
	gauge("linli_alerts_suppressed", func() float64 { return float64(h.book.Stats().Suppressed) })
	gauge("linli_dry_run", func() float64 { return oneIf(h.fanIn.respond.drive.dry) })
	gauge("linli_outputs_in_demand", func() float64 { return float64(len(h.fanIn.respond.drive.inDemand())) })
	gauge("linli_outputs_not_set", func() float64 {
		n := 0
		for _, o := range h.fanIn.respond.drive.inDemand() {
			if !o.Done {
				n++
			}
		}
		return float64(n)
	})
	gauge("linli_rules_late_samples_total", func() float64 { return float64(h.fanIn.late.Load()) })
	gauge("linli_points_unknown", func() float64 {
		n := 0
		for i, e := range h.table.All() {
			if h.inv.IsSystem(i) {
				continue // What the gateway says of its own works is not what people wait for.
			}
			if !e.Known || e.Quality.Bad() {
				n++
			}
		}
		return float64(n)
	})
	if h.uplink != nil {
		gauge("linli_uplink_connected", func() float64 { return oneIf(h.uplink.Status().Connected) })
		gauge("linli_uplink_waiting_frames", func() float64 { return float64(h.uplink.Status().WaitingFrames) }) // for the clock to be set
		gauge("linli_uplink_twin", func() float64 {
			t := h.uplink.Status().Twin
			return oneIf(t != nil && time.Since(t.Seen) < 10*time.Minute)
		}) // another gateway uses our id
		gauge("linli_uplink_certificate_refused", func() float64 { return oneIf(h.uplink.Status().CertificateError != "") })
		gauge("linli_uplink_certificate_expires_timestamp_seconds", func() float64 { // 0 without a certificate
			if until := h.uplink.Status().CertificateUntil; !until.IsZero() {
				return float64(until.Unix())
			}
			return 0
		})
		gauge("linli_uplink_backlog_frames", func() float64 { return float64(h.uplink.Status().BacklogFrames) })
		gauge("linli_uplink_hears", func() float64 { return oneIf(h.uplink.Status().Hears) }) // commands reach us
		gauge("linli_uplink_resent_frames_total", func() float64 { return float64(h.uplink.Status().Resent) })
		gauge("linli_commands_taken_total", func() float64 { return float64(h.uplink.Status().Commands.Taken) })
		gauge("linli_commands_refused_total", func() float64 { return float64(h.uplink.Status().Commands.Refused) })
		gauge("linli_commands_unproven_total", func() float64 { return float64(h.uplink.Status().Commands.Unproven) })
		gauge("linli_commands_dropped_total", func() float64 { return float64(h.uplink.Status().Commands.Dropped) })
	}
	gauge("linli_audit_written_total", func() float64 { return float64(h.audit.Stats().Written) })
	gauge("linli_audit_failures_total", func() float64 { return float64(h.audit.Stats().Failures) })
	gauge("linli_audit_dropped_total", func() float64 { return float64(h.audit.Stats().Dropped) })
	gauge("linli_audit_folded_total", func() float64 { return float64(h.audit.Stats().Folded) })
	gauge("linli_audit_waiting", func() float64 { return float64(h.audit.Stats().Waiting) })
	for _, d := range h.dialIns {
		if l := d.listener; l != nil {
			gauge(fmt.Sprintf("linli_listener_strangers_total{address=%q}", l.Address()), func() float64 { return float64(l.Strangers()) })
			gauge(fmt.Sprintf("linli_listener_refused_total{address=%q}", l.Address()), func() float64 { return float64(l.Refused()) })
		}
	}
	for _, line := range h.lines {
		b := line.Health()
		gauge(fmt.Sprintf("linli_bus_up{bus=%q}", b.Bus), func() float64 { return oneIf(line.Health().Up) })
		gauge(fmt.Sprintf("linli_bus_suspended{bus=%q}", b.Bus), func() float64 { return oneIf(line.Health().Suspended) })
		gauge(fmt.Sprintf("linli_bus_late_frames_total{bus=%q}", b.Bus), func() float64 { return float64(line.Health().Late) })
		gauge(fmt.Sprintf("linli_bus_foreign_frames_total{bus=%q}", b.Bus), func() float64 { return float64(line.Health().Foreign) })
		gauge(fmt.Sprintf("linli_bus_writes_refused_total{bus=%q}", b.Bus), func() float64 { return float64(line.Refused()) })
		gauge(fmt.Sprintf("linli_bus_busy_ratio{bus=%q}", b.Bus), func() float64 { return line.Health().Busy })
	}
	set.RegisterMetricsWriter(h.writeUnits)
}

// unitMetrics are the metrics of a unit.
var unitMetrics = [...]struct {
	name  string
	value func(u *drivers.UnitHealth) float64
}{
	{"linli_unit_online", func(u *drivers.UnitHealth) float64 { return oneIf(u.Online) }},
	{"linli_unit_answers_total", func(u *drivers.UnitHealth) float64 { return float64(u.Answers) }},
	{"linli_unit_timeouts_total", func(u *drivers.UnitHealth) float64 { return float64(u.Timeouts) }},
	{"linli_unit_errors_total", func(u *drivers.UnitHealth) float64 { return float64(u.Errors) }},
	{"linli_unit_crc_errors_total", func(u *drivers.UnitHealth) float64 { return float64(u.CRC) }},
	{"linli_unit_retries_total", func(u *drivers.UnitHealth) float64 { return float64(u.Retries) }},
	{"linli_unit_exceptions_total", func(u *drivers.UnitHealth) float64 { return float64(u.Exceptions) }},
	{"linli_unit_late_frames_total", func(u *drivers.UnitHealth) float64 { return float64(u.Late) }},
	{"linli_unit_round_trip_seconds", func(u *drivers.UnitHealth) float64 { return u.RoundTrip.Seconds() }},
}

// writeUnits writes the metrics of all units. There are many: as gauges they would take a megabyte, and each would ask its
// bus for the health of all of its units.
func (h *health) writeUnits(w io.Writer) {
	buses := make([]drivers.BusHealth, len(h.lines))
	for i, line := range h.lines {
		buses[i] = line.Health()
	}
	for _, m := range unitMetrics {
		for _, b := range buses {
			for i := range b.Units {
				metrics.WriteGaugeFloat64(w, fmt.Sprintf("%s{bus=%q,unit=%q}", m.name, b.Bus, b.Units[i].Unit), m.value(&b.Units[i]))
			}
		}
	}
}

// oneIf is a condition as a metric.
func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
