package ingest_test

import (
	"context"
	"net"
	"testing"
	"time"

	"linli/internal/ingest"
	"linli/internal/testservers"
)

// A broker that takes longer to answer than a good connection lives at least does not keep the next one from its turn.
func TestFailoverFromABrokerThatHangs(t *testing.T) {
	hole, err := net.Listen("tcp", "127.0.0.1:0") // connections are taken by the kernel, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	good := testservers.StartMosquitto(t)
	in, err := ingest.New(ingest.Config{
		Brokers: []string{"tcp://" + hole.Addr().String(), good.URL}, Influx: ingest.Influx{URL: "http://127.0.0.1:1", Bucket: "b"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in.SetConnectionTimes(50*time.Millisecond, 100*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	testservers.Eventually(t, 20*time.Second, "the second broker", func() bool { s := in.Stats(); return s.Connected && s.Broker == good.URL })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
