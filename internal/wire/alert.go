package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"linli/internal/alert"
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
	// Data is the alert as it stands after the transition.
	Data alert.Alert `json:"data"`
}

// What returns what happened: raised, acknowledged, escalated and so on, the words of alert.Entry.What.
func (e *AlertEvent) What() string {
	if len(e.Type) > len(alertType) {
		return e.Type[len(alertType):]
	}
	return ""
}

// NewAlertEvent returns the message for the transition what of a, at the time at.
func NewAlertEvent(node string, a *alert.Alert, what string, at time.Time) AlertEvent {
	return AlertEvent{
		SpecVersion: "1.0", ID: a.ID + "/" + strconv.FormatInt(a.Revision, 10), Source: node,
		Type: alertType + what, Subject: a.Subject, Time: at.UTC(), DataContentType: "application/json",
		Data: *a,
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
	switch {
	case e.SpecVersion != "1.0":
		return AlertEvent{}, fmt.Errorf("%w: specversion %.16q", ErrAlert, e.SpecVersion)
	case e.What() == "" || e.Type[:len(alertType)] != alertType:
		return AlertEvent{}, fmt.Errorf("%w: type %.64q", ErrAlert, e.Type)
	case !validTopicID(e.Data.ID), !validTopicID(e.Data.Alert), e.Data.Subject == "", len(e.Data.Subject) > 64:
		return AlertEvent{}, fmt.Errorf("%w: id, alert or subject missing or malformed", ErrAlert)
	case e.Data.State == 0:
		return AlertEvent{}, fmt.Errorf("%w: state missing", ErrAlert)
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

// Will is the last will: the message on status that the broker sends when it has lost the gateway. Written at the
// connection, it can hold nothing that changes.
type Will struct {
	Node   string `json:"node"`
	State  string `json:"state"`  // offline
	Reason string `json:"reason"` // lost
	// Epoch and Instance are those of the process that is lost: who comes after it with an older copy of its state
	// directory does not know this instance.
	Epoch    string `json:"epoch,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// Status is the message on status. A Will is read as one, and holds its first three fields, epoch and instance only.
type Status struct {
	Node  string `json:"node"`
	State string `json:"state"` // online, offline
	// Reason says why an offline gateway is: "stopped" when it said so itself, "moved" when it goes to another broker, "lost"
	// when the broker noticed. Online it is "twin" where another gateway uses the same id, otherwise left out.
	Reason    string    `json:"reason,omitempty"`
	Time      time.Time `json:"time,omitzero"`
	Version   string    `json:"version,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
	Instance  string    `json:"instance,omitempty"` // of the program, drawn at each start
	Host      string    `json:"host,omitempty"`     // name of the box
	ClockSet  bool      `json:"clock_set"`
	Epoch     string    `json:"epoch,omitempty"` // 16 hexadecimal digits
	// FirstSeq and NextSeq are the frames on the box: first to next-1.
	FirstSeq uint64 `json:"first_seq,omitempty"`
	NextSeq  uint64 `json:"next_seq,omitempty"`
	// BacklogFrames are written on the box and not yet acknowledged by the broker.
	BacklogFrames uint64 `json:"backlog_frames"`
	// WaitingFrames of these wait until their time is known.
	WaitingFrames uint64 `json:"waiting_frames,omitempty"`
	// SentAgainFrames were acknowledged and sent again since the start of the program, because the broker may have
	// forgotten them; SentAgainReason says why, the last time.
	SentAgainFrames uint64 `json:"sent_again_frames,omitempty"`
	SentAgainReason string `json:"sent_again_reason,omitempty"`
	// SubscribeError says why the broker lets the gateway hear no commands; empty while it does.
	SubscribeError string `json:"subscribe_error,omitempty"`
	// CertificateUntil is the end of the gateway's certificate; CertificateError says why a newer one on its disk is not used.
	CertificateUntil time.Time      `json:"certificate_until,omitzero"`
	CertificateError string         `json:"certificate_error,omitempty"`
	Twin             *Twin          `json:"twin,omitempty"`
	OpenAlerts       int            `json:"open_alerts"`
	Journal          *JournalStatus `json:"journal,omitempty"`
}

// Twin is another gateway that connects with the same id.
type Twin struct {
	Instance  string    `json:"instance"`
	Host      string    `json:"host"`
	Version   string    `json:"version"`
	Epoch     string    `json:"epoch"`
	StartedAt time.Time `json:"started_at,omitzero"`
}

// JournalStatus is how the box's own store is, since the start of the program.
type JournalStatus struct {
	Bytes          int64  `json:"bytes"`
	CommitFailures uint64 `json:"commit_failures"`
	SamplesLost    uint64 `json:"samples_lost"`
	DamagedFrames  uint64 `json:"damaged_frames"`
	Error          string `json:"error,omitempty"` // why it cannot be written now; empty when it can
}
