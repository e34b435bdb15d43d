package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"linli/internal/testservers"
)

var firstBoot = flag.Duration("firstboot", 4*time.Second, "how long the box of TestFirstBoot has neither network nor clock; make soak says 90s")

// TestFirstBoot boots a box, a machine with a kernel of its own, in 1970 and without a network. The gateway runs, is killed and
// runs on; then the network comes, and with it the time. The database has every move of a contact, those before too, when it
// was and once, and no row from before the box was switched on.
func TestFirstBoot(t *testing.T) {
	t.Parallel()
	city := startCity(t)
	_, port, err := net.SplitHostPort(city.broker.Address)
	if err != nil {
		t.Fatal(err)
	}
	site := writeSite(t, siteHead+`  - {id: gate, kind: lane, title: {zh: 东门, en: East gate}}
buses:
  - id: box
    gpio: {chip: box-lines}
    lines:
      - {id: door, input: door}
devices:
  - {id: door_1, class: door, zone: gate, title: {zh: 门, en: Door}, points: {open: box.door}}
rules:
  - {pack: door}
journal: {max_bytes: 1MiB}
uplink: {brokers: ["tcp://10.0.2.2:`+port+`"], batch: 1s}
`, map[string]string{"packs/door.yaml": `
version: 1
pack: door
title: {zh: 测试, en: Test}
rules:
  - alert: DoorOpen
    for_each: door
    expr: open
    severity: warning
    title: {zh: "{{zone}}门开", en: "Door open at {{zone}}"}
`})
	clock, asked := tellTime(t)
	sub := subscribe(t, city.broker.Address, "linli/v1/#")
	began := time.Now()
	console := testservers.Machine{Network: true, Clock: "1970-01-01T00:00:00"}.Run(t, 3*time.Minute+2**firstBoot, map[string]string{
		"/bin/linli": binary(t), "/bin/firstboot": "go:linli/gateway/testdata/firstboot", "/etc/linli/site.yaml": site, "/etc/linli/packs/door.yaml": filepath.Join(filepath.Dir(site), "packs/door.yaml"),
	}, "/bin/firstboot", "-before", firstBoot.String(), "-host", "10.0.2.2:"+clock)
	defer func() {
		if t.Failed() {
			t.Logf("the broker got:\n%s\nthe machine's console:\n%s", strings.Join(sub.all(), "\n"), console)
		}
	}()
	line := regexp.MustCompile(`(?m)^firstboot: (\{.*\})$`).FindStringSubmatch(console)
	if line == nil {
		t.Fatal("the machine gives no notes")
	}
	var notes struct {
		Before         time.Time
		Asked, Network int64
		Moved          []struct {
			At   int64
			Open bool
		}
	}
	if err := json.Unmarshal([]byte(line[1]), &notes); err != nil {
		t.Fatal(err)
	}
	if notes.Before.Year() != 1970 {
		t.Fatalf("the box began at %s: the test shows nothing", notes.Before)
	}
	boot := (<-asked).Add(-time.Duration(notes.Asked))
	if boot.Before(began) {
		t.Fatalf("the box booted at %s, before it was switched on, %s", boot, began)
	}
	unset := 0
	for _, m := range notes.Moved {
		if m.At < notes.Asked {
			unset++
		}
	}
	if unset < int(*firstBoot/time.Second)/2 {
		t.Fatalf("%d moves before the clock was set: the test shows too little", unset)
	}

	var rows []row
	look := func() int { rows = city.rows(t, "door", "door_1", "open"); return len(rows) }
	waitFor(t, 30*time.Second, "the rows of the door", func() bool { return look() >= len(notes.Moved) })
	city.ingest.stop(15 * time.Second) // It writes what it has.
	look()

	// Both processes report the contact when they start, the second one as the first one left it.
	if len(rows) != len(notes.Moved)+2 {
		t.Errorf("%d rows of the door for %d moves and two starts", len(rows), len(notes.Moved))
	}
	rows = slices.CompactFunc(rows, func(a, b row) bool { return a.v == b.v })
	if len(rows) != len(notes.Moved)+1 || rows[0].v != 0 {
		t.Fatalf("the rows of the door do not go to and fro %d times: %v", len(notes.Moved), rows)
	}
	furthest := time.Duration(0)
	for i, m := range notes.Moved {
		at := boot.Add(time.Duration(m.At))
		late := time.Unix(0, rows[i+1].t).Sub(at)
		if late < -200*time.Millisecond || late > time.Second {
			t.Errorf("the door moved at %s, the database says %s later", at, late)
		}
		if late.Abs() > furthest {
			furthest = late.Abs()
		}
	}
	counted := map[string]int{}
	for _, m := range city.query("SHOW MEASUREMENTS") {
		name := m[0].(string)
		if name == "linli_check" || name == "linli_hour" {
			continue // what ingest says of itself and of hours, at any time
		}
		for _, r := range city.queryAll(fmt.Sprintf("SELECT * FROM %q", name)) {
			counted[name]++
			at, err := r[0].(json.Number).Int64()
			if err != nil {
				t.Fatal(err)
			}
			if when := time.Unix(0, at); when.Before(boot) || when.After(time.Now()) {
				t.Errorf("a row of %s at %s; the box ran from %s: %v", name, when.UTC(), boot.UTC(), r)
			}
		}
	}
	if counted["linli_ledger"] == 0 || counted["alert"] < 3 || counted["linli_status"] < 2 {
		t.Errorf("the test shows too little: %v", counted)
	}
	if uncertain := city.queryAll(`SELECT "id" FROM "alert" WHERE "time_uncertain" = true`); len(uncertain) == 0 {
		t.Error("no alert came before the clock was set: the test shows too little")
	}
	last := city.queryAll(`SELECT LAST("started_at") FROM "linli_status"`)
	if len(last) != 1 {
		t.Fatalf("status rows %v", last)
	}
	if ns, err := last[0][1].(json.Number).Int64(); err != nil || time.Unix(0, ns).Before(boot) {
		t.Errorf("the gateway says that it started at %s, the box was switched on at %s", time.Unix(0, ns), boot)
	}
	t.Logf("%d moves, %d before the clock was set %s after the boot, at most %s off; rows: %v",
		len(notes.Moved), unset, time.Duration(notes.Asked).Round(time.Second), furthest.Round(time.Millisecond), counted)
}

// queryAll returns the rows of all series of the answer.
func (c *city) queryAll(q string) (rows [][]any) {
	series, err := c.db.Query(q)
	if err != nil {
		return nil
	}
	for _, s := range series {
		rows = append(rows, s.Values...)
	}
	return rows
}

// tellTime tells the time to the one who asks on a port of the loopback interface, and when that was.
func tellTime(t *testing.T) (port string, asked <-chan time.Time) {
	t.Helper()
	l := testservers.Listen(t)
	told := make(chan time.Time, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		now := time.Now()
		fmt.Fprint(conn, now.UnixNano())
		conn.Close()
		told <- now
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), told
}
