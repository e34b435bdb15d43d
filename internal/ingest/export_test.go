package ingest

import "time"

// SetTimeouts shortens what the database gets for a whole exchange, and for the rest of it after the status.
func (in *Ingest) SetTimeouts(request, answer time.Duration) {
	in.db.service = newService(in.cfg.Influx.URL, request, answer)
}
