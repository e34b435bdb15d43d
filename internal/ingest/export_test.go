package ingest

import "time"

// SetTimeouts shortens what the database gets for a whole exchange, and for the rest of it after the status.
func (in *Ingest) SetTimeouts(request, answer time.Duration) {
	in.db.service = newService(in.cfg.Influx.URL, request, answer)
}

// SetConnectionTimes shortens how long a connection must last to count as a good one, and how long a broker may take to answer.
func (in *Ingest) SetConnectionTimes(lived, dial time.Duration) {
	in.livedAfter, in.dialTimeout = lived, dial
}
