package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"linli/internal/alert"
	"linli/internal/simulate"
	"linli/internal/testservers"
)

// town is a simulated community on a real pseudo-terminal, for a gateway that runs as a process of its own.
type town struct {
	*simulate.Community
	site string // path of the site file
}

// newTown serves the site file's only bus, which must be Modbus RTU with the device path PTY, and writes the site file
// with the real path, and the rule packs beside it.
func newTown(t *testing.T, file string, packs ...string) *town {
	t.Helper()
	local := fstest.MapFS{}
	for i, pack := range packs {
		local[fmt.Sprintf("packs/local%d.yaml", i)] = &fstest.MapFile{Data: []byte(pack)}
	}
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	file = strings.ReplaceAll(file, "/dev/PTY", pty.Path)
	p, err := resolvePlan("site.yaml", []byte(file), local)
	if err != nil {
		t.Fatalf("the test's site file:\n%v", err)
	}
	c := simulate.New(p.site.Inventory)
	c.AddBus(p.site.Buses[0].ID, p.site.Buses[0].Units)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.ServeRTU(ctx, p.site.Buses[0].ID, pty) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("simulated bus: %v", err)
		}
	})
	path := writeFile(t, "site.yaml", file)
	if err := os.CopyFS(filepath.Dir(path), local); err != nil {
		t.Fatal(err)
	}
	return &town{Community: c, site: path}
}

func (c *town) set(t *testing.T, device, point string, v float64) {
	t.Helper()
	if err := c.Set(device, point, v); err != nil {
		t.Fatal(err)
	}
}

// openAlerts returns what the console's API says is open.
func (a api) openAlerts() []alert.Alert {
	var state struct {
		Alerts struct {
			Open []alert.Alert `json:"open"`
		} `json:"alerts"`
	}
	a.get("/api/v1/state", &state)
	return state.Alerts.Open
}

// storyWait is how long an alert may take to become what is waited for: the shipped packs keep a fire alert for a minute.
const storyWait = 90 * time.Second

// alertOf waits for the open alert of that name and subject to satisfy cond.
func (a api) alertOf(name, subject, what string, cond func(alert.Alert) bool) alert.Alert {
	a.t.Helper()
	var found alert.Alert
	waitFor(a.t, storyWait, fmt.Sprintf("%s of %s %s", name, subject, what), func() bool {
		for _, open := range a.openAlerts() {
			if open.Alert == name && open.Subject == subject && cond(open) {
				found = open
				return true
			}
		}
		return false
	})
	return found
}

// noAlertOf waits until no alert of that name and subject is open.
func (a api) noAlertOf(name, subject string) {
	a.t.Helper()
	waitFor(a.t, storyWait, fmt.Sprintf("%s of %s closed", name, subject), func() bool {
		var state struct{}
		if !a.get("/api/v1/state", &state) {
			return false
		}
		for _, open := range a.openAlerts() {
			if open.Alert == name && open.Subject == subject {
				return false
			}
		}
		return true
	})
}

// alertIn returns the alert in a message of a subscriber; false: it has none.
func alertIn(message string) (alert.Alert, bool) {
	parts := strings.SplitN(message, " ", 3)
	var event struct {
		Data alert.Alert `json:"data"`
	}
	ok := len(parts) == 3 && strings.Contains(parts[1], "/alert/") && json.Unmarshal([]byte(parts[2]), &event) == nil
	return event.Data, ok
}

// announced returns the newest durable announcement of each alert so far.
func (s *subscriber) announced() map[string]alert.Alert {
	newest := map[string]alert.Alert{}
	for _, m := range s.all() {
		a, ok := alertIn(m)
		if !ok || !a.Durable || a.ID == "" {
			continue
		}
		if a.Revision >= newest[a.ID].Revision {
			newest[a.ID] = a
		}
	}
	return newest
}

// retainedAlert waits for a message about the alert and returns the alert in it.
func retainedAlert(t *testing.T, s *subscriber, id, what string, cond func(alert.Alert) bool) alert.Alert {
	t.Helper()
	var found alert.Alert
	waitFor(t, 20*time.Second, "an MQTT message: alert "+what, func() bool {
		for _, m := range s.all() {
			if a, ok := alertIn(m); ok && (id == "" || a.ID == id) && cond(a) {
				found = a
				return true
			}
		}
		return false
	})
	return found
}

const fireLaneSite = laneHead + `buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/PTY, baud: 9600, format: 8N1}
    units:
      - {id: io1, address: 1, profile: waveshare_io_8ch}
      - {id: sd1, address: 2, profile: calectro_ug3}
devices:
  - id: lane_1            # offers occupied only: no optional point is provided
    class: fire_lane_sensor
    zone: lane_east
    title: {zh: 地磁, en: Vehicle sensor}
    points: {occupied: io1.di1}
  - {id: smoke_1, unit: sd1, zone: lane_east, title: {zh: 烟感, en: Smoke detector}}
rules:
  - {pack: fire_lane, params: {dwell: 1s, clear_after: 1s}}
  - {pack: fire}
  - {pack: gateway, params: {silent_for: 2s, life_safety_silent_for: 2s}}
console: {listen: "127.0.0.1:%d"}
uplink: {brokers: ["tcp://%s"]}
`

// TestFireLaneStory is the main job over a real pseudo-terminal, a real broker and the real binary: occupied for the
// dwell, alert committed and retained at the broker, killed and restarted in between, acknowledged through the
// console's API, closed after the car has left, with the whole history.
func TestFireLaneStory(t *testing.T) {
	t.Parallel()
	broker := testservers.StartMosquitto(t)
	port := freePort(t)
	c := newTown(t, fmt.Sprintf(fireLaneSite, port, broker.Address))
	c.set(t, "smoke_1", "alarm", 0)
	state := t.TempDir()
	a := api{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
	topics := "linli/v1/test.gw1/alert/#"
	live := subscribe(t, broker.Address, topics)

	gateway := start(t, "run", "-c", c.site, "--state", state)
	waitFor(t, 15*time.Second, "the first sample", func() bool {
		resp, err := http.Get(a.base + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	if open := a.openAlerts(); len(open) != 0 {
		t.Fatalf("alerts before anything happened: %v", open)
	}

	parked := time.Now()
	c.set(t, "lane_1", "occupied", 1)
	raised := a.alertOf("FireLaneBlocked", "lane_1", "raised", func(alert.Alert) bool { return true })
	if took := time.Since(parked); took < time.Second {
		t.Errorf("the alert came %s after the car, before the dwell of 1 s", took)
	}
	if raised.State != alert.ActiveUnacknowledged || raised.Zone != "lane_east" || raised.Title.Zh != "东门消防通道被占用" {
		t.Errorf("raised alert is %+v", raised)
	}
	retainedAlert(t, live, raised.ID, "active_unacknowledged", func(m alert.Alert) bool { return m.State == alert.ActiveUnacknowledged })

	// The gateway dies. Whoever comes to the broker now still learns of the alert; the gateway still knows it after.
	gateway.kill()
	late := subscribe(t, broker.Address, topics)
	retainedAlert(t, late, raised.ID, "retained at the broker", func(m alert.Alert) bool { return m.State == alert.ActiveUnacknowledged })
	gateway = start(t, "run", "-c", c.site, "--state", state)
	again := a.alertOf("FireLaneBlocked", "lane_1", "there after SIGKILL", func(alert.Alert) bool { return true })
	if again.ID != raised.ID || !again.RaisedAt.Equal(raised.RaisedAt) || again.State != alert.ActiveUnacknowledged {
		t.Errorf("after SIGKILL the alert is %+v, want %+v", again, raised)
	}

	if code, answer := a.post("/api/v1/alerts/"+raised.ID+"/acknowledge", map[string]string{"note": "没有署名"}); code < 400 {
		t.Errorf("acknowledging without a name: %d %s, want an error", code, answer)
	}
	if code, answer := a.post("/api/v1/alerts/"+raised.ID+"/acknowledge", map[string]string{"by": "王工", "note": "已派人"}); code != http.StatusOK {
		t.Fatalf("acknowledge: %d %s", code, answer)
	}
	acked := a.alertOf("FireLaneBlocked", "lane_1", "acknowledged", func(x alert.Alert) bool { return x.State == alert.ActiveAcknowledged })
	if acked.AcknowledgedBy != "王工" || acked.AcknowledgedAt.IsZero() {
		t.Errorf("acknowledged alert is %+v", acked)
	}
	retainedAlert(t, live, raised.ID, "active_acknowledged", func(m alert.Alert) bool { return m.State == alert.ActiveAcknowledged })

	c.set(t, "lane_1", "occupied", 0)
	a.noAlertOf("FireLaneBlocked", "lane_1")
	retainedAlert(t, live, raised.ID, "closed", func(m alert.Alert) bool { return m.State == alert.Closed && m.CloseReason == "returned" })

	var whole struct {
		Alert   alert.Alert `json:"alert"`
		History []struct {
			What, By, Note string
		} `json:"history"`
	}
	if !a.get("/api/v1/alerts/"+raised.ID, &whole) {
		t.Fatal("the closed alert cannot be read")
	}
	var what []string
	for _, h := range whole.History {
		what = append(what, h.What+" by "+h.By+" "+h.Note)
	}
	got := strings.Join(what, "; ")
	for _, want := range []string{"raised by sensor", "acknowledged by 王工 已派人", "closed by"} {
		if !strings.Contains(got, want) {
			t.Errorf("the history %q lacks %q", got, want)
		}
	}

	// The retained message is gone: who comes now is told of nothing.
	waitFor(t, 10*time.Second, "the retained alert cleared", func() bool {
		for _, m := range live.all() {
			if strings.TrimSpace(m) == "0 linli/v1/test.gw1/alert/"+raised.ID {
				return true
			}
		}
		return false
	})
	gateway.stop(15 * time.Second)
	// From raising to closing, each message was as its schema says.
	s, states := loadSchema(t, "alert"), map[string]bool{}
	for _, m := range live.all() {
		if _, payload, _ := strings.Cut(m[2:], " "); payload != "" {
			s.accepts([]byte(payload))
			var e struct{ Data struct{ State string } }
			if err := json.Unmarshal([]byte(payload), &e); err != nil {
				t.Fatal(err)
			}
			states[e.Data.State] = true
		}
	}
	if len(states) < 3 {
		t.Errorf("states seen: %v", states)
	}
	if _, err := os.Stat(state); err != nil {
		t.Error(err)
	}
}

// TestSilentDetectorKeepsItsAlert: a detector that goes silent while its alert is active is not a detector that says
// all is well.
func TestSilentDetectorKeepsItsAlert(t *testing.T) {
	t.Parallel()
	broker := testservers.StartMosquitto(t)
	port := freePort(t)
	c := newTown(t, fmt.Sprintf(fireLaneSite, port, broker.Address))
	a := api{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
	gateway := start(t, "run", "-c", c.site, "--state", t.TempDir())

	c.set(t, "smoke_1", "alarm", 1)
	raised := a.alertOf("SmokeAlarm", "smoke_1", "raised", func(alert.Alert) bool { return true })
	if raised.Unknown || raised.Severity.String() != "critical" || !raised.LifeSafety {
		t.Errorf("raised alert is %+v, want critical, life safety and known", raised)
	}
	if err := c.Misbehave("sd1", simulate.Fault{Silent: true}); err != nil {
		t.Fatal(err)
	}
	unknown := a.alertOf("SmokeAlarm", "smoke_1", "unknown", func(x alert.Alert) bool { return x.Unknown })
	if unknown.ID != raised.ID || unknown.State != alert.ActiveUnacknowledged {
		t.Errorf("after the silence the alert is %+v", unknown)
	}
	// Beside it somebody is told that the detector is silent; and the alert is still there when that has been said.
	waitFor(t, 20*time.Second, "an alert about the silent detector", func() bool {
		for _, open := range a.openAlerts() {
			if open.Subject == "smoke_1" && strings.Contains(open.Alert, "Silent") {
				return true
			}
		}
		return false
	})
	a.alertOf("SmokeAlarm", "smoke_1", "still there", func(x alert.Alert) bool { return x.Unknown && x.ID == raised.ID })

	// The other unit of the bus has not noticed anything.
	c.set(t, "lane_1", "occupied", 1)
	a.alertOf("FireLaneBlocked", "lane_1", "raised beside a silent unit", func(alert.Alert) bool { return true })

	// It comes back and says that there is no smoke: now the alert may go.
	c.set(t, "smoke_1", "alarm", 0)
	if err := c.Misbehave("sd1", simulate.Fault{}); err != nil {
		t.Fatal(err)
	}
	a.alertOf("SmokeAlarm", "smoke_1", "returned", func(x alert.Alert) bool { return x.State == alert.ReturnedUnacknowledged && !x.Unknown })
	gateway.stop(15 * time.Second)
}
