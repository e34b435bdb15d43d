package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/mqtt"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// sender is a gateway as the cluster sees it: it publishes numbered messages with QoS 1, some in flight at a time, and
// sends again on the next server what was not acknowledged on the last.
type sender struct {
	node    string
	brokers []string
	acked   atomic.Int64 // messages 1 to acked have their PUBACK
	resent  atomic.Int64
	lost    atomic.Int64 // connections
}

const senderWindow = 16

// run publishes until ctx ends and everything is acknowledged, or until limit.
func (s *sender) run(ctx, limit context.Context, every time.Duration, epoch int64) {
	next := int64(1) // to be published for the first time
	for turn := rand.IntN(len(s.brokers)); limit.Err() == nil; turn++ {
		session, err := mqtt.Connect(limit, mqtt.Config{ClientID: strings.Replace(s.node, ".", "-", 1)}, s.brokers[turn%len(s.brokers)], mqtt.Options{})
		if err != nil {
			pause(100 * time.Millisecond)
			continue
		}
		var flying []paho.Token // of messages acked+1 and up
		at := s.acked.Load() + 1
		for session.Err() == nil && limit.Err() == nil {
			if ctx.Err() != nil && s.acked.Load() == next-1 {
				session.Close(100 * time.Millisecond)
				return
			}
			if len(flying) < senderWindow && (at < next || ctx.Err() == nil) {
				if at < next {
					s.resent.Add(1)
				}
				flying = append(flying, session.Publish("linli/v1/"+s.node+"/telemetry", false, s.message(at, epoch)))
				at++
				next = max(next, at)
				if at == next {
					pause(every)
				}
				for len(flying) > 0 && flying[0].WaitTimeout(0) {
					flying = s.landed(session, flying)
				}
				continue
			}
			select {
			case <-flying[0].Done():
				flying = s.landed(session, flying)
			case <-session.Lost():
			}
		}
		s.lost.Add(1)
		session.Drop(context.Canceled)
	}
}

// landed takes the first token off, acknowledged or failed.
func (s *sender) landed(session *mqtt.Session, flying []paho.Token) []paho.Token {
	if err := flying[0].Error(); err != nil {
		session.Drop(err)
		return flying
	}
	s.acked.Add(1)
	return flying[1:]
}

// message returns message n: one line that no other message has.
func (s *sender) message(n, epoch int64) []byte {
	site, gateway, _ := wire.SplitNode(s.node)
	at := epoch + n*1e6
	b := wire.AppendHeader(nil, &wire.Header{Epoch: 0xc0ffee, From: uint64(n), To: uint64(n), Count: 1, T0: at, T1: at})
	return fmt.Appendf(b, "js_counter,device=c1,gateway=%s,site=%s n=%di %d\n", gateway, site, n, at)
}

// Servers of a NATS cluster and ingests are killed at random while gateways publish: what got its PUBACK is in the
// database, once. LINLI_JETSTREAM_SOAK=10m does it for longer.
func TestJetStreamLosesNothing(t *testing.T) {
	duration := 12 * time.Second
	if s := os.Getenv("LINLI_JETSTREAM_SOAK"); s != "" {
		var err error
		if duration, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	cluster, db := testservers.StartNATSCluster(t), testservers.StartInfluxDB(t)
	startIngest := func() *process {
		return start(t, "ingest", "--nats", strings.Join(cluster.URLs, ","), "--influx-url", db.URL, "--bucket", db.Bucket, "--stream-bytes", "1000000000")
	}
	ingests := []*process{startIngest(), startIngest()}
	waitFor(t, 30*time.Second, "the consumers", func() bool { return strings.Contains(ingests[0].out.String(), "ingest connected") })

	limit, cancel := context.WithTimeout(t.Context(), duration+2*time.Minute)
	defer cancel()
	ctx, stop := context.WithTimeout(limit, duration)
	defer stop()
	epoch := time.Now().Add(-24 * time.Hour).UnixNano()
	var senders []*sender
	var sending sync.WaitGroup
	for i := range 6 {
		s := &sender{node: fmt.Sprintf("site%d.gw1", i), brokers: cluster.MQTT}
		senders = append(senders, s)
		sending.Go(func() { s.run(ctx, limit, 10*time.Millisecond, epoch) })
	}

	acked := func() (n int64) {
		for _, s := range senders {
			n += s.acked.Load()
		}
		return n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	kills := map[string]int{}
	for ctx.Err() == nil {
		rest := time.Duration(dice.IntN(1500)) * time.Millisecond
		switch n := dice.IntN(12); {
		case n < 5:
			i := dice.IntN(len(ingests))
			ingests[i].kill()
			pause(rest / 4)
			ingests[i] = startIngest()
			kills["ingest"]++
		case n < 11:
			i := dice.IntN(3)
			cluster.Kill(i)
			pause(rest)
			cluster.Start(i)
			kills["server"]++
		default:
			for i := range 3 {
				cluster.Kill(i)
			}
			for i := range 3 {
				cluster.Start(i)
			}
			kills["all servers"]++
		}
		// Mostly somebody is served again before the next blow, or the test would show little.
		// The servers need 4 to 9 s for an election.
		if dice.IntN(4) > 0 {
			before := acked()
			within(20*time.Second, 20*time.Millisecond, func() bool { return acked() >= before+200 })
		}
		pause(rest / 4)
	}
	cluster.WaitReady(60 * time.Second)
	sending.Wait()

	total := acked()
	var resent, lost int64
	for _, s := range senders {
		resent, lost = resent+s.resent.Load(), lost+s.lost.Load()
	}
	t.Logf("%d messages with a PUBACK, %d sent again, %d connections lost, killed: %v", total, resent, lost, kills)
	if total < 500 || lost == 0 {
		t.Errorf("%d messages and %d lost connections: the test shows nothing", total, lost)
	}
	within(90*time.Second, 200*time.Millisecond, func() bool { // What is missing then is named below.
		count, err := db.Count("js_counter", "n")
		return err == nil && count >= total
	})
	for _, s := range senders {
		site, _, _ := wire.SplitNode(s.node)
		for measurement, field := range map[string]string{"js_counter": "n", "linli_ledger": "to"} {
			series, err := db.Query(fmt.Sprintf(`SELECT %q FROM %q WHERE "site"='%s'`, field, measurement, site))
			if err != nil {
				t.Fatal(err)
			}
			seen, rows := map[int64]int{}, 0
			for _, one := range series {
				for _, r := range one.Values {
					n, err := r[1].(json.Number).Int64()
					if err != nil {
						t.Fatal(err)
					}
					seen[n]++
					rows++
				}
			}
			var missing []int64
			for n := int64(1); n <= s.acked.Load(); n++ {
				if seen[n] == 0 {
					missing = append(missing, n)
				}
			}
			if len(missing) > 0 {
				t.Errorf("%s: %d of %d messages with a PUBACK are missing in %s, as %v", s.node, len(missing), s.acked.Load(), measurement, missing[:min(20, len(missing))])
			}
			if rows != len(seen) || len(seen) > 0 && slices.Max(slices.Collect(maps.Keys(seen))) > s.acked.Load() {
				t.Errorf("%s: %d rows of %d messages in %s", s.node, rows, len(seen), measurement)
			}
		}
	}
}

// The product on both sides of a NATS cluster: a gateway with a persistent session, its will and its retained status,
// that goes on with the next server when its own dies, and ingest.
func TestGatewayOnNATS(t *testing.T) {
	t.Parallel()
	cluster := testservers.StartNATSCluster(t)
	c := &city{db: testservers.StartInfluxDB(t)}
	c.ingest = start(t, "ingest", "--nats", strings.Join(cluster.URLs, ","), "--influx-url", c.db.URL, "--bucket", c.db.Bucket, "--stream-bytes", "1000000000")
	waitFor(t, 30*time.Second, "ingest", func() bool { return strings.Contains(c.ingest.out.String(), "ingest connected") })
	modbus := startPymodbus(t)
	c.broker = &testservers.Mosquitto{Address: strings.TrimPrefix(strings.Join(cluster.MQTT, `", "`), "tcp://")}
	site, state := c.siteFile(t, modbus.port, freePort(t)), t.TempDir()
	gateway := start(t, "run", "-c", site, "--state", state)

	// A watcher hears what is retained when it subscribes, and the will.
	states := make(chan string, 100)
	watch := func() *mqtt.Session {
		s, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "watcher"}, cluster.MQTT[2], mqtt.Options{OnMessage: func(m paho.Message) {
			var status struct{ State, Reason string }
			if json.Unmarshal(m.Payload(), &status) == nil {
				states <- strings.TrimSpace(status.State + " " + status.Reason)
			}
			m.Ack()
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Subscribe(t.Context(), "linli/v1/test.gw1/status"); err != nil {
			t.Fatal(err)
		}
		return s
	}
	heard := func(want string) {
		t.Helper()
		waitFor(t, 30*time.Second, "status "+want, func() bool {
			for {
				select {
				case s := <-states:
					t.Logf("status %q", s)
					if strings.HasPrefix(s, want) {
						return true
					}
				default:
					return false
				}
			}
		})
	}
	rows := func() int { return len(c.rows(t, "energy_meter", "counter", "energy_kwh")) }
	waitFor(t, 40*time.Second, "rows", func() bool { return rows() >= 20 })
	watcher := watch()
	heard("online")

	cluster.Kill(0) // the gateway's, first in its list
	before := rows()
	waitFor(t, 60*time.Second, "rows through another server", func() bool { return rows() >= before+50 })
	gateway.kill()
	heard("offline lost")
	gateway = start(t, "run", "-c", site, "--state", state)
	heard("online")
	cluster.Start(0)
	cluster.WaitReady(60 * time.Second)
	watcher.Close(100 * time.Millisecond)
	watcher = watch()
	defer watcher.Close(100 * time.Millisecond)
	heard("online")
	gateway.stop(15 * time.Second)
	heard("offline")
	modbus.kill()

	// Each reading has a count of its own. One that was served when the gateway was killed or stopped may be missing.
	served, _ := counters(modbus.reads(t))
	waitFor(t, 60*time.Second, "the last readings", func() bool { return rows() >= len(served)-30 })
	seen := map[int]bool{}
	for _, r := range c.rows(t, "energy_meter", "counter", "energy_kwh") {
		n := int(math.Round(r.v * 1000))
		if seen[n] {
			t.Fatalf("two rows of count %d", n)
		}
		seen[n] = true
	}
	missing := 0
	for _, n := range served {
		if !seen[n] {
			missing++
		}
	}
	t.Logf("%d readings, %d rows, %d missing", len(served), len(seen), missing)
	if missing > 30 { // a commit interval each, and a second, at ten a second
		t.Errorf("%d of %d readings are missing", missing, len(served))
	}
}
