package ingest

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// What comes on a topic that is no gateway's is gone: it is counted, and told once in a while with the topic.
func TestStrangeTopicsLeaveATrace(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	in, err := New(Config{Brokers: []string{"tcp://x"}, Influx: Influx{URL: "http://x", Bucket: "b"}}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBatcher(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for range 100 {
		b.message("linli/v1/ALPHA.gw1/telemetry", []byte("x"))
	}
	b.oversized(tooLarge{strangeMessage{}, 2 << 20})
	if s := in.Stats(); s.Strangers != 101 || s.BadMessages != 101 || s.Oversized != 1 || len(b.dead) != 0 {
		t.Errorf("%+v, %d dead letters", s, len(b.dead))
	}
	told := logs.All()
	if len(told) != 1 || !strings.Contains(told[0].ContextMap()["error"].(string), `"linli/v1/ALPHA.gw1/telemetry"`) {
		t.Errorf("%v", told)
	}
	in.toldStranger = in.toldStranger.Add(-strangerEvery)
	if b.message("linli/v1/alpha/telemetry", nil); logs.Len() != 2 {
		t.Error("never told again")
	}
}

type strangeMessage struct{}

func (strangeMessage) Topic() string   { return "linli/v1/alpha/telemetry" }
func (strangeMessage) Payload() []byte { return nil }
func (strangeMessage) Ack()            {}
