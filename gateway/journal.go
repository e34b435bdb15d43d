package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"linli/internal/journal"
	"linli/internal/uplink"
)

// journalOptions are what all commands about the journal have in common.
type journalOptions struct {
	file, state     string
	asJSON, verbose bool
}

func journalCommand() *cobra.Command {
	var o journalOptions
	cmd := group("journal", "Look at what a gateway keeps on its disk",
		"Look at the samples that a gateway keeps on its disk. All of these work beside a running gateway and change nothing.\n"+
			"They need the state directory: --state, or the site file's. With a site file times are the site's.")
	f := cmd.PersistentFlags()
	f.StringVarP(&o.file, "config", "c", "", "site file")
	f.StringVar(&o.state, "state", "", "state directory (default: the site file's, or "+defaultState+")")
	f.BoolVar(&o.asJSON, "json", false, "print for programs")
	f.BoolVar(&o.verbose, "progress", false, "tell progress also where standard error is no terminal")
	ls := &cobra.Command{
		Use:   "ls",
		Short: "List the segment files with their frames, samples, times and boots",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.list(cmd.OutOrStdout()) },
	}
	stat := &cobra.Command{
		Use:   "stat",
		Short: "Say how much is kept, and what was lost and why",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.stat(cmd.Context(), cmd.OutOrStdout()) },
	}
	verify := &cobra.Command{
		Use:   "verify",
		Short: "Read every byte and name what is damaged",
		Long: "Read every byte of the journal and name what is damaged, with file and place. Exit code 0: nothing is, 1: something is.\n\n" +
			"Frames that are missing between others are named, and, where the gateway sends to a broker, those at the end that were\n" +
			"taken for sending (uplink.state). What cannot be known from the box: whether the oldest frames went because their time\n" +
			"had come or because somebody deleted them, and, where nothing was sent, whether there were later ones. The city's\n" +
			"ledger knows both (linli ledger).",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.verify(cmd.Context(), cmd.OutOrStdout(), newProgressLine(cmd.ErrOrStderr(), o.verbose))
		},
	}
	cmd.AddCommand(ls, journalCatCommand(&o), stat, verify)
	return cmd
}

// place returns the state directory, and local time: the site's where the site file is given.
func (o *journalOptions) place() (dir string, p *plan, loc *time.Location, err error) {
	if o.file == "" {
		if dir = o.state; dir == "" {
			dir = defaultState
		}
		return dir, nil, time.Local, nil
	}
	if p, err = loadPlan(o.file); err != nil {
		return "", nil, nil, err
	}
	return stateDir(o.state, p.site), p, p.site.Inventory.Location, nil
}

// open opens the journal to look at it.
func (o *journalOptions) open() (j *journal.Journal, p *plan, loc *time.Location, err error) {
	dir, p, loc, err := o.place()
	if err != nil {
		return nil, nil, nil, err
	}
	path, err := journalIn(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	j, err = journal.Open(journal.Config{Dir: path, ReadOnly: true}, nil, nil)
	return j, p, loc, err
}

// journalIn returns the directory of the journal in a state directory. That there is none is an error.
func journalIn(state string) (string, error) {
	path := filepath.Join(state, "journal")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("there is no journal (--state names the state directory): %w", err)
	}
	return path, nil
}

func (o *journalOptions) list(out io.Writer) error {
	j, _, loc, err := o.open()
	if err != nil {
		return err
	}
	defer j.Close()
	type line struct {
		File      string     `json:"file"`
		First     uint64     `json:"first_seq"`
		Next      uint64     `json:"next_seq"`
		Frames    int        `json:"frames"`
		Missing   uint64     `json:"missing_frames"`
		Samples   uint64     `json:"samples"`
		Bytes     int64      `json:"bytes"`
		From      *time.Time `json:"from,omitempty"`
		To        *time.Time `json:"to,omitempty"`
		Uncertain bool       `json:"time_uncertain,omitempty"`
		Boot      string     `json:"boot"`
		State     string     `json:"state"`
	}
	list := []line{}
	segs := j.Segments()
	for i, s := range segs {
		l := line{File: s.Name, First: s.First, Next: s.Next, Frames: s.Frames, Missing: s.Next - s.First - uint64(s.Frames), Samples: s.Samples,
			Bytes: s.Bytes, Uncertain: s.Uncertain, Boot: s.Boot, State: "sealed"}
		switch {
		case !s.Sealed && i+1 == len(segs):
			l.State = "active"
		case !s.Sealed:
			l.State = "unsealed"
		}
		if !s.From.IsZero() {
			from, to := s.From.In(loc), s.To.In(loc)
			l.From, l.To = &from, &to
		}
		list = append(list, l)
	}
	epoch := fmt.Sprintf("%016x", j.Epoch())
	if o.asJSON {
		return json.NewEncoder(out).Encode(struct {
			Epoch    string `json:"epoch"`
			Segments []line `json:"segments"`
		}{epoch, list})
	}
	fmt.Fprintf(out, "epoch %s, %s\n", epoch, count(len(list), "segment"))
	if len(list) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tFRAMES\tSAMPLES\tBYTES\tFROM\tTO\tBOOT\tSTATE")
	for _, l := range list {
		state := l.State
		if l.Missing > 0 {
			state += fmt.Sprintf(", %d frames missing", l.Missing)
		}
		if l.Uncertain {
			state += ", times uncertain"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", l.File[17:], l.Frames, l.Samples, l.Bytes, localTime(l.From), localTime(l.To), shortBoot(l.Boot), state)
	}
	return w.Flush()
}

// localTime prints a time for people, and a dash where it is not known.
func localTime(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.Format(time.DateTime)
}

// shortBoot is as much of a boot id as tells it from others.
func shortBoot(id string) string {
	if len(id) > 13 && id[8] == '-' {
		return id[:8]
	}
	return id
}

// journalStat is what linli journal stat says.
type journalStat struct {
	Epoch          string        `json:"epoch"`
	First          uint64        `json:"first_seq"`
	Next           uint64        `json:"next_seq"`
	Segments       int           `json:"segments"`
	Samples        uint64        `json:"samples"`
	Bytes          int64         `json:"bytes"`
	BytesPerSample float64       `json:"bytes_per_sample"` // of the sealed segments: others have space in advance
	From           *time.Time    `json:"from,omitempty"`
	To             *time.Time    `json:"to,omitempty"`
	MissingFrames  uint64        `json:"missing_frames"`
	Losses         []journalLoss `json:"losses"`
	RollupMinutes  int           `json:"rollup_hours_by_minutes"`
	RollupHours    int           `json:"rollup_days_by_hours"`
	RollupBytes    int64         `json:"rollup_bytes"`
	RollupFrom     *time.Time    `json:"rollup_from,omitempty"`
	RollupWaiting  int           `json:"rollup_hours_waiting"`
}

// journalLoss sums up the losses of one reason.
type journalLoss struct {
	Reason  string     `json:"reason"`
	Times   int        `json:"times"`
	Samples uint64     `json:"samples,omitempty"` // as far as is known; left out where that is not at all
	Unknown int        `json:"unknown"`           // how many of them do not say how many samples
	Frames  uint64     `json:"frames"`
	From    *time.Time `json:"from,omitempty"`
	To      *time.Time `json:"to,omitempty"`
}

func (o *journalOptions) stat(ctx context.Context, out io.Writer) error {
	j, _, loc, err := o.open()
	if err != nil {
		return err
	}
	defer j.Close()
	st := journalStat{Epoch: fmt.Sprintf("%016x", j.Epoch()), Losses: []journalLoss{}}
	st.First, st.Next = j.Bounds()
	var sealedBytes int64
	var sealedSamples uint64
	stretch := func(from, to **time.Time, a, b time.Time) {
		if a.IsZero() || b.IsZero() {
			return
		}
		a, b = a.In(loc), b.In(loc)
		if *from == nil || a.Before(**from) {
			*from = &a
		}
		if *to == nil || b.After(**to) {
			*to = &b
		}
	}
	for _, s := range j.Segments() {
		st.Segments++
		st.Samples += s.Samples
		st.Bytes += s.Bytes
		st.MissingFrames += s.Next - s.First - uint64(s.Frames)
		if s.Sealed {
			sealedBytes += s.Bytes
			sealedSamples += s.Samples
		}
		stretch(&st.From, &st.To, s.From, s.To)
	}
	if sealedSamples > 0 {
		st.BytesPerSample = float64(sealedBytes) / float64(sealedSamples)
	}
	if err := j.LookAtRollups(ctx); err != nil {
		return err
	}
	rollups := j.Stats().Rollups
	st.RollupMinutes, st.RollupHours, st.RollupBytes, st.RollupWaiting = rollups.Minutes, rollups.Hours, rollups.Bytes, rollups.Waiting
	if !rollups.From.IsZero() {
		from := rollups.From.In(loc)
		st.RollupFrom = &from
	}
	told, err := j.Losses(ctx)
	if err != nil {
		return err
	}
	for _, l := range told {
		i := slices.IndexFunc(st.Losses, func(x journalLoss) bool { return x.Reason == l.Reason })
		if i < 0 {
			i = len(st.Losses)
			st.Losses = append(st.Losses, journalLoss{Reason: l.Reason})
		}
		x := &st.Losses[i]
		x.Times++
		x.Samples += l.Count
		if l.Count == 0 {
			x.Unknown++
		}
		if l.FirstSeq != 0 {
			x.Frames += l.LastSeq - l.FirstSeq + 1
		}
		stretch(&x.From, &x.To, l.From, l.To)
	}
	if o.asJSON {
		return json.NewEncoder(out).Encode(st)
	}
	fmt.Fprintf(out, "epoch %s, frames %d to %d, %s\n", st.Epoch, st.First, max(st.Next, 1)-1, count(st.Segments, "segment"))
	fmt.Fprintf(out, "%d samples from %s to %s\n", st.Samples, localTime(st.From), localTime(st.To))
	fmt.Fprintf(out, "%d bytes", st.Bytes)
	if st.BytesPerSample > 0 {
		fmt.Fprintf(out, ", %.2f a sample in sealed segments", st.BytesPerSample)
	}
	fmt.Fprintln(out)
	if st.RollupMinutes+st.RollupHours > 0 {
		fmt.Fprintf(out, "rollups since %s: %s by the minute, %s by the hour, %d bytes\n", localTime(st.RollupFrom), count(st.RollupMinutes, "hour"), count(st.RollupHours, "day"), st.RollupBytes)
	}
	if rollups.Damaged > 0 {
		fmt.Fprintf(out, "%s cannot be read\n", count(int(rollups.Damaged), "rollup file"))
	}
	if st.MissingFrames > 0 {
		fmt.Fprintf(out, "%d frames cannot be read\n", st.MissingFrames)
	}
	if len(st.Losses) == 0 {
		fmt.Fprintln(out, "no loss is told of")
	}
	for _, l := range st.Losses {
		fmt.Fprintf(out, "lost, %s: %s, ", l.Reason, count(l.Times, "time"))
		switch {
		case l.Samples == 0:
			fmt.Fprint(out, "unknown number 数量未知")
		case l.Unknown > 0:
			fmt.Fprintf(out, "%d samples and an unknown number 另有数量未知", l.Samples)
		default:
			fmt.Fprintf(out, "%d samples", l.Samples)
		}
		if l.Frames > 0 {
			fmt.Fprintf(out, " in %d frames", l.Frames)
		}
		fmt.Fprintf(out, ", from %s to %s\n", localTime(l.From), localTime(l.To))
	}
	return nil
}

func (o *journalOptions) verify(ctx context.Context, out io.Writer, progress *progressLine) error {
	dir, _, _, err := o.place()
	if err != nil {
		return err
	}
	path, err := journalIn(dir)
	if err != nil {
		return err
	}
	epoch, taken, stateErr := uplink.Taken(dir) // before the journal, which may be growing
	r, err := journal.Verify(ctx, path, func(done, total int) {
		progress.show(fmt.Sprintf("%3d %% of %s read", 100*done/max(total, 1), count(total, "file")))
	})
	progress.done()
	if err != nil {
		return err
	}
	if stateErr != nil {
		r.Wrong++
		r.Problems = append(r.Problems, stateErr.Error())
	}
	if next := max(r.Next, 1); taken > next && (epoch == r.Epoch || r.Epoch == 0) {
		r.Wrong++
		r.Missing += taken - next
		r.Problems = append(r.Problems, fmt.Sprintf("frames %d to %d of epoch %016x were taken for sending and are not there", next, taken-1, epoch))
	}
	if o.asJSON {
		problems := r.Problems
		if problems == nil {
			problems = []string{}
		}
		err = json.NewEncoder(out).Encode(struct {
			Good     bool     `json:"good"`
			Segments int      `json:"segments"`
			Frames   uint64   `json:"frames"`
			Samples  uint64   `json:"samples"`
			Bytes    int64    `json:"bytes"`
			Missing  uint64   `json:"missing_frames"`
			Rollups  int      `json:"rollup_files"`
			Aside    int      `json:"set_aside"`
			Wrong    int      `json:"wrong"`
			Problems []string `json:"problems"`
		}{r.Wrong == 0, r.Segments, r.Frames, r.Samples, r.Bytes, r.Missing, r.Rollups, r.Aside, r.Wrong, problems})
	} else {
		for _, p := range r.Problems {
			fmt.Fprintln(out, p)
		}
		if r.Wrong > len(r.Problems) {
			fmt.Fprintf(out, "and %d more\n", r.Wrong-len(r.Problems))
		}
		if r.Aside > 0 {
			fmt.Fprintf(out, "%s set aside earlier (*.damaged); what could be read of them is kept\n", count(r.Aside, "damaged file"))
		}
		verdict := "good"
		if r.Wrong > 0 {
			verdict = "damaged: " + count(r.Wrong, "place")
		}
		fmt.Fprintf(out, "%s. %s, %d frames, %d samples, %s, %d bytes read\n", verdict, count(r.Segments, "segment"), r.Frames, r.Samples, count(r.Rollups, "rollup file"), r.Bytes)
	}
	if err == nil && r.Wrong > 0 {
		err = errAnswered
	}
	return err
}

// errNothing is said where no row was found.
var errNothing = errors.New("nothing was found")
