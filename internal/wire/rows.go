package wire

import (
	"encoding/binary"
	"hash/fnv"
	"strconv"
	"time"

	"linli/internal/alert"
)

// The measurements that the city side writes besides what gateways send.
const (
	MeasurementAlert  = "alert"
	MeasurementEvent  = "event"
	MeasurementLoss   = "linli_loss"
	MeasurementLedger = "linli_ledger"
	MeasurementStatus = "linli_status"
	MeasurementHour   = "linli_hour"
	MeasurementLate   = "linli_late"
	MeasurementCheck  = "linli_check"
	MeasurementProbe  = "linli_ingest"

	reservedPrefix = "linli_"
)

// AppendAlertLine appends the row of an alert transition: tags alert, gateway, severity, site, subject, zone. Its
// time is the event's and nothing else: the same transition is the same row however often it is delivered. The caller
// has checked that this time can be true, or set another where the gateway's clock was not set.
func AppendAlertLine(dst []byte, site, gateway string, e *AlertEvent) []byte {
	d := &e.Data
	dst = append(dst, MeasurementAlert...)
	dst = appendTag(dst, "alert", d.Alert)
	dst = appendTag(dst, "gateway", gateway)
	dst = appendTag(dst, "severity", d.Severity.String())
	dst = appendTag(dst, "site", site)
	dst = appendTag(dst, "subject", d.Subject)
	dst = appendTag(dst, "zone", d.Zone)
	dst = appendString(append(dst, " id="...), d.ID)
	dst = appendString(append(dst, ",state="...), d.State.String())
	dst = appendString(append(dst, ",what="...), e.What())
	for _, f := range [...]struct{ key, value string }{
		{",title_zh=", d.Title.Zh}, {",title_en=", d.Title.En}, {",detail_zh=", d.Detail.Zh}, {",detail_en=", d.Detail.En},
		{",place_zh=", d.Place.Zh}, {",place_en=", d.Place.En}, {",device=", d.Device}, {",class=", d.Class},
		{",acknowledged_by=", d.AcknowledgedBy}, {",close_reason=", d.CloseReason}, {",tier=", d.Tier.String()},
		{",suppressed_by=", suppressor(d)},
	} {
		if f.value != "" {
			dst = appendString(append(dst, f.key...), f.value)
		}
	}
	for _, f := range [...]struct {
		key   string
		value bool
	}{
		{",unknown=", d.Unknown}, {",life_safety=", d.LifeSafety}, {",suppressed=", d.Suppressed}, {",durable=", d.Durable}, {",time_uncertain=", d.TimeUncertain},
	} {
		dst = strconv.AppendBool(append(dst, f.key...), f.value)
	}
	dst = append(strconv.AppendInt(append(dst, ",revision="...), d.Revision, 10), 'i')
	for _, f := range [...]struct {
		key string
		at  time.Time
	}{
		{",raised_at=", d.RaisedAt}, {",acknowledged_at=", d.AcknowledgedAt}, {",returned_at=", d.ReturnedAt}, {",closed_at=", d.ClosedAt},
	} {
		if !f.at.IsZero() {
			dst = append(strconv.AppendInt(append(dst, f.key...), f.at.UnixNano(), 10), 'i')
		}
	}
	return appendStamp(dst, e.Time.UnixNano())
}

// suppressor names what suppresses an alert, "" for nothing.
func suppressor(a *alert.Alert) string {
	if !a.Suppressed {
		return ""
	}
	return a.SuppressedBy.Alert + " " + a.SuppressedBy.Subject
}

// AppendLossLine appends the row of a loss: tags epoch, gateway, reason, site. Its time is the millisecond of at, which is
// l.T1 where that can be true. Losses that end together stay rows of their own: the last six digits of the time are
// taken from the first frame's number, or from everything else where the samples never were in a frame.
func AppendLossLine(dst []byte, site, gateway string, l *Lost, at int64) []byte {
	dst = append(dst, MeasurementLoss...)
	dst = appendEpochTag(dst, l.Epoch)
	dst = appendTag(dst, "gateway", gateway)
	dst = appendTag(dst, "reason", l.Reason)
	dst = appendTag(dst, "site", site)
	dst = appendSpan(append(dst, ' '), l.From, l.To, l.T0, l.T1)
	dst = append(strconv.AppendInt(append(dst, ",count="...), int64(min(l.Count, 1<<62)), 10), 'i')
	mark := l.From
	if mark == 0 {
		mark = checksum(l.Epoch, l.Count, uint64(l.T0), uint64(l.T1))
	}
	return appendStamp(dst, distinct(at, mark))
}

// AppendLedgerLine appends the row that says that a message has been written: tags epoch, gateway, site; its time is the
// millisecond of the last moment covered. Messages of other frames stay rows of their own: the last six digits of the
// time are a checksum of the frames and the part. The same frames in the same message are the same row, live or late:
// what a late one does not say (settled) stands.
func AppendLedgerLine(dst []byte, site, gateway string, h *Header) []byte {
	dst = append(dst, MeasurementLedger...)
	dst = appendEpochTag(dst, h.Epoch)
	dst = appendTag(dst, "gateway", gateway)
	dst = appendTag(dst, "site", site)
	dst = appendSpan(append(dst, ' '), h.From, h.To, h.T0, h.T1)
	dst = append(strconv.AppendInt(append(dst, ",count="...), int64(h.Count), 10), 'i')
	dst = append(strconv.AppendInt(append(dst, ",part="...), int64(h.Part), 10), 'i')
	dst = append(strconv.AppendInt(append(dst, ",parts="...), int64(h.Parts), 10), 'i')
	if h.Settled != 0 {
		dst = append(strconv.AppendInt(append(dst, ",settled="...), h.Settled, 10), 'i')
	}
	dst = strconv.AppendBool(append(dst, ",late="...), h.Late)
	dst = strconv.AppendBool(append(dst, ",time_uncertain="...), h.Uncertain)
	return appendStamp(dst, distinct(h.T1, checksum(h.From, h.To, uint64(h.Part), uint64(h.Parts))))
}

// AppendStatusLine appends the row of a status: tags gateway, site. Its time is at: the status's own where it has one.
func AppendStatusLine(dst []byte, site, gateway string, s *Status, at int64) []byte {
	dst = append(dst, MeasurementStatus...)
	dst = appendTag(dst, "gateway", gateway)
	dst = appendTag(dst, "site", site)
	dst = appendString(append(dst, " state="...), s.State)
	text := func(key, value string) {
		if value != "" {
			dst = appendString(append(dst, key...), value)
		}
	}
	number := func(key string, n uint64) {
		dst = append(strconv.AppendUint(append(dst, key...), n, 10), 'i')
	}
	text(",reason=", s.Reason)
	if s.Bare() {
		return appendStamp(dst, at) // a will knows nothing else
	}
	text(",version=", s.Version)
	text(",epoch=", s.Epoch)
	dst = strconv.AppendBool(append(dst, ",clock_set="...), s.ClockSet)
	if !s.StartedAt.IsZero() {
		number(",started_at=", uint64(s.StartedAt.UnixNano()))
	}
	number(",first_seq=", s.FirstSeq)
	number(",next_seq=", s.NextSeq)
	number(",backlog_frames=", s.BacklogFrames)
	number(",waiting_frames=", s.WaitingFrames)
	number(",sent_again_frames=", s.SentAgainFrames)
	text(",sent_again_reason=", s.SentAgainReason)
	number(",open_alerts=", uint64(s.OpenAlerts))
	if j := s.Journal; j != nil {
		number(",journal_bytes=", uint64(j.Bytes))
		number(",commit_failures=", j.CommitFailures)
		number(",samples_lost=", j.SamplesLost)
		number(",damaged_frames=", j.DamagedFrames)
		text(",journal_error=", j.Error)
	}
	return appendStamp(dst, at)
}

// Hour is what the ledger says of one hour of one gateway, as far as it was known when somebody looked.
type Hour struct {
	Start       int64 // nanoseconds since 1970
	State       string
	Complete    bool
	Percent     float64 // how much of the hour has arrived or was told as lost
	Frames      uint64  // arrived
	Missing     uint64  // frames
	Lost        uint64  // frames told as lost
	LostSamples uint64
	Gaps        int
	Heard       int64 // the newest row of the gateway, 0: never
	Checked     int64
	Seal        int64 // what the word complete rests on, see ledger.Seal; 0: it may still change
}

// AppendHourLine appends the row of an hour: tags gateway, site; its time is the hour's start. Who looks later overwrites it.
func AppendHourLine(dst []byte, site, gateway string, h *Hour) []byte {
	dst = append(dst, MeasurementHour...)
	dst = appendTag(dst, "gateway", gateway)
	dst = appendTag(dst, "site", site)
	dst = appendString(append(dst, " state="...), h.State)
	dst = strconv.AppendBool(append(dst, ",complete="...), h.Complete)
	dst = strconv.AppendFloat(append(dst, ",percent="...), h.Percent, 'f', -1, 64)
	for _, f := range [...]struct {
		key   string
		value int64
	}{
		{",frames=", int64(h.Frames)}, {",missing=", int64(h.Missing)}, {",lost=", int64(h.Lost)}, {",lost_samples=", int64(min(h.LostSamples, 1<<62))},
		{",gaps=", int64(h.Gaps)}, {",heard=", h.Heard}, {",checked=", h.Checked}, {",seal=", h.Seal},
	} {
		dst = append(strconv.AppendInt(append(dst, f.key...), f.value, 10), 'i')
	}
	return appendStamp(dst, h.Start)
}

// AppendLateLine appends the row that says that something has come, at the moment at, that says something of the hour that
// begins at start, or of it and of later ones: tags client, gateway, site; its time is start. client must be a name without
// special characters. Who judged such an hour before has to look again.
func AppendLateLine(dst []byte, client, site, gateway string, start, at int64) []byte {
	dst = append(dst, MeasurementLate...)
	dst = appendTag(dst, "client", client)
	dst = appendTag(dst, "gateway", gateway)
	dst = appendTag(dst, "site", site)
	dst = append(strconv.AppendInt(append(dst, " at="...), at, 10), 'i')
	return appendStamp(dst, start)
}

// Check is one look of an ingest at the ledger: the newest minutes of all gateways, or all hours that are not complete.
type Check struct {
	Kind           string // recent, hours; alerts: Gaps are nodes of which alerts are missing, Missing the alerts
	Nodes, Hours   int    // looked at, hours since the check before
	Waiting        int    // hours that are still to be looked at
	Gaps           int    // that were open then
	Missing, Asked uint64 // frames in them, and how many resends were asked for
	Took           int64  // nanoseconds
}

// AppendCheckLine appends the row of a check: tags client, kind. client must be a name without special characters.
func AppendCheckLine(dst []byte, client string, c *Check, at int64) []byte {
	dst = append(dst, MeasurementCheck...)
	dst = appendTag(dst, "client", client)
	dst = appendTag(dst, "kind", c.Kind)
	sep := byte(' ')
	for _, f := range [...]struct {
		key   string
		value int64
	}{
		{"nodes=", int64(c.Nodes)}, {"hours=", int64(c.Hours)}, {"waiting=", int64(c.Waiting)}, {"gaps=", int64(c.Gaps)}, {"missing=", int64(c.Missing)}, {"asked=", int64(c.Asked)}, {"took=", c.Took},
	} {
		dst = append(strconv.AppendInt(append(append(dst, sep), f.key...), f.value, 10), 'i')
		sep = ','
	}
	return appendStamp(dst, at)
}

// distinct returns the millisecond of t with the last six digits taken from mark.
func distinct(t int64, mark uint64) int64 { return t - t%1e6 + int64(mark%1e6) }

func checksum(values ...uint64) uint64 {
	h := fnv.New64a()
	for _, v := range values {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, v))
	}
	return h.Sum64()
}

func appendEpochTag(dst []byte, epoch uint64) []byte {
	return appendEpoch(append(dst, ",epoch="...), epoch)
}

func appendSpan(dst []byte, from, to uint64, t0, t1 int64) []byte {
	dst = append(strconv.AppendInt(append(dst, "from="...), int64(from), 10), 'i')
	dst = append(strconv.AppendInt(append(dst, ",to="...), int64(to), 10), 'i')
	dst = append(strconv.AppendInt(append(dst, ",t0="...), t0, 10), 'i')
	return append(strconv.AppendInt(append(dst, ",t1="...), t1, 10), 'i')
}

func appendTag(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(append(append(dst, ','), key...), '=')
	return appendTagValue(dst, value)
}

func appendStamp(dst []byte, ns int64) []byte {
	return append(strconv.AppendInt(append(dst, ' '), ns, 10), '\n')
}
