package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

// alertType begins the CloudEvents type of an alert message; what happened follows.
const alertType = "dev.linli.alert."

// AlertEvent is an alert message: one transition of one alert, as a CloudEvent in JSON.
type AlertEvent struct {
	SpecVersion     string    `json:"specversion"` // "1.0"
	ID              string    `json:"id"`          // alert id "/" revision: the same transition has the same id for ever
	Source          string    `json:"source"`      // node
	Type            string    `json:"type"`        // dev.linli.alert.raised, ...
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"` // of the transition
	DataContentType string    `json:"datacontenttype"`
	Data            AlertData `json:"data"`
}

// AlertData is the alert as it stands after the transition.
type AlertData struct {
	ID             string         `json:"id"`
	Alert          string         `json:"alert"`
	Subject        string         `json:"subject"`
	Severity       string         `json:"severity"` // notice, warning, critical
	State          string         `json:"state"`    // active_unacknowledged, active_acknowledged, returned_unacknowledged, closed
	Unknown        bool           `json:"unknown"`
	LifeSafety     bool           `json:"life_safety"`
	Title          telemetry.Text `json:"title"`
	Detail         telemetry.Text `json:"detail"`
	Device         string         `json:"device,omitempty"`
	Class          string         `json:"class,omitempty"`
	Zone           string         `json:"zone,omitempty"`
	Place          telemetry.Text `json:"place"`
	RaisedAt       time.Time      `json:"raised_at,omitzero"`
	AcknowledgedAt time.Time      `json:"acknowledged_at,omitzero"`
	AcknowledgedBy string         `json:"acknowledged_by,omitempty"`
	ReturnedAt     time.Time      `json:"returned_at,omitzero"`
	ClosedAt       time.Time      `json:"closed_at,omitzero"`
	CloseReason    string         `json:"close_reason,omitempty"`
	Revision       int64          `json:"revision"`
	Durable        bool           `json:"durable"`
	TimeUncertain  bool           `json:"time_uncertain"`
}

// What returns what happened: raised, acknowledged, returned, unknown, known, changed, raised_again, closed.
func (e *AlertEvent) What() string {
	if len(e.Type) > len(alertType) {
		return e.Type[len(alertType):]
	}
	return ""
}

// StateName returns the word for an alert's state on the wire.
func StateName(s alert.State) string {
	switch s {
	case alert.ActiveUnacknowledged:
		return "active_unacknowledged"
	case alert.ActiveAcknowledged:
		return "active_acknowledged"
	case alert.ReturnedUnacknowledged:
		return "returned_unacknowledged"
	case alert.Closed:
		return "closed"
	}
	return "state_" + strconv.Itoa(int(s))
}

// NewAlertEvent returns the message for the transition what of a, at the time at.
func NewAlertEvent(node string, a *alert.Alert, what string, at time.Time) AlertEvent {
	return AlertEvent{
		SpecVersion: "1.0", ID: a.ID + "/" + strconv.FormatInt(a.Revision, 10), Source: node,
		Type: alertType + what, Subject: a.Subject, Time: at.UTC(), DataContentType: "application/json",
		Data: AlertData{
			ID: a.ID, Alert: a.Identity.Alert, Subject: a.Subject, Severity: a.Severity.String(),
			State: StateName(a.State), Unknown: a.Unknown, LifeSafety: a.LifeSafety, Title: a.Title, Detail: a.Detail,
			Device: a.Device, Class: a.Class, Zone: a.Zone, Place: a.Place,
			RaisedAt: a.RaisedAt, AcknowledgedAt: a.AcknowledgedAt, AcknowledgedBy: a.AcknowledgedBy,
			ReturnedAt: a.ReturnedAt, ClosedAt: a.ClosedAt, CloseReason: a.CloseReason,
			Revision: a.Revision, Durable: a.Durable, TimeUncertain: a.TimeUncertain,
		},
	}
}

// Encode returns the message as JSON.
func (e *AlertEvent) Encode() ([]byte, error) { return json.Marshal(e) }

// ErrAlert is wrapped by the errors of ParseAlert.
var ErrAlert = errors.New("bad alert message")

// ParseAlert parses an alert message and checks what the city side relies on.
func ParseAlert(payload []byte) (AlertEvent, error) {
	var e AlertEvent
	if err := json.Unmarshal(payload, &e); err != nil {
		return AlertEvent{}, fmt.Errorf("%w: %w", ErrAlert, err)
	}
	severity, ok := telemetry.ParseSeverity(e.Data.Severity)
	switch {
	case e.SpecVersion != "1.0":
		return AlertEvent{}, fmt.Errorf("%w: specversion %.16q", ErrAlert, e.SpecVersion)
	case e.What() == "" || e.Type[:len(alertType)] != alertType:
		return AlertEvent{}, fmt.Errorf("%w: type %.64q", ErrAlert, e.Type)
	case !validTopicID(e.Data.ID), !validTopicID(e.Data.Alert), e.Data.Subject == "", len(e.Data.Subject) > 64:
		return AlertEvent{}, fmt.Errorf("%w: id, alert or subject missing or malformed", ErrAlert)
	case !ok || severity == 0:
		return AlertEvent{}, fmt.Errorf("%w: severity %.16q", ErrAlert, e.Data.Severity)
	case e.Data.State == "" || len(e.Data.State) > 32:
		return AlertEvent{}, fmt.Errorf("%w: state %.32q", ErrAlert, e.Data.State)
	}
	return e, nil
}

// OpenList is the message on alerts/open: every alert that was open at Time. A retained alert message of this node
// that is not in the list and whose time is before Time is an orphan and may be removed.
type OpenList struct {
	Node string    `json:"node"`
	Time time.Time `json:"time"`
	Open []string  `json:"open"` // alert ids
}

// Status is the message on status, and (with State "offline" and no more) the last will.
type Status struct {
	Node  string `json:"node"`
	State string `json:"state"` // online, offline
	// Reason says why an offline gateway is: "stopped" when it said so itself, "lost" when the broker noticed.
	Reason    string    `json:"reason,omitempty"`
	Time      time.Time `json:"time,omitzero"`
	Version   string    `json:"version,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
	ClockSet  bool      `json:"clock_set"`
	Epoch     string    `json:"epoch,omitempty"` // 16 hexadecimal digits
	// FirstSeq and NextSeq are the frames on the box: first to next-1.
	FirstSeq uint64 `json:"first_seq,omitempty"`
	NextSeq  uint64 `json:"next_seq,omitempty"`
	// BacklogFrames are written on the box and not yet acknowledged by the broker.
	BacklogFrames uint64 `json:"backlog_frames"`
	OpenAlerts    int    `json:"open_alerts"`
}
