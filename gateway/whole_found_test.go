package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"linli/internal/alert"
)

// values returns how often each value of a gateway's counter is in the database.
func (w *whole) values(g *wholeGateway) map[int]int {
	got := map[int]int{}
	series, err := w.db.Query(fmt.Sprintf(`SELECT "energy_kwh" FROM "energy_meter" WHERE "gateway"='%s' AND "device"='counter'`, g.name))
	if err != nil {
		return got
	}
	for i := range series {
		for _, r := range series[i].Values {
			if v, err := r[1].(json.Number).Float64(); err == nil {
				got[int(math.Round(v*1000))]++
			}
		}
	}
	return got
}

// ledger asks whether the run is complete.
func (w *whole) ledger() (code int, answers []ledgerAnswer) {
	w.t.Helper()
	code, out, stderr := linli(w.t, "ledger", "--influx-url", w.db.URL, "--bucket", w.db.Bucket, "--token-file", w.token, "--json",
		"--node", "test.gw1,test.gw2", "--from", w.begun.Format(time.RFC3339Nano), "--to", w.end.Format(time.RFC3339Nano))
	for line := range strings.Lines(out) {
		var a ledgerAnswer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			w.t.Fatalf("%v in %s", err, line)
		}
		answers = append(answers, a)
	}
	if stderr != "" {
		w.t.Logf("ledger: %s", stderr)
	}
	return code, answers
}

// settled waits until what the ledger says of the run is good. A gateway whose will waited in a queue counts as away until
// its next status, a minute later, and is asked for nothing until then.
func (w *whole) settled(limit time.Duration, good func(code int, answers []ledgerAnswer) bool) (answers []ledgerAnswer) {
	w.t.Helper()
	code := -1
	if !within(limit, 500*time.Millisecond, func() bool { code, answers = w.ledger(); return good(code, answers) }) {
		w.t.Errorf("%s after the last of what was done, linli ledger says (exit code %d):\n%s", limit, code, w.show(answers))
	}
	return answers
}

func (w *whole) show(answers []ledgerAnswer) string {
	var b strings.Builder
	for _, a := range answers {
		samples, _ := a.samplesLost()
		fmt.Fprintf(&b, "  %s %s: %d frames, %d missing, %d lost (%s) %s\n", a.Node, a.State, a.Frames, a.Missing, a.Lost, samples, a.Error)
		for _, g := range a.Gaps {
			fmt.Fprintf(&b, "    %s told=%v %d-%d, %d samples, %s .. %s\n", g.Reason, g.Told, g.From, g.To, g.Samples, g.Begin.Format("15:04:05.000"), g.End.Format("15:04:05.000"))
		}
	}
	return b.String()
}

// count holds the database against what a gateway's devices served: each value is there once, or was lost as is allowed.
func (w *whole) count(g *wholeGateway, a *ledgerAnswer) string {
	t := w.t
	t.Helper()
	got := w.values(g) // before what is known: the gateway still reads
	var all []servedValue
	known := map[int]bool{}
	for _, o := range g.bus.counted() {
		known[o.n] = true
		if o.at.Before(w.end) {
			all = append(all, o)
		}
	}
	told := func(at time.Time) bool {
		for _, gap := range a.Gaps {
			if gap.Told && at.After(gap.Begin.Add(-time.Second)) && at.Before(gap.End.Add(time.Second)) {
				return true
			}
		}
		return false
	}
	there, byKill, byLoss := g.killed.compare(t, g.name, all, known, got, told)
	if float64(len(all)) < w.end.Sub(w.begun).Seconds() {
		t.Errorf("%s: only %d values were served: the test shows too little", g.name, len(all))
	}
	return fmt.Sprintf("%s: %d values served, %d in the database once, %d lost within %s before a kill, %d in losses that were told", g.name, len(all), there, byKill, commitSlack, byLoss)
}

// wholeAlert is the newest that somebody knows of an alert.
type wholeAlert struct {
	revision int64
	state    string
}

// announced returns the newest durable announcement of each alert that a third party has seen on the broker.
func (w *whole) announced() map[string]wholeAlert {
	newest := map[string]wholeAlert{}
	for id, a := range w.sub.announced() {
		newest[id] = wholeAlert{a.Revision, a.State.String()}
	}
	return newest
}

// alertRows returns the newest row of each alert in the database.
func (w *whole) alertRows() map[string]wholeAlert {
	newest := map[string]wholeAlert{}
	series, err := w.db.Query(`SELECT "id", "revision", "state" FROM "alert"`)
	if err != nil {
		return newest
	}
	for i := range series {
		for _, r := range series[i].Values {
			id, _ := r[1].(string)
			state, _ := r[3].(string)
			if n, ok := r[2].(json.Number); ok {
				if revision, err := n.Int64(); err == nil && revision >= newest[id].revision {
					newest[id] = wholeAlert{revision, state}
				}
			}
		}
	}
	return newest
}

// behind says of which alerts the database does not have, in that time, what was announced, or the gateways' books have.
func (w *whole) behind(limit time.Duration, want map[string]wholeAlert) (list []string) {
	within(limit, 500*time.Millisecond, func() bool {
		list = nil
		rows := w.alertRows()
		for id, a := range want {
			if have, ok := rows[id]; !ok || have.revision < a.revision || have.revision == a.revision && have.state != a.state {
				list = append(list, fmt.Sprintf("%s: revision %d %s, in the database %d %s", id, a.revision, a.state, have.revision, have.state))
			}
		}
		return len(list) == 0
	})
	slices.Sort(list)
	return list
}

// books returns the newest of each alert in the gateways' alert books, which must have stopped.
func (w *whole) books() map[string]wholeAlert {
	w.t.Helper()
	newest := map[string]wholeAlert{}
	for _, g := range w.gateways {
		book, err := alert.OpenReader(filepath.Join(g.state, bookName))
		if err != nil {
			w.t.Fatal(err)
		}
		all, err := book.History(w.t.Context(), time.Time{}, time.Now().Add(time.Hour))
		book.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range all {
			newest[r.Alert.ID] = wholeAlert{r.Alert.Revision, r.Alert.State.String()}
		}
	}
	return newest
}

// table says what was done and what was found.
func (w *whole) table(found string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "in %s:\n", w.end.Sub(w.begun).Round(time.Second))
	for _, name := range slices.Sorted(maps.Keys(w.done)) {
		fmt.Fprintf(&b, "  %4d times  %s\n", w.done[name], name)
	}
	fmt.Fprintf(&b, "  %4d messages of junk; %v bad messages, %v bad lines, %v foreign lines\n", w.junk.Load(), w.metric("linli_ingest_bad_messages_total"), w.metric("linli_ingest_bad_lines_total"), w.metric("linli_ingest_foreign_lines_total"))
	b.WriteString(found)
	return b.String()
}
