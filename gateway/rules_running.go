package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/journal"
	"linli/internal/live"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
)

// runningRules answers for the rules engine that runs, and replaces it. It is safe for concurrent use.
type runningRules struct {
	in      *fanIn
	book    *alert.Book
	journal *journal.Journal
	table   *live.Table
	clock   *telemetry.Clock
	audit   *audit.Record
	log     *zap.Logger
	// shown tells the pages that the points are others.
	shown func(*telemetry.Inventory) error

	mu   sync.Mutex // one reload at a time; guards plan
	plan *plan      // that runs
}

// Costs returns every rule that runs with what it costs.
func (r *runningRules) Costs(ctx context.Context) (list []rules.Cost, err error) {
	err = r.in.ask(ctx, func(e *rules.Engine) { list = e.Costs() })
	return list, err
}

// Explain says why an alert, or a derived point, is as it is.
func (r *runningRules) Explain(ctx context.Context, name, subject string) (x *rules.Explanation, err error) {
	var names, subjects []string
	found := false
	err = r.in.ask(ctx, func(e *rules.Engine) {
		names, subjects = e.Names(), e.Subjects(name)
		if subject == "" && len(subjects) == 1 {
			subject = subjects[0]
		}
		e.Confirms(func(id telemetry.PointID) telemetry.Mono { return r.table.Get(id).Confirmed })
		x, found = e.Explain(r.clock.Now(), name, subject)
	})
	switch {
	case err != nil || found:
		return x, err
	case !slices.Contains(names, name):
		return nil, fmt.Errorf("%w: no rule that runs is named %q%s", console.ErrNoRule, name, yamlfile.Suggest(name, names))
	case len(subjects) == 0:
		return nil, fmt.Errorf("%w: nothing at this site is a subject of %s", console.ErrNoRule, name)
	case subject == "":
		return nil, fmt.Errorf("%w: say which subject of %s: %s", console.ErrNoRule, name, someOf(subjects))
	}
	return nil, fmt.Errorf("%w: %s has no subject %q%s; it has %s", console.ErrNoRule, name, subject, yamlfile.Suggest(subject, subjects), someOf(subjects))
}

// someOf lists names, the first twelve of them.
func someOf(names []string) string {
	const most = 12
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// Reload reads the site file and what lies beside it anew, and replaces the rules, their parameters and their schedules
// with what stands there. Everything that can fail comes first: a wrong pack never replaces a running one. What else
// has changed in the file waits for a restart, and where something has, the rules wait with it: they may speak of it.
func (r *runningRules) Reload(ctx context.Context, by string) (console.Reloaded, error) {
	return r.reloadFrom(ctx, by, audit.OriginAPI)
}

// reloadFrom is Reload for who asks in another way.
func (r *runningRules) reloadFrom(ctx context.Context, by, origin string) (console.Reloaded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done, err := r.reload(ctx)
	e := audit.Entry{What: "reload_rules", By: by, Origin: origin, Outcome: orderDone, Error: inOneLine(err)}
	if err != nil {
		e.Outcome = orderRefused
	}
	stamp(r.clock, &e)
	r.audit.Add(e)
	if err != nil {
		r.log.Warn("the rules were not replaced", zap.String("by", by), zap.Error(err))
		return done, err
	}
	r.log.Info("the rules were replaced", zap.String("by", by), zap.Int("rules", done.Rules), zap.Int("kept", done.Kept), zap.Int("removed", done.Removed))
	return done, nil
}

func (r *runningRules) reload(ctx context.Context) (console.Reloaded, error) {
	if r.plan.source == nil {
		return console.Reloaded{}, fmt.Errorf("%w: this gateway runs from no site file", console.ErrNotReloaded)
	}
	next, err := loadPlan(r.plan.site.File)
	if err != nil {
		return console.Reloaded{}, fmt.Errorf("%w:\n%w", console.ErrNotReloaded, err)
	}
	if other := otherChanges(r.plan, next); len(other) > 0 {
		return console.Reloaded{}, fmt.Errorf("%w: %s changed too, which needs a restart of the gateway", console.ErrNotReloaded, strings.Join(other, ", "))
	}
	inv := next.site.Inventory
	var removed []telemetry.Identity
	done := console.Reloaded{Rules: len(next.engine.Names())}
	err = r.in.ask(ctx, func(*rules.Engine) {
		removed, done.Kept = r.in.replace(next.engine)
		r.table.Resize(len(inv.Points))
		r.journal.SetInventory(inv)
	})
	if err != nil {
		return console.Reloaded{}, err
	}
	done.Removed = len(removed)
	r.book.Remove(r.clock.Now(), removed)
	next.started()
	r.plan = next
	for _, w := range next.engine.Warnings() {
		done.Warnings = append(done.Warnings, w.Error())
	}
	if err := r.shown(inv); err != nil { // The rules run all the same.
		done.Warnings = append(done.Warnings, "the pages show the points of before until the gateway is started again: "+err.Error())
	}
	return done, nil
}

// otherChanges names what differs between two plans beside their rules.
func otherChanges(old, next *plan) []string {
	var changed []string
	var a, b map[string]any
	if yaml.Unmarshal(old.source.text(), &a) != nil || yaml.Unmarshal(next.source.text(), &b) != nil {
		return []string{"the site file"}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			a[key] = nil
		}
	}
	for key := range a {
		switch key {
		case "rules", "schedules":
		default:
			if !reflect.DeepEqual(a[key], b[key]) {
				changed = append(changed, key)
			}
		}
	}
	was, is := old.library.Own(), next.library.Own()
	if !reflect.DeepEqual(was.Classes, is.Classes) {
		changed = append(changed, "a class")
	}
	if !reflect.DeepEqual(was.Profiles, is.Profiles) {
		changed = append(changed, "a profile")
	}
	slices.Sort(changed)
	return changed
}

// nanotime is the engine's clock for measuring what rules cost.
func nanotime(start time.Time) func() int64 {
	return func() int64 { return int64(time.Since(start)) }
}
