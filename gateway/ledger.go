package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"linli/internal/ledger"
	"linli/internal/ledger/read"
	"linli/internal/wire"
)

// ledgerOptions are the flags of linli ledger.
type ledgerOptions struct {
	db             read.Config
	day, from, to  string
	zone           string
	only           []string
	nodesFile      string
	heardWithin    time.Duration
	asJSON, full   bool
	parallel, gaps int
}

func ledgerCommand() *cobra.Command {
	var o ledgerOptions
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "City side: is a day complete for all sites? 某一天的数据是否到齐",
		Long: "Say by query whether everything that the gateways measured on a day (default: yesterday) is in the database, one line\n" +
			"for each gateway, and name each gap with its reason. The exit code is 0 if all of it has arrived or was told as lost\n" +
			"by the gateway itself, 1 if not, or if it has counted more alerts than have arrived, or if the database did not answer, 2 if the command line cannot be understood.\n\n" +
			"Hours that an ingest has found complete (linli_hour), and of which nothing has come since, are taken as such;\n" +
			"only the others are worked out from the rows of each message. --full works out all of them. What is missing is asked\n" +
			"for by linli ingest with --command-key.\n\n" +
			"按查询回答：某一天（默认昨天）各网关的数据是否全部入库；每处缺口都写明原因。退出码：0 到齐（或网关已报告丢失），1 未到齐或数据库没有回答。\n" +
			"ingest 已判定完整且此后没有新消息的小时直接采用，其余逐条消息核对；--full 全部逐条核对。\n" +
			"缺失的数据由带 --command-key 的 linli ingest 请网关补传。",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), time.Now())
		},
	}
	f := cmd.Flags()
	databaseFlags(cmd, &o.db.URL, &o.db.Org, &o.db.Bucket, &o.db.TokenFile)
	f.StringVar(&o.db.Language, "query", "", "influxql or flux (default: influxql if the bucket is a database/retention-policy, otherwise flux)")
	f.StringVar(&o.day, "day", "", "the day, as 2026-11-27 (default: yesterday)")
	f.StringVar(&o.from, "from", "", "instead of a day: from this moment, as 2026-11-27T08:00")
	f.StringVar(&o.to, "to", "", "until this moment")
	f.StringVar(&o.zone, "timezone", "", "whose day, as Asia/Shanghai (default: local)")
	f.StringSliceVar(&o.only, "node", nil, "only these gateways, as riverside.gw1")
	f.StringVar(&o.nodesFile, "nodes", "", "file with the gateways that ought to be there, one on a line; others are asked for as well")
	f.DurationVar(&o.heardWithin, "heard-within", 30*24*time.Hour, "ask for every gateway that the database has heard of so long before the day's end")
	f.BoolVar(&o.asJSON, "json", false, "one JSON object on a line for each gateway")
	f.BoolVar(&o.full, "full", false, "work out every hour from the rows of each message, whatever was found before 全部逐条核对")
	f.IntVar(&o.parallel, "parallel", 4, "so many gateways at a time")
	f.IntVar(&o.gaps, "gaps", 20, "so many gaps of a gateway are printed; JSON has all")
	return cmd
}

// window returns the span of time that is asked for.
func (o *ledgerOptions) window(now time.Time) (from, to time.Time, err error) {
	zone := time.Local
	if o.zone != "" {
		if zone, err = time.LoadLocation(o.zone); err != nil {
			return from, to, fmt.Errorf("--timezone %q: no such zone; as Asia/Shanghai 没有这个时区", o.zone)
		}
	}
	if o.from == "" && o.to == "" {
		day := now.In(zone).AddDate(0, 0, -1)
		if o.day != "" {
			if day, err = time.ParseInLocation(time.DateOnly, o.day, zone); err != nil {
				return from, to, fmt.Errorf("--day %q: a day, as 2026-11-27", o.day)
			}
		}
		y, m, d := day.Date()
		// A day has not 24 hours everywhere.
		from, to = time.Date(y, m, d, 0, 0, 0, 0, zone), time.Date(y, m, d+1, 0, 0, 0, 0, zone)
	} else {
		if o.day != "" || o.from == "" || o.to == "" {
			return from, to, errors.New("either --day, or --from and --to")
		}
		if from, err = moment(o.from, now, zone); err != nil {
			return from, to, fmt.Errorf("--from: %w", err)
		}
		if to, err = moment(o.to, now, zone); err != nil {
			return from, to, fmt.Errorf("--to: %w", err)
		}
	}
	switch {
	case !from.Before(to):
		return from, to, errors.New("the window ends before it begins")
	case to.After(now):
		return from, to, fmt.Errorf("%s is not over yet: of today ask for what is over, with --from and --to 时间尚未结束，今天已过去的部分请用 --from 和 --to",
			to.Format("2006-01-02 15:04 MST"))
	case from.Year() < 2020 || to.Sub(from) > 32*24*time.Hour:
		return from, to, errors.New("the window must be after 2020 and at most 32 days long")
	}
	return from, to, nil
}

// answer is the report on one gateway, as JSON has it.
type ledgerAnswer struct {
	Node     string    `json:"node"`
	State    string    `json:"state"` // complete, losses, missing, replaced, backlog, silent, uncertain, open; alerts; error
	Complete bool      `json:"complete"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Frames   uint64    `json:"frames"`       // arrived
	Missing  uint64    `json:"missing"`      // frames
	Lost     uint64    `json:"lost"`         // frames told as lost
	Samples  *uint64   `json:"lost_samples"` // told as lost, as far as known; null where that is not at all
	Unknown  int       `json:"losses_of_unknown_size,omitempty"`
	Heard    time.Time `json:"heard,omitzero"`
	// Of so many hours (UTC) that the window touches, so many rest on what an ingest has found (linli_hour).
	Hours          int `json:"hours"`
	HoursOnVerdict int `json:"hours_on_verdict"`
	// Alerts is left out where the gateway does not count them.
	Alerts *ledgerAlerts `json:"alerts,omitempty"`
	Gaps   []ledgerGap   `json:"gaps,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// ledgerAlerts is what the gateway counts, and how much of it has not arrived.
type ledgerAlerts struct {
	Raised  int64  `json:"raised"`
	Closed  int64  `json:"closed"`
	Missing uint64 `json:"missing"`
}

type ledgerGap struct {
	Reason  string    `json:"reason"`
	Told    bool      `json:"told"`            // by the gateway, as lost
	Epoch   string    `json:"epoch,omitempty"` // 16 hexadecimal digits
	From    uint64    `json:"from,omitempty"`  // frames
	To      uint64    `json:"to,omitempty"`
	Samples uint64    `json:"samples,omitempty"` // left out where unknown
	Begin   time.Time `json:"begin,omitzero"`    // it was measured between these, as far as known
	End     time.Time `json:"end,omitzero"`
}

func (o *ledgerOptions) run(ctx context.Context, out, progress io.Writer, now time.Time) error {
	if o.db.URL == "" || o.db.Bucket == "" {
		return &usageError{errors.New("ledger needs --influx-url and --bucket")}
	}
	from, to, err := o.window(now)
	if err != nil {
		return &usageError{err}
	}
	if o.parallel < 1 || o.gaps < 0 || o.heardWithin < 0 {
		return &usageError{errors.New("--parallel must be at least 1; --gaps and --heard-within not negative")}
	}
	r, err := read.New(o.db)
	if err != nil {
		return &usageError{err}
	}
	defer r.Close()
	nodes, heard, err := o.nodes(ctx, r, to, now)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return fmt.Errorf("the database has heard of no gateway since %s: nothing can be said. Is it the bucket that linli ingest writes to? 数据库中没有任何网关",
			to.Add(-o.heardWithin).Format(time.DateOnly))
	}
	a := inquiry{r: r, from: from, to: to, now: now, heard: heard}
	one := ""
	if len(nodes) == 1 {
		one = nodes[0]
	}
	a.alerts, a.failed = r.Alerts(ctx, one, from.UnixNano(), to.UnixNano(), now.UnixNano())
	if !o.full {
		if a.judged, err = r.Judged(ctx, one, a.firstHour(), to.UnixNano(), now.UnixNano()); err != nil {
			a.judged = nil
			fmt.Fprintf(progress, "what was found before is not used 未采用已有判定: %v\n", err)
		}
	}
	complete, done, hours, judged := 0, 0, 0, 0
	encode := json.NewEncoder(out)
	told := time.Now()
	err = a.each(ctx, nodes, o.parallel, func(answer *ledgerAnswer) error {
		if answer.Complete {
			complete++
		}
		done++
		hours += answer.Hours
		judged += answer.HoursOnVerdict
		if at := time.Now(); at.Sub(told) >= tellEvery && done < len(nodes) {
			told = at
			fmt.Fprintf(progress, "%d of %d gateways, %d complete 已核对 %d/%d，到齐 %d\n", done, len(nodes), complete, done, len(nodes), complete)
		}
		if o.asJSON {
			return encode.Encode(answer)
		}
		return o.print(out, answer)
	})
	if err != nil {
		return err
	}
	if !o.asJSON {
		layout := "2006-01-02 15:04 MST"
		if !from.Truncate(time.Minute).Equal(from) || !to.Truncate(time.Minute).Equal(to) {
			layout = "2006-01-02 15:04:05 MST"
		}
		fmt.Fprintf(out, "\n%s to %s: %d of %d complete 到齐 %d/%d\n", from.Format(layout), to.Format(layout),
			complete, len(nodes), complete, len(nodes))
		if !o.full {
			fmt.Fprintf(out, "%d of %d hours rest on what an ingest had found; --full works them out 其中 %d/%d 小时采用 ingest 的判定\n", judged, hours, judged, hours)
		}
	}
	if complete < len(nodes) {
		return errAnswered
	}
	return nil
}

// tellEvery is how often it is told how far it is.
const tellEvery = 5 * time.Second

// nodes returns whom to ask about, by name, and when they were heard last, as far as the database was asked.
func (o *ledgerOptions) nodes(ctx context.Context, r *read.Reader, to, now time.Time) ([]string, map[string]int64, error) {
	names, last := slices.Clone(o.only), map[string]int64{}
	if len(names) == 0 {
		if o.nodesFile != "" {
			listed, err := readNodes(o.nodesFile)
			if err != nil {
				return nil, nil, err
			}
			names = append(names, listed...)
		}
		// Who has been heard of since the day's end counts as well: a gateway that had been silent longer.
		heard, err := r.Nodes(ctx, to.Add(-o.heardWithin).UnixNano(), now.Add(24*time.Hour).UnixNano())
		if err != nil {
			return nil, nil, err
		}
		for _, n := range heard {
			names = append(names, n.Name)
			last[n.Name] = n.Last
		}
	}
	for _, n := range names {
		if _, _, ok := wire.SplitNode(n); !ok {
			return nil, nil, &usageError{fmt.Errorf("%q is no gateway: SITE.GATEWAY, as riverside.gw1", n)}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), last, nil
}

// readNodes reads names of gateways, one on a line; what follows a # is for people.
func readNodes(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for in := bufio.NewScanner(f); ; {
		if !in.Scan() {
			return names, in.Err()
		}
		text, _, _ := strings.Cut(in.Text(), "#")
		if text = strings.TrimSpace(text); text != "" {
			names = append(names, text)
		}
	}
}

// inquiry is what is asked about each gateway.
type inquiry struct {
	r             *read.Reader
	from, to, now time.Time
	heard         map[string]int64
	judged        map[string][]read.Judged
	alerts        map[string]*ledger.Alerts
	failed        error // why there are none
}

// each asks about the gateways, some at a time, and hands over the answers in order.
func (q *inquiry) each(ctx context.Context, nodes []string, parallel int, take func(*ledgerAnswer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	answers := make([]chan *ledgerAnswer, len(nodes))
	for i := range answers {
		answers[i] = make(chan *ledgerAnswer, 1)
	}
	ahead := make(chan struct{}, parallel) // what is asked for and not yet handed over
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	workers.Go(func() {
		for i, n := range nodes {
			select {
			case ahead <- struct{}{}:
			case <-ctx.Done():
				return
			}
			workers.Go(func() { answers[i] <- q.ask(ctx, n) })
		}
	})
	for i := range nodes {
		select {
		case a := <-answers[i]:
			<-ahead
			if err := take(a); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (q *inquiry) firstHour() int64 { return ledger.HourOf(q.from.UnixNano()) }

// stretch is a part of the window, from <= t < to.
type stretch struct{ from, to int64 }

// rest returns what of the window no verdict answers for, in order: the whole of it where that is cheaper, as with many
// parts. verdicts are those that count then.
func (q *inquiry) rest(node string) (parts []stretch, verdicts []read.Judged) {
	from, to := q.from.UnixNano(), q.to.UnixNano()
	verdicts = q.judged[node]
	at, open := from, int64(0)
	for _, v := range verdicts {
		if v.Start > at {
			parts = append(parts, stretch{at, v.Start})
			open += v.Start - at
		}
		at = v.Start + int64(time.Hour)
	}
	if at < to {
		parts = append(parts, stretch{at, to})
		open += to - at
	}
	if len(parts) > 1 && (len(parts) > mostParts || open > (to-from)/2) {
		return []stretch{{from, to}}, nil
	}
	return parts, verdicts
}

// mostParts is how many parts are asked for; each costs some questions, of which one is as dear as some hours of rows.
const mostParts = 6

func (q *inquiry) ask(ctx context.Context, node string) *ledgerAnswer {
	from, to := q.from.UnixNano(), q.to.UnixNano()
	a := &ledgerAnswer{Node: node, From: q.from, To: q.to, Hours: int((to - q.firstHour() + int64(time.Hour) - 1) / int64(time.Hour))}
	at := func(ns int64) time.Time {
		if ns == 0 {
			return time.Time{}
		}
		return time.Unix(0, ns).In(q.from.Location())
	}
	failed := func(err error) *ledgerAnswer {
		return &ledgerAnswer{Node: node, From: q.from, To: q.to, Hours: a.Hours, State: "error", Error: err.Error()}
	}
	if q.failed != nil {
		return failed(q.failed)
	}
	parts, verdicts := q.rest(node)
	whole := ledger.Report{From: from, To: to, Complete: true, Heard: q.heard[node]}
	for _, v := range verdicts {
		a.HoursOnVerdict++
		whole.Frames += v.Frames
	}
	for _, part := range parts {
		w := ledger.NewWindow(part.from, part.to)
		if err := q.r.Load(ctx, read.Query{Node: node, From: part.from, To: part.to, Now: q.now.UnixNano(), Settle: true},
			func(string) *ledger.Window { return w }); err != nil {
			return failed(err)
		}
		whole.Add(w.Report(q.now.UnixNano()))
	}
	a.State, a.Complete, a.Frames, a.Missing, a.Lost, a.Heard = whole.State(), whole.Complete, whole.Frames, whole.Missing, whole.Lost, at(whole.Heard)
	if c := q.alerts[node]; c != nil {
		a.Alerts = &ledgerAlerts{max(0, c.Raised), max(0, c.Closed), c.Missing()}
		if a.Alerts.Missing > 0 && a.Complete {
			a.State, a.Complete = stateAlerts, false
		}
	}
	for _, g := range whole.Gaps {
		if g.Told && g.Count == 0 {
			a.Unknown++
		}
		out := ledgerGap{Reason: string(g.Reason), Told: g.Told, From: g.From, To: g.To, Samples: g.Count, Begin: at(g.Begin), End: at(g.End)}
		if g.Epoch != 0 {
			out.Epoch = fmt.Sprintf("%016x", g.Epoch)
		}
		a.Gaps = append(a.Gaps, out)
	}
	if whole.Samples > 0 || a.Unknown == 0 {
		a.Samples = &whole.Samples
	}
	return a
}

// stateAlerts is the state where all frames are there, and alerts are not.
const stateAlerts = "alerts"

// samplesLost says how many samples were told as lost.
func (a *ledgerAnswer) samplesLost() (english, chinese string) {
	switch {
	case a.Samples == nil:
		return "unknown number of samples", "数量未知"
	case a.Unknown > 0:
		return fmt.Sprintf("%d samples and an unknown number", *a.Samples), fmt.Sprintf("%d 点，另有数量未知", *a.Samples)
	}
	return fmt.Sprintf("%d samples", *a.Samples), fmt.Sprintf("%d 点", *a.Samples)
}

// print writes a line for the gateway and one for each gap.
func (o *ledgerOptions) print(out io.Writer, a *ledgerAnswer) error {
	fmt.Fprintf(out, "%-24s %-10s %s  %d frames 帧", a.Node, a.State, ledgerWord(a.State), a.Frames)
	if a.Missing > 0 {
		fmt.Fprintf(out, ", %d missing 缺 %d", a.Missing, a.Missing)
	}
	if a.Lost > 0 || a.Unknown > 0 || a.Samples != nil && *a.Samples > 0 {
		english, chinese := a.samplesLost()
		fmt.Fprintf(out, ", %d lost (%s) 丢失 %d 帧 %s", a.Lost, english, a.Lost, chinese)
	}
	if c := a.Alerts; c != nil && c.Raised+c.Closed > 0 {
		fmt.Fprintf(out, ", %d alerts raised, %d closed 告警 %d 条，关闭 %d 条", c.Raised, c.Closed, c.Raised, c.Closed)
	}
	if c := a.Alerts; c != nil && c.Missing > 0 {
		fmt.Fprintf(out, ", %d missing 缺告警 %d 条", c.Missing, c.Missing)
	}
	if a.Complete && a.Frames == 0 && a.Lost == 0 {
		fmt.Fprint(out, ", it measured nothing then, or was not there yet 此间没有采集或尚未接入")
	}
	if a.Error != "" {
		fmt.Fprintf(out, ": %s", a.Error)
	}
	fmt.Fprintln(out)
	when := func(t time.Time) string {
		if t.IsZero() {
			return "?"
		}
		return t.Format("2006-01-02 15:04:05")
	}
	for i, g := range a.Gaps {
		if i == o.gaps {
			fmt.Fprintf(out, "    and %d more 另有 %d 处\n", len(a.Gaps)-i, len(a.Gaps)-i)
			break
		}
		word := ledgerWord(g.Reason)
		if g.Told {
			word = "网关报告丢失"
		}
		fmt.Fprintf(out, "    %-12s %s", g.Reason, word)
		if g.From > 0 {
			fmt.Fprintf(out, "  frames 帧 %d-%d of %s", g.From, g.To, g.Epoch)
		}
		switch {
		case g.Told && g.Samples > 0:
			fmt.Fprintf(out, "  samples 点 %d", g.Samples)
		case g.Told:
			fmt.Fprint(out, "  unknown number 数量未知")
		}
		switch {
		case g.Reason != string(ledger.Silent):
		case a.Heard.IsZero():
			fmt.Fprint(out, "  nothing was heard of it 没有收到过消息")
		default:
			fmt.Fprintf(out, "  last heard 最近消息 %s", when(a.Heard))
		}
		if _, err := fmt.Fprintf(out, "  %s .. %s\n", when(g.Begin), when(g.End)); err != nil {
			return err
		}
	}
	return nil
}

// ledgerWord returns a state or a reason in Chinese.
func ledgerWord(state string) string {
	switch state {
	case "complete":
		return "完整"
	case "losses":
		return "完整（有报告的丢失）"
	case string(ledger.Missing):
		return "缺失"
	case stateAlerts:
		return "告警缺失"
	case string(ledger.Backlog):
		return "网关积压待补传"
	case string(ledger.Silent):
		return "失联"
	case string(ledger.Open):
		return "尚未确认"
	case string(ledger.Replaced):
		return "更换存储"
	case string(ledger.Uncertain):
		return "时钟不可信"
	case "error":
		return "查询失败"
	}
	return state
}
