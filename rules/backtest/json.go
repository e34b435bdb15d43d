package backtest

import (
	"encoding/json"
	"time"

	"linli/internal/telemetry"
)

// MarshalJSON writes the whole report: times in UTC, severities and what happened as words, what is not there left out.
func (r *Report) MarshalJSON() ([]byte, error) {
	type row struct {
		Kind             RowKind        `json:"kind"`
		Alert            string         `json:"alert"`
		Subject          string         `json:"subject"`
		What             string         `json:"what"`
		Recorded         time.Time      `json:"recorded,omitzero"`
		Now              time.Time      `json:"now,omitzero"`
		MovedBySeconds   float64        `json:"moved_by_s,omitempty"`
		RecordedSeverity string         `json:"recorded_severity,omitempty"`
		NowSeverity      string         `json:"now_severity,omitempty"`
		Title            telemetry.Text `json:"title"`
	}
	type gap struct {
		From    time.Time `json:"from"`
		To      time.Time `json:"to"`
		Reason  string    `json:"reason"`
		Frames  uint64    `json:"frames,omitempty"`
		Samples uint64    `json:"samples,omitempty"`
	}
	type note struct {
		Kind  NoteKind  `json:"kind"`
		At    time.Time `json:"at,omitzero"`
		Count int       `json:"count"`
	}
	out := struct {
		Differs      bool      `json:"differs"`
		Since        time.Time `json:"since"`
		Until        time.Time `json:"until"`
		Short        bool      `json:"short"` // since is where the journal begins
		Begun        time.Time `json:"begun,omitzero"`
		Samples      uint64    `json:"samples"`
		Steps        uint64    `json:"steps"`
		Skipped      uint64    `json:"skipped_samples,omitempty"`
		Starts       int       `json:"starts"`
		Same         int       `json:"same"`
		Alerts       []Group   `json:"alerts"`
		Rows         []row     `json:"rows"`
		NotCompared  int       `json:"not_compared"`
		NotPlaced    int       `json:"not_placed"`
		GoneSubjects []string  `json:"gone_subjects,omitempty"`
		Missing      []gap     `json:"missing,omitempty"`
		Notes        []note    `json:"notes,omitempty"`
	}{
		Differs: r.Differs(), Since: r.Since.UTC(), Until: r.Until.UTC(), Short: r.Short, Begun: r.Begun, Samples: r.Samples, Steps: r.Steps, Skipped: r.Skipped, Starts: r.Starts,
		Same: r.Same, Alerts: r.Groups, Rows: []row{}, NotCompared: r.NotCompared, NotPlaced: r.NotPlaced, GoneSubjects: r.GoneSubjects,
	}
	if out.Alerts == nil {
		out.Alerts = []Group{}
	}
	for i := range r.Rows {
		d := &r.Rows[i]
		w := row{Kind: d.Kind, Alert: d.Alert, Subject: d.Subject, What: d.Op.String(), Recorded: d.Recorded, Now: d.Now,
			RecordedSeverity: d.RecordedSeverity.String(), NowSeverity: d.NowSeverity.String(), Title: d.Title}
		if d.Kind == Moved {
			w.MovedBySeconds = d.Now.Sub(d.Recorded).Seconds()
		}
		out.Rows = append(out.Rows, w)
	}
	for _, g := range r.Gaps {
		out.Missing = append(out.Missing, gap{g.From, g.To, g.Reason, g.Frames, g.Samples})
	}
	for _, n := range r.Notes {
		out.Notes = append(out.Notes, note(n))
	}
	return json.Marshal(out)
}
