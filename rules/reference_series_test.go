package rules_test

import (
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"linli/internal/telemetry"
)

// seriesMaker makes random samples: values near the limits, gaps, bad quality, and everything odd that may come.
type seriesMaker struct {
	*rand.Rand
	site   *site
	states []seriesState // by point
	mono   telemetry.Mono
	offset time.Duration // wall clock less monotonic
	set    bool          // the clock is set
}

type seriesState struct {
	number float64
	bad    int // so many more samples without a value
	why    telemetry.Quality
	busy   int // a sample in about so many seconds
}

// step makes what arrives in one step, and moves on.
func (m *seriesMaker) step(sc *scenario) scenarioStep {
	var st scenarioStep
	length := 1
	switch m.IntN(20) {
	case 0, 1:
		length = 0
	case 2, 3, 4, 5, 6:
		length = 2 + m.IntN(4)
	case 7:
		length = 6 + m.IntN(40)
	}
	// What is not a sample is noticed when the engine next looks: in a step of one second that is its end.
	if length == 1 {
		m.clock()
		if m.IntN(40) == 0 { // somebody closes several, most of which are not even active
			rule := sc.rules[m.IntN(len(sc.rules))]
			for _, subject := range append(sc.subjects(), "s1") {
				if m.IntN(3) > 0 {
					st.close = append(st.close, telemetry.Identity{Alert: rule.name, Subject: subject})
				}
			}
		}
		st.reload = m.IntN(100) == 0
		if st.restart = m.IntN(100) == 0 && len(sc.steps) > 0; st.restart && m.IntN(2) == 0 {
			st.boot = time.Duration(m.IntN(500)-90) * time.Second
		}
	}
	from := m.mono
	m.mono += telemetry.Mono(length) * second
	for id := range m.states {
		for t := from + second; t <= m.mono || length == 0 && t == from+second; t += second {
			if m.IntN(m.states[id].busy) == 0 {
				st.samples = append(st.samples, m.sample(telemetry.PointID(id), min(t, m.mono)))
				if m.IntN(12) == 0 { // another at the same moment
					st.samples = append(st.samples, m.sample(telemetry.PointID(id), min(t, m.mono)))
				}
			}
		}
	}
	sort.SliceStable(st.samples, func(i, j int) bool { return st.samples[i].Time < st.samples[j].Time })
	if len(st.samples) > 1 && m.IntN(15) == 0 && len(sc.steps) > 0 { // out of order
		m.Shuffle(len(st.samples), func(i, j int) { st.samples[i], st.samples[j] = st.samples[j], st.samples[i] })
	}
	if len(st.samples) > 0 && m.IntN(30) == 0 { // of a point that is not ours
		foreign := st.samples[len(st.samples)-1]
		foreign.Point = pick(m.Rand, telemetry.NoPoint, telemetry.PointID(len(m.states)), telemetry.PointID(len(m.states)+3))
		st.samples = append(st.samples, foreign)
	}
	if st.restart { // what is read is read by the new process
		for i := range st.samples {
			st.samples[i].Time = max(st.samples[i].Time, m.mono)
		}
	}
	st.now = telemetry.Now{Mono: m.mono}
	if m.set {
		st.now.Wall = time.Unix(0, int64(m.mono)).Add(m.offset).UTC()
	}
	if length == 0 && len(sc.steps) > 0 && m.IntN(4) == 0 { // a caller that mixes up two moments
		back := time.Duration(1+m.IntN(9)) * time.Second
		st.now.Mono = st.now.Mono.Add(-back)
		if m.set {
			st.now.Wall = st.now.Wall.Add(-back)
		}
	}
	return st
}

// clock steps the wall clock now and then.
func (m *seriesMaker) clock() {
	switch m.IntN(60) {
	case 0:
		m.set = !m.set
	case 1:
		// A second more or less is noticed when the calendar is next looked at.
		m.offset += time.Duration(pick(m.Rand, -1, 1)*(2+m.IntN(300))) * time.Second
	case 2:
		m.offset += time.Duration(pick(m.Rand, -24, -1, 1, 24)) * time.Hour
	}
}

func (m *seriesMaker) sample(id telemetry.PointID, t telemetry.Mono) telemetry.Sample {
	st, def := &m.states[id], m.site.Points[id].Def
	s := telemetry.Sample{Point: id, Time: t}
	switch m.IntN(25) {
	case 0:
		s.Time -= telemetry.Mono(1+m.IntN(6)) * second // late
	case 1:
		s.Time += telemetry.Mono(1+m.IntN(6)) * second // from the future
	}
	if st.bad > 0 {
		st.bad--
		s.Quality = st.why
		if m.IntN(8) == 0 {
			s.Value = telemetry.FloatValue(3) // which nobody must look at
		}
		return s
	}
	if m.IntN(14) == 0 {
		st.bad = m.IntN(6)
		st.why = pick(m.Rand, telemetry.BadComm, telemetry.BadComm, telemetry.BadSensor, telemetry.BadMaintenance)
		s.Quality = st.why
		return s
	}
	if m.IntN(20) == 0 {
		s.Quality = telemetry.Uncertain
	}
	switch def.Kind {
	case telemetry.Bool:
		s.Value = telemetry.BoolValue(m.IntN(2) == 0)
	case telemetry.Enum:
		s.Value = telemetry.EnumValue(pick(m.Rand, int64(0), 1, 1, 7))
	case telemetry.KindText:
		s.Value = telemetry.TextValue(pick(m.Rand, "a", "b", "b", "c"))
		if def.Event {
			s.Value = telemetry.TextValue(pick(m.Rand, "in", "in", "out", "out", "lost"))
		}
	default:
		m.number(st, def, &s)
	}
	switch m.IntN(60) {
	case 0: // no number, or no value at all
		s.Value = pick(m.Rand, telemetry.Value{}, telemetry.ValueFromBits(telemetry.Float, math.Float64bits(math.NaN())),
			telemetry.ValueFromBits(telemetry.Float, math.Float64bits(math.Inf(1))), telemetry.ValueFromBits(telemetry.Float, math.Float64bits(math.Inf(-1))))
	case 1:
		if def.Kind == telemetry.KindText {
			s.Value = telemetry.FloatValue(1)
		} else {
			s.Value = telemetry.TextValue("1")
		}
	}
	return s
}

// number walks on: a counter rises and now and then begins anew, anything else stays about 10.
func (m *seriesMaker) number(st *seriesState, def *telemetry.PointDef, s *telemetry.Sample) {
	switch {
	case def.Name == "total" || def.Name == "kwh":
		if st.number += float64(m.IntN(4)); st.number > 28 || m.IntN(30) == 0 {
			st.number = float64(m.IntN(3))
		}
		st.number = math.Round(st.number)
	case m.IntN(3) > 0:
		st.number = math.Round((st.number+2.5*m.Float64()-1.25)*4) / 4
		if math.Abs(st.number-10) > 2.5 {
			st.number = 10
		}
	}
	switch m.IntN(14) {
	case 0:
		s.Quality = telemetry.OverRange
	case 1:
		s.Quality = telemetry.UnderRange
	}
	s.Value = telemetry.FloatValue(st.number)
	if def.Kind == telemetry.Int {
		s.Value = telemetry.IntValue(int64(st.number))
	}
}
