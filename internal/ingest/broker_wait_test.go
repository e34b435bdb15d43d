package ingest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/ingest"
	"linli/internal/testservers"
)

// However long the broker is away, ingest is there soon after it has come back.
func TestBrokerIsTriedOften(t *testing.T) {
	l := testservers.Listen(t)
	var attempts atomic.Int64
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			attempts.Add(1)
			c.Close()
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		in, err := ingest.New(ingest.Config{
			Brokers: []string{"tcp://" + l.Addr().String()}, Influx: ingest.Influx{URL: "http://127.0.0.1:1", Bucket: "b"},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := in.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	l.Close()
	<-accepting
	// A wait of 3 s at most makes 200; of up to 30 s it would be about 40.
	if n := attempts.Load(); n < 190 {
		t.Errorf("%d attempts in 10 minutes", n)
	}
}
