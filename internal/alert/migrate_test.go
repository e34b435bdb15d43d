package alert

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"linli/internal/store"
	"linli/internal/telemetry"
)

// A file of before the history named the boot: everything is there, with the time of what is still to be told.
func TestOlderFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	db, err := store.Open(path, migrations[:2])
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`
			INSERT INTO alerts VALUES ('x', 'A', 's', 'warning', 'active_unacknowledged', 1, 0, 't', 't', '', '', '', '', '', '', '',
				'1970-01-01T00:01:30.000Z', NULL, '', NULL, NULL, '', 2, 1, NULL);
			INSERT INTO history VALUES ('x', 1, '1970-01-01T00:01:30.000Z', 'raised', 'sensor', '', '', '');
			INSERT INTO history VALUES ('x', 2, '2026-11-21T04:00:00.000Z', 'unknown', 'sensor', '', '', '');
			INSERT INTO outbox VALUES ('mqtt', 'x', 2, 'unknown', 7)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(Config{Path: path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	o := b.Pending("mqtt", 10)
	if len(o) != 1 || o[0].What != "unknown" || o[0].At != time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC) || !o[0].Alert.TimeUncertain {
		t.Errorf("to be told: %+v", o)
	}
	if a := b.OpenAlerts()[0]; a.Tier != 0 || a.Suppressed || a.said != telemetry.Warning {
		t.Errorf("got %+v", a)
	}
	if _, lines, err := b.Get("x"); err != nil || len(lines) != 2 || !lines[0].TimeUncertain || lines[1].TimeUncertain {
		t.Errorf("history: %+v, %v", lines, err)
	}
}
