package ingest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"linli/internal/mqtt"
	"linli/internal/testservers"
)

// A filter that no topic matches is granted like any other, and so is what a broker's access rules keep back: whoever hears
// nothing for long says so once, and nobody else does.
func TestHearingNothingIsTold(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	s, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "riverside-gw1"}, broker.URL, mqtt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(50 * time.Millisecond)
	token := s.Publish("linli/v1/riverside.gw1/status", true, []byte(`{"node":"riverside.gw1","state":"online"}`))
	<-token.Done()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	run := func(id, filter string, quiet time.Duration) (*Ingest, *observer.ObservedLogs) {
		core, logs := observer.New(zapcore.WarnLevel)
		in, err := New(Config{Brokers: []string{broker.URL}, ClientID: id, Filters: []string{filter}, Influx: Influx{URL: "http://127.0.0.1:1", Bucket: "b"}}, zap.New(core))
		if err != nil {
			t.Fatal(err)
		}
		in.quietAfter = quiet
		running.Go(func() {
			if err := in.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		return in, logs
	}
	told := func(logs *observer.ObservedLogs) int { return logs.FilterMessageSnippet("nothing was heard").Len() }
	hearing, good := run("hearing", "linli/v1/+/status", 300*time.Millisecond)
	testservers.Eventually(t, 10*time.Second, "the retained status", func() bool { return hearing.Stats().Messages == 1 })
	_, deaf := run("deaf", "linli/v1/+/+/status", 300*time.Millisecond)
	testservers.Eventually(t, 10*time.Second, "a word about it", func() bool { return told(deaf) == 1 })
	if told(good) != 0 {
		t.Error("told although something was heard")
	}
	if f := deaf.FilterMessageSnippet("nothing was heard").All()[0].ContextMap()["filters"]; !strings.Contains(fmt.Sprint(f), "+/+/status") {
		t.Errorf("filters %v", f)
	}
}
