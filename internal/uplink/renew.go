package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"

	"linli/internal/mqtt"
)

const (
	// mostReturn is the longest time between two looks at a preferred broker.
	mostReturn = 2 * time.Hour
	// movedReason is told where a gateway goes on to another broker.
	movedReason = "moved"
)

// leftError ends a connection in good order.
type leftError struct {
	why    string
	broker int // to be connected to next
}

func (e *leftError) Error() string { return e.why }

// brokers decides which broker is tried next: the next of the list after a failure, the first after a connection that
// lived. While another than the first is in use, the better ones are looked at every now and then, less and less often
// where they could be reached and did not hold.
type brokers struct {
	n, at    int
	every    time.Duration
	returnAt time.Time
}

// ended notes how a connection or an attempt ended, and chooses.
func (b *brokers) ended(lived bool) {
	if lived && b.at == 0 {
		b.every = 0
	}
	if b.at = (b.at + 1) % b.n; lived {
		b.at = 0
	}
}

// up notes that a connection stands. after is the time until the first look.
func (b *brokers) up(now time.Time, after time.Duration) {
	if b.every == 0 {
		b.every = after
	}
	b.returnAt = now.Add(b.every/2 + rand.N(b.every))
}

// returns notes that a better broker will be tried.
func (b *brokers) returns() { b.every = min(2*b.every, max(mostReturn, b.every)) }

func (u *Uplink) mqttConfig(keys *mqtt.Keys) mqtt.Config {
	return mqtt.Config{
		// nats-server refuses client ids with a dot, and no id has a hyphen.
		ClientID: u.clientID(), Username: u.cfg.Username, PasswordFile: u.cfg.PasswordFile, Keys: keys,
		KeepAlive: u.cfg.KeepAlive, PingTimeout: u.cfg.PingTimeout, DialTimeout: u.cfg.DialTimeout, MaxPacket: maxInbound,
	}
}

// judgedBy is the time by which certificates are judged: a box without a clock knows at least when its program was built
// and when it measured last.
func (u *Uplink) judgedBy() time.Time {
	if u.cfg.Now != nil {
		return u.cfg.Now()
	}
	now := time.Now()
	for _, t := range []time.Time{u.cfg.Built, u.measured} {
		if t.After(now) {
			now = t
		}
	}
	return now
}

// lastMeasured returns when the newest sample of the journal was taken, zero where that is not certain.
func (u *Uplink) lastMeasured() time.Time {
	first, next := u.journal.Bounds()
	for seq := next; seq > first && next-seq < 16; {
		seq--
		if u.journal.Read(seq, &u.frame) != nil || u.frame.Lost != nil || u.frame.Uncertain {
			continue
		}
		if t, ok := u.frameWall(&u.frame, u.frame.T1); ok {
			return t
		}
	}
	return time.Time{}
}

// renewKeys takes new certificates from the disk where they are good and broker takes them. It may be called by one
// goroutine at a time.
func (u *Uplink) renewKeys(ctx context.Context, broker string) (changed bool) {
	if !u.secure {
		return false
	}
	changed, err := u.keys.Renew(func(k *mqtt.Keys) error {
		if strings.HasPrefix(broker, "tcp:") || strings.HasPrefix(broker, "mqtt:") {
			return nil
		}
		return mqtt.Probe(ctx, u.mqttConfig(k), broker)
	})
	if ctx.Err() != nil {
		return changed
	}
	what := ""
	if err != nil {
		what = err.Error()
	}
	var until time.Time
	if c := u.keys.Certificate(); c != nil {
		until = c.NotAfter
	}
	told := u.Status().CertificateError
	if changed {
		u.usesKept = false
	} else if what != "" && u.usesKept {
		what += " (those that a broker accepted last are used)"
	}
	u.setStatus(func(s *Status) { s.CertificateError, s.CertificateUntil = what, until })
	if what != "" && what != told {
		u.log.Error("new certificates are not taken, those in use stay", zap.Error(err))
	}
	if changed {
		u.log.Info("new certificates are taken", zap.Time("until", until))
		u.expiryTold = 0
	}
	u.warnOfExpiry(until)
	return changed
}

// warnOfExpiry writes a line 30, 7 and 1 days before the certificate expires, and when it has.
func (u *Uplink) warnOfExpiry(until time.Time) {
	if until.IsZero() {
		return
	}
	left := until.Sub(u.judgedBy())
	stage := 0
	for _, days := range []time.Duration{30, 7, 1, 0} {
		if left <= days*24*time.Hour {
			stage++
		}
	}
	if stage > u.expiryTold {
		u.expiryTold = stage
		u.log.Warn("the certificate expires", zap.Time("until", until), zap.Duration("in", left.Round(time.Minute)))
	}
}

// watch looks at the files of certificates and at better brokers while a connection stands, and has it left in good order.
func (c *connection) watch(ctx context.Context) {
	u := c.u
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.waiters.Go(func() { // a look must not hold up the next connection
		select {
		case <-ctx.Done():
		case <-c.session.Lost():
			cancel()
		}
	})
	ticker := time.NewTicker(u.cfg.LookEvery)
	defer ticker.Stop()
	at := u.brokers.at
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-u.look:
		}
		if u.renewKeys(ctx, u.cfg.Brokers[at]) {
			c.leaving <- &leftError{"new certificates", at}
			return
		}
		if at == 0 || time.Now().Before(u.brokers.returnAt) {
			continue
		}
		for i, broker := range u.cfg.Brokers[:at] {
			if mqtt.Probe(ctx, u.mqttConfig(u.keys), broker) == nil {
				u.brokers.returns()
				c.leaving <- &leftError{fmt.Sprintf("%s is there again", broker), i}
				return
			}
		}
		u.brokers.up(time.Now(), u.cfg.ReturnAfter)
	}
}

// Look has the certificates looked at now and not within a minute.
func (u *Uplink) Look() {
	select {
	case u.look <- struct{}{}:
	default:
	}
}
