// Package scan finds out what is on a Modbus line: which units answer at which settings, who they are, and what is
// wrong with the wiring.
//
// # What it does
//
//   - It listens before it asks: text that a unit sends by itself, another master's requests, noise (listen.go).
//   - It asks every address of the plan at every setting of the plan for one register. An exception is an answer too:
//     every Modbus unit gives at least that. Where units answered, the silent addresses are asked once more, with
//     another function and more patience (search.go).
//   - It asks each unit the same several times, to see whether two answer (doubt.go), and then who it is: read device
//     identification (0x2B/0x0E), then the signatures of the profiles, then, where none fits, whether the registers of
//     profiles without a signature are there (identify.go, asker.go, match.go).
//   - It names what is wrong: two units at one address, units at another setting than the rest, talkers, masters,
//     echo, units that refuse everything (faults.go).
//
// A plan is computed before anything is sent and says how long it takes (plan.go).
//
// # Guarantees
//
// It writes nothing: the only functions it sends are 1 to 4 and 0x2B. It asks no address outside the plan, and a plan
// has the addresses 0 and 248 to 255, which several units answer at once, only where that was asked for. A plan with a
// limit is held by shortening the waits, never below leastTimeout, and by leaving units unidentified, which the report
// names. When its context ends it returns what was found so far.
//
// A silent unit is not proof of absence: wrong wiring, no power and settings outside the plan look the same. How sure
// each finding is stands beside it.
//
// # Concurrency
//
// Run belongs to one goroutine and calls Conn and Progress from it only. It starts none.
package scan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
)

// Conn is the line as the scan uses it.
type Conn interface {
	// Ask sends one request PDU and waits at most timeout for the answer to begin. Exceptions are answers. An error
	// means that the unit gave none; Reply.Heard then has what came instead.
	Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error)
	// Hear listens for d without asking.
	Hear(ctx context.Context, d time.Duration) ([]byte, error)
	// Set changes the settings of a serial line.
	Set(ctx context.Context, line firmwareconfig.Line) error
}

// Config is one scan.
type Config struct {
	Conn     Conn
	Plan     Plan
	Profiles []*firmwareconfig.Profile // what units may be
	Known    []firmwareconfig.Unit     // what the site file says is there
	// Lost reports whether an error of Conn means that the line itself is gone, so that there is no use in asking on.
	// Nil: none does.
	Lost func(error) bool
	// Progress is told what is being done; nil for nobody.
	Progress func(Progress)
	// Searched is told once, when the search is over, how many units answer, how long asking who they are takes by the
	// round trips measured, and how long there is for it (0: as long as it takes); nil for nobody.
	Searched func(units int, takes, left time.Duration)
}

// Progress is where a scan is.
type Progress struct {
	Doing string              // listening, searching, asking again, identifying
	Line  firmwareconfig.Line // the setting, zero where the line has none
	Unit  int                 // address, 0 for none
	Found int                 // units that answered so far
	Done  float64             // of the search, 0..1
	Left  time.Duration       // until the search is over, as far as can be told
}

// Sureness is how far a finding is to be trusted.
type Sureness string

// The grades of a Sureness.
const (
	Certain  Sureness = "certain"  // nothing else explains what was seen
	Likely   Sureness = "likely"   // the usual cause of what was seen
	Possible Sureness = "possible" // it fits, and so does something else
	Unknown  Sureness = "unknown"  // nothing known fits
)

// Report is what a scan found.
type Report struct {
	Units  []Unit
	Faults []Fault
	// Asked is the settings at which all addresses of the plan were asked.
	Asked []firmwareconfig.Line
	// NotAsked is the addresses of units that were not asked who they are because the time was up.
	NotAsked []int
	// Complete is false where the scan was interrupted or the line was lost.
	Complete bool
	Took     time.Duration
}

// Unit is an address where something answers.
type Unit struct {
	Address int
	Line    firmwareconfig.Line // the setting at which it answers; zero where the line has none
	// Sure is how sure it is who the unit is: that of its best candidate.
	Sure       Sureness
	Candidates []Candidate   // every profile that fits, best first
	Identity   *Identity     // what it says of itself, nil where it does not
	RoundTrip  time.Duration // the shortest seen
	Known      string        // the unit's id in the site file, "" where it has none
	Profile    string        // its profile there
	Remarks    []string      // for people
	// Conflict: more than one unit answers here, so that nothing else of this entry can be relied on.
	Conflict bool
}

// Candidate is a profile that fits a unit.
type Candidate struct {
	Profile string
	Model   string // maker and model, for people
	Sure    Sureness
	Why     string
	Alike   []string // profiles that fit as well and cannot be told apart by registers
	score   int
}

// Fault is something that is wrong with the line.
type Fault struct {
	Kind      string // one of the Fault constants
	Sure      Sureness
	Addresses []int
	Line      firmwareconfig.Line
	Text      string // what was seen
	Do        string // what to do about it
}

// The kinds of a Fault.
const (
	TwoUnits      = "two_units_one_address"
	OtherSetting  = "other_setting"
	TextTalker    = "text_talker"
	ForeignMaster = "foreign_master"
	Noise         = "noise"
	Echo          = "echo"
	OnlyErrors    = "only_errors"
	WrongProfile  = "wrong_profile"
	EveryAddress  = "answers_at_every_address"
	MissingUnit   = "missing_unit"
	Nothing       = "nothing_found"
)

// Run carries out the plan. The report is never nil. The error is nil also where ctx ended: the report then holds what
// was found so far and is not Complete.
func Run(ctx context.Context, c Config) (*Report, error) {
	s := &scanner{Config: c, began: time.Now(), report: &Report{}, traffic: map[firmwareconfig.Line]*traffic{}}
	err := s.run(ctx)
	if s.set {
		// The line gets its first setting back also after an interruption.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		err = errors.Join(err, s.Conn.Set(back, firmwareconfig.Line{}))
		cancel()
	}
	s.judge()
	s.report.Complete = err == nil && ctx.Err() == nil
	s.report.Took = time.Since(s.began)
	if ctx.Err() != nil {
		err = nil
	}
	return s.report, err
}

// scanner is one scan on its way.
type scanner struct {
	Config
	began  time.Time
	report *Report
	line   firmwareconfig.Line // present setting
	set    bool                // Set was called
	probes int                 // done, of the search
	found  []*sighting         // in the order in which they were seen
	// traffic is what was heard at each setting without being an answer to us.
	traffic map[firmwareconfig.Line]*traffic
	echoes  int // of our own requests
}

// sighting is an address at one setting where something came back.
type sighting struct {
	address  int
	line     firmwareconfig.Line
	clean    int  // whole answers
	garbled  int  // bytes that were no frame
	doubled  int  // requests that got more than one whole answer
	late     int  // answers that came too late, or with another
	trailing int  // garbage after a whole answer
	owing    bool // the last request was not answered
	differ   string
	turns    string // what it answers in turn, where that looks like two
	more     int    // answers while it was asked who it is, whole or garbled
	spoilt   int    // of more: garbled
	unasked  bool   // the time was up before it could be asked who it is
	fastest  time.Duration
	refused  int // of clean: exceptions
	readable int // of clean: data
	unit     *Unit
}

func (s *scanner) run(ctx context.Context) error {
	if err := s.listen(ctx); err != nil {
		return err
	}
	if err := s.search(ctx); err != nil {
		return err
	}
	if err := s.again(ctx); err != nil {
		return err
	}
	if n := s.cleanUnits(); s.Searched != nil && n > 0 {
		left := time.Duration(0)
		if s.Plan.Limit > 0 {
			left = max(s.Plan.Limit-time.Since(s.began), time.Millisecond)
		}
		s.Searched(n, time.Duration(n)*s.unitTakes(), left)
	}
	return s.identify(ctx)
}

// overdue reports whether the time of the plan is up, but for what the last request may still take.
func (s *scanner) overdue() bool {
	return s.Plan.Limit > 0 && time.Since(s.began) >= s.Plan.Limit-lastRequest
}

// lastRequest is kept of the time of a plan for the request that is on its way when it is up.
const lastRequest = 600 * time.Millisecond

// unitTakes returns about how long asking one unit who it is takes, from the round trips measured.
func (s *scanner) unitTakes() time.Duration {
	var sum, n time.Duration
	for _, f := range s.found {
		if f.clean > 0 {
			sum, n = sum+f.fastest+2*s.quiet(f.line), n+1
		}
	}
	if n == 0 {
		return unitCost
	}
	d := unitRequests * sum / n
	if s.Plan.Kind != TCP {
		d += secondAnswer
	}
	if s.Plan.Share > 0 {
		d = time.Duration(float64(d) / s.Plan.Share)
	}
	return d
}

func (s *scanner) quiet(l firmwareconfig.Line) time.Duration {
	if l.Baud == 0 {
		return 0
	}
	return quiet(l)
}

// setLine changes the line to a setting of the plan.
func (s *scanner) setLine(ctx context.Context, line firmwareconfig.Line) error {
	if line == s.line || line == (firmwareconfig.Line{}) {
		s.line = line
		return nil
	}
	// The first setting of a line that is not ours to change is the one it has.
	if !s.Plan.Fixed {
		if err := s.Conn.Set(ctx, line); err != nil {
			return fmt.Errorf("set the line to %s: %w", Setting(line), err)
		}
		s.set = true
	}
	s.line = line
	return nil
}

// lost returns err where the line itself is gone or ctx has ended, nil where only this unit did not answer.
func (s *scanner) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && s.Lost != nil && s.Lost(err) {
		return err
	}
	return nil
}

func (s *scanner) tell(doing string, unit int) {
	if s.Progress == nil {
		return
	}
	n := 0
	for _, f := range s.found {
		if f.clean > 0 {
			n++
		}
	}
	p := Progress{Doing: doing, Line: s.line, Unit: unit, Found: n, Done: 1}
	if total := s.Plan.Probes(); total > 0 && doing != "identifying" {
		p.Done = float64(s.probes) / float64(total)
		p.Left = s.Plan.left(s.probes)
	}
	s.Progress(p)
}

// Setting returns a setting as people write it: 9600 8N1.
func Setting(l firmwareconfig.Line) string {
	if l == (firmwareconfig.Line{}) {
		return "-"
	}
	return fmt.Sprintf("%d %s", l.Baud, l.Format)
}
