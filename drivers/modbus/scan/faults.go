package scan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
)

// judge turns what was seen into the report: units, and what is wrong.
func (s *scanner) judge() {
	s.judgeUnits()
	s.judgeSettings()
	s.judgeTraffic()
	s.judgeKnown()
	if len(s.report.Units) == 0 && !s.fault(Noise) && !s.fault(Echo) && len(s.report.Asked) > 0 {
		s.blame(s.nothing())
	}
}

func (s *scanner) blame(f Fault) { s.report.Faults = append(s.report.Faults, f) }

// fault reports whether a fault of a kind is in the report.
func (s *scanner) fault(kind string) bool {
	return slices.ContainsFunc(s.report.Faults, func(f Fault) bool { return f.Kind == kind })
}

// judgeUnits lists who answers, and finds two at one address and units that refuse everything.
func (s *scanner) judgeUnits() {
	if s.answersEverywhere() {
		f := s.found[0]
		s.addUnit(f)
		s.blame(Fault{Kind: EveryAddress, Sure: Likely, Addresses: s.Plan.Stages[0].Units,
			Text: "every address answers: one device that does not look at the unit address, or a gateway that answers for all",
			Do:   fmt.Sprintf("use one address in the site file, as %d", f.address)})
		return
	}
	for _, f := range s.found {
		two, sure, text := s.twoUnits(f)
		if f.clean == 0 && !two {
			continue // Garbled once or twice: somebody else's bytes.
		}
		u := s.addUnit(f)
		switch {
		case two:
			// Who answered what is not to be known.
			u.Conflict, u.Sure, u.Candidates, u.Identity = true, Unknown, nil, nil
			u.Remarks = []string{"two units at this address?"}
			if sure == Certain {
				u.Remarks = []string{"two units at this address"}
			}
			s.blame(Fault{Kind: TwoUnits, Sure: sure, Addresses: []int{f.address}, Line: f.line, Text: text,
				Do: "unplug one of them, give the other a free address, then plug it in again"})
		case f.unit != nil && f.readable == 0 && f.refused > 2:
			u.Remarks = append(u.Remarks, "answers, but refuses every register asked")
			s.blame(Fault{Kind: OnlyErrors, Sure: Certain, Addresses: []int{f.address}, Line: f.line,
				Text: fmt.Sprintf("unit %d answers, but with nothing but errors", f.address),
				Do:   "it is wired and set right; its model is not among the profiles, or it is not configured yet"})
		}
	}
	slices.Sort(s.report.NotAsked)
	s.report.NotAsked = slices.Compact(s.report.NotAsked)
	slices.SortStableFunc(s.report.Units, func(a, b Unit) int { return a.Address - b.Address })
}

// addUnit puts what was seen at an address into the report.
func (s *scanner) addUnit(f *sighting) *Unit {
	u := f.unit
	if u == nil {
		u = &Unit{Address: f.address, Line: f.line, RoundTrip: f.fastest, Sure: Unknown}
		switch {
		case f.unasked:
			u.Remarks = append(u.Remarks, "not asked who it is: the time was up")
			s.report.NotAsked = append(s.report.NotAsked, f.address)
		case f.clean > 0:
			u.Remarks = append(u.Remarks, "not asked who it is: the scan ended before")
		}
	}
	s.report.Units = append(s.report.Units, *u)
	return &s.report.Units[len(s.report.Units)-1]
}

// twoUnits judges whether more than one unit answers at an address.
func (s *scanner) twoUnits(f *sighting) (two bool, sure Sureness, text string) {
	if s.Plan.Kind == TCP {
		return false, "", ""
	}
	switch {
	case f.doubled > 1:
		return true, Certain, fmt.Sprintf("two units have address %d: two answers came to one request", f.address)
	case f.differ != "":
		return true, Certain, fmt.Sprintf("two units have address %d: the same request was answered with %s", f.address, f.differ)
	}
	bad, all := f.broken()
	if s.trafficAt(f.line).noisy() {
		return false, "", "" // Where everything is garbled the trouble is another.
	}
	text = fmt.Sprintf("two units seem to have address %d: %d of %d answers were garbled, and ", f.address, bad, all)
	others, broken := 0, 0
	for _, o := range s.found {
		if o != f && o.line == f.line && o.clean > 0 {
			b, n := o.broken()
			others, broken = others+n, broken+b
		}
	}
	alone := "nobody else answers at this setting; a bad line (termination, bias, length) looks the same"
	switch {
	case bad >= 3 && bad*2 >= all:
		if others == 0 || broken*3 > others {
			return true, Possible, text + alone
		}
		return true, Likely, text + "others on the line answer cleanly"
	case f.turns != "":
		return true, Possible, fmt.Sprintf("two units seem to have address %d: one register reads %s in turn", f.address, f.turns)
	case bad >= 2 && bad*doubtOne >= all && broken*4*all <= bad*others && !s.others():
		if others == 0 {
			return true, Possible, text + alone
		}
		return true, Possible, text + "others on the line answer cleanly; a bad cable to it looks the same"
	}
	return false, "", ""
}

// doubtOne: one garbled answer in so many makes an address suspect. Two units that answer alike at the same moment are
// heard as one most of the time.
const doubtOne = 10

// others reports whether somebody talks on the line without being asked, who breaks answers now and then.
func (s *scanner) others() bool {
	for _, t := range s.traffic {
		if len(t.text) > 0 || len(polls(t.frames)) > 0 {
			return true
		}
	}
	return false
}

// judgeSettings finds units that have another setting than the rest.
func (s *scanner) judgeSettings() {
	count := map[firmwareconfig.Line]int{}
	for _, u := range s.report.Units {
		count[u.Line]++
	}
	if len(count) < 2 {
		return
	}
	// The setting of most units; of several, the one that was tried first.
	var most firmwareconfig.Line
	for _, st := range s.Plan.Stages {
		if count[st.Line] > count[most] {
			most = st.Line
		}
	}
	for _, st := range s.Plan.Stages {
		if st.Line == most || count[st.Line] == 0 || sameFrames(st.Line, most) {
			continue
		}
		var units []int
		for i := range s.report.Units {
			u := &s.report.Units[i]
			if u.Line != st.Line {
				continue
			}
			units = append(units, u.Address)
			u.Remarks = append(u.Remarks, "not at "+Setting(most)+" as the others")
		}
		what := "another baud rate"
		switch {
		case st.Line.Baud == most.Baud:
			what = "another parity"
		case len(st.Line.Format) == 3 && st.Line.Format[:2] != most.Format[:2]:
			what = "another baud rate and parity"
		}
		s.blame(Fault{Kind: OtherSetting, Sure: Certain, Addresses: units, Line: st.Line,
			Text: fmt.Sprintf("%s at %s: %s than the %d at %s", theyAre(units), Setting(st.Line), what, count[most], Setting(most)),
			Do:   "one line has one setting: set these units to " + Setting(most) + ", or put them on a line of their own"})
	}
}

// theyAre names addresses: unit 5, units 5, 7.
func theyAre(units []int) string {
	if len(units) == 1 {
		return fmt.Sprintf("unit %d is", units[0])
	}
	return "units " + Ranges(units) + " are"
}

// judgeTraffic finds who talks without being asked.
func (s *scanner) judgeTraffic() {
	noise, noiseAt, explained := 0, firmwareconfig.Line{}, false
	garbled, probes := 0, 0
	seen := map[firmwareconfig.Line]bool{}
	for _, st := range s.Plan.Stages {
		if seen[st.Line] {
			continue
		}
		seen[st.Line] = true
		t := s.traffic[st.Line]
		if t == nil {
			continue
		}
		garbled, probes = garbled+t.garbled, probes+t.probes
		if t.bytes == 0 {
			continue
		}
		found := s.judgeText(st.Line, t)
		found = s.judgeMaster(st.Line, t) || found
		explained = explained || found
		if !found && t.listened > 0 && t.rest > noise {
			noise, noiseAt = t.rest, st.Line
		}
	}
	if s.echoes > 2 {
		s.blame(Fault{Kind: Echo, Sure: Certain, Text: "the adapter receives what it sends itself",
			Do: "switch its echo off (a jumper or RE tied to DE); units cannot be read reliably through it"})
	}
	switch {
	case explained:
	case probes >= 8 && garbled*3 > probes:
		s.blame(Fault{Kind: Noise, Sure: Likely,
			Text: fmt.Sprintf("%d of %d requests met bytes that make no sense", garbled, probes),
			Do:   "check bias and termination, shielding and the common wire, and whether A and B are swapped; then scan again"})
	case noise > 4:
		s.blame(Fault{Kind: Noise, Sure: Likely, Line: noiseAt,
			Text: fmt.Sprintf("%d bytes that make no sense came while nothing was asked", noise),
			Do:   "somebody talks at a setting that was not tried (--full), or A and B are swapped, or the line has no bias and termination"})
	}
}

// judgeText finds a unit that sends text by itself.
func (s *scanner) judgeText(line firmwareconfig.Line, t *traffic) bool {
	lines, n := textLines(t.text)
	if len(t.text) < 6 || n == 0 || s.fault(TextTalker) {
		return len(t.text) >= 6 && n > 0
	}
	example := lines[0]
	for _, l := range lines { // The longest is the least cut.
		if len(l) > len(example) {
			example = l
		}
	}
	s.blame(Fault{Kind: TextTalker, Sure: Certain, Line: line,
		Text: fmt.Sprintf("a unit sends text by itself%s, as %q", at(line), clean([]byte(example))),
		Do:   "unplug units one by one until it stops, and switch that one to Modbus (XY-MD02: its auto-report mode is on); until then it breaks answers of others"})
	return true
}

// judgeMaster finds another master.
func (s *scanner) judgeMaster(line firmwareconfig.Line, t *traffic) bool {
	ps := polls(t.frames)
	if len(ps) == 0 || s.fault(ForeignMaster) {
		return len(ps) > 0
	}
	var units []int
	var what []string
	writes := false
	for _, p := range ps {
		if !slices.Contains(units, int(p.unit)) {
			units = append(units, int(p.unit))
		}
		writes = writes || isWriting(p.function)
		if len(what) < 4 {
			what = append(what, fmt.Sprintf("unit %d (%s)", p.unit, p))
		}
	}
	if more := len(ps) - len(what); more > 0 {
		what = append(what, fmt.Sprintf("and %d more", more))
	}
	slices.Sort(units)
	text := "another master asks " + strings.Join(what, ", ")
	if n := requestsHeard(t); n >= 2 && t.listened > 0 {
		text += fmt.Sprintf("; a request about every %s", (t.listened / time.Duration(n)).Round(50*time.Millisecond))
	}
	if writes {
		text += "; it also writes"
	}
	s.blame(Fault{Kind: ForeignMaster, Sure: Certain, Addresses: units, Line: line, Text: text + at(line),
		Do: "a line has one master: disconnect the other one (a panel, a logger, a second gateway), or read through it"})
	return true
}

// requestsHeard counts the requests among the frames heard while listening.
func requestsHeard(t *traffic) int {
	n := 0
	for _, f := range t.frames[:min(t.inSpan, len(t.frames))] {
		if f.request {
			n++
		}
	}
	return n
}

func isWriting(function byte) bool {
	return function == 5 || function == 6 || function == 15 || function == 16
}

// at names a setting within a sentence.
func at(line firmwareconfig.Line) string {
	if line == (firmwareconfig.Line{}) {
		return ""
	}
	return " at " + Setting(line)
}

// judgeKnown holds what was found against the site file.
func (s *scanner) judgeKnown() {
	for _, k := range s.Known {
		asked := len(s.Plan.Stages) > 0 && slices.Contains(s.Plan.Stages[0].Units, k.Address)
		found := false
		for i := range s.report.Units {
			u := &s.report.Units[i]
			if u.Address != k.Address || k.Profile == nil {
				continue
			}
			found = true
			u.Known, u.Profile = k.ID, k.Profile.ID
			fits := slices.ContainsFunc(u.Candidates, func(c Candidate) bool { return c.Profile == k.Profile.ID })
			if fits || len(u.Candidates) == 0 || u.Conflict || u.Candidates[0].Sure == Possible {
				continue
			}
			u.Remarks = append(u.Remarks, "the site file says "+k.Profile.ID)
			s.blame(Fault{Kind: WrongProfile, Sure: u.Candidates[0].Sure, Addresses: []int{u.Address}, Line: u.Line,
				Text: fmt.Sprintf("unit %d (%s) is %s in the site file, but answers as %s", u.Address, k.ID, k.Profile.ID, u.Candidates[0].Profile),
				Do:   "look at its label, and correct the profile in the site file"})
		}
		if !found && asked && len(s.report.Asked) == len(s.Plan.Stages) && k.Profile != nil {
			s.blame(Fault{Kind: MissingUnit, Sure: Likely, Addresses: []int{k.Address},
				Text: fmt.Sprintf("unit %d (%s, %s) of the site file does not answer", k.Address, k.ID, k.Profile.ID),
				Do:   "check its supply, its wires A and B, its address and its setting"})
		}
	}
}

// nothing says what to check where nobody answered.
func (s *scanner) nothing() Fault {
	f := Fault{Kind: Nothing, Sure: Certain, Text: "nothing answers"}
	switch s.Plan.Kind {
	case TCP:
		f.Do = "the connection works: check the unit addresses behind it, and that it speaks Modbus TCP and not RTU over TCP"
	case RTUOverTCP:
		f.Do = "the converter is reached: check its serial setting, wires A and B (swapped?), supply, and that it is transparent and not a Modbus TCP gateway"
	default:
		f.Do = "check the supply of the units, A and B (swapped they give silence), the common wire, that this is the right port; then addresses above 32 and other settings: --full"
	}
	if s.Plan.Running {
		f.Do = "only the bus's own setting was asked; others with --suspend 60s. Check supply, A and B, addresses"
	}
	return f
}
