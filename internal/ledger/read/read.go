// Package read fills a ledger.Window from the city's database: by InfluxQL (GET /query, InfluxDB 1.8, and 2.x where the
// bucket is mapped to a database) or by Flux (POST /api/v2/query, InfluxDB 2.x, and 1.8 where flux-enabled is true).
//
// Answers are taken as they come: nothing is kept but what a Window keeps. What is asked of the database per node and window:
// the last row before it, the rows in it, the first row that settles it, the losses since, the status; and, only where frames
// seem to be missing, whether they are there under other times (a clock that was wrong).
//
// A Reader may be used from several goroutines.
package read

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"

	"linli/internal/ledger"
	"linli/internal/wire"
)

// Config is the database.
type Config struct {
	URL       string // http://host:8086 or https://host/prefix
	Org       string // may be empty for InfluxDB 1.8
	Bucket    string // for InfluxDB 1.8 database/retention-policy
	TokenFile string // read at each query; for InfluxDB 1.8 it holds user:password; "" means no authentication
	// Language is influxql or flux; "" means influxql where the bucket is a database/retention-policy, flux elsewhere.
	Language string
	Timeout  time.Duration // of one query; 0 means 2 min
}

// Validate fills in the defaults and says everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("database URL: %w", err))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		errs = append(errs, fmt.Errorf("database URL %q must be http://host:port or https://host:port", u.Redacted()))
	case u.User != nil:
		errs = append(errs, errors.New("database URL must not hold a password: use the token file"))
	}
	if c.Bucket == "" {
		errs = append(errs, errors.New("no bucket"))
	}
	if c.Language == "" {
		if c.Language = "flux"; strings.Contains(c.Bucket, "/") {
			c.Language = "influxql"
		}
	}
	if c.Language != "influxql" && c.Language != "flux" {
		errs = append(errs, fmt.Errorf("query language %q must be influxql or flux", c.Language))
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Minute
	}
	return errors.Join(errs...)
}

// Reader asks the database.
type Reader struct {
	cfg    Config
	client *http.Client
	flux   influxdb2.Client // nil: InfluxQL
}

// New returns a reader. It validates cfg and asks nothing yet.
func New(cfg Config) (*Reader, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	r := &Reader{cfg: cfg, client: &http.Client{Transport: &guarded{transport, cfg.TokenFile},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if cfg.Language == "flux" {
		r.flux = influxdb2.NewClientWithOptions(cfg.URL, "", influxdb2.DefaultOptions().SetHTTPClient(r.client))
	}
	return r, nil
}

// Close ends idle connections.
func (r *Reader) Close() { r.client.CloseIdleConnections() }

const (
	// lead is how far before and behind a window rows are read: more than ledger's slack and a batch.
	lead = 2 * time.Minute
	// memory is how long before a window the last row before it is looked for, and how far around it frames are looked for
	// that are there under another time.
	memory = ledger.MarksReach
)

// selection is one question: rows of one measurement, series by series.
type selection struct {
	measurement string
	tags        []string
	fields      []string
	node        string // "": all
	epoch       string // "": all
	from, to    int64  // from <= time < to
	conditions  []condition
	// pick is first or last row of each series, or distinct (how many values there are), of the first field alone; "": all
	pick string
}

type condition struct {
	field, op string // op is >= or <=
	value     int64
}

// record is one row of an answer: the values of the tags and fields in the selection's order, "" for none. It is valid until
// the next row.
type record struct {
	time   int64
	tags   []string
	values []string
}

func (r *record) int(i int) int64 {
	n, _ := strconv.ParseInt(r.values[i], 10, 64) // what is no integer is not ours
	return n
}

func (r *record) uint(i int) uint64 { return uint64(max(0, r.int(i))) }

func (r *Reader) each(ctx context.Context, s *selection, take func(*record)) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	var err error
	if r.flux != nil {
		err = r.eachFlux(ctx, s, take)
	} else {
		err = r.eachInfluxQL(ctx, s, take)
	}
	if err != nil {
		return fmt.Errorf("ask the database for %s: %w", s.measurement, err)
	}
	return nil
}

// Query says what is to be loaded.
type Query struct {
	Node     string // "": every node
	From, To int64  // the window
	Now      int64
	// Settle reads on until each epoch has settled past the window, and makes sure of what seems to be missing. It is for one
	// node: without it only what is missing among the rows of the window and shortly after it can be told.
	Settle bool
}

// Load reads the rows that say something about a window. window is asked for the Window of each node that there are rows of.
func (r *Reader) Load(ctx context.Context, q Query, window func(node string) *ledger.Window) error {
	from, to := q.From-int64(lead), q.To+int64(lead)
	ledgerTags := []string{"epoch", "gateway", "site"}
	// What came before: the last row of each epoch, whose frames need not be looked at.
	for _, back := range []time.Duration{24 * time.Hour, memory} {
		found := false
		last := selection{measurement: wire.MeasurementLedger, tags: ledgerTags, fields: []string{"to"}, node: q.Node, from: from - int64(back), to: from, pick: "last"}
		if err := r.each(ctx, &last, func(rec *record) {
			if node, epoch, ok := nodeEpoch(rec); ok {
				window(node).Base(epoch, rec.uint(0), rec.time)
				found = true
			}
		}); err != nil {
			return err
		}
		if found || q.Node == "" {
			break // older epochs ended before; of all nodes at once nobody looks so far back
		}
	}
	if q.Settle {
		settles := selection{measurement: wire.MeasurementLedger, tags: ledgerTags, fields: []string{"settled"}, node: q.Node, from: from, to: q.Now + int64(24*time.Hour),
			pick: "first", conditions: []condition{{"settled", ">=", q.To}}}
		if err := r.each(ctx, &settles, func(rec *record) { to = max(to, rec.time+int64(time.Minute)) }); err != nil {
			return err
		}
	}
	if err := r.rows(ctx, selection{node: q.Node, from: from, to: to}, window); err != nil {
		return err
	}
	losses := selection{measurement: wire.MeasurementLoss, tags: []string{"epoch", "gateway", "reason", "site"}, fields: []string{"from", "to", "count", "t0", "t1"},
		node: q.Node, from: from, to: q.Now + int64(24*time.Hour)}
	if err := r.each(ctx, &losses, func(rec *record) {
		epoch, err := strconv.ParseUint(rec.tags[0], 16, 64)
		node := rec.tags[3] + "." + rec.tags[1]
		if _, _, ok := wire.SplitNode(node); !ok || err != nil {
			return
		}
		window(node).Loss(ledger.Loss{Epoch: epoch, Reason: strings.Clone(rec.tags[2]), From: rec.uint(0), To: rec.uint(1), Count: rec.uint(2), T0: rec.int(3), T1: rec.int(4)})
	}); err != nil {
		return err
	}
	if err := r.statuses(ctx, q, to, window); err != nil {
		return err
	}
	if !q.Settle || q.Node == "" {
		return nil
	}
	return r.confirm(ctx, q, from, to, window(q.Node))
}

// rows reads rows of the ledger; the selection needs only say which.
func (r *Reader) rows(ctx context.Context, s selection, window func(node string) *ledger.Window) error {
	s.measurement, s.tags = wire.MeasurementLedger, []string{"epoch", "gateway", "site"}
	s.fields = []string{"from", "to", "part", "parts", "settled", "time_uncertain"}
	var w *ledger.Window
	var epoch uint64
	var ok bool
	lastTags := make([]string, len(s.tags))
	return r.each(ctx, &s, func(rec *record) {
		if !slices.Equal(rec.tags, lastTags) {
			copy(lastTags, rec.tags)
			var node string
			if node, epoch, ok = nodeEpoch(rec); ok {
				w = window(node)
			}
		}
		if !ok {
			return
		}
		// The time is t1 to the millisecond, which is enough here.
		w.Row(ledger.Row{Epoch: epoch, From: rec.uint(0), To: rec.uint(1), Part: int(rec.int(2)), Parts: int(rec.int(3)), T0: rec.time - rec.time%1e6,
			T1: rec.time - rec.time%1e6, Settled: rec.int(4), Uncertain: rec.values[5] == "true"})
	})
}

// statuses reads the status of the time and, of a single node, the last one.
func (r *Reader) statuses(ctx context.Context, q Query, to int64, window func(node string) *ledger.Window) error {
	if to >= q.Now-int64(time.Minute) {
		to = q.Now + int64(24*time.Hour) // a gateway's clock may be ahead of ours
	}
	s := selection{measurement: wire.MeasurementStatus, tags: []string{"gateway", "site"}, fields: []string{"state", "reason", "version", "epoch", "next_seq", "backlog_frames"},
		node: q.Node, from: q.From - int64(lead), to: to}
	found := false
	take := func(rec *record) {
		node := rec.tags[1] + "." + rec.tags[0]
		if _, _, ok := wire.SplitNode(node); !ok {
			return
		}
		found = true
		epoch, _ := strconv.ParseUint(rec.values[3], 16, 64) // a will has none
		window(node).Status(ledger.Status{At: rec.time, State: strings.Clone(rec.values[0]), Reason: strings.Clone(rec.values[1]), Version: strings.Clone(rec.values[2]), Epoch: epoch,
			NextSeq: rec.uint(4), Backlog: rec.uint(5)})
	}
	if err := r.each(ctx, &s, take); err != nil || q.Node == "" || found && to >= q.Now {
		return err
	}
	at, err := r.lastStatus(ctx, q.Node, q.Now)
	if err != nil || at == 0 || found && at < to {
		return err
	}
	// A will alone says little: what was said before it belongs to it.
	s.from, s.to = at-int64(3*time.Minute), at+1
	return r.each(ctx, &s, take)
}

func (r *Reader) lastStatus(ctx context.Context, node string, now int64) (at int64, err error) {
	for _, back := range []time.Duration{time.Hour, memory} {
		s := selection{measurement: wire.MeasurementStatus, tags: []string{"gateway", "site"}, fields: []string{"state"}, node: node,
			from: now - int64(back), to: now + int64(24*time.Hour), pick: "last"}
		if err := r.each(ctx, &s, func(rec *record) { at = max(at, rec.time) }); err != nil || at > 0 {
			return at, err
		}
	}
	return 0, nil
}

// confirm looks for what seems to be missing among rows of any time.
func (r *Reader) confirm(ctx context.Context, q Query, from, to int64, w *ledger.Window) error {
	type reach struct{ from, to uint64 }
	reaches := map[uint64]reach{}
	report := w.Report(q.Now)
	for _, g := range report.Gaps {
		if g.Reason == ledger.Uncertain {
			// The clock was right again later, it may be; what comes then closes the window.
			if err := r.rows(ctx, selection{node: q.Node, from: to, to: q.Now + int64(24*time.Hour)}, func(string) *ledger.Window { return w }); err != nil {
				return err
			}
		}
		if g.Told || g.From == 0 {
			continue
		}
		have, ok := reaches[g.Epoch]
		if !ok {
			have = reach{g.From, g.To}
		}
		reaches[g.Epoch] = reach{min(have.from, g.From), max(have.to, g.To)}
	}
	for epoch, have := range reaches {
		for _, span := range [][2]int64{{from - int64(memory), from}, {to, q.Now + int64(24*time.Hour)}} {
			s := selection{node: q.Node, epoch: fmt.Sprintf("%016x", epoch), from: span[0], to: span[1],
				conditions: []condition{{"to", ">=", int64(have.from)}, {"from", "<=", int64(have.to)}}}
			if err := r.rows(ctx, s, func(string) *ledger.Window { return w }); err != nil {
				return err
			}
		}
	}
	return nil
}

// Node is a node that the database has heard of.
type Node struct {
	Name string
	Last int64 // the time of its newest row
}

// Nodes returns the nodes of which there are rows of the time, by name.
func (r *Reader) Nodes(ctx context.Context, from, to int64) ([]Node, error) {
	last := map[string]int64{}
	for _, s := range []selection{
		{measurement: wire.MeasurementLedger, fields: []string{"to"}}, {measurement: wire.MeasurementStatus, fields: []string{"state"}},
	} {
		s.tags, s.from, s.to, s.pick = []string{"gateway", "site"}, from, to, "last"
		if err := r.each(ctx, &s, func(rec *record) {
			name := rec.tags[1] + "." + rec.tags[0]
			if _, _, ok := wire.SplitNode(name); ok {
				last[name] = max(last[name], rec.time)
			}
		}); err != nil {
			return nil, err
		}
	}
	out := make([]Node, 0, len(last))
	for name, at := range last {
		out = append(out, Node{name, at})
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// First returns the time of the first row of each node's ledger within the time.
func (r *Reader) First(ctx context.Context, from, to int64) (map[string]int64, error) {
	first := map[string]int64{}
	s := selection{measurement: wire.MeasurementLedger, tags: []string{"gateway", "site"}, fields: []string{"to"}, from: from, to: to, pick: "first"}
	return first, r.each(ctx, &s, func(rec *record) {
		name := rec.tags[1] + "." + rec.tags[0]
		if at, ok := first[name]; !ok || rec.time < at {
			first[name] = rec.time
		}
	})
}

// Verdict is what somebody wrote down about an hour.
type Verdict struct {
	Node            string
	Start           int64
	State           string
	Complete        bool
	Frames, Missing uint64
	Heard, Checked  int64
	Seal            int64
}

// Verdicts hands over what was written down about the hours of a node ("": of each) that begin in the time.
func (r *Reader) Verdicts(ctx context.Context, node string, from, to int64, take func(*Verdict)) error {
	s := selection{measurement: wire.MeasurementHour, tags: []string{"gateway", "site"}, fields: []string{"state", "complete", "frames", "missing", "heard", "checked", "seal"}, node: node, from: from, to: to}
	var site, gateway, name string
	return r.each(ctx, &s, func(rec *record) {
		if name == "" || rec.tags[0] != gateway || rec.tags[1] != site {
			gateway, site = strings.Clone(rec.tags[0]), strings.Clone(rec.tags[1])
			name = site + "." + gateway
		}
		take(&Verdict{Node: name, Start: rec.time, State: strings.Clone(rec.values[0]), Complete: rec.values[1] == "true",
			Frames: rec.uint(2), Missing: rec.uint(3), Heard: rec.int(4), Checked: rec.int(5), Seal: rec.int(6)})
	})
}

// Marks returns what has been marked of a node ("": of every node) that says something of hours that begin in the time.
func (r *Reader) Marks(ctx context.Context, node string, from, to int64) (map[string]*ledger.Marks, error) {
	marks := map[string]*ledger.Marks{}
	s := selection{measurement: wire.MeasurementLate, tags: []string{"client", "gateway", "site"}, fields: []string{"at"}, node: node, from: from - int64(ledger.MarksReach), to: to}
	return marks, r.each(ctx, &s, func(rec *record) {
		name := rec.tags[2] + "." + rec.tags[1]
		m := marks[name]
		if m == nil {
			m = &ledger.Marks{}
			marks[name] = m
		}
		m.Add(rec.tags[0], rec.time, rec.int(0))
	})
}

// Epochs returns the epochs of a node ("": of each) of which anything is known in the time: of rows and losses, and the last status.
func (r *Reader) Epochs(ctx context.Context, node string, from, to int64) (map[string][]uint64, error) {
	epochs := map[string][]uint64{}
	add := func(node string, epoch uint64) {
		if _, _, ok := wire.SplitNode(node); ok && !slices.Contains(epochs[node], epoch) {
			epochs[node] = append(epochs[node], epoch)
		}
	}
	for _, measurement := range []string{wire.MeasurementLedger, wire.MeasurementLoss} {
		s := selection{measurement: measurement, tags: []string{"epoch", "gateway", "site"}, fields: []string{"to"}, node: node, from: from, to: to, pick: "last"}
		if err := r.each(ctx, &s, func(rec *record) {
			if node, epoch, ok := nodeEpoch(rec); ok {
				add(node, epoch)
			}
		}); err != nil {
			return nil, err
		}
	}
	s := selection{measurement: wire.MeasurementStatus, tags: []string{"gateway", "site"}, fields: []string{"epoch"}, node: node, from: from, to: to, pick: "last"}
	return epochs, r.each(ctx, &s, func(rec *record) {
		if epoch, err := strconv.ParseUint(rec.values[0], 16, 64); err == nil {
			add(rec.tags[1]+"."+rec.tags[0], epoch)
		}
	})
}

// Judged is an hour that somebody has found complete, and nothing can have changed since.
type Judged struct {
	Start  int64
	Frames uint64
}

// Judged returns the hours of a node ("": of each) that begin in the time and whose verdicts hold (ledger.Seal), in order. There are few
// questions, however many nodes.
func (r *Reader) Judged(ctx context.Context, node string, from, to, now int64) (map[string][]Judged, error) {
	epochs, err := r.Epochs(ctx, node, from-int64(lead), now+int64(24*time.Hour))
	if err != nil {
		return nil, err
	}
	// What comes while we look breaks a seal or is seen the next time.
	marks, err := r.Marks(ctx, node, from, to)
	if err != nil {
		return nil, err
	}
	judged := map[string][]Judged{}
	err = r.Verdicts(ctx, node, from, to, func(v *Verdict) {
		if e := epochs[v.Node]; v.Complete && len(e) == 1 && v.Seal == ledger.Seal(v.Start, v.Checked, e[0], marks[v.Node]) {
			judged[v.Node] = append(judged[v.Node], Judged{v.Start, v.Frames})
		}
	})
	for _, hours := range judged {
		slices.SortFunc(hours, func(a, b Judged) int { return cmp.Compare(a.Start, b.Start) })
	}
	return judged, err
}

// LastChecks returns when somebody else than client looked last, by kind.
func (r *Reader) LastChecks(ctx context.Context, client string, from, to int64) (map[string]int64, error) {
	last := map[string]int64{}
	s := selection{measurement: wire.MeasurementCheck, tags: []string{"client", "kind"}, fields: []string{"nodes"}, from: from, to: to, pick: "last"}
	return last, r.each(ctx, &s, func(rec *record) {
		if kind := strings.Clone(rec.tags[1]); rec.tags[0] != client {
			last[kind] = max(last[kind], rec.time)
		}
	})
}

func nodeEpoch(rec *record) (node string, epoch uint64, ok bool) {
	epoch, err := strconv.ParseUint(rec.tags[0], 16, 64)
	node = rec.tags[2] + "." + rec.tags[1]
	_, _, ok = wire.SplitNode(node)
	return node, epoch, ok && err == nil
}
