package firmwareconfig

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Configurer plans and writes the settings of units, one unit at a time. It belongs to one goroutine.
//
// Nothing is written before the unit was told from its look-alikes, nothing where the value is right already, and
// nothing twice: after an unknown outcome the register is read. It keeps no state: what was written is found as it is
// by the next Plan, so that an Apply that was stopped is gone on with by planning anew.
type Configurer struct {
	Asker Asker
	// SetLine sets the line to other settings, so that a unit can be followed there. Nil where that cannot be done from
	// here (the serial side of a converter): settings that change the rate or the parity are refused then.
	SetLine func(ctx context.Context, line Line) error
	// Profiles are all that are known, by id; look-alikes are looked up here.
	Profiles map[string]*Profile
	// Approve is asked once for a unit before settings are written that change how it is reached. Nil approves.
	Approve func(ctx context.Context, plan *UnitPlan, moves []Setting) (bool, error)
	// Tell hears of every step; nil for nobody.
	Tell func(Step)
	// Wait is how long to wait for a unit to be switched off and on; 0 does not wait.
	Wait time.Duration
	// Save has the unit told to save its settings although none was written, where the model has to be told.
	Save bool
	// Unverified has settings written of which nobody has confirmed the register; without it an Apply that would change
	// one stops before it writes anything.
	Unverified bool

	line Line // what the line is set to, zero for the bus's own settings
}

// Step is something that Apply did or waits for.
type Step struct {
	Unit    string
	Kind    StepKind
	Setting Setting // of StepWritten
	Place   Place   // where the unit is (StepMoved, StepBack) or is looked for (StepWaiting)
	Waited  time.Duration
	Left    time.Duration
}

// StepKind is what a Step is.
type StepKind uint8

// The kinds of a Step.
const (
	StepUnlocked StepKind = iota + 1 // the unit accepts settings now
	StepWritten                      // a setting was written and read back
	StepMoved                        // the unit answers at another place
	StepSaved                        // the unit was told to save its settings
	StepWaiting                      // the unit has to be switched off and on; told again while it is waited for
	StepBack                         // it was, and has everything that was wanted
)

// ErrDeclined: the settings that change how the unit is reached were not approved. The others were written.
var ErrDeclined = errors.New("not approved")

// ErrWaiting: everything is written; the unit takes it over when it is switched off and on, which was not waited for.
var ErrWaiting = errors.New("the unit has to be switched off and on")

// StopError says that something came otherwise than expected, and that nothing more was written.
type StopError struct {
	Unit  string
	What  string // a sentence's end
	Place Place  // where the unit was last known to be
	Err   error  // may be nil
}

// Error tells what happened.
func (e *StopError) Error() string {
	s := "unit " + e.Unit + ": " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *StopError) Unwrap() error { return e.Err }

// Times of following a unit.
const (
	followTries = 6
	followPause = 500 * time.Millisecond
	backPause   = 2 * time.Second
)

// Apply writes what differs in a plan that Plan has just made: plain settings first, then those that change how the
// unit is reached, the address last, each read back. It stops at the first surprise with a *StopError.
func (c *Configurer) Apply(ctx context.Context, p *UnitPlan) error {
	a := &applying{Configurer: c, plan: p, at: p.At}
	if len(p.Changes()) == 0 && !p.Waiting() && !c.Save {
		return nil
	}
	if err := c.use(ctx, p.Home.Line, a.at.Line); err != nil {
		return err
	}
	if err := c.tellApart(ctx, p); err != nil {
		return err
	}
	if err := presentUnit(ctx, c.Asker, &p.Unit, p.At, p.Settings, true); err != nil {
		return err
	}
	if doubtful := p.Unverified(); len(doubtful) > 0 && !c.Unverified {
		return a.stop(nil, "%s stands in a register that nobody has confirmed. Nothing was written. Make sure of it with the manual and the unit, then apply with --unverified", doubtful[0].Param.place())
	}
	if err := a.mayMove(ctx); err != nil {
		return err
	}
	if len(p.Changes()) > 0 {
		if err := a.raw(ctx, p.Unit.Profile.Unlock, StepUnlocked); err != nil {
			return err
		}
	}
	for i := range p.Settings {
		if s := &p.Settings[i]; s.Param.Role == ParamPlain && s.Differs() {
			if err := a.write(ctx, s); err != nil {
				return err
			}
		}
	}
	if a.wrote || c.Save {
		if err := a.raw(ctx, p.Unit.Profile.Save, StepSaved); err != nil {
			return err
		}
	}
	return a.move(ctx)
}

// tellApart makes sure that a unit is the model that it is meant to be, and none of its look-alikes.
func (c *Configurer) tellApart(ctx context.Context, p *UnitPlan) error {
	prof := p.Unit.Profile
	if err := identifyUnit(ctx, c.Asker, &p.Unit, p.At.Address); err != nil {
		return err
	}
	if len(prof.LookAlikes) == 0 {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return &IdentityError{Unit: p.Unit.ID, Profile: prof.ID, Why: []string{fmt.Sprintf(format, args...)}}
	}
	if len(prof.Signature) == 0 && prof.DeviceID == nil {
		return refuse("the profile has no signature that tells it from %s, and a setting written to the wrong one can lose it; nothing was written", strings.Join(prof.LookAlikes, ", "))
	}
	for _, id := range prof.LookAlikes {
		other := c.Profiles[id]
		if other == nil || len(other.Signature) == 0 && other.DeviceID == nil {
			continue // Its own signature is what tells it apart.
		}
		against, err := identify(ctx, c.Asker, other, p.At.Address)
		if err != nil {
			return fmt.Errorf("unit %s at %s: %w", p.Unit.ID, p.At, err)
		}
		if len(against) == 0 {
			return refuse("it passes for a %s as well, whose registers mean something else; nothing was written", id)
		}
	}
	return nil
}

// use sets the line to line, the zero Line to the bus's own settings.
func (c *Configurer) use(ctx context.Context, home, line Line) error {
	if line == home {
		line = Line{}
	}
	if line == c.line {
		return nil
	}
	if c.SetLine == nil {
		return fmt.Errorf("the line cannot be set to %d %s from here: it is the converter's", line.Baud, line.Format)
	}
	if err := c.SetLine(ctx, line); err != nil {
		return fmt.Errorf("set the line to other settings: %w", err)
	}
	c.line = line
	return nil
}

// applying is one Apply.
type applying struct {
	*Configurer
	plan  *UnitPlan
	at    Place // where the unit answers now
	wrote bool
}

func (a *applying) tell(s Step) {
	if a.Tell != nil {
		s.Unit = a.plan.Unit.ID
		a.Tell(s)
	}
}

func (a *applying) stop(err error, format string, args ...any) error {
	return &StopError{Unit: a.plan.Unit.ID, What: fmt.Sprintf(format, args...), Place: a.at, Err: err}
}

// end is where the unit will be once everything has taken effect.
func (a *applying) end() Place {
	end := a.at
	for i := range a.plan.Settings {
		end = moved(end, &a.plan.Settings[i])
	}
	return end
}

// moved returns where a unit is after a setting has taken effect.
func moved(at Place, s *Setting) Place {
	n, err := strconv.Atoi(s.Want)
	switch s.Param.Role {
	case ParamAddress:
		if err == nil {
			at.Address = n
		}
	case ParamBaud:
		if err == nil && at.Line.Baud != 0 {
			at.Line.Baud = n
		}
	case ParamFormat:
		if at.Line.Baud != 0 {
			at.Line.Format = s.Want
		}
	}
	return at
}

// mayMove asks whether the unit may be moved, before anything is written, and refuses what could not be followed.
func (a *applying) mayMove(ctx context.Context) error {
	moves := a.plan.Moves()
	if len(moves) == 0 {
		return nil
	}
	end := a.end()
	for _, m := range moves {
		if m.Param.Role != ParamAddress && a.SetLine == nil {
			return a.stop(nil, "%s is to be set to %s, but the unit could not be followed there: the settings of the line are those of the converter. Set it with the unit on a serial port. Nothing was written", m.Param.Name, m.Want)
		}
	}
	if end != a.at {
		err := a.use(ctx, a.plan.Home.Line, end.Line)
		if err == nil && a.answers(ctx, end.Address) {
			err = a.stop(nil, "somebody answers at %s already: two units there would drown each other. Nothing was written", end)
		}
		if back := a.use(ctx, a.plan.Home.Line, a.at.Line); err == nil {
			err = back
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answers reports whether anybody answers at an address.
func (a *applying) answers(ctx context.Context, address int) bool {
	m := a.plan.Settings[0].Param
	_, _, err := readParam(ctx, a.Asker, address, m)
	return err == nil || errors.As(err, new(*RefusedError))
}

// raw writes what unlocks or saves the settings.
func (a *applying) raw(ctx context.Context, list []RawWrite, kind StepKind) error {
	for _, w := range list {
		if err := writeWords(ctx, a.Asker, a.at.Address, w.Table, w.Address, []uint16{w.Value}, 0); err != nil {
			what := "could not be unlocked"
			if kind == StepSaved {
				what = "did not confirm that its settings are saved; they may be lost when it is switched off. Apply again with --save"
			}
			return a.stop(err, "%s (%s %d = %d)", what, w.Table, w.Address, w.Value)
		}
	}
	if len(list) > 0 {
		a.tell(Step{Kind: kind, Place: a.at})
	}
	return nil
}

// write writes one setting where the unit is, and reads it back. Of settings that move the unit at once the reading
// back is done by follow.
func (a *applying) write(ctx context.Context, s *Setting) error {
	m := s.Param
	is, now, err := readParam(ctx, a.Asker, a.at.Address, m)
	if err != nil {
		return a.stop(err, "%s could not be read just before it was to be written; nothing was written to it", m.Name)
	}
	if is == s.want {
		return nil
	}
	if is != s.is {
		return a.stop(nil, "%s was %s when it was planned and is %s now: somebody else is changing it. Nothing was written to it", m.Name, s.Is, m.text(is))
	}
	a.wrote = true
	written := writeWords(ctx, a.Asker, a.at.Address, m.Table, m.Address, m.words(s.want, now), m.Function)
	var refused *RefusedError
	if errors.As(written, &refused) && refused.Code != 5 {
		return a.stop(written, "%s was not taken (%s wanted)", m.Name, s.Want)
	}
	if m.Role != ParamPlain && !m.AfterPowerCycle {
		return a.follow(ctx, s, written)
	}
	got, _, err := readParam(ctx, a.Asker, a.at.Address, m)
	switch {
	case err != nil:
		return a.stop(both(written, err), "%s was written (%s), and nobody knows whether it was taken: the unit does not answer any more", m.Name, s.Want)
	case got == s.want:
	case m.AfterPowerCycle && got == s.is && written == nil:
		// It shows the new value only once it is in effect; whether it is will be seen then.
	case got == s.is:
		return a.stop(written, "%s was not taken: it was set to %s and still reads %s", m.Name, s.Want, s.Is)
	default:
		return a.stop(written, "%s was set to %s and reads %s", m.Name, s.Want, m.text(got))
	}
	a.tell(Step{Kind: StepWritten, Setting: *s, Place: a.at})
	return nil
}

// follow looks for a unit that a setting has moved at once.
func (a *applying) follow(ctx context.Context, s *Setting, written error) error {
	old, new := a.at, moved(a.at, s)
	home := a.plan.Home.Line
	look := func(at Place) (uint64, error) {
		if err := a.use(ctx, home, at.Line); err != nil {
			return 0, err
		}
		raw, _, err := readParam(ctx, a.Asker, at.Address, s.Param)
		return raw, err
	}
	var err error
	for try := range followTries {
		if try > 0 && !pause(ctx, followPause) {
			return a.stop(ctx.Err(), "%s was set to %s; interrupted before the unit was found at %s", s.Param.Name, s.Want, new)
		}
		var got uint64
		if got, err = look(new); err == nil && got == s.want {
			a.at = new
			a.tell(Step{Kind: StepWritten, Setting: *s, Place: new})
			if new != old {
				a.tell(Step{Kind: StepMoved, Place: new})
			}
			return nil
		}
		if err == nil && new != old {
			return a.stop(nil, "%s was set to %s; what answers at %s has %s there", s.Param.Name, s.Want, new, s.Param.text(got))
		}
	}
	got, there := look(old)
	switch {
	case there == nil && got == s.want:
		return a.stop(written, "%s holds %s now, but the unit still answers at %s: switch it off and on, then plan again", s.Param.Name, s.Want, old)
	case there == nil:
		return a.stop(written, "%s was not taken: it was set to %s and still reads %s", s.Param.Name, s.Want, s.Param.text(got))
	}
	return a.stop(both(written, err), "%s was set to %s, and the unit answers neither at %s nor at %s. Switch it off and on, and look for it with linli scan", s.Param.Name, s.Want, new, old)
}

// move writes the settings that change how the unit is reached, and follows it.
func (a *applying) move(ctx context.Context) error {
	moves := a.plan.Moves()
	if len(moves) > 0 && a.Approve != nil {
		switch yes, err := a.Approve(ctx, a.plan, moves); {
		case err != nil:
			return err
		case !yes:
			return ErrDeclined
		}
	}
	cycle := a.plan.Waiting()
	final := a.at
	for i := range a.plan.Settings {
		s := &a.plan.Settings[i]
		if s.Param.Role == ParamPlain {
			continue
		}
		if s.Differs() {
			if err := a.write(ctx, s); err != nil {
				return err
			}
			cycle = cycle || s.Param.AfterPowerCycle
		}
		final = moved(final, s)
	}
	if len(moves) > 0 {
		if err := a.raw(ctx, a.plan.Unit.Profile.Save, StepSaved); err != nil {
			return err
		}
	}
	if !cycle {
		if len(moves) > 0 {
			return a.final(ctx, StepBack)
		}
		return nil
	}
	return a.await(ctx, final)
}

// await waits until the unit was switched off and on and answers where it should.
func (a *applying) await(ctx context.Context, final Place) error {
	if a.Wait <= 0 || final == a.at {
		a.tell(Step{Kind: StepWaiting, Place: final})
		return ErrWaiting
	}
	if err := a.use(ctx, a.plan.Home.Line, final.Line); err != nil {
		return err
	}
	began := time.Now()
	for {
		waited := time.Since(began)
		a.tell(Step{Kind: StepWaiting, Place: final, Waited: waited, Left: max(a.Wait-waited, 0)})
		if a.answers(ctx, final.Address) {
			break
		}
		if waited >= a.Wait || !pause(ctx, backPause) {
			return a.stop(ctx.Err(), "everything is written; it was not switched off and on (it is looked for at %s). Do so, then run linli config verify", final)
		}
	}
	a.at = final
	return a.final(ctx, StepBack)
}

// final looks at everything once more where the unit is now.
func (a *applying) final(ctx context.Context, kind StepKind) error {
	unit := &a.plan.Unit
	if err := identifyUnit(ctx, a.Asker, unit, a.at.Address); err != nil {
		return a.stop(err, "what answers at %s now is not what was set", a.at)
	}
	for i := range a.plan.Settings {
		s := &a.plan.Settings[i]
		got, _, err := readParam(ctx, a.Asker, a.at.Address, s.Param)
		if err != nil {
			return a.stop(err, "%s cannot be read at %s", s.Param.Name, a.at)
		}
		if got != s.want {
			return a.stop(nil, "%s was set to %s and reads %s now", s.Param.Name, s.Want, s.Param.text(got))
		}
	}
	a.tell(Step{Kind: kind, Place: a.at})
	return nil
}

// both joins two errors, of which one may be nil; what they both say is said once.
func both(a, b error) error {
	if a != nil && b != nil && a.Error() == b.Error() {
		return a
	}
	return errors.Join(a, b)
}

// pause waits, and reports false where ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
