package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/internal/ledger"
	"linli/internal/ledger/read"
	"linli/internal/wire"
)

// Repair says how completeness is looked after.
type Repair struct {
	// KeyFile and KeyName are the private key (PKCS#8 in PEM, Ed25519) and its name, with which gateways are asked to send
	// again. Without them what is missing is only written down.
	KeyFile, KeyName string
	Horizon          time.Duration // hours that are not complete are looked at for so long; 0 means 7 days
	Language         string        // of queries, see read.Config

	// For tests; the zero values are right.
	Every time.Duration // between looks at the newest minutes; hours are looked at ten times as seldom; 0 means 1 min
	Grace time.Duration // what is missing may still be on its way for so long; 0 means 2 min
	Again time.Duration // what did not come is asked for again after so long; 0 means 10 min
}

const (
	// lifeBeyond is how long after its slot a gateway that was away may still carry out a command: clocks differ.
	lifeBeyond = 15 * time.Minute
	// A gateway has room for 16 commands. What a round does not ask for the next one does.
	rangesPerNode  = 8
	framesPerRange = 3600
	// recentWindow is how long the newest minutes are, which are looked at every minute: 2,000 gateways have written 360,000
	// rows in it, and more around it.
	recentWindow = 3 * time.Minute
	maxDirty     = 50_000
	publishFor   = 10 * time.Second
)

// RepairStats are counters since the start, and what the last looks found.
type RepairStats struct {
	Rounds       uint64    // looks that were finished
	Failures     uint64    // that were not
	Failing      string    // why the last one was not; empty when all is well
	Last         time.Time // when one was finished
	OpenGaps     int       // that this process knows of
	OpenFrames   uint64    // in them
	Asked        uint64    // resends asked for
	ClosedFrames uint64    // that were missing and have arrived, or were told as lost
	HoursLooked  uint64    // hours of gateways that were looked at
	HoursWaiting int       // that this process has still to look at
	// AlertsMissing is how many alerts more the gateways had counted than were there when this process looked last.
	AlertsMissing uint64
}

// lookedAt is what was done of the hours that were gathered.
type lookedAt struct {
	nodes, hours int
	took         time.Duration
}

// Repairer looks at the ledger in the database, writes down of each hour of each gateway whether it is complete, and asks
// gateways to send again what is missing.
//
// The database is its memory: it may be killed at any time, and any number of them may run. They look in turn, since each
// writes down when it did; and two that ask for the same at a time ask with the same command, which a gateway carries out
// once. A gateway that is offline is not asked, since the broker would keep the commands for it; nor is anything asked for
// that the gateway has told as lost, or says that it still has to send.
//
// Concurrency: Run owns everything; Stats may be called from any goroutine.
type Repairer struct {
	cfg  Config
	in   *Ingest // whose connection commands go out on
	read *read.Reader
	db   *writer
	log  *zap.Logger
	name string // of this process in linli_check

	open     map[hour]open      // hours in which something is missing
	asked    map[string]bool    // ids of the commands of this slot
	slot     int64              // which
	lastDeep time.Time          // when hours were gathered that are to be looked at, by anybody
	todo     []hour             // these, the oldest first; nil where somebody else has gathered them since
	scanned  lookedAt           // since they were gathered
	asks     map[string][]asked // of this round, by node
	lines    []byte             // rows of this round
	failing  bool

	mu    sync.Mutex // guards stats
	stats RepairStats
}

// hour is an hour of a node.
type hour struct {
	node  string
	start int64
}

// open is what is missing in an hour.
type open struct {
	gaps   int
	frames uint64
	away   bool // the gateway is offline: nothing will come until it is back
}

// NewRepairer returns a repairer for what in writes, as in's Config.Repair says. It does nothing before Run. Commands go out
// on in's connection.
func NewRepairer(in *Ingest) (*Repairer, error) {
	cfg, log := in.cfg, in.log
	p := &cfg.Repair
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&p.Horizon, 7 * 24 * time.Hour}, {&p.Every, time.Minute}, {&p.Grace, 2 * time.Minute}, {&p.Again, 10 * time.Minute}} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if (p.KeyFile == "") != (p.KeyName == "") {
		return nil, errors.New("repair: the key for commands needs its name and the name its key")
	}
	if p.KeyFile != "" {
		if _, err := wire.ReadSigningKey(p.KeyFile); err != nil {
			return nil, fmt.Errorf("repair: %w", err)
		}
	}
	r, err := read.New(read.Config{URL: cfg.Influx.URL, Org: cfg.Influx.Org, Bucket: cfg.Influx.Bucket, TokenFile: cfg.Influx.TokenFile, Language: p.Language, Timeout: p.Every})
	if err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	db, err := newWriter(cfg, log, func(func(*Stats)) {})
	if err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	return &Repairer{cfg: cfg, in: in, read: r, db: db, log: log, name: cleanName(cfg.ClientID), open: map[hour]open{}, asked: map[string]bool{}}, nil
}

// Stats returns the present figures. It may be called from any goroutine.
func (r *Repairer) Stats() RepairStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

func (r *Repairer) count(change func(*RepairStats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.stats)
}

// Run looks until ctx ends. A database that does not answer is no error: it returns nil when ctx ends.
func (r *Repairer) Run(ctx context.Context) error {
	defer r.read.Close()
	every := r.cfg.Repair.Every
	if p := &r.cfg.Repair; p.KeyFile == "" {
		r.log.Info("completeness is looked after; without a key for commands no gateway is asked to send again what is missing", zap.Duration("horizon", p.Horizon))
	} else {
		r.log.Info("completeness is looked after; gateways are asked to send again what is missing", zap.Duration("horizon", p.Horizon), zap.String("key", p.KeyName))
	}
	wait := rand.N(every) // many start at once
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		err := r.round(ctx, r.cfg.Now())
		if ctx.Err() != nil {
			return nil
		}
		r.note(err)
		wait = every*9/10 + rand.N(every/5+1)
	}
}

// note tells how a round went, and logs it when that is news.
func (r *Repairer) note(err error) {
	gaps, frames := 0, uint64(0)
	for _, o := range r.open {
		gaps += o.gaps
		frames += o.frames
	}
	r.count(func(s *RepairStats) {
		s.OpenGaps, s.OpenFrames = gaps, frames
		if err != nil {
			s.Failures++
			s.Failing = err.Error()
		} else {
			s.Rounds++
			s.Failing, s.Last = "", time.Now()
		}
	})
	switch {
	case err != nil && !r.failing:
		r.log.Warn("completeness is not looked after", zap.Error(err))
	case err == nil && r.failing:
		r.log.Info("completeness is looked after again")
	}
	r.failing = err != nil
}

// round looks once: at the newest minutes, at the hours in which something is missing, and at hours that are not complete,
// which are gathered every tenth time.
func (r *Repairer) round(ctx context.Context, now time.Time) error {
	every := r.cfg.Repair.Every
	r.lines, r.asks = r.lines[:0], map[string][]asked{}
	others, err := r.read.LastChecks(ctx, r.name, now.Add(-11*every).UnixNano(), now.Add(every).UnixNano())
	if err != nil {
		return err
	}
	if at := time.Unix(0, others["hours"]); at.After(r.lastDeep) {
		r.lastDeep = at
	}
	var errs []error
	if now.Sub(time.Unix(0, others["recent"])) >= every*3/4 {
		began := time.Now()
		nodes, err := r.recent(ctx, now)
		errs = append(errs, err)
		if err == nil {
			r.check("recent", nodes, 0, 0, time.Since(began), now)
		}
	}
	errs = append(errs, r.missing(ctx, now))
	if at := time.Unix(0, others["hours"]); !at.Before(r.lastDeep) {
		r.todo = nil // theirs now
	}
	if now.Sub(r.lastDeep) >= 10*every {
		errs = append(errs, r.gather(ctx, now), r.alerts(ctx, now))
	}
	errs = append(errs, r.hours(ctx, now))
	errs = append(errs, r.ask(ctx, now), r.write(ctx))
	return errors.Join(errs...)
}

// check writes down that somebody looked.
func (r *Repairer) check(kind string, nodes, hours, waiting int, took time.Duration, now time.Time) {
	c := wire.Check{Kind: kind, Nodes: nodes, Hours: hours, Waiting: waiting, Took: int64(took)}
	for _, o := range r.open {
		c.Gaps += o.gaps
		c.Missing += o.frames
	}
	for _, a := range r.asks {
		c.Asked += uint64(len(a))
	}
	r.lines = wire.AppendCheckLine(r.lines, r.name, &c, now.UnixNano())
}

// recent finds the hours of the newest minutes in which something is missing, of all nodes with one question.
func (r *Repairer) recent(ctx context.Context, now time.Time) (nodes int, err error) {
	from, to := now.Add(-r.cfg.Repair.Grace-recentWindow).UnixNano(), now.Add(-r.cfg.Repair.Grace).UnixNano()
	windows := map[string]*ledger.Window{}
	err = r.read.Load(ctx, read.Query{From: from, To: to, Now: now.UnixNano()}, func(node string) *ledger.Window {
		w := windows[node]
		if w == nil {
			w = ledger.NewWindow(from, to)
			windows[node] = w
		}
		return w
	})
	if err != nil {
		return 0, err
	}
	present := map[string]bool{}
	for node, w := range windows {
		report := w.Report(now.UnixNano())
		present[node] = !report.Status.Offline()
		for _, g := range report.Gaps {
			if g.Told || g.Reason != ledger.Missing || report.Status.Offline() {
				continue
			}
			begin, end := g.Begin, g.End
			if begin == 0 {
				begin = from
			}
			if end == 0 {
				end = to
			}
			// A long gap began long ago: the hours before these minutes are looked at with all hours.
			for start := ledger.HourOf(max(begin, from-int64(time.Hour))); start <= min(end, to) && len(r.open) < maxDirty; start += int64(time.Hour) {
				if _, ok := r.open[hour{node, start}]; !ok {
					r.open[hour{node, start}] = open{}
				}
			}
		}
	}
	for h, o := range r.open {
		if o.away && present[h.node] { // it is back
			o.away = false
			r.open[h] = o
		}
	}
	return len(windows), nil
}

// missing looks again at the hours in which something is missing.
func (r *Repairer) missing(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, max(r.cfg.Repair.Every, 10*time.Second))
	defer cancel()
	for h, o := range r.open {
		if o.away {
			continue // until it is back; with all hours
		}
		marks, err := r.read.Marks(ctx, h.node, h.start, h.start+int64(time.Hour))
		if err == nil {
			err = r.look(ctx, h, now, marks[h.node])
		}
		if err != nil {
			return late(ctx, err)
		}
	}
	return nil
}

// late makes no error of a look that took too long: the next one goes on.
func late(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil
	}
	return err
}

// gather finds the hours within the horizon that nobody has found complete for good.
func (r *Repairer) gather(ctx context.Context, now time.Time) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, max(5*r.cfg.Repair.Every, 10*time.Second))
	defer cancel()
	from, to := ledger.HourOf(now.Add(-r.cfg.Repair.Horizon).UnixNano()), now.UnixNano()
	first, err := r.read.First(ctx, from, to)
	if err != nil {
		return err
	}
	known, err := r.read.Nodes(ctx, from, to+int64(ahead))
	if err != nil {
		return err
	}
	newest := map[string]int64{}
	for _, n := range known {
		newest[n.Name] = n.Last
	}
	epochs, err := r.read.Epochs(ctx, "", from, to+int64(ahead))
	if err != nil {
		return err
	}
	marks, err := r.read.Marks(ctx, "", from, to) // before the rows: see ledger.Seal
	if err != nil {
		return err
	}
	rest := map[hour]bool{} // that need no look
	if err := r.read.Verdicts(ctx, "", from, to, func(v *read.Verdict) {
		if done(v, newest[v.Node], to, epochs[v.Node], marks[v.Node]) {
			rest[hour{v.Node, v.Start}] = true
		}
	}); err != nil {
		return err
	}
	var todo []hour
	for node, begun := range first {
		for start := ledger.HourOf(begun); start+int64(time.Hour)+int64(max(r.cfg.Repair.Grace, ledger.SealAfter)) <= to; start += int64(time.Hour) {
			if h := (hour{node, start}); !rest[h] {
				todo = append(todo, h)
			}
		}
	}
	// Where there is more than there is time for, each process begins elsewhere.
	rand.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	slices.SortStableFunc(todo, func(a, b hour) int { return cmp.Compare(a.start, b.start) })
	if len(todo) >= manyHours && len(r.todo) < manyHours {
		r.log.Info("many hours have not been looked at yet; the newest come first", zap.Int("hours", len(todo)), zap.Int("gateways", len(known)))
	}
	r.todo, r.lastDeep = todo, now
	r.scanned.nodes, r.scanned.took = len(known), r.scanned.took+time.Since(began)
	r.check("hours", r.scanned.nodes, r.scanned.hours, len(todo), r.scanned.took, now)
	r.scanned = lookedAt{}
	return nil
}

// manyHours are more than come anew in an hour of a city.
const manyHours = 10_000

// hours looks at what was gathered, the newest first, for a third of the time: the newest minutes are looked at meanwhile,
// and the database has others to serve. Where nobody ever looked, as after the first start, this takes most of a day for 2,000 gateways.
func (r *Repairer) hours(ctx context.Context, now time.Time) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, max(r.cfg.Repair.Every/3, 10*time.Second))
	defer cancel()
	defer func() {
		r.scanned.took += time.Since(began)
		r.count(func(s *RepairStats) { s.HoursWaiting = len(r.todo) })
	}()
	var marks map[string]*ledger.Marks
	for n := 0; len(r.todo) > 0; n++ {
		h := r.todo[len(r.todo)-1]
		if marks == nil { // before the rows: see ledger.Seal
			var err error
			if marks, err = r.read.Marks(ctx, "", r.todo[0].start, h.start+int64(time.Hour)); err != nil {
				return late(ctx, err)
			}
		}
		rest := r.todo[:len(r.todo)-1]
		if err := r.look(ctx, h, now, marks[h.node]); err != nil {
			if n == 0 {
				r.todo = rest // it alone takes too long: it is for the next who gathers, and does not stop the others
			}
			return late(ctx, err)
		}
		r.todo = rest
		r.scanned.hours++
		r.count(func(s *RepairStats) { s.HoursLooked++ })
		if len(r.lines) > 1<<20 {
			if err := r.write(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// done says that an hour needs no look: it is complete and nothing has come for it since, or nothing has come of its node
// since, or it is old and was looked at lately.
func done(v *read.Verdict, newest, now int64, epochs []uint64, marks *ledger.Marks) bool {
	switch {
	case v.Complete:
		// Of an epoch that has begun since, its own hours tell.
		for _, epoch := range append([]uint64{notWhole}, epochs...) {
			if v.Seal == ledger.Seal(v.Start, v.Checked, epoch, marks) {
				return true
			}
		}
	case v.State == string(ledger.Silent):
		return newest/1e6 <= v.Heard/1e6 // times of rows of the ledger are right to the millisecond
	case v.Missing > 0:
		return false
	}
	return now-v.Checked < min((now-v.Start)/10, int64(6*time.Hour))
}

// notWhole is in the seal of an hour that is complete, but whose frames are not all there, or of several epochs: it need not
// be looked at again while nothing comes for it, but nobody rests on it.
const notWhole = 0

// look decides about one hour, or as much of it as is over, and notes what is to be asked for. marks were read before.
func (r *Repairer) look(ctx context.Context, h hour, now time.Time, marks *ledger.Marks) error {
	end := h.start + int64(time.Hour)
	ns := now.UnixNano()
	over := min(end, ns-int64(r.cfg.Repair.Grace))
	if over <= h.start {
		return nil
	}
	w := ledger.NewWindow(h.start, over)
	if err := r.read.Load(ctx, read.Query{Node: h.node, From: h.start, To: over, Now: ns, Settle: true}, func(string) *ledger.Window { return w }); err != nil {
		return err
	}
	report := w.Report(ns)
	var o open
	for _, g := range report.Gaps {
		if g.Told || g.Reason != ledger.Missing {
			continue
		}
		o.gaps++
		o.frames += g.Frames()
		if !report.Status.Offline() && (g.End == 0 || g.End <= ns-int64(r.cfg.Repair.Grace)) {
			r.want(h.node, &g)
		}
	}
	o.away = report.Status.Offline()
	if before := r.open[h]; before.frames > o.frames {
		r.count(func(s *RepairStats) { s.ClosedFrames += before.frames - o.frames })
	}
	if o.gaps == 0 {
		delete(r.open, h)
	} else if len(r.open) < maxDirty {
		r.open[h] = o
	}
	site, gateway, _ := wire.SplitNode(h.node)
	verdict := wire.Hour{
		Start: h.start, State: report.State(), Complete: report.Complete && over == end, Percent: percent(&report, end), Frames: report.Frames, Missing: report.Missing,
		Lost: report.Lost, LostSamples: report.Samples, Gaps: len(report.Gaps), Heard: report.Heard, Checked: ns,
	}
	if report.Complete && over < end {
		verdict.State = string(ledger.Open) // it is not over
	}
	if verdict.Complete && ns >= end+int64(ledger.SealAfter) {
		verdict.Seal = ledger.Seal(h.start, ns, report.Whole, marks)
	}
	r.lines = wire.AppendHourLine(r.lines, site, gateway, &verdict)
	return nil
}

// percent says how much of the hour until end has arrived or was told as lost: of its frames as far as they are known of, and
// nothing of the time of which the gateway has not said that it was all.
func percent(r *ledger.Report, end int64) float64 {
	share := 1.0
	if r.Missing > 0 {
		share = float64(r.Frames+r.Lost) / float64(r.Frames+r.Lost+r.Missing)
	}
	if settled := max(r.Settled, r.From); settled < end {
		share *= float64(settled-r.From) / float64(end-r.From)
	}
	return 100 * share
}

// write writes the rows of the round. What is not written is found again.
func (r *Repairer) write(ctx context.Context) error {
	if len(r.lines) == 0 {
		return nil
	}
	defer func() { r.lines = r.lines[:0] }()
	if a := r.db.post(ctx, r.lines); a.status != http.StatusNoContent {
		return fmt.Errorf("write down what was found: status %d: %.300s", a.status, a.message)
	}
	return nil
}
