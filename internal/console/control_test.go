package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/console"
	"linli/internal/live"
	"linli/internal/telemetry"
)

// control is what the console asks, and notes what it was asked.
type control struct {
	asked  []string
	err    error
	answer console.Answer
	result console.OrderResult
	audit  []json.RawMessage
}

func (c *control) note(format string, args ...any) {
	c.asked = append(c.asked, fmt.Sprintf(format, args...))
}

func (c *control) Buses() []console.BusDetail {
	ms := 12.5
	return []console.BusDetail{{ID: "rs485_1", Transport: "modbus_rtu", Device: "/dev/ttyS1", Baud: 9600, Format: "8N1", Up: true, Busy: 0.4, Foreign: 3,
		Units: []console.UnitDetail{{ID: "io1", Address: 1, Profile: "waveshare_io_8ch", Online: true, Answers: 7, CRCErrors: 2, RoundTripMS: &ms}, {ID: "th1", Address: 2}}}}
}

func (c *control) Ask(_ context.Context, bus string, q console.Question) (console.Answer, error) {
	c.note("ask %s %d %x %s %g %q %t", bus, q.Unit, q.PDU, q.Timeout, q.Share, q.By+q.Lease, q.Write)
	return c.answer, c.err
}

func (c *control) Hear(_ context.Context, bus string, d time.Duration, lease string) ([]byte, error) {
	c.note("hear %s %s%s", bus, d, lease)
	return []byte{1, 2}, c.err
}

func (c *control) Suspend(_ context.Context, bus string, s console.Suspension) (console.Lease, error) {
	force := ""
	if s.Force {
		force = " by force"
	}
	c.note("suspend %s %s %d %s %s%s%s", bus, s.For, s.Baud, s.Format, s.By, s.Lease, force)
	return console.Lease{ID: "a1", Until: time.Unix(1790000000, 0).UTC()}, c.err
}

func (c *control) Write(_ context.Context, o console.Order) console.OrderResult {
	c.note("write %s.%s %d=%v %s %q %t", o.Device, o.Point, o.ID, o.Value, o.By, o.Note, o.Force)
	return c.result
}

func (c *control) Audit(n int) ([]json.RawMessage, error) {
	c.note("audit %d", n)
	return c.audit[:min(n, len(c.audit))], c.err
}

// newControlled is a console over one device with outputs of every kind, a reader of cards, and the gateway's own bus.
func newControlled(t *testing.T) (*community, *control) {
	t.Helper()
	panel := &telemetry.Class{ID: "panel", Points: []telemetry.PointDef{
		{Name: "on", Kind: telemetry.Bool, Writable: true}, {Name: "level", Kind: telemetry.Float, Writable: true}, {Name: "step", Kind: telemetry.Int, Writable: true},
		{Name: "mode", Kind: telemetry.Enum, Writable: true, Enum: []telemetry.EnumName{{Code: 0, Name: "quiet"}, {Code: 2, Name: "loud"}}},
		{Name: "text", Kind: telemetry.KindText, Writable: true}, {Name: "spare", Kind: telemetry.Bool, Optional: true, Writable: true},
		{Name: "card", Kind: telemetry.KindText, Event: true}}}
	bus := &telemetry.Class{ID: "field_bus", Points: []telemetry.PointDef{{Name: "up", Kind: telemetry.Bool}}}
	inv := &telemetry.Inventory{Site: "sunshine", Gateway: "gw1"}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	d := inv.AddDevice(telemetry.Device{ID: "panel_1", Class: panel, Zone: zone})
	for i := range panel.Points {
		if panel.Points[i].Name != "spare" {
			inv.ProvidePoint(d, i)
		}
	}
	inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "rs485_1", Class: bus, Zone: -1, System: true}), 0)
	ctl := &control{}
	c := &community{inv: inv, clock: telemetry.NewClock("boot", telemetry.Mono(time.Hour), time.Time{}), book: newBook(),
		live: live.New(len(inv.Points), inv.Devices[d].Points[6])}
	var err error
	if c.server, err = console.New(console.Config{}, console.Sources{Inventory: inv, Clock: c.clock, Live: c.live, Alerts: c.book, Control: ctl}, nil); err != nil {
		t.Fatal(err)
	}
	return c, ctl
}

func TestRequestsAboutBuses(t *testing.T) {
	const ask, hear, suspend = "/api/v1/buses/b1/ask", "/api/v1/buses/b1/hear", "/api/v1/buses/b1/suspend"
	for _, x := range []struct {
		name, path, body string
		want             int
		asked            string
	}{
		{"ask", ask, `{"unit":3,"pdu":"0400010002","timeout_ms":250,"share":0.2,"by":" li "}`, 200, `ask b1 3 0400010002 250ms 0.2 "li" false`},
		{"ask in upper case", ask, `{"unit":0,"pdu":"06000AFFFF","by":"x","write":true}`, 200, `ask b1 0 06000affff 0s 0 "x" true`},
		{"no hex", ask, `{"unit":3,"pdu":"04zz"}`, 400, ""},
		{"no pdu", ask, `{"unit":3}`, 400, ""},
		{"too long", ask, `{"unit":3,"pdu":"` + strings.Repeat("00", 254) + `"}`, 400, ""},
		{"unit", ask, `{"unit":256,"pdu":"04"}`, 400, ""},
		{"negative unit", ask, `{"unit":-1,"pdu":"04"}`, 400, ""},
		{"timeout", ask, `{"unit":1,"pdu":"04","timeout_ms":10001}`, 400, ""},
		{"timeout that overflows", ask, `{"unit":1,"pdu":"04","timeout_ms":9223372036854775807}`, 400, ""},
		{"negative timeout", ask, `{"unit":1,"pdu":"04","timeout_ms":-1}`, 400, ""},
		{"share", ask, `{"unit":1,"pdu":"04","share":1.5}`, 400, ""},
		{"unknown key", ask, `{"unit":1,"pdu":"04","repeat":9}`, 400, ""},
		{"long name", ask, `{"unit":1,"pdu":"04","by":"` + strings.Repeat("长", 41) + `"}`, 400, ""},
		{"no body", ask, "", 415, ""},
		{"hear", hear, `{"ms":2000}`, 200, "hear b1 2s"},
		{"hear nothing", hear, `{"ms":0}`, 400, ""},
		{"hear for ever", hear, `{"ms":10001}`, 400, ""},
		{"suspend", suspend, `{"for_s":60,"baud":4800,"format":"8E1","by":"li"}`, 200, "suspend b1 1m0s 4800 8E1 li"},
		{"renew", suspend, `{"for_s":60,"by":"li","lease":"#a1"}`, 200, "suspend b1 1m0s 0  li#a1"},
		{"resume by force", suspend, `{"for_s":0,"by":"li","force":true}`, 204, "suspend b1 0s 0  li by force"},
		{"ask with a lease", ask, `{"unit":3,"pdu":"0400010002","by":"li","lease":"#a1"}`, 200, `ask b1 3 0400010002 0s 0 "li#a1" false`},
		{"hear with a lease", hear, `{"ms":2000,"lease":"#a1"}`, 200, "hear b1 2s#a1"},
		{"in the gateway's name", suspend, `{"for_s":60,"by":"GateWay"}`, 400, ""},
		{"asked in the gateway's name", ask, `{"unit":3,"pdu":"0400010002","by":"gateway"}`, 400, ""},
		{"resume", suspend, `{"for_s":0,"by":"li"}`, 204, "suspend b1 0s 0  li"},
		{"suspended by nobody", suspend, `{"for_s":60}`, 400, ""},
		{"suspend for ever", suspend, `{"for_s":601,"by":"li"}`, 400, ""},
		{"suspend back in time", suspend, `{"for_s":-1,"by":"li"}`, 400, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, ctl := newControlled(t)
			w := do(c, "POST", x.path, x.body)
			if w.Code != x.want || strings.Join(ctl.asked, ";") != x.asked {
				t.Errorf("%d %s, asked %q; want %d, %q", w.Code, w.Body, ctl.asked, x.want, x.asked)
			}
		})
	}
}

func TestAnswersAboutBuses(t *testing.T) {
	c, ctl := newControlled(t)
	ctl.answer = console.Answer{PDU: []byte{4, 2, 0, 215}, Heard: []byte{2, 4, 2, 0, 215, 1, 2}, Took: 12340 * time.Microsecond}
	w := do(c, "POST", "/api/v1/buses/b1/ask", `{"unit":2,"pdu":"0400010001"}`)
	if got := strings.TrimSpace(w.Body.String()); got != `{"pdu":"040200d7","heard":"02040200d70102","took_ms":12.3}` {
		t.Errorf("an answer: %s", got)
	}
	ctl.answer = console.Answer{Heard: []byte{9}, Took: 300 * time.Millisecond, Error: "no answer"}
	w = do(c, "POST", "/api/v1/buses/b1/ask", `{"unit":2,"pdu":"0400010001"}`)
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"heard":"09","took_ms":300,"error":"no answer"}` {
		t.Errorf("no answer: %d %s", w.Code, got)
	}
	if got := strings.TrimSpace(do(c, "POST", "/api/v1/buses/b1/suspend", `{"for_s":60,"by":"li"}`).Body.String()); got != `{"lease":"a1","until":"2026-09-21T14:13:20Z"}` {
		t.Errorf("a lease: %s", got)
	}
	if got := strings.TrimSpace(do(c, "POST", "/api/v1/buses/b1/hear", `{"ms":5}`).Body.String()); got != `{"heard":"0102"}` {
		t.Errorf("heard: %s", got)
	}
	buses := decode(t, do(c, "GET", "/api/v1/buses", ""))
	if dig(t, buses, "buses", 0, "busy") != 0.4 || dig(t, buses, "buses", 0, "units", 0, "crc_errors") != 2.0 || dig(t, buses, "buses", 0, "units", 1, "round_trip_ms") != nil {
		t.Errorf("buses: %v", buses)
	}
	for _, x := range []struct {
		err  error
		code int
		name string
	}{
		{console.ErrNoBus, 404, "bus_not_found"}, {console.ErrNotHost, 409, "bus_cannot_be_asked"}, {console.ErrBusBusy, 503, "bus_busy"},
		{console.ErrStopping, 503, "stopping"}, {console.ErrFunction, 403, "function_not_allowed"}, {console.ErrUndeclared, 403, "write_not_declared"},
		{console.ErrBadRequest, 400, "bad_request"}, {console.ErrSuspendedBy, 409, "suspended_by"}, {console.ErrSuspended, 409, "bus_suspended"}, {errors.New("the port is gone"), 502, "not_done"},
	} {
		ctl.err = fmt.Errorf("%w: because", x.err)
		for _, path := range []string{"ask", "hear", "suspend"} {
			body := map[string]string{"ask": `{"unit":2,"pdu":"04"}`, "hear": `{"ms":5}`, "suspend": `{"for_s":5,"by":"li"}`}[path]
			w := do(c, "POST", "/api/v1/buses/b1/"+path, body)
			answer := decode(t, w)
			if w.Code != x.code || dig(t, answer, "error", "code") != x.name || dig(t, answer, "error", "message", "zh") == "" ||
				!strings.Contains(dig(t, answer, "error", "detail").(string), "because") {
				t.Errorf("%s with %v: %d %s", path, x.err, w.Code, w.Body)
			}
		}
	}
}

func TestOrdersOfPeople(t *testing.T) {
	for _, x := range []struct {
		name, point, body string
		want              int
		asked             string // of the value
	}{
		{"bool", "on", `true`, 200, "0=true"}, {"bool as number", "on", `1`, 400, ""}, {"bool as text", "on", `"on"`, 400, ""},
		{"float", "level", `2.5`, 200, "1=2.5"}, {"float as text", "level", `"2.5"`, 400, ""},
		{"int", "step", `-3`, 200, "2=-3"}, {"int with a fraction", "step", `2.5`, 400, ""}, {"int too large", "step", `1e300`, 400, ""},
		{"code", "mode", `2`, 200, "3=2"}, {"name of a code", "mode", `"loud"`, 200, "3=2"}, {"name of no code", "mode", `"shrill"`, 400, ""},
		{"text", "text", `"x"`, 200, `4="x"`}, {"null", "on", `null`, 400, ""}, {"list", "on", `[true]`, 400, ""},
		{"no such point", "onn", `true`, 404, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, ctl := newControlled(t)
			ctl.result = console.OrderResult{Outcome: "done"}
			w := do(c, "POST", "/api/v1/points/panel_1/"+x.point+"/write", `{"value":`+x.body+`,"by":"li","note":"why"}`)
			want := ""
			if x.asked != "" {
				want = "write panel_1." + x.point + " " + x.asked + ` li "why" false`
			}
			if w.Code != x.want || strings.Join(ctl.asked, ";") != want {
				t.Errorf("%d %s, asked %q; want %d, %q", w.Code, w.Body, ctl.asked, x.want, want)
			}
		})
	}
	c, ctl := newControlled(t)
	for _, x := range []struct {
		path, body string
		want       int
	}{
		{"/api/v1/points/panel_1/on/write", `{"value":true}`, 400},
		{"/api/v1/points/panel_1/on/write", `{"by":"li"}`, 400},
		{"/api/v1/points/nobody/on/write", `{"value":true,"by":"li"}`, 404},
	} {
		if w := do(c, "POST", x.path, x.body); w.Code != x.want || len(ctl.asked) > 0 {
			t.Errorf("%s %s: %d, asked %q, want %d", x.path, x.body, w.Code, ctl.asked, x.want)
		}
	}
	if w := do(c, "POST", "/api/v1/points/panel_1/on/write", `{"value":true,"by":"li"}`, "Origin", "http://evil.example", "Sec-Fetch-Site", "cross-site"); w.Code != 403 || len(ctl.asked) > 0 {
		t.Errorf("an order from another site: %d, asked %q", w.Code, ctl.asked)
	}

	// What became of it.
	w := do(c, "POST", "/api/v1/points/panel_1/spare/write", `{"value":true,"by":"li"}`)
	if got := decode(t, w); w.Code != 200 || got["outcome"] != "refused" || dig(t, got, "error", "code") != "not_writable" || len(ctl.asked) > 0 {
		t.Errorf("a point that nothing provides: %d %s", w.Code, w.Body)
	}
	for _, x := range []struct {
		result console.OrderResult
		want   string
	}{
		{console.OrderResult{Outcome: "done", Value: telemetry.BoolValue(true)}, `{"outcome":"done","value":true}`},
		{console.OrderResult{Outcome: "refused", Retry: 1200 * time.Millisecond, Err: console.ErrTooSoon}, "too_soon"},
		{console.OrderResult{Outcome: "unknown", Err: console.ErrNoAnswer}, "outcome_unknown"},
		{console.OrderResult{Outcome: "not_taken", Value: telemetry.BoolValue(false), Err: console.ErrNotTaken}, "not_taken"},
		{console.OrderResult{Outcome: "refused", Err: errors.New("exception 2")}, "not_done"},
	} {
		ctl.result = x.result
		w := do(c, "POST", "/api/v1/points/panel_1/on/write", `{"value":true,"by":"li","force":true}`)
		got := decode(t, w)
		switch {
		case x.result.Err == nil && strings.TrimSpace(w.Body.String()) != x.want:
			t.Errorf("%+v: %s, want %s", x.result, w.Body, x.want)
		case x.result.Err != nil && (w.Code != 200 || got["outcome"] != x.result.Outcome || dig(t, got, "error", "code") != x.want):
			t.Errorf("%+v: %d %s", x.result, w.Code, w.Body)
		case x.result.Retry > 0 && got["retry_ms"] != 1200.0:
			t.Errorf("%+v: %s", x.result, w.Body)
		}
	}
	if last := ctl.asked[len(ctl.asked)-1]; !strings.HasSuffix(last, " true") {
		t.Errorf("force does not arrive: %s", last)
	}
}

func TestAuditRecord(t *testing.T) {
	c, ctl := newControlled(t)
	if got := strings.TrimSpace(do(c, "GET", "/api/v1/audit", "").Body.String()); got != `{"entries":[]}` {
		t.Errorf("an empty record: %s", got)
	}
	ctl.audit = []json.RawMessage{json.RawMessage(`{"by":"b"}`), json.RawMessage(`{"by":"a"}`)}
	if got := strings.TrimSpace(do(c, "GET", "/api/v1/audit?n=1", "").Body.String()); got != `{"entries":[{"by":"b"}]}` {
		t.Errorf("the newest: %s", got)
	}
	for _, n := range []string{"0", "-1", "1001", "x"} {
		if w := do(c, "GET", "/api/v1/audit?n="+n, ""); w.Code != 400 {
			t.Errorf("n=%s: %d", n, w.Code)
		}
	}
	ctl.err = errors.New("disk")
	if got := decode(t, do(c, "GET", "/api/v1/audit", "")); got["incomplete"] != true || len(got["entries"].([]any)) != 2 {
		t.Errorf("half a record: %v", got)
	}
	ctl.audit = nil
	if w := do(c, "GET", "/api/v1/audit", ""); w.Code != 500 || dig(t, decode(t, w), "error", "code") != "unreadable" {
		t.Errorf("no record: %d %s", w.Code, w.Body)
	}
}

func TestWithoutControlThereIsNothingToReach(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	for _, x := range []string{"GET /api/v1/buses", "POST /api/v1/buses/b/ask", "POST /api/v1/points/door_1/open/write", "GET /api/v1/audit"} {
		method, path, _ := strings.Cut(x, " ")
		if w := do(c, method, path, ""); w.Code != 404 {
			t.Errorf("%s: %d", x, w.Code)
		}
	}
	c, _ = newControlled(t)
	if w := do(c, "GET", "/api/v1/buses/b/ask", ""); w.Code != 405 {
		t.Errorf("GET of ask: %d", w.Code)
	}
}

func TestOwnWorksAreNotOnPeoplesPages(t *testing.T) {
	c, _ := newControlled(t)
	c.read(t, "rs485_1", "up", telemetry.BoolValue(true))
	if w := do(c, "GET", "/readyz", ""); w.Code != 503 {
		t.Errorf("ready by what the gateway says of itself: %d", w.Code)
	}
	c.read(t, "panel_1", "on", telemetry.BoolValue(true))
	site := decode(t, do(c, "GET", "/api/v1/site", ""))
	if site["node"] != "sunshine.gw1" || len(site["devices"].([]any)) != 1 || len(site["classes"].([]any)) != 1 {
		t.Errorf("site: %v", site)
	}
	values := decode(t, do(c, "GET", "/api/v1/state", ""))["values"].([]any)
	if len(values) != 1 || dig(t, values, 0, "id") != float64(c.point(t, "panel_1", "on")) {
		t.Errorf("values: %v", values)
	}
}

func TestEveryCardIsOnTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newControlled(t)
		ctx, cancel := context.WithCancel(t.Context())
		events := make(chan event, 64)
		r, done := stream(t, ctx, c)
		go read(r, events)
		if first := <-events; first.name != "snapshot" {
			t.Fatalf("first event = %s", first.name)
		}
		card := c.point(t, "panel_1", "card")
		for i, hash := range []string{"a1", "a1", "b2"} {
			c.live.Apply([]telemetry.Sample{{Point: card, Time: c.clock.Mono().Add(time.Duration(i)), Value: telemetry.TextValue(hash)}})
		}
		c.read(t, "rs485_1", "up", telemetry.BoolValue(true))
		e := <-events
		if e.name != "values" {
			t.Fatalf("second event = %s", e.name)
		}
		batch := e.data
		var got []string
		for _, e := range batch["events"].([]any) {
			got = append(got, fmt.Sprint(dig(t, e, "id"), "=", dig(t, e, "value")))
		}
		want := fmt.Sprintf("[%d=a1 %d=a1 %d=b2]", card, card, card)
		if fmt.Sprint(got) != want || len(batch["values"].([]any)) != 1 {
			t.Errorf("events %v, values %v; want %s and the card alone", got, batch["values"], want)
		}
		cancel()
		<-done
		r.Close()
	})
}
