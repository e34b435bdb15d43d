package alert

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"linli/internal/store"
	"linli/internal/telemetry"
)

// disk is where a book is kept: SQLite, or a fake that fails, hangs and crashes. Writes come from one goroutine at a
// time; reads come from any.
type disk interface {
	load(channels []string) (*loaded, error)
	// commit puts w on disk as a whole or not at all. It is repeated after an error, even where it had succeeded.
	commit(w *batch) error
	// prune throws away old closed alerts where there are too many.
	prune() error
	recent(n int) ([]Alert, error)
	get(id string) (Alert, []Entry, error) // ErrNotFound
	damaged() (path string, cause error)
	// close closes it; clean says that everything announced is on it, which the next load gives back.
	close(clean bool) error
}

// loaded is what a book begins with.
type loaded struct {
	open    []stored
	outbox  []outboxRow // oldest first
	seq     int64
	closedN int64
	clean   bool // what was announced last time is all here
}

type stored struct {
	alert Alert
	lines []Entry
}

type outboxRow struct {
	channel, what string
	at            time.Time
	alert         Alert
}

// migrations make the tables that the package comment describes. They are appended to and never changed.
var migrations = [...]string{`
CREATE TABLE alerts (
	id              TEXT PRIMARY KEY,
	alert           TEXT NOT NULL,
	subject         TEXT NOT NULL,
	severity        TEXT NOT NULL,
	state           TEXT NOT NULL,
	unknown         INTEGER NOT NULL,
	life_safety     INTEGER NOT NULL,
	title_zh        TEXT NOT NULL,
	title_en        TEXT NOT NULL,
	detail_zh       TEXT NOT NULL,
	detail_en       TEXT NOT NULL,
	device          TEXT NOT NULL,
	class           TEXT NOT NULL,
	zone            TEXT NOT NULL,
	place_zh        TEXT NOT NULL,
	place_en        TEXT NOT NULL,
	raised_at       TEXT NOT NULL,
	acknowledged_at TEXT,
	acknowledged_by TEXT NOT NULL,
	returned_at     TEXT,
	closed_at       TEXT,
	close_reason    TEXT NOT NULL,
	revision        INTEGER NOT NULL,
	time_uncertain  INTEGER NOT NULL,
	closed_n        INTEGER
) STRICT;
CREATE INDEX alerts_closed ON alerts(closed_n) WHERE closed_n IS NOT NULL;
CREATE INDEX alerts_open ON alerts(id) WHERE closed_n IS NULL;
CREATE TABLE history (
	alert     TEXT NOT NULL REFERENCES alerts(id) ON DELETE CASCADE,
	revision  INTEGER NOT NULL,
	time      TEXT NOT NULL,
	what      TEXT NOT NULL,
	by        TEXT NOT NULL,
	note      TEXT NOT NULL,
	detail_zh TEXT NOT NULL,
	detail_en TEXT NOT NULL,
	PRIMARY KEY (alert, revision)
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (
	channel  TEXT NOT NULL,
	alert    TEXT NOT NULL REFERENCES alerts(id) ON DELETE CASCADE,
	revision INTEGER NOT NULL,
	what     TEXT NOT NULL,
	seq      INTEGER NOT NULL,
	PRIMARY KEY (channel, alert)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_alert ON outbox(alert);
`, `
CREATE TABLE book (clean INTEGER NOT NULL) STRICT;
INSERT INTO book VALUES (0);
`, `
ALTER TABLE history ADD COLUMN boot TEXT NOT NULL DEFAULT '';
`, `
ALTER TABLE alerts ADD COLUMN tier TEXT NOT NULL DEFAULT 'community';
ALTER TABLE alerts ADD COLUMN suppressed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN suppressed_by_alert TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN suppressed_by_subject TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN said TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN least TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN quiet INTEGER NOT NULL DEFAULT 0;
`, `
ALTER TABLE history ADD COLUMN severity TEXT NOT NULL DEFAULT '';
`, `
UPDATE alerts SET tier = '' WHERE tier = 'community';
`}

const (
	alertColumns = `a.id, a.alert, a.subject, a.severity, a.state, a.unknown, a.life_safety, a.title_zh, a.title_en,
		a.detail_zh, a.detail_en, a.device, a.class, a.zone, a.place_zh, a.place_en, a.raised_at, a.acknowledged_at,
		a.acknowledged_by, a.returned_at, a.closed_at, a.close_reason, a.revision, a.time_uncertain,
		a.tier, a.suppressed, a.suppressed_by_alert, a.suppressed_by_subject, a.said, a.least, a.quiet`
	historyColumns = "h.revision, h.time, h.what, h.by, h.note, h.detail_zh, h.detail_en, h.boot, h.severity"
	timeFormat     = "2006-01-02T15:04:05.000Z" // stamp makes them UTC and no finer

	readLimit  = 5 * time.Second // a console does not wait longer for the disk
	pruneBatch = 500             // closed alerts thrown away at a time
)

// sqlite is the real disk.
type sqlite struct {
	db       *store.DB
	channels []string
	keep     int
	closed   int // alerts closed since prune looked last; the writing goroutine's
}

func openDisk(cfg Config) (*sqlite, error) {
	db, err := store.Open(cfg.Path, migrations[:])
	if err != nil {
		return nil, err
	}
	return &sqlite{db: db, channels: cfg.Channels, keep: cfg.Keep, closed: pruneBatch}, nil
}

func (d *sqlite) damaged() (string, error) { return d.db.Damaged, d.db.Cause }

func (d *sqlite) close(clean bool) error {
	var err error
	if clean {
		err = d.db.Write(context.Background(), func(tx *sql.Tx) error {
			_, err := tx.Exec("UPDATE book SET clean = 1")
			return err
		})
	}
	return errors.Join(err, d.db.Close())
}

func (d *sqlite) load(channels []string) (*loaded, error) {
	l := &loaded{}
	err := d.db.Write(context.Background(), func(tx *sql.Tx) error {
		if err := tx.QueryRow("SELECT clean FROM book").Scan(&l.clean); err != nil {
			return err
		}
		if _, err := tx.Exec("UPDATE book SET clean = 0"); err != nil {
			return err
		}
		// A channel that is no longer configured will never be told.
		marks, args := "''", []any{}
		for _, c := range channels {
			marks += ", ?"
			args = append(args, c)
		}
		_, err := tx.Exec("DELETE FROM outbox WHERE channel NOT IN ("+marks+")", args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	r := d.db.Reader()
	if err := r.QueryRow("SELECT coalesce(max(closed_n), 0) FROM alerts WHERE closed_n IS NOT NULL").Scan(&l.closedN); err != nil {
		return nil, err
	}
	if err := r.QueryRow("SELECT coalesce(max(seq), 0) FROM outbox").Scan(&l.seq); err != nil {
		return nil, err
	}
	rows, err := r.Query("SELECT " + alertColumns + " FROM alerts a WHERE a.closed_n IS NULL ORDER BY a.id")
	if err != nil {
		return nil, err
	}
	open, err := scanAlerts(rows)
	if err != nil {
		return nil, err
	}
	for _, a := range open {
		lines, err := d.history(context.Background(), a.ID)
		if err != nil {
			return nil, err
		}
		l.open = append(l.open, stored{alert: a, lines: lines})
	}
	rows, err = r.Query("SELECT " + alertColumns + `, o.channel, o.what, h.time FROM outbox o JOIN alerts a ON a.id = o.alert
		LEFT JOIN history h ON h.alert = o.alert AND h.revision = o.revision ORDER BY o.seq`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var o outboxRow
		if o.alert, err = scanAlert(rows, &o.channel, &o.what, (*timeColumn)(&o.at)); err != nil {
			return nil, err
		}
		l.outbox = append(l.outbox, o)
	}
	return l, rows.Err()
}

func (d *sqlite) commit(w *batch) error {
	err := d.db.Write(context.Background(), func(tx *sql.Tx) error {
		// Deleting goes first: what is put below is newer.
		for _, t := range w.told {
			if _, err := tx.Exec("DELETE FROM outbox WHERE channel = ? AND alert = ? AND revision <= ?", t.channel, t.alert, t.revision); err != nil {
				return err
			}
		}
		for i := range w.items {
			if err := d.put(tx, &w.items[i]); err != nil {
				return fmt.Errorf("alert %s: %w", w.items[i].alert.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range w.items {
		if w.items[i].closedN != 0 {
			d.closed++
		}
	}
	return nil
}

// put writes one alert, the lines of history that are not on disk yet, and its outbox rows. Repeating it is harmless.
func (d *sqlite) put(tx *sql.Tx, it *item) error {
	a := &it.alert
	_, err := tx.Exec(`INSERT INTO alerts VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET severity = excluded.severity, state = excluded.state, unknown = excluded.unknown,
			life_safety = excluded.life_safety, title_zh = excluded.title_zh, title_en = excluded.title_en,
			detail_zh = excluded.detail_zh, detail_en = excluded.detail_en, device = excluded.device,
			class = excluded.class, zone = excluded.zone, place_zh = excluded.place_zh, place_en = excluded.place_en,
			raised_at = excluded.raised_at, time_uncertain = excluded.time_uncertain, acknowledged_at = excluded.acknowledged_at, acknowledged_by = excluded.acknowledged_by,
			returned_at = excluded.returned_at, closed_at = excluded.closed_at, close_reason = excluded.close_reason,
			revision = excluded.revision, closed_n = excluded.closed_n, tier = excluded.tier, suppressed = excluded.suppressed,
			suppressed_by_alert = excluded.suppressed_by_alert, suppressed_by_subject = excluded.suppressed_by_subject,
			said = excluded.said, least = excluded.least, quiet = excluded.quiet`,
		a.ID, a.Alert, a.Subject, a.Severity.String(), a.State.String(), a.Unknown, a.LifeSafety, a.Title.Zh, a.Title.En,
		a.Detail.Zh, a.Detail.En, a.Device, a.Class, a.Zone, a.Place.Zh, a.Place.En, timeText(a.RaisedAt), timeText(a.AcknowledgedAt),
		a.AcknowledgedBy, timeText(a.ReturnedAt), timeText(a.ClosedAt), a.CloseReason, a.Revision, a.TimeUncertain,
		sql.NullInt64{Int64: it.closedN, Valid: it.closedN != 0}, a.Tier.String(), a.Suppressed, a.SuppressedBy.Alert,
		a.SuppressedBy.Subject, severityText(a.said), severityText(a.least), a.quiet)
	if err != nil {
		return err
	}
	for _, e := range it.lines {
		_, err := tx.Exec("INSERT OR REPLACE INTO history VALUES (?,?,?,?,?,?,?,?,?,?)",
			a.ID, e.Revision, timeText(e.Time), e.What, e.By, e.Note, e.Detail.Zh, e.Detail.En, e.boot, e.severity.String())
		if err != nil {
			return err
		}
	}
	if a.Revision > historyKept {
		// Revision 1 and the newest stay, as in memory.
		_, err := tx.Exec("DELETE FROM history WHERE alert = ? AND revision > 1 AND revision <= ?", a.ID, a.Revision-historyKept+1)
		if err != nil {
			return err
		}
	}
	for _, c := range d.channels {
		_, err := tx.Exec("INSERT OR REPLACE INTO outbox VALUES (?,?,?,?,?)",
			c, a.ID, a.Revision, it.lines[len(it.lines)-1].What, it.seq)
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *sqlite) prune() error {
	if d.closed < min(pruneBatch, d.keep/10+1) {
		return nil
	}
	var have int
	if err := d.db.Reader().QueryRow("SELECT count(*) FROM alerts WHERE closed_n IS NOT NULL").Scan(&have); err != nil {
		return err
	}
	if have <= d.keep {
		d.closed = 0
		return nil
	}
	// Where more than a batch is too many, the next commit goes on with it.
	return d.db.Write(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM alerts WHERE id IN (
			SELECT id FROM alerts WHERE closed_n IS NOT NULL AND id NOT IN (SELECT alert FROM outbox)
			ORDER BY closed_n LIMIT ?)`, min(have-d.keep, pruneBatch))
		return err
	})
}

func (d *sqlite) recent(n int) ([]Alert, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readLimit)
	defer cancel()
	rows, err := d.db.Reader().QueryContext(ctx, "SELECT "+alertColumns+" FROM alerts a WHERE a.closed_n IS NOT NULL ORDER BY a.closed_n DESC LIMIT ?", n)
	if err != nil {
		return nil, err
	}
	return scanAlerts(rows)
}

func (d *sqlite) get(id string) (Alert, []Entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readLimit)
	defer cancel()
	a, err := scanAlert(d.db.Reader().QueryRowContext(ctx, "SELECT "+alertColumns+" FROM alerts a WHERE a.id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Alert{}, nil, ErrNotFound
	}
	if err != nil {
		return Alert{}, nil, fmt.Errorf("read alert %s: %w", id, err)
	}
	lines, err := d.history(ctx, id)
	if err != nil {
		return Alert{}, nil, fmt.Errorf("read the history of alert %s: %w", id, err)
	}
	return a, lines, nil
}

func (d *sqlite) history(ctx context.Context, id string) ([]Entry, error) {
	rows, err := d.db.Reader().QueryContext(ctx, "SELECT "+historyColumns+" FROM history h WHERE h.alert = ? ORDER BY h.revision", id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var lines []Entry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return nil, err
		}
		lines = append(lines, e)
	}
	return lines, rows.Err()
}

// scanEntry reads what stands before historyColumns into before, and then those.
func scanEntry(rows *sql.Rows, before ...any) (Entry, error) {
	var e Entry
	var severity string
	err := rows.Scan(append(before, &e.Revision, (*timeColumn)(&e.Time), &e.What, &e.By, &e.Note, &e.Detail.Zh, &e.Detail.En, &e.boot, &severity)...)
	e.severity, _ = telemetry.ParseSeverity(severity) // "" where there is none.
	e.TimeUncertain = unset(e.Time)
	return e, err
}

func scanAlerts(rows *sql.Rows) ([]Alert, error) {
	defer rows.Close()
	var alerts []Alert
	for rows.Next() {
		a, err := scanAlert(rows)
		if err != nil {
			return nil, err
		}
		alerts = append(alerts, a)
	}
	return alerts, rows.Err()
}

// scanAlert reads alertColumns, and what follows them into more.
func scanAlert(row interface{ Scan(...any) error }, more ...any) (Alert, error) {
	a := Alert{Durable: true}
	var severity, state, tier, said, least string
	err := row.Scan(append([]any{
		&a.ID, &a.Alert, &a.Subject, &severity, &state, &a.Unknown, &a.LifeSafety, &a.Title.Zh, &a.Title.En,
		&a.Detail.Zh, &a.Detail.En, &a.Device, &a.Class, &a.Zone, &a.Place.Zh, &a.Place.En, (*timeColumn)(&a.RaisedAt),
		(*timeColumn)(&a.AcknowledgedAt), &a.AcknowledgedBy, (*timeColumn)(&a.ReturnedAt), (*timeColumn)(&a.ClosedAt),
		&a.CloseReason, &a.Revision, &a.TimeUncertain, &tier, &a.Suppressed, &a.SuppressedBy.Alert,
		&a.SuppressedBy.Subject, &said, &least, &a.quiet,
	}, more...)...)
	if err != nil {
		return Alert{}, err
	}
	if err := a.State.UnmarshalText([]byte(state)); err != nil {
		return Alert{}, fmt.Errorf("alert %s: %w", a.ID, err)
	}
	if err := a.Tier.UnmarshalText([]byte(tier)); err != nil {
		return Alert{}, fmt.Errorf("alert %s: %w", a.ID, err)
	}
	a.Severity, _ = telemetry.ParseSeverity(severity) // An unknown word leaves 0, which is shown as it is.
	a.said, _ = telemetry.ParseSeverity(said)
	a.least, _ = telemetry.ParseSeverity(least)
	if a.said == 0 { // Written before anything escalated.
		a.said = a.Severity
	}
	return a, nil
}

// severityText returns a severity as a column value, "" for none.
func severityText(s telemetry.Severity) string {
	if s == 0 {
		return ""
	}
	return s.String()
}

// timeText returns t as a column value, NULL for the zero time.
func timeText(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Format(timeFormat)
}

// timeColumn reads what timeText wrote.
type timeColumn time.Time

// Scan implements sql.Scanner.
func (t *timeColumn) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*t = timeColumn{}
		return nil
	case string:
		parsed, err := time.Parse(timeFormat, strings.TrimSpace(v))
		*t = timeColumn(parsed)
		return err
	}
	return fmt.Errorf("a time cannot be a %T", v)
}
