package read_test

import (
	"fmt"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/ledger/read"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// counts writes what a gateway says of its alerts.
func (c *city) counts(gateway string, raised, closed, at int64) {
	c.lines = fmt.Appendf(c.lines, "gateway,device=gw1,gateway=gw1,site=%s alerts_raised=%di,alerts_closed=%di %d\n", gateway, raised, closed, at)
}

// alert writes one transition of an alert; closed 0: it is open.
func (c *city) alert(site, id string, revision, raised, closed, at int64) {
	a := alert.Alert{ID: id, Identity: telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane_" + fmt.Sprint(revision)}, Severity: telemetry.Critical,
		State: alert.ActiveUnacknowledged, Revision: revision, RaisedAt: time.Unix(0, raised)}
	if closed != 0 {
		a.State, a.ClosedAt = alert.Closed, time.Unix(0, closed)
	}
	c.lines = wire.AppendAlertLine(c.lines, site, "gw1", &wire.AlertEvent{Time: time.Unix(0, at), Data: a})
}

// What is told of alerts is compared with what the gateways count, by both languages alike.
func TestAlertsAreCounted(t *testing.T) {
	db := testservers.StartInfluxDB(t)
	c := &city{}
	want := map[string]string{} // expected raised and closed, how many are here, how many are missing
	is := func(site string, raised, closed, raisedHere, closedHere int64, missing uint64) {
		want[site+".gw1"] = fmt.Sprint(raised, closed, raisedHere, closedHere, missing)
	}
	day := func(site string, raised, closed int64) { // from 7 and 5 on, one of each before the window
		c.counts(site, 7, 5, begin-30*second)
		c.counts(site, 7+raised/2, 5, begin+hour)
		c.counts(site, 7+raised, 5+closed, end-40*second)
		c.counts(site, 7+raised+3, 5+closed+3, end+hour) // later
		c.alert(site, "BEFORE", 1, begin-hour, 0, begin-hour)
	}
	day("whole", 2, 1)
	c.alert("whole", "A", 1, begin+hour, 0, begin+hour)
	c.alert("whole", "A", 2, begin+hour, 0, begin+2*hour)
	c.alert("whole", "A", 3, begin+hour, begin+3*hour, begin+3*hour)
	c.alert("whole", "B", 1, begin+4*hour, 0, begin+4*hour)
	is("whole", 2, 1, 2, 1, 0)
	day("short", 2, 1)
	c.alert("short", "A", 1, begin+hour, 0, begin+hour)
	is("short", 2, 1, 1, 0, 1)
	day("late", 1, 1) // only its last message is there, and that is of another day
	c.alert("late", "A", 4, begin+hour, end-hour, end+3*hour)
	is("late", 1, 1, 1, 1, 0)
	day("unclosed", 1, 2) // of an alert of the day before the closing has not come
	c.alert("unclosed", "A", 2, begin+hour, begin+2*hour, begin+2*hour)
	is("unclosed", 1, 2, 1, 1, 1)
	day("clockless", 1, 1)
	c.alert("clockless", "A", 2, 50*second, 90*second, end-hour)
	is("clockless", 1, 1, 1, 1, 0)
	// It was silent when the day began: what it raised since it spoke last counts.
	c.counts("back", 3, 3, begin-5*hour)
	c.counts("back", 5, 3, end-hour)
	c.alert("back", "A", 1, begin-4*hour, 0, begin-4*hour)
	c.alert("back", "B", 1, begin+4*hour, 0, begin+4*hour)
	is("back", 2, 0, 2, 0, 0)
	c.counts("new", 0, 0, begin+hour)
	c.counts("new", 1, 0, begin+2*hour)
	is("new", 1, 0, 0, 0, 1)
	c.counts("began_anew", 9, 9, begin-30*second)
	c.counts("began_anew", 1, 0, begin+2*hour)
	is("began_anew", -8, -9, 0, 0, 0)
	c.alert("countless", "A", 1, begin+hour, 0, begin+hour) // an older gateway
	c.counts("gone", 1, 1, begin-30*second)
	write(t, db, c.lines)

	for _, language := range []string{"influxql", "flux"} {
		r, err := read.New(read.Config{URL: db.URL, Bucket: db.Bucket, Language: language})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		all, err := r.Alerts(t.Context(), "", begin, end, later)
		if err != nil {
			t.Fatal(err)
		}
		for node, w := range want {
			if a := all[node]; a == nil {
				t.Errorf("%s: nothing of %s", language, node)
			} else if got := fmt.Sprint(a.Raised, a.Closed, a.RaisedHere, a.ClosedHere, a.Missing()); got != w {
				t.Errorf("%s: %s is %s, want %s", language, node, got, w)
			}
		}
		if len(all) != len(want) {
			t.Errorf("%s: %d nodes, want %d", language, len(all), len(want))
		}
		if one, err := r.Alerts(t.Context(), "short.gw1", begin, end, later); err != nil || len(one) != 1 || one["short.gw1"].Missing() != 1 {
			t.Errorf("%s: of one node %v, %v", language, one, err)
		}
	}
}
