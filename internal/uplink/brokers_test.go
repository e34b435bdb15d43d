package uplink

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// After a failure the next broker, after a connection that lived the first; looks at better ones come by lot, and less
// often each time they were in vain.
func TestWhichBrokerIsNext(t *testing.T) {
	b := brokers{n: 3}
	for i, want := range []int{1, 2, 0, 1} {
		if b.ended(false); b.at != want {
			t.Errorf("after %d failures broker %d, want %d", i+1, b.at, want)
		}
	}
	now := time.Now()
	b.up(now, 10*time.Minute)
	if d := b.returnAt.Sub(now); d < 5*time.Minute || d > 15*time.Minute {
		t.Errorf("first look after %v", d)
	}
	if b.ended(true); b.at != 0 {
		t.Errorf("after a connection that lived broker %d", b.at)
	}
	for range 10 {
		b.returns()
		b.ended(false) // the better one did not hold
		b.up(now, 10*time.Minute)
	}
	if b.every != mostReturn {
		t.Errorf("after ten vain returns every %v", b.every)
	}
	b.at = 0
	if b.ended(true); b.every != 0 {
		t.Error("vain returns are remembered after the first broker has held")
	}
}

// The end of the certificate is told 30, 7 and 1 days before and when it has come, each once.
func TestExpiryIsToldInTime(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	u := &Uplink{log: zap.New(core), cfg: Config{Now: func() time.Time { return now }}}
	until := now.AddDate(0, 0, 90)
	var days []int
	for ; now.Before(until.AddDate(0, 0, 3)); now = now.Add(time.Minute * 10) {
		if u.warnOfExpiry(until); logs.Len() > len(days) {
			days = append(days, int(until.Sub(now).Hours()/24))
		}
	}
	if len(days) != 4 || days[0] != 30 || days[1] != 7 || days[2] != 1 || days[3] != 0 {
		t.Errorf("told %v days before", days)
	}
}
