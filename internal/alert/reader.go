package alert

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"linli/internal/store"
)

// Reader reads the file of a book that somebody else keeps: that of a running gateway, or of one that is stopped. It
// changes nothing and holds up nobody; what it reads is what the disk had when each call began. It is safe for
// concurrent use.
type Reader struct {
	db *sql.DB
}

// Record is an alert with its history.
type Record struct {
	Alert Alert
	// Lines are oldest first. Of a long history they are the first and the newest 255.
	Lines []Entry
}

// OpenReader opens the file at path, read-only. A file that does not exist, or was written by another version of this
// program, is an error (store.NewerError, store.OlderError).
func OpenReader(path string) (*Reader, error) {
	db, err := store.OpenReadOnly(path, len(migrations))
	if err != nil {
		return nil, fmt.Errorf("read the alerts: %w", err)
	}
	return &Reader{db: db}, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.db.Close() }

// History returns the alerts that were open at some time from from until before to, in the order of their ids, which
// is that of raising, each with its whole history: lines before from and after to as well. Of an alert whose times are
// uncertain (Alert.TimeUncertain) nobody knows when it was: it is among them if it is open, or was raised or closed
// within.
func (r *Reader) History(ctx context.Context, from, to time.Time) ([]Record, error) {
	// One transaction, so that alerts and their lines belong together.
	tx, err := r.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("read the alerts: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // There is nothing to undo.
	const within = " FROM alerts a WHERE a.raised_at < ? AND (a.closed_at IS NULL OR a.closed_at >= ?)"
	first, last := stamp(from).Format(timeFormat), stamp(to).Format(timeFormat)
	rows, err := tx.QueryContext(ctx, "SELECT "+alertColumns+within+" ORDER BY a.id", last, first)
	if err != nil {
		return nil, fmt.Errorf("read the alerts: %w", err)
	}
	alerts, err := scanAlerts(rows)
	if err != nil {
		return nil, fmt.Errorf("read the alerts: %w", err)
	}
	records := make([]Record, len(alerts))
	byID := make(map[string]*Record, len(alerts))
	for i, a := range alerts {
		records[i].Alert = a
		byID[a.ID] = &records[i]
	}
	rows, err = tx.QueryContext(ctx, "SELECT h.alert, "+historyColumns+" FROM history h WHERE h.alert IN (SELECT a.id"+within+") ORDER BY h.alert, h.revision", last, first)
	if err != nil {
		return nil, fmt.Errorf("read the history of the alerts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		e, err := scanEntry(rows, &id)
		if err != nil {
			return nil, fmt.Errorf("read the history of the alerts: %w", err)
		}
		if rec := byID[id]; rec != nil {
			rec.Lines = append(rec.Lines, e)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the history of the alerts: %w", err)
	}
	return records, nil
}
