package alert

import "linli/internal/telemetry"

// Stats are the book's counters and gauges. Counters begin at zero when the book is opened.
type Stats struct {
	Open           map[telemetry.Severity]int // announced open alerts; every severity is present
	Unacknowledged int                        // of those, how many nobody has acknowledged and nothing suppresses
	Suppressed     int                        // of those, how many are suppressed
	Waiting        int                        // alerts whose newest state is not on disk
	Outbox         map[string]int             // by channel: alerts still to be told

	// Raised and Closed count the alerts of the book since it was made, whatever became of them since. What a crash kept from the
	// disk is not in them any more.
	Raised, Closed int64

	Commits        int64 // transactions that succeeded
	CommitFailures int64 // transactions that failed
	SlowCommits    int64 // transactions that took longer than the commit limit, failed or not
	PruneFailures  int64 // times that old closed alerts could not be thrown away
	HistoryDropped int64 // lines of history dropped before they reached the disk
	WaitingDropped int64 // closed alerts dropped before they reached the disk
	OutboxDropped  int64 // closed alerts given up before a channel could be told
}

// Stats returns the counters and gauges as they stand.
func (b *Book) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.Open = map[telemetry.Severity]int{telemetry.Notice: 0, telemetry.Warning: 0, telemetry.Critical: 0}
	for _, r := range b.byID {
		if r.shown.Revision > 0 && r.shown.Open() {
			s.Open[r.shown.Severity]++
			switch {
			case r.shown.Suppressed:
				s.Suppressed++
			case r.shown.State != ActiveAcknowledged:
				s.Unacknowledged++
			}
		}
	}
	s.Waiting = len(b.dirty)
	s.Closed, s.Raised = b.closedN, b.closedN+int64(len(b.open))
	s.Outbox = map[string]int{}
	for _, c := range b.outbox {
		s.Outbox[c.name] = len(c.items)
	}
	return s
}
