package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"linli/internal/alert"
	"linli/internal/ingest"
	"linli/internal/telemetry"
	"linli/internal/wire"
)

// schema is one file of docs/schemas, judged by a validator that is not ours.
type schema struct {
	t        *testing.T
	name     string
	raw      map[string]any
	resolved *jsonschema.Resolved
}

func loadSchema(t *testing.T, name string) *schema {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../docs/schemas", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	s := &schema{t: t, name: name}
	var parsed jsonschema.Schema
	if err := json.Unmarshal(data, &s.raw); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := json.Unmarshal(data, &parsed); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if s.raw["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("%s is of %v", name, s.raw["$schema"])
	}
	if s.resolved, err = parsed.Resolve(nil); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

// validate reports what is wrong with a message.
func (s *schema) validate(payload []byte) error {
	var v any
	if err := json.Unmarshal(payload, &v); err != nil {
		return err
	}
	return s.resolved.Validate(v)
}

// accepts fails the test where the message is not valid, or has a property that the schema does not describe: schemas
// let unknown ones pass, for later versions, but this version has none.
func (s *schema) accepts(payload []byte) {
	s.t.Helper()
	if err := s.validate(payload); err != nil {
		s.t.Errorf("%s refuses %s: %v", s.name, payload, err)
		return
	}
	var v any
	if err := json.Unmarshal(payload, &v); err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.undescribed("", v, s.raw) {
		s.t.Errorf("%s does not describe %s of %s", s.name, p, payload)
	}
}

// undescribed returns the paths of the properties of v that the schema at hand does not name.
func (s *schema) undescribed(path string, v any, at map[string]any) []string {
	if ref, ok := at["$ref"].(string); ok {
		at = s.raw["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	if several, ok := at["anyOf"].([]any); ok && at["properties"] == nil {
		best := []string{path}
		for i, sub := range several {
			if got := s.undescribed(path, v, sub.(map[string]any)); i == 0 || len(got) < len(best) {
				best = got
			}
		}
		return best
	}
	var out []string
	switch v := v.(type) {
	case map[string]any:
		if at["additionalProperties"] == true {
			return nil // of any shape, said so by the schema
		}
		properties, _ := at["properties"].(map[string]any)
		for key, value := range v {
			sub, ok := properties[key].(map[string]any)
			if !ok {
				out = append(out, path+"."+key)
				continue
			}
			out = append(out, s.undescribed(path+"."+key, value, sub)...)
		}
	case []any:
		items, _ := at["items"].(map[string]any)
		for i, value := range v {
			out = append(out, s.undescribed(fmt.Sprintf("%s[%d]", path, i), value, items)...)
		}
	}
	return out
}

// refuses changes one thing of a valid message and fails the test where the schema does not mind. A change is the path
// of a property, and what is to stand there: nil removes it.
func (s *schema) refuses(payload []byte, path string, value any) {
	s.t.Helper()
	var message map[string]any
	if err := json.Unmarshal(payload, &message); err != nil {
		s.t.Fatal(err)
	}
	at := message
	keys := strings.Split(path, ".")
	for _, k := range keys[:len(keys)-1] {
		if list, ok := at[k].([]any); ok {
			at = list[0].(map[string]any)
			continue
		}
		at = at[k].(map[string]any)
	}
	last := keys[len(keys)-1]
	if value == nil {
		if _, ok := at[last]; !ok {
			s.t.Fatalf("%s is not in %s", path, payload)
		}
		delete(at, last)
	} else {
		at[last] = value
	}
	changed, err := json.Marshal(message)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.validate(changed) == nil {
		s.t.Errorf("%s accepts %s with %s = %v", s.name, payload, path, value)
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const someULID = "01KAJ5W8T4N6V3Q2Z7R9X1B5CD"

// alertMessages returns messages as the product encodes them: every state and word of an alert's life, the fullest and
// the emptiest alert.
func alertMessages(t *testing.T) [][]byte {
	t.Helper()
	at := time.Date(2026, 11, 21, 8, 0, 0, 123456789, time.UTC)
	small := alert.Alert{
		ID: someULID, Identity: telemetry.Identity{Alert: "GatewayClockUnset", Subject: "gw1"}, Severity: telemetry.Notice,
		State: alert.ActiveUnacknowledged, Title: telemetry.Text{Zh: "时钟", En: ""}, RaisedAt: time.Unix(12, 0).UTC(), Revision: 1, TimeUncertain: true,
	}
	full := alert.Alert{
		ID: someULID, Identity: telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane1"}, Severity: telemetry.Critical, LifeSafety: true,
		Tier: alert.Tier(1), Title: telemetry.Text{Zh: "占用", En: "Blocked"}, Detail: telemetry.Text{Zh: "三分钟", En: "3 min"}, Device: "lane1",
		Class: "fire_lane_sensor", Zone: "north", Place: telemetry.Text{Zh: "北门", En: "North gate"}, RaisedAt: at, AcknowledgedAt: at,
		AcknowledgedBy: "li.wei", Revision: 3, Durable: true, State: alert.ActiveAcknowledged, Unknown: true, Suppressed: true,
		SuppressedBy: telemetry.Identity{Alert: "BusDown", Subject: "bus1"},
	}
	closed := full
	closed.State, closed.ReturnedAt, closed.ClosedAt, closed.CloseReason, closed.Suppressed = alert.Closed, at, at, alert.ReasonReturned, false
	returned := full
	returned.State, returned.ReturnedAt, returned.AcknowledgedAt, returned.AcknowledgedBy, returned.Suppressed = alert.ReturnedUnacknowledged, at, time.Time{}, "", false
	var out [][]byte
	for _, what := range []string{
		alert.WhatRaised, alert.WhatAcknowledged, alert.WhatReturned, alert.WhatUnknown, alert.WhatKnown, alert.WhatChanged, alert.WhatRaisedAgain,
		alert.WhatClosed, alert.WhatCorrected, alert.WhatEscalated, alert.WhatSuppressed, alert.WhatUnsuppressed,
	} {
		for _, a := range []*alert.Alert{&full, &small, &closed, &returned} {
			e := wire.NewAlertEvent("riverside.gw1", a, what, at)
			b, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
	}
	for _, reason := range []string{alert.ReasonByHand, alert.ReasonRemoved, alert.ReasonSuppressed} {
		closed.CloseReason = reason
		e := wire.NewAlertEvent("riverside.gw1", &closed, alert.WhatClosed, at)
		out = append(out, encoded(t, &e))
	}
	return out
}

// Every JSON message that the product makes is as its schema says, and the schema says enough to refuse what is wrong.
func TestSchemas(t *testing.T) {
	at := time.Date(2026, 11, 21, 8, 3, 13, 0, time.UTC)
	t.Run("alert", func(t *testing.T) {
		s := loadSchema(t, "alert")
		messages := alertMessages(t)
		for _, m := range messages {
			s.accepts(m)
		}
		m := messages[0]
		for path, values := range map[string][]any{
			"specversion": {nil, "0.3", 1.0}, "id": {nil, someULID, someULID + "/0", "x/1", 3.0}, "source": {nil, "riverside", "Riverside.gw1", "riverside.gw1.x"},
			"type": {nil, "dev.linli.alert.", "dev.linli.alert.exploded", "raised"}, "time": {nil, "2026-11-21 08:00:00Z", "2026-11-21T08:00:00+08:00", "2026-13-21T08:00:00Z", 1790000000.0},
			"datacontenttype": {nil, "text/plain"}, "subject": {nil, "", 1.0}, "data": {nil, "x", []any{}},
			"data.id": {nil, "01KAJ5W8T4N6V3Q2Z7R9X1B5C", "01KAJ5W8T4N6V3Q2Z7R9X1B5CI"}, "data.alert": {nil, "", "Fire Lane"}, "data.severity": {nil, "Critical", 3.0, "fatal"},
			"data.subject": {nil, "", strings.Repeat("x", 65)},
			"data.state":   {nil, "active", "closed", "returned_unacknowledged"}, "data.unknown": {nil, "false", 0.0}, "data.life_safety": {nil, "true"},
			"data.tier": {"", "city", 1.0}, "data.suppressed": {nil, false, "yes"}, "data.suppressed_by": {nil, "BusDown", map[string]any{"alert": "BusDown"}},
			"data.title": {nil, "x", map[string]any{"zh": "x"}, map[string]any{"zh": "", "en": ""}}, "data.device": {"", "Lane 1"}, "data.zone": {"", "b-1"},
			"data.raised_at": {nil, "", "yesterday"}, "data.acknowledged_at": {nil, "0"}, "data.acknowledged_by": {nil, ""}, "data.closed_at": {"2026-11-21T08:00:00Z"},
			"data.close_reason": {"returned", "other"}, "data.revision": {nil, 0.0, 1.5, "3"}, "data.durable": {nil, 1.0}, "data.time_uncertain": {nil, 0.0},
		} {
			for _, v := range values {
				s.refuses(m, path, v)
			}
		}
		if s.validate([]byte("null")) == nil || s.validate([]byte("[]")) == nil {
			t.Error("no object is accepted")
		}
	})
	t.Run("alerts_open", func(t *testing.T) {
		s := loadSchema(t, "alerts_open")
		s.accepts(encoded(t, &wire.OpenList{Node: "riverside.gw1", Time: at, Open: []string{}}))
		m := encoded(t, &wire.OpenList{Node: "riverside.gw1", Time: at, Open: []string{someULID}})
		s.accepts(m)
		for path, values := range map[string][]any{
			"node": {nil, "riverside"}, "time": {nil, "0001"}, "open": {nil, someULID, []any{"x"}, []any{1.0}, []any{someULID, someULID}},
		} {
			for _, v := range values {
				s.refuses(m, path, v)
			}
		}
		if s.validate(encoded(t, &wire.OpenList{Node: "riverside.gw1", Time: at})) == nil {
			t.Error("a list that is null is accepted")
		}
	})
	t.Run("status", func(t *testing.T) {
		s := loadSchema(t, "status")
		will := encoded(t, &wire.Will{Node: "riverside.gw1", State: "offline", Reason: "lost"})
		s.accepts(will)
		status := wire.Status{Node: "riverside.gw1", State: "online", Time: at, Version: "1.0.0", StartedAt: at, ClockSet: true, Epoch: "00c0ffee00c0ffee"}
		s.accepts(encoded(t, &status))
		status.FirstSeq, status.NextSeq, status.BacklogFrames, status.WaitingFrames, status.SentAgainFrames, status.SentAgainReason = 1, 2, 3, 4, 5, "x"
		status.SubscribeError = "refused"
		status.Journal = &wire.JournalStatus{Bytes: 1, CommitFailures: 2, SamplesLost: 3, DamagedFrames: 4, Error: "no space left on device"}
		m := encoded(t, &status)
		s.accepts(m)
		status.State, status.Reason = "offline", "stopped"
		s.accepts(encoded(t, &status))
		for path, values := range map[string][]any{
			"node": {nil, ""}, "state": {nil, "up", true, "offline"}, "reason": {"stopped", "lost", "tired"}, "time": {nil, 5.0}, "version": {nil, 1.0}, "started_at": {nil, ""},
			"clock_set": {nil, "true"}, "epoch": {nil, "c0ffee", 12.0, "00C0FFEE00C0FFEE"}, "first_seq": {"1", -1.0, 1.5}, "next_seq": {-1.0}, "backlog_frames": {nil, -1.0}, "waiting_frames": {0.5},
			"sent_again_frames": {"5"}, "sent_again_reason": {1.0}, "open_alerts": {nil, "0"}, "journal": {1.0, map[string]any{}}, "journal.bytes": {nil, -1.0}, "journal.error": {""},
		} {
			for _, v := range values {
				s.refuses(m, path, v)
			}
		}
		s.refuses(will, "state", "online")
		s.refuses(will, "reason", "stopped")
		s.refuses(will, "time", "2026-11-21T08:00:00Z")
	})
	t.Run("claims", func(t *testing.T) {
		s := loadSchema(t, "claims")
		key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
		claims := func(verb string, args any) []byte {
			c := wire.Command{Node: "riverside.gw1", ID: "r-10_20", IssuedAt: at, ExpiresAt: at.Add(time.Hour), Verb: verb}
			if args != nil {
				c.Args = encoded(t, args)
			}
			signed, err := wire.SignCommand(key, "city", &c)
			if err != nil {
				t.Fatal(err)
			}
			b, err := base64.RawURLEncoding.DecodeString(strings.Split(string(signed), ".")[1])
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		for _, b := range [][]byte{
			claims(wire.VerbStatus, nil), claims(wire.VerbReload, nil), claims(wire.VerbAcknowledge, wire.AlertArgs{Alert: someULID}), claims(wire.VerbClose, wire.AlertArgs{Alert: someULID, Note: "好"}),
			claims(wire.VerbWrite, wire.WriteArgs{Device: "siren", Point: "on", Value: json.RawMessage("true")}), claims(wire.VerbWrite, wire.WriteArgs{Device: "siren", Point: "level", Value: json.RawMessage("1.5")}),
		} {
			s.accepts(b)
		}
		if s.validate(claims(wire.VerbStatus, map[string]any{"x": 1})) == nil || s.validate(claims(wire.VerbWrite, map[string]any{"device": "d", "point": "p", "value": nil})) == nil {
			t.Error("wrong arguments are accepted")
		}
		m := claims(wire.VerbResend, wire.ResendArgs{Epoch: "00c0ffee00c0ffee", From: 10, To: 20})
		s.accepts(m)
		for path, values := range map[string][]any{
			"aud": {nil, []any{"riverside.gw1"}, "riverside"}, "jti": {nil, "", "a/b", strings.Repeat("x", 65)}, "iat": {nil, 1.5, "1790000000", -1.0}, "exp": {nil, 1e18}, "verb": {nil, "reboot", "write"},
			"args": {nil, "x", map[string]any{}}, "args.epoch": {nil, "c0ffee"}, "args.from": {nil, 0.0, "10"}, "args.to": {nil}, "args.more": {1.0}, "nbf": {1.0},
		} {
			for _, v := range values {
				s.refuses(m, path, v)
			}
		}
	})
	t.Run("reply", func(t *testing.T) {
		s := loadSchema(t, "reply")
		reply := wire.Reply{ID: "r-10_20", Verb: wire.VerbStatus, Node: "riverside.gw1", Time: at, State: wire.ReplyDone, Result: encoded(t, &wire.Status{Node: "riverside.gw1", State: "online"})}
		s.accepts(encoded(t, &reply))
		s.accepts(encoded(t, &wire.Reply{ID: "x", Verb: "reboot", Node: "riverside.gw1", State: wire.ReplyRefused, Reason: wire.ReasonClockUnset}))
		reply.Verb, reply.Result = wire.VerbResend, encoded(t, wire.ResendResult{Epoch: "00c0ffee00c0ffee", Frames: 9, Gone: 2, NextSeq: 12})
		m := encoded(t, &reply)
		s.accepts(m)
		for path, values := range map[string][]any{
			"id": {nil, "", "a/b"}, "verb": {nil, 1.0}, "node": {nil, "x"}, "time": {"now"}, "state": {nil, "ok", "refused", "failed"}, "reason": {""}, "result": {"x", map[string]any{}},
			"result.epoch": {nil, ""}, "result.frames": {nil, -1.0}, "result.waiting": {nil}, "result.gone": {nil, "2"}, "result.next_seq": {nil, 0.5},
		} {
			for _, v := range values {
				s.refuses(m, path, v)
			}
		}
	})
	t.Run("dead", func(t *testing.T) {
		s := loadSchema(t, "dead")
		letter := ingest.DeadLetter{Node: "riverside.gw1", Time: at, Count: 21, Lines: []ingest.DeadLine{{Reason: "r", Line: "坏 \uFFFD"}, {Reason: "r"}}}
		s.accepts(encoded(t, &letter))
		letter.Topic = "linli/v1/riverside.gw1/telemetry"
		m := encoded(t, &letter)
		s.accepts(m)
		for path, values := range map[string][]any{
			"node": {nil, 1.0}, "topic": {"", "other/topic"}, "time": {nil, ""}, "count": {nil, 0.0, "1"}, "lines": {nil, []any{}, map[string]any{}, make([]any, 21)},
			"lines.reason": {nil, ""}, "lines.line": {nil, 1.0, strings.Repeat("x", 1025)},
		} {
			for _, v := range values {
				s.refuses(m, path, v)
			}
		}
	})
}

// The examples of docs/wire.md are valid, every schema has one, and the page names every schema.
func TestExamplesAreAsTheirSchemas(t *testing.T) {
	page, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir("../docs/schemas")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d schemas: %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(f.Name(), ".json")
		s := loadSchema(t, name)
		examples := regexp.MustCompile("(?s)```"+name+"\n(.*?)```").FindAllSubmatch(page, -1)
		if len(examples) == 0 {
			t.Errorf("docs/wire.md has no example of %s", name)
		}
		for _, e := range examples {
			s.accepts(e[1])
		}
		if !strings.Contains(string(page), "schemas/"+f.Name()) {
			t.Errorf("docs/wire.md does not name schemas/%s", f.Name())
		}
		for _, p := range withoutDescription("", s.raw) {
			t.Errorf("%s says nothing about %s", name, p)
		}
	}
}

// withoutDescription returns the properties of a schema that neither say what they mean nor list their values.
func withoutDescription(path string, at map[string]any) []string {
	var out []string
	for _, group := range []string{"properties", "$defs"} {
		properties, _ := at[group].(map[string]any)
		for key, v := range properties {
			sub, ok := v.(map[string]any)
			if !ok {
				continue // false: not there
			}
			says := slices.ContainsFunc([]string{"description", "enum", "const", "$ref", "properties"}, func(k string) bool { return sub[k] != nil })
			if !says {
				out = append(out, path+"."+key)
			}
			out = append(out, withoutDescription(path+"."+key, sub)...)
		}
	}
	return out
}
