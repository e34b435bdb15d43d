package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"linli/internal/audit"
	"linli/internal/telemetry"
)

// Rules that run are not told as not replaced because the pages could not be told.
func TestRulesAreReplacedThoughThePagesAreNot(t *testing.T) {
	dir, file, _ := ruleGateway(t)
	p, err := loadPlan(file)
	if err != nil {
		t.Fatal(err)
	}
	clock := newClock()
	st, err := openStores(filepath.Join(dir, "state"), p.site, clock, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer st.unlock()
	defer st.journal.Close()
	defer st.book.Close()
	in, _ := newTestFanIn(t)
	in.engine = p.engine
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.run(ctx) }()
	defer func() { cancel(); <-done }()
	r := &runningRules{in: in, book: st.book, journal: st.journal, table: in.live, clock: clock, log: zap.NewNop(), plan: p,
		audit: audit.New(audit.Config{Path: filepath.Join(dir, "audit.log")}),
		shown: func(*telemetry.Inventory) error { return errors.New("too many points") }}
	got, err := r.Reload(t.Context(), "Wang")
	if err != nil || !strings.Contains(strings.Join(got.Warnings, "; "), "too many points") || got.Rules == 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
