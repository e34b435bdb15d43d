package uplink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/uplink"
)

// ofAlerts returns the messages of alerts so far.
func ofAlerts(h *hostile) (list []published) {
	for _, m := range h.on("") {
		if strings.Contains(m.topic, "/alert/") {
			list = append(list, m)
		}
	}
	return list
}

// alertsFrom returns the ids of the alerts whose messages came from number i on, each as often as it came, sorted. The empty
// messages that clear what was retained do not count.
func alertsFrom(h *hostile, i int) (ids []string) {
	for _, m := range ofAlerts(h)[i:] {
		if len(m.payload) > 0 {
			ids = append(ids, m.topic[strings.LastIndex(m.topic, "/")+1:])
		}
	}
	slices.Sort(ids)
	return ids
}

// A broker that knows our session may have it from an old save: the alerts of the last minutes go out again, closed ones too.
func TestAlertsThatABrokerMayHaveForgotten(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgets everything %v", forgets), func(t *testing.T) {
			h, b, j := startHostile(t, ackAll), newBook(), newJournal(50)
			now := time.Now()
			b.sayAt("old", alert.Closed, "closed", 2, now.Add(-time.Hour))
			b.sayAt("shut", alert.Closed, "closed", 3, now)
			b.sayAt("open", alert.ActiveAcknowledged, "acknowledged", 2, now)
			u := start(t, uplink.Config{Brokers: []string{h.url}}, j, b)
			connected(t, u, 1)
			eventually(t, "told", func() bool { return b.toldCount() == 3 })
			n := len(ofAlerts(h))
			h.forget(forgets)
			h.drop()
			connected(t, u, 2)
			want := []string{"open", "shut"}
			if forgets {
				want = []string{"open", "open", "shut"} // what it retained first
			}
			eventually(t, "told again", func() bool { return slices.Equal(alertsFrom(h, n), want) })
			h.forget(false)
			h.drop() // a line that flaps
			connected(t, u, 3)
			j.append(1, "boot")
			connected(t, u, 3)
			if forgets {
				want = append([]string{"open"}, append(want, "shut")...) // this loss is the first of its kind
				eventually(t, "told once more", func() bool { return slices.Equal(alertsFrom(h, n), want) })
			} else if got := alertsFrom(h, n); !slices.Equal(got, want) {
				t.Errorf("%v were told again, want %v", got, want)
			}
		})
	}
}

// With frames that the city asks for again go the alerts that changed when they were measured: what lost the one may have
// lost the other. A process that dies before they are acknowledged does not forget it.
func TestResendTellsAlertsAgain(t *testing.T) {
	h, b, j, dir := startHostile(t, ackAll), newBook(), newJournal(1000), t.TempDir() // one a second
	second := func(n int64) time.Time { return time.Unix(n, base) }
	for id, at := range map[string]int64{"before": 300, "minute": 350, "within": 405, "beyond": 465, "after": 500} {
		b.sayAt(id, alert.Closed, "closed", 2, second(at))
	}
	u := start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, b)
	delivered(t, u)
	eventually(t, "told", func() bool { return b.toldCount() == 5 })
	n := len(ofAlerts(h))
	h.set(func(p published) (bool, bool) {
		return !strings.HasSuffix(p.topic, "/telemetry") && !strings.Contains(p.topic, "/alert/"), false
	})
	if r, err := u.Resend(t.Context(), fakeEpoch, 400, 410); err != nil || r.Frames != 11 {
		t.Fatalf("%+v, %v", r, err)
	}
	want := []string{"beyond", "minute", "within"}
	eventually(t, "told again", func() bool { return slices.Equal(alertsFrom(h, n), want) })
	u.stop()
	h.set(ackAll)
	n = len(ofAlerts(h))
	u = start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, b)
	delivered(t, u)
	eventually(t, "told by the next process", func() bool { return slices.Equal(alertsFrom(h, n), want) })
	u.stop()
	n = len(ofAlerts(h))
	u = start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, b)
	delivered(t, u)
	j.append(1, "boot")
	delivered(t, u)
	if got := alertsFrom(h, n); len(got) > 0 {
		t.Errorf("%v were told again although nobody asked", got)
	}
}

// The city has counted, and asks for the alerts since a moment.
func TestResendAlerts(t *testing.T) {
	h, b, j := startHostile(t, ackAll), newBook(), newJournal(5)
	now := time.Now()
	for id, ago := range map[string]time.Duration{"old": 3 * time.Hour, "shut": time.Hour, "new": time.Minute} {
		b.sayAt(id, alert.Closed, "closed", 2, now.Add(-ago))
	}
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, b)
	eventually(t, "told", func() bool { return b.toldCount() == 3 })
	n := len(ofAlerts(h))
	if r, err := u.ResendAlerts(now.Add(-2 * time.Hour)); err != nil || r.Alerts != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	eventually(t, "told again", func() bool { return slices.Equal(alertsFrom(h, n), []string{"new", "shut"}) })
	if r, err := u.ResendAlerts(now.Add(time.Hour)); err != nil || r.Alerts != 0 {
		t.Errorf("of the future: %+v, %v", r, err)
	}
}

// A broker acknowledges an alert and drops it where a reader's queue is full. No number shows the city that it is missing: each
// goes out a second time, and no third.
func TestAlertGoesOutOnceMore(t *testing.T) {
	h, b, j := startHostile(t, ackAll), newBook(), newJournal(5)
	b.sayAt("open", alert.ActiveAcknowledged, "acknowledged", 2, time.Now())
	b.sayAt("shut", alert.Closed, "closed", 3, time.Now())
	u := start(t, uplink.Config{Brokers: []string{h.url}, SendAgain: 100 * time.Millisecond}, j, b)
	connected(t, u, 1)
	eventually(t, "both twice", func() bool { return slices.Equal(alertsFrom(h, 0), []string{"open", "open", "shut", "shut"}) })
	// The next one comes twice as well; by then a third of the others would have come.
	b.sayAt("new", alert.ActiveAcknowledged, "acknowledged", 2, time.Now())
	eventually(t, "the next one twice", func() bool {
		return slices.Equal(alertsFrom(h, 0), []string{"new", "new", "open", "open", "shut", "shut"})
	})
}
