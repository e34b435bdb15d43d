package alert

import (
	"encoding/json"
	"fmt"
	"time"

	"linli/internal/telemetry"
)

// alertJSON is the JSON form of an Alert, for the API and the wire alike. Times are RFC 3339 in UTC and are left out
// while they are not set, as are the texts and names that depend on them.
type alertJSON struct {
	ID             string         `json:"id"`
	Alert          string         `json:"alert"`
	Subject        string         `json:"subject"`
	Severity       string         `json:"severity"`
	State          State          `json:"state"`
	Unknown        bool           `json:"unknown"`
	LifeSafety     bool           `json:"life_safety"`
	Tier           Tier           `json:"tier,omitzero"`
	Suppressed     bool           `json:"suppressed"`
	SuppressedBy   *identityJSON  `json:"suppressed_by,omitempty"`
	Title          telemetry.Text `json:"title"`
	Detail         telemetry.Text `json:"detail,omitzero"`
	Device         string         `json:"device,omitempty"`
	Class          string         `json:"class,omitempty"`
	Zone           string         `json:"zone,omitempty"`
	Place          telemetry.Text `json:"place,omitzero"`
	RaisedAt       time.Time      `json:"raised_at"`
	AcknowledgedAt time.Time      `json:"acknowledged_at,omitzero"`
	AcknowledgedBy string         `json:"acknowledged_by,omitempty"`
	ReturnedAt     time.Time      `json:"returned_at,omitzero"`
	ClosedAt       time.Time      `json:"closed_at,omitzero"`
	CloseReason    string         `json:"close_reason,omitempty"`
	Revision       int64          `json:"revision"`
	Durable        bool           `json:"durable"`
	TimeUncertain  bool           `json:"time_uncertain"`
}

type identityJSON struct {
	Alert   string `json:"alert"`
	Subject string `json:"subject"`
}

// MarshalJSON writes the alert with snake_case names and with states and severities as words.
func (a Alert) MarshalJSON() ([]byte, error) {
	var by *identityJSON
	if a.Suppressed {
		by = &identityJSON{a.SuppressedBy.Alert, a.SuppressedBy.Subject}
	}
	return json.Marshal(alertJSON{
		ID: a.ID, Alert: a.Alert, Subject: a.Subject, Severity: a.Severity.String(), State: a.State,
		Unknown: a.Unknown, LifeSafety: a.LifeSafety, Tier: a.Tier, Suppressed: a.Suppressed, SuppressedBy: by, Title: a.Title, Detail: a.Detail,
		Device: a.Device, Class: a.Class, Zone: a.Zone, Place: a.Place,
		RaisedAt: a.RaisedAt, AcknowledgedAt: a.AcknowledgedAt, AcknowledgedBy: a.AcknowledgedBy,
		ReturnedAt: a.ReturnedAt, ClosedAt: a.ClosedAt, CloseReason: a.CloseReason,
		Revision: a.Revision, Durable: a.Durable, TimeUncertain: a.TimeUncertain,
	})
}

// UnmarshalJSON reads what MarshalJSON wrote; unknown names are ignored.
func (a *Alert) UnmarshalJSON(data []byte) error {
	var j alertJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	severity, ok := telemetry.ParseSeverity(j.Severity)
	if !ok {
		return fmt.Errorf("unknown severity %q", j.Severity)
	}
	*a = Alert{
		ID: j.ID, Identity: telemetry.Identity{Alert: j.Alert, Subject: j.Subject}, Severity: severity, State: j.State,
		Unknown: j.Unknown, LifeSafety: j.LifeSafety, Tier: j.Tier, Suppressed: j.Suppressed, Title: j.Title, Detail: j.Detail,
		Device: j.Device, Class: j.Class, Zone: j.Zone, Place: j.Place,
		RaisedAt: j.RaisedAt, AcknowledgedAt: j.AcknowledgedAt, AcknowledgedBy: j.AcknowledgedBy,
		ReturnedAt: j.ReturnedAt, ClosedAt: j.ClosedAt, CloseReason: j.CloseReason,
		Revision: j.Revision, Durable: j.Durable, TimeUncertain: j.TimeUncertain,
	}
	if j.SuppressedBy != nil {
		a.SuppressedBy = telemetry.Identity{Alert: j.SuppressedBy.Alert, Subject: j.SuppressedBy.Subject}
	}
	return nil
}
