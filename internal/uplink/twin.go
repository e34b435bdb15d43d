package uplink

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"linli/internal/wire"
)

// twinFor is how long after the last sign of another gateway with our id reconnecting is slow.
const twinFor = 10 * time.Minute

// Twin is another process that connects under our id. A broker throws out the one when the other comes.
type Twin struct {
	Instance string
	Host     string
	Version  string
	Epoch    string    // of its journal
	Started  time.Time // by its own clock
	Seen     time.Time // when it was noticed last, by ours
}

// String says it in a sentence for people.
func (t *Twin) String() string {
	return fmt.Sprintf("host %s (version %s, journal %s, running since %s) uses the same MQTT client id", t.Host, t.Version, t.Epoch, t.Started.UTC().Format(time.RFC3339))
}

// heardStatus takes a message on our own status topic, which may be one of ours. It runs in Run's goroutine.
//
// The broker keeps the status that was sent last. Once ours has been acknowledged, that of another process was sent after
// it. That of our own earlier life is from before our start; it may come back with a broker that has read an old save.
func (u *Uplink) heardStatus(payload []byte) {
	var s wire.Status
	if err := json.Unmarshal(payload, &s); err != nil || s.Instance == "" || s.Instance == u.instance {
		return
	}
	u.earlierLife(&s)
	if s.State != "online" || !u.statusTold || s.ClockSet && s.Time.Before(u.startedAt()) {
		return
	}
	twin := &Twin{Instance: s.Instance, Host: s.Host, Version: s.Version, Epoch: s.Epoch, Started: s.StartedAt, Seen: time.Now()}
	known := u.Status().Twin
	u.setStatus(func(s *Status) { s.Twin = twin })
	if known == nil || known.Instance != twin.Instance || time.Since(known.Seen) > twinFor {
		u.log.Error("another gateway uses our id: the broker throws out the one when the other connects",
			zap.String("client_id", u.clientID()), zap.String("host", twin.Host), zap.String("version", twin.Version),
			zap.String("epoch", twin.Epoch), zap.Time("running_since", twin.Started))
	}
}

// twin returns the other process that uses our id, nil where none was noticed lately.
func (u *Uplink) twin() *Twin {
	if t := u.Status().Twin; t != nil && time.Since(t.Seen) < twinFor {
		return t
	}
	return nil
}

// clientID is how a broker knows us: two that use it throw each other out.
func (u *Uplink) clientID() string { return u.cfg.Site + "-" + u.cfg.Gateway }

// twinWait is how long to leave the broker to another process with our id.
func (u *Uplink) twinWait() time.Duration { return u.cfg.TwinWait/2 + rand.N(u.cfg.TwinWait) }
