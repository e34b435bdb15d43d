package console

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"linli/internal/alert"
	"linli/internal/live"
	"linli/internal/telemetry"
)

// recentShown is how many closed alerts a snapshot carries.
const recentShown = 20

// siteJSON is the inventory as the page gets it: what is there, and what it is called. Points are named by their
// id in every other message.
type siteJSON struct {
	Site     string         `json:"site"`
	Gateway  string         `json:"gateway"`
	Node     string         `json:"node"`
	Title    telemetry.Text `json:"title"`
	City     string         `json:"city,omitempty"`
	District string         `json:"district,omitempty"`
	Street   string         `json:"street,omitempty"`
	Timezone string         `json:"timezone"`
	Zones    []zoneJSON     `json:"zones"`
	Classes  []classJSON    `json:"classes"`
	Devices  []deviceJSON   `json:"devices"`
	Derived  []derivedJSON  `json:"derived"`
}

type zoneJSON struct {
	ID     string         `json:"id"`
	Parent string         `json:"parent,omitempty"` // id of the zone around it
	Kind   string         `json:"kind,omitempty"`
	Title  telemetry.Text `json:"title"`
}

type classJSON struct {
	ID     string         `json:"id"`
	Title  telemetry.Text `json:"title"`
	Points []defJSON      `json:"points"`
}

type defJSON struct {
	Name       string         `json:"name"`
	Title      telemetry.Text `json:"title"`
	Kind       string         `json:"kind"`
	Unit       string         `json:"unit,omitempty"`
	Enum       []enumJSON     `json:"enum,omitempty"`
	AlarmWhen  *bool          `json:"alarm_when,omitempty"` // the state of a bool point that is abnormal
	LifeSafety bool           `json:"life_safety,omitempty"`
	Writable   bool           `json:"writable,omitempty"`
	Event      bool           `json:"event,omitempty"` // each sample is something that happened
}

type enumJSON struct {
	Code  int64          `json:"code"`
	Name  string         `json:"name"`
	Title telemetry.Text `json:"title"`
}

type deviceJSON struct {
	ID    string         `json:"id"`
	Class string         `json:"class"`
	Zone  string         `json:"zone"`
	Title telemetry.Text `json:"title"`
	// Points is parallel to the class's points: the point's id, or null where nothing provides it.
	Points []*uint32 `json:"points"`
	// Constants is parallel too: what a point that nothing provides is taken to be.
	Constants []any `json:"constants"`
}

type derivedJSON struct {
	ID      uint32  `json:"id"`
	Rule    string  `json:"rule"`
	Subject string  `json:"subject"`
	Zone    string  `json:"zone,omitempty"`
	Def     defJSON `json:"point"`
}

// encodeSite returns the inventory as JSON, without the gateway's own works.
func encodeSite(inv *telemetry.Inventory) ([]byte, error) {
	out := siteJSON{Site: inv.Site, Gateway: inv.Gateway, Node: inv.Node(), Title: inv.Title, City: inv.Place.City, District: inv.Place.District,
		Street: inv.Place.Street, Timezone: "UTC", Zones: []zoneJSON{}, Classes: []classJSON{}, Devices: []deviceJSON{}, Derived: []derivedJSON{}}
	if inv.Location != nil {
		out.Timezone = inv.Location.String()
	}
	for _, z := range inv.Zones {
		zone := zoneJSON{ID: z.ID, Kind: z.Kind, Title: z.Title}
		if z.Parent >= 0 {
			zone.Parent = inv.Zones[z.Parent].ID
		}
		out.Zones = append(out.Zones, zone)
	}
	seen := map[string]bool{}
	for i, d := range inv.Devices {
		if d.System {
			continue
		}
		if !seen[d.Class.ID] {
			seen[d.Class.ID] = true
			class := classJSON{ID: d.Class.ID, Title: d.Class.Title, Points: []defJSON{}}
			for j := range d.Class.Points {
				class.Points = append(class.Points, encodeDef(&d.Class.Points[j]))
			}
			out.Classes = append(out.Classes, class)
		}
		dev := deviceJSON{ID: d.ID, Class: d.Class.ID, Zone: inv.ZoneID(d.Zone), Title: d.Title,
			Points: make([]*uint32, len(d.Points)), Constants: make([]any, len(d.Points))}
		for j, id := range d.Points {
			if id == telemetry.NoPoint {
				dev.Constants[j] = inv.Constant(i, j).JSON()
				continue
			}
			n := uint32(id)
			dev.Points[j] = &n
		}
		out.Devices = append(out.Devices, dev)
	}
	for i, p := range inv.Points {
		if p.Device >= 0 {
			continue
		}
		d := derivedJSON{ID: uint32(i), Rule: p.Derived.Rule, Subject: p.Derived.Subject, Def: encodeDef(p.Def)}
		d.Zone = inv.ZoneID(p.Derived.Zone)
		out.Derived = append(out.Derived, d)
	}
	body, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("inventory of site %q: %w", inv.Site, err)
	}
	return body, nil
}

func encodeDef(p *telemetry.PointDef) defJSON {
	d := defJSON{Name: p.Name, Title: p.Title, Kind: p.Kind.String(), Unit: p.Unit, LifeSafety: p.LifeSafety, Writable: p.Writable, Event: p.Event}
	for _, e := range p.Enum {
		d.Enum = append(d.Enum, enumJSON{Code: e.Code, Name: e.Name, Title: e.Title})
	}
	if p.AlarmWhen != telemetry.AlarmNever {
		when := p.AlarmWhen == telemetry.AlarmTrue
		d.AlarmWhen = &when
	}
	return d
}

// momentJSON says when a message was made. Ages are computed on the monotonic clock, which does not jump.
type momentJSON struct {
	Time      time.Time `json:"time,omitzero"` // absent while the gateway's clock is not set
	MonoMS    int64     `json:"mono_ms"`
	UTCOffset int       `json:"utc_offset_s"` // of the site's local time at this moment
}

// serverJSON says who is talking.
type serverJSON struct {
	Instance string `json:"instance"` // of this start of the gateway: point ids mean something only within it
	Page     string `json:"page"`     // version of the page's files
	Version  string `json:"version"`
	Build    string `json:"build,omitempty"`
	Node     string `json:"node"`
}

// valueJSON is the latest that is known of one point. A point of which nothing is known yet has no entry.
type valueJSON struct {
	ID      uint32 `json:"id"`
	Value   any    `json:"value"`             // null while the quality is bad
	Quality string `json:"quality,omitempty"` // absent when good
	// Last is the last value there was, where the quality is bad now.
	Last any `json:"last,omitempty"`
	// ConfirmedMS is when a value was read last, absent where there never was one.
	ConfirmedMS *int64 `json:"confirmed_ms,omitempty"`
	ChangedMS   int64  `json:"changed_ms"` // when value or quality changed last
}

// stateJSON is a whole snapshot.
type stateJSON struct {
	Server serverJSON  `json:"server"`
	Now    momentJSON  `json:"now"`
	Alerts alertsJSON  `json:"alerts"`
	Values []valueJSON `json:"values"`
	Status Status      `json:"status"`
}

// alertsJSON are alerts as the book has them.
type alertsJSON struct {
	Open   []openAlert   `json:"open"`   // worst first, then newest first
	Recent []alert.Alert `json:"recent"` // closed ones, newest first
	// RecentFailed: the closed ones could not be read; there may be some.
	RecentFailed bool `json:"recent_failed,omitempty"`
}

// openAlert is an alert and what only its history tells about how it stands. Times are zero where it never happened.
type openAlert struct {
	alert.Alert
	raisedAgain time.Time // when the condition last came back after it had gone: people must not take it for an old alert
	released    time.Time // when, since then, its suppression ended last: it is announced again
	changed     time.Time // when, since then, severity and detail changed last: the detail is of that moment
}

// MarshalJSON writes the alert as it writes itself, and raised_again_at, released_at and changed_at.
func (o openAlert) MarshalJSON() ([]byte, error) {
	body, err := o.Alert.MarshalJSON()
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		at   time.Time
	}{{"raised_again_at", o.raisedAgain}, {"released_at", o.released}, {"changed_at", o.changed}} {
		if f.at.IsZero() {
			continue
		}
		at, err := f.at.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("%s of alert %s: %w", f.name, o.ID, err)
		}
		body = append(body[:len(body)-1], `,"`+f.name+`":`...)
		body = append(append(body, at...), '}')
	}
	return body, nil
}

// opened looks up what the history of a tells. Of a closed alert that would be on disk, and is no longer worth it.
func (s *Server) opened(a alert.Alert) openAlert {
	if a.Revision < 2 || !a.Open() {
		return openAlert{Alert: a}
	}
	_, history, err := s.src.Alerts.Get(a.ID)
	if err != nil {
		return openAlert{Alert: a} // Gone since: the next event says so.
	}
	return withHistory(a, history)
}

// withHistory reads what the history tells about a as it stands here: the history may be further already.
func withHistory(a alert.Alert, history []alert.Entry) openAlert {
	o := openAlert{Alert: a}
	for _, e := range slices.Backward(history) {
		switch {
		case e.Revision > a.Revision:
		case e.What == alert.WhatChanged && o.changed.IsZero():
			o.changed = e.Time
		case e.What == alert.WhatUnsuppressed && o.released.IsZero():
			o.released = e.Time
		case e.What == alert.WhatRaisedAgain:
			o.raisedAgain = e.Time
			return o
		}
	}
	return o
}

func millis(m telemetry.Mono) int64 { return int64(m) / int64(time.Millisecond) }

// now returns the present moment for a message.
func (s *Server) now() momentJSON {
	n := s.src.Clock.Now()
	m := momentJSON{Time: n.Wall, MonoMS: millis(n.Mono)}
	if loc := s.view.Load().inv.Location; loc != nil && !n.Wall.IsZero() {
		_, m.UTCOffset = n.Wall.In(loc).Zone()
	}
	return m
}

func (s *Server) server(v *view) serverJSON {
	return serverJSON{Instance: v.instance, Page: s.assets.version, Version: s.cfg.Version, Build: s.cfg.BuildInfo, Node: v.inv.Node()}
}

func (s *Server) status() Status {
	if s.src.Status == nil {
		return Status{}
	}
	return s.src.Status()
}

// alerts returns the open alerts and the newest closed ones.
func (s *Server) alerts() alertsJSON {
	open := s.src.Alerts.OpenAlerts()
	a := alertsJSON{Open: make([]openAlert, 0, len(open))}
	for i := range open {
		a.Open = append(a.Open, s.opened(open[i]))
	}
	recent, err := s.src.Alerts.Recent(recentShown)
	a.Recent, a.RecentFailed = recent, err != nil
	if a.Recent == nil {
		a.Recent = []alert.Alert{}
	}
	return a
}

// state returns a whole snapshot with values.
func (s *Server) state(v *view, values []valueJSON) stateJSON {
	return stateJSON{Server: s.server(v), Now: s.now(), Alerts: s.alerts(), Values: values, Status: s.status()}
}

func encodeEntry(e *live.Entry) valueJSON {
	v := valueJSON{ID: uint32(e.Point), Value: e.Value.JSON(), ChangedMS: millis(e.Changed)}
	if e.Quality != telemetry.Good {
		v.Quality = e.Quality.String()
	}
	if e.Quality.Bad() {
		v.Value, v.Last = nil, e.Last.JSON()
	}
	if !e.Last.IsZero() {
		at := millis(e.Confirmed)
		v.ConfirmedMS = &at
	}
	return v
}
