package alert_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

// BenchmarkRaise prints the time from Submit to the durable announcement of one alert, disk included.
func BenchmarkRaise(b *testing.B) {
	book, err := alert.Open(alert.Config{Path: filepath.Join(b.TempDir(), "alerts.db")}, inventory())
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- book.Run(ctx) }()
	for n := 0; b.Loop(); n++ {
		tr := lane(telemetry.TransitionOp(1+n%2), time.Duration(n)*time.Second)
		changed := book.Changed()
		book.Submit(at(0), []telemetry.Transition{tr})
		<-changed
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if s := book.Stats(); s.SlowCommits > 0 {
		b.Logf("%d commits were slow", s.SlowCommits)
	}
	if err := book.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkOpen prints the time to open a book of 100,000 closed alerts, check of the file included.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "alerts.db")
	book, err := alert.Open(alert.Config{Path: path, Channels: []string{}}, inventory())
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- book.Run(ctx) }()
	const closed, step = 100_000, 2000
	for n := 0; n < closed; n += step {
		for i := range step {
			tr := lane(telemetry.Raise, 0)
			tr.Subject = fmt.Sprint("lane", i)
			book.Submit(at(0), []telemetry.Transition{tr})
			book.Remove(at(0), []telemetry.Identity{tr.Identity})
		}
		for book.Stats().Waiting > 0 {
			changed := book.Changed()
			if book.Stats().Waiting > 0 {
				<-changed
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if err := book.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		book, err := alert.Open(alert.Config{Path: path, Channels: []string{}}, inventory())
		if err != nil {
			b.Fatal(err)
		}
		if err := book.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
