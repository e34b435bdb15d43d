package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/wire"
)

// catOptions are the command line of linli journal cat.
type catOptions struct {
	*journalOptions
	period
	points        []string
	every, format string
}

func journalCatCommand(common *journalOptions) *cobra.Command {
	o := catOptions{journalOptions: common}
	cmd := &cobra.Command{
		Use:   "cat [DEVICE.POINT ...]",
		Short: "Print what points have measured, as samples or over intervals",
		Long: "Print what points have measured. DEVICE.POINT names one, a device alone all of its points; * and ? stand for others\n" +
			"(\"*.temperature_c\"). Without any it prints every point.\n\n" +
			"--every raw prints samples, 1m and 1h what is known over a minute or an hour; auto takes samples up to two hours,\n" +
			"minutes up to a week and hours beyond, as far as they are there, and says on standard error which it was.\n" +
			"Gaps are lines of their own among samples; over intervals unknown_s says how long nothing is known.\n\n" +
			"Formats: csv, jsonl (JSON lines, also --json), line (line protocol as the city gets it; needs -c). Exit code 1: nothing was found.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.points = args
			progress := newProgressLine(cmd.ErrOrStderr(), o.verbose)
			return o.cat(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), progress)
		},
	}
	f := cmd.Flags()
	o.period.flags(cmd, "1h", "")
	f.StringVar(&o.every, "every", "auto", "raw, 1m, 1h or auto")
	f.StringVar(&o.format, "format", "csv", "csv, jsonl or line")
	return cmd
}

// matcher returns which series the patterns stand for.
func matcher(patterns []string) (func(*telemetry.Series) bool, error) {
	patterns = slices.Clone(patterns)
	for i, p := range patterns {
		if !strings.Contains(p, ".") {
			patterns[i] = p + ".*"
		}
		if _, err := path.Match(p, ""); err != nil {
			return nil, &usageError{fmt.Errorf("%q: %w", p, err)}
		}
	}
	return func(s *telemetry.Series) bool {
		if len(patterns) == 0 {
			return true
		}
		name := s.Device + "." + s.Point
		for _, p := range patterns {
			if ok, _ := path.Match(p, name); ok { // The patterns are good.
				return true
			}
		}
		return false
	}, nil
}

func (o *catOptions) cat(ctx context.Context, stdout, stderr io.Writer, progress *progressLine) error {
	if o.asJSON {
		o.format = "jsonl"
	}
	every, err := journal.ParseResolution(o.every)
	if err != nil {
		return &usageError{fmt.Errorf("--every: %w", err)}
	}
	if o.format != "csv" && o.format != "jsonl" && o.format != "line" {
		return &usageError{fmt.Errorf("--format: %q is none of csv, jsonl, line", o.format)}
	}
	if o.format == "line" && o.file == "" {
		return &usageError{errors.New("line protocol names site and gateway: --format line needs the site file (-c)")}
	}
	match, err := matcher(o.points)
	if err != nil {
		return err
	}
	j, p, loc, err := o.open()
	if err != nil {
		return err
	}
	defer j.Close()
	now := time.Now()
	since, until, err := o.times(now, loc)
	if err != nil {
		return err
	}
	span := journal.Span{Match: match, From: since, To: until}
	if len(o.points) == 1 && !strings.ContainsAny(o.points[0], `*?[\\`) {
		span.Device, span.Point, _ = strings.Cut(o.points[0], ".")
	}
	every = j.Resolve(span, every)
	fmt.Fprintf(stderr, "%s from %s to %s\n", map[journal.Resolution]string{journal.Samples: "samples", journal.Minutes: "minutes", journal.Hours: "hours"}[every],
		since.In(loc).Format(time.DateTime), until.In(loc).Format(time.DateTime))

	out := bufio.NewWriterSize(stdout, 64<<10)
	w := &rowWriter{out: out, loc: loc, every: every, format: o.format, csv: csv.NewWriter(out)}
	if p != nil {
		w.line = wire.NewEncoder(p.site.Inventory.Site, p.site.Inventory.Gateway)
	}
	w.head()
	n := 0
	err = j.Range(ctx, span, every, func(r *journal.Row) error {
		if r.Series != nil {
			if n++; n%4096 == 0 {
				progress.show(fmt.Sprintf("%3.0f %% %s", 100*float64(r.At.Sub(since))/float64(until.Sub(since)), r.At.In(loc).Format(time.DateTime)))
			}
		}
		return w.row(r)
	})
	progress.done()
	if err := errors.Join(err, w.flush()); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w of these points in this time", errNothing)
	}
	return nil
}

// rowWriter prints rows.
type rowWriter struct {
	out    *bufio.Writer
	loc    *time.Location
	every  journal.Resolution
	format string
	csv    *csv.Writer
	line   *wire.Encoder
	lines  []byte
	last   time.Time // of the samples in line
}

func sampleColumns() []string {
	return []string{"time", "device", "point", "value", "quality", "until"}
}

func intervalColumns() []string {
	return []string{"time", "device", "point", "mean", "min", "max", "last", "count", "changes", "good_s", "doubtful_s", "bad_s", "unknown_s"}
}

func (w *rowWriter) head() {
	if w.format != "csv" {
		return
	}
	if w.every == journal.Samples {
		_ = w.csv.Write(sampleColumns()) // flush tells
	} else {
		_ = w.csv.Write(intervalColumns())
	}
}

func (w *rowWriter) flush() error {
	w.flushLines()
	w.csv.Flush()
	return errors.Join(w.csv.Error(), w.out.Flush())
}

func (w *rowWriter) flushLines() {
	if w.line != nil && w.format == "line" {
		w.lines, _ = w.line.Flush(w.lines[:0])
		_, _ = w.out.Write(w.lines) // flush tells
	}
}

func (w *rowWriter) time(t time.Time) string {
	return t.In(w.loc).Format("2006-01-02T15:04:05.000Z07:00")
}

func (w *rowWriter) row(r *journal.Row) error {
	switch w.format {
	case "jsonl":
		return w.jsonRow(r)
	case "line":
		return w.lineRow(r)
	}
	if r.Series == nil {
		if w.every == journal.Samples {
			return w.csv.Write([]string{w.time(r.At), "", "", "", "gap: " + r.Gap, w.time(r.Until)})
		}
		return nil
	}
	if w.every == journal.Samples {
		quality := r.Quality.String()
		if r.Uncertain {
			quality += ", time uncertain"
		}
		return w.csv.Write([]string{w.time(r.At), r.Series.Device, r.Series.Point, valueText(r.Value), quality, ""})
	}
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
	mean := ""
	if !math.IsNaN(r.Mean) {
		mean = strconv.FormatFloat(r.Mean, 'g', 8, 64)
	}
	return w.csv.Write([]string{w.time(r.At), r.Series.Device, r.Series.Point, mean, valueText(r.Min), valueText(r.Max), valueText(r.Last),
		strconv.FormatUint(r.Count, 10), strconv.FormatUint(r.Changes, 10), seconds(r.Good), seconds(r.Doubtful), seconds(r.Bad), seconds(r.Unknown())})
}

// valueText is a value in a column: nothing where there is none.
func valueText(v telemetry.Value) string {
	switch v.Kind() {
	case 0:
		return ""
	case telemetry.KindText:
		return v.Text()
	}
	return v.String()
}

func (w *rowWriter) jsonRow(r *journal.Row) error {
	enc := json.NewEncoder(w.out)
	if r.Series == nil {
		return enc.Encode(struct {
			Time  string `json:"time"`
			Until string `json:"until"`
			Gap   string `json:"gap"`
		}{w.time(r.At), w.time(r.Until), r.Gap})
	}
	type name struct {
		Time   string `json:"time"`
		Class  string `json:"class"`
		Device string `json:"device"`
		Zone   string `json:"zone,omitempty"`
		Point  string `json:"point"`
	}
	n := name{w.time(r.At), r.Series.Class, r.Series.Device, r.Series.Zone, r.Series.Point}
	if w.every == journal.Samples {
		return enc.Encode(struct {
			name
			Value     any    `json:"value"`
			Quality   string `json:"quality"`
			Uncertain bool   `json:"time_uncertain,omitempty"`
		}{n, r.Value.JSON(), r.Quality.String(), r.Uncertain})
	}
	var mean *float64
	if !math.IsNaN(r.Mean) {
		mean = &r.Mean
	}
	return enc.Encode(struct {
		name
		Every    string   `json:"every"`
		Mean     *float64 `json:"mean"`
		Min      any      `json:"min"`
		Max      any      `json:"max"`
		Last     any      `json:"last"`
		Count    uint64   `json:"count"`
		Changes  uint64   `json:"changes"`
		Good     float64  `json:"good_s"`
		Doubtful float64  `json:"doubtful_s"`
		Bad      float64  `json:"bad_s"`
		Unknown  float64  `json:"unknown_s"`
	}{n, w.every.String(), mean, r.Min.JSON(), r.Max.JSON(), r.Last.JSON(), r.Count, r.Changes,
		r.Good.Seconds(), r.Doubtful.Seconds(), r.Bad.Seconds(), r.Unknown().Seconds()})
}

// lineRow writes a sample as the city gets it, and an interval as fields of the point's name with _mean, _min, _max, _last
// and _good_s behind. Gaps are comments.
func (w *rowWriter) lineRow(r *journal.Row) error {
	if r.Series == nil {
		w.flushLines()
		_, err := fmt.Fprintf(w.out, "# gap from %s to %s: %s\n", w.time(r.At), w.time(r.Until), r.Gap)
		return err
	}
	if !r.At.Equal(w.last) { // Samples of one device and time become one line.
		w.flushLines()
		w.last = r.At
	}
	ns := r.At.UnixNano()
	if w.every == journal.Samples {
		w.line.Add(r.Series, ns, r.Quality, r.Value)
		return nil
	}
	add := func(suffix string, kind telemetry.Kind, v telemetry.Value) {
		if v.IsZero() {
			return
		}
		s := *r.Series
		s.Point, s.Kind = r.Series.Point+suffix, kind
		w.line.Add(&s, ns, telemetry.Good, v)
	}
	add("_mean", telemetry.Float, telemetry.FloatValue(r.Mean))
	add("_min", r.Series.Kind, r.Min)
	add("_max", r.Series.Kind, r.Max)
	add("_last", r.Series.Kind, r.Last)
	add("_good_s", telemetry.Float, telemetry.FloatValue(r.Good.Seconds()))
	return nil
}
