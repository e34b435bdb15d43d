package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"linli/internal/testservers"
)

// Alerts that were told and are not in the database, as when full queues dropped them, are missed by what the gateway counts: the
// ledger says so, ingest asks for them, and then the ledger says that all is there.
func TestAlertsReturnUnaided(t *testing.T) {
	t.Parallel() // It waits a minute.
	public, keyFile := commandKey(t)
	c := &city{broker: testservers.StartMosquitto(t), db: testservers.StartInfluxDB(t)}
	c.token = writeFile(t, "token", "unused\n")
	startIngest := func(more ...string) *process {
		return start(t, append([]string{"ingest", "--broker", c.broker.URL, "--influx-url", c.db.URL, "--bucket", c.db.Bucket, "--token-file", c.token,
			"--client-id", "ingest-test"}, more...)...)
	}
	ingest := startIngest("--repair-horizon", "0")
	bus := serveCounting(t, func(_, _, count int) []uint16 { return make([]uint16, count) })
	console := freePort(t)
	pages := api{t, fmt.Sprintf("http://127.0.0.1:%d", console)}
	site := writeSite(t, fmt.Sprintf(yardHead+`buses:
  - id: tcp_1
    modbus_tcp: {address: "127.0.0.1:%d"}
    units:
      - {id: io1, address: 2, profile: soak_io}
devices:
%srules:
  - {pack: buttons}
uplink: {brokers: [%q], batch: 1s, commands: {keys: {city: %q}}}
console: {listen: "127.0.0.1:%d"}
`, bus.port, buttonsAt(1), c.broker.URL, base64.StdEncoding.EncodeToString(public), console), map[string]string{"profiles/soak_io.yaml": soakIO, "packs/buttons.yaml": buttonsPack})
	begin := time.Now()
	start(t, "run", "-c", site, "--state", t.TempDir())
	waitFor(t, 20*time.Second, "the gateway counts no alert", func() bool {
		return len(c.query(`SELECT "alerts_raised" FROM "gateway" WHERE "alerts_raised" = 0`)) > 0
	})
	for n := range 3 {
		bus.set(2, 0, true)
		waitFor(t, 20*time.Second, "an alert", func() bool { return len(pages.openAlerts()) == 1 })
		bus.set(2, 0, false)
		id := pages.openAlerts()[0].ID
		waitFor(t, 20*time.Second, "its end", func() bool {
			pages.post("/api/v1/alerts/"+id+"/acknowledge", map[string]string{"by": "guard"})
			return len(pages.openAlerts()) == 0
		})
		waitFor(t, 20*time.Second, "the count", func() bool {
			return len(c.query(fmt.Sprintf(`SELECT "alerts_closed" FROM "gateway" WHERE "alerts_closed" = %d`, n+1))) > 0
		})
	}
	end := time.Now()
	waitFor(t, 20*time.Second, "all three in the database", func() bool {
		return len(c.query(`SELECT "id" FROM "alert" WHERE "state" = 'closed'`)) == 3
	})
	ask := func() (code int, out string) {
		code, out, stderr := linli(t, "ledger", "--influx-url", c.db.URL, "--bucket", c.db.Bucket, "--token-file", c.token,
			"--from", begin.Format(time.RFC3339Nano), "--to", end.Format(time.RFC3339Nano))
		return code, out + stderr
	}
	const counted = "3 alerts raised, 3 closed 告警 3 条，关闭 3 条"
	waitFor(t, 2*time.Minute, "completeness", func() bool {
		code, out := ask()
		return code == exitGood && strings.Contains(out, counted)
	})

	waitFor(t, 2*time.Minute, "everything has gone out once more", func() bool { return time.Since(end) > 70*time.Second })
	ingest.stop(10 * time.Second)
	c.query(`DROP SERIES FROM "alert"`)
	if code, out := ask(); code != exitNo || !strings.Contains(out, "test.gw1                 alerts     告警缺失") || !strings.Contains(out, counted+", 3 missing 缺告警 3 条") {
		t.Fatalf("code %d\n%s", code, out)
	}
	ingest = startIngest("--command-key", keyFile, "--command-kid", "city", "--repair-every", "500ms", "--repair-grace", "2s")
	waitFor(t, 60*time.Second, "the alerts again", func() bool {
		code, out := ask()
		return code == exitGood && strings.Contains(out, counted)
	})
	if !strings.Contains(ingest.out.String(), "alerts are missing") {
		t.Errorf("ingest does not say so:\n%s", tail(ingest.out.String(), 2000))
	}
}
