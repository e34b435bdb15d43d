package wire

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"linli/internal/telemetry"
)

// QualityEvery is how old the last `<point>_q` field of a series may be for a sample to do without, while its quality does
// not change. It is less than the minute in which an unchanged value is reported once, so that each of those tells it.
const QualityEvery = 45 * time.Second

// maxSeries bounds what the encoder remembers; beyond it everything is forgotten and learned anew, which costs
// time and some repeated `_q` fields but no data.
const maxSeries = 200_000

// Encoder writes samples as line protocol. It remembers per series when quality was last told, so one Encoder
// serves one lane of messages in order; Reset when the order breaks. In steady state it does not allocate.
// It belongs to one goroutine.
type Encoder struct {
	site   string
	gw     string
	seed   maphash.Seed
	series map[uint64]*series // by the hash of the name: names as keys would be most of what an encoder takes
	count  int                // of series
	last   *series            // of the sample before; never nil
	lines  map[string]int32   // tag sets seen
	words  map[string]string  // each text that series have in common, once
	recs   []record
	runs   []run
	row    []record // memory for a line whose samples were not added one after the other
}

type series struct {
	// What each sample needs stands together, in as much as a processor fetches at once.
	name   *telemetry.Series // as it was given last: nobody changes it, so that it need not be compared again, nor copied
	next   *series           // that came after it the last time
	toldAt int64             // ns; 0: never
	field  string            // escaped, with "="
	line   int32             // number of the prefix: records with one line and time become one line
	index  int32
	kind   telemetry.Kind
	toldQ  telemetry.Quality

	same   *series // another whose name has the same hash
	prefix string  // measurement and tags
}

type record struct {
	s       *series
	ns      int64
	value   telemetry.Value
	quality telemetry.Quality
}

// NewEncoder returns an encoder for the gateway of site.
func NewEncoder(site, gateway string) *Encoder {
	e := &Encoder{site: string(appendTagValue(nil, site)), gw: string(appendTagValue(nil, gateway)), seed: maphash.MakeSeed()}
	e.forget()
	return e
}

func (e *Encoder) forget() {
	e.series, e.count, e.last = map[uint64]*series{}, 0, &series{}
	e.lines, e.words = map[string]int32{}, map[string]string{}
}

// Forget gives back the memory for the series seen so far, between two messages. What comes next is as after Reset.
func (e *Encoder) Forget() {
	if e.count > 0 && len(e.recs) == 0 {
		e.forget()
		e.recs, e.runs, e.row = nil, nil, nil
	}
}

// Reset makes the next sample of every series tell its quality again, as it must after frames were skipped or a
// message may not have arrived.
func (e *Encoder) Reset() {
	for _, s := range e.series {
		for ; s != nil; s = s.same {
			s.toldAt = 0
		}
	}
}

// Add takes one sample with its time in nanoseconds since 1970. A value that is no number, or a good sample
// without value, becomes bad_sensor: it must not look like a value. The name must not change afterwards.
func (e *Encoder) Add(name *telemetry.Series, ns int64, q telemetry.Quality, v telemetry.Value) {
	// Samples come in the same order again and again: to compare costs less than to look up.
	s := e.last.next
	if s == nil || s.name != name {
		s = e.find(s, name)
	}
	if !q.Bad() && (v.IsZero() || v.Kind() == telemetry.Float && v.Bits()&infinity == infinity) {
		q = telemetry.BadSensor
	}
	n := len(e.recs)
	if k := len(e.runs) - 1; k >= 0 && e.runs[k].ns == ns && e.runs[k].line == s.line && e.last.index <= s.index {
		e.runs[k].end = n + 1
	} else {
		e.runs = append(e.runs, run{ns, s.line, n, n + 1})
	}
	e.last = s
	e.recs = append(e.recs, record{s: s, ns: ns, value: v, quality: q})
}

// infinity are the bits of a float that are all set in what is no number, and in infinities.
const infinity = 0x7ff << 52

// find returns the series of a name. guess is the one that came next the last time, nil where there was none.
func (e *Encoder) find(guess *series, name *telemetry.Series) *series {
	s := guess
	if s == nil || *s.name != *name {
		hash := maphash.Comparable(e.seed, *name)
		for s = e.series[hash]; s != nil && *s.name != *name; {
			s = s.same
		}
		if s == nil {
			s = e.learn(name, hash)
		}
		e.last.next = s
	}
	s.name = name
	return s
}

// Flush appends the samples added since the last Flush to dst, those of one device and time as one line, and
// returns the number of lines. Of two samples of one point with one time the later added stands.
func (e *Encoder) Flush(dst []byte) ([]byte, int) {
	lines := 0
	e.sort()
	for i := 0; i < len(e.runs); lines++ {
		first := e.runs[i]
		row := e.recs[first.from:first.end]
		if i++; i < len(e.runs) && e.runs[i].ns == first.ns && e.runs[i].line == first.line {
			row = append(e.row[:0], row...)
			for ; i < len(e.runs) && e.runs[i].ns == first.ns && e.runs[i].line == first.line; i++ {
				row = append(row, e.recs[e.runs[i].from:e.runs[i].end]...)
			}
			slices.SortStableFunc(row, func(a, b record) int { return cmp.Compare(a.s.index, b.s.index) })
			e.row = row
		}
		dst = append(dst, row[0].s.prefix...)
		sep := byte(' ')
		for k := range row {
			if k+1 < len(row) && row[k+1].s == row[k].s {
				continue
			}
			dst = row[k].append(dst, &sep)
		}
		dst = append(dst, ' ')
		dst = strconv.AppendInt(dst, first.ns, 10)
		dst = append(dst, '\n')
	}
	clear(e.recs) // texts must not be kept alive until the next flush
	clear(e.row[:cap(e.row)])
	e.recs, e.runs, e.row = e.recs[:0], e.runs[:0], e.row[:0]
	return dst, lines
}

// run is part of e.recs: samples of one line and time that were added one after the other, in order of their index.
type run struct {
	ns        int64
	line      int32
	from, end int
}

// sort puts the runs in the order of their lines. Samples come device by device, so that there are few.
func (e *Encoder) sort() {
	order := func(a, b run) int {
		return cmp.Or(cmp.Compare(a.ns, b.ns), cmp.Compare(a.line, b.line), cmp.Compare(a.from, b.from))
	}
	if !slices.IsSortedFunc(e.runs, order) {
		slices.SortFunc(e.runs, order)
	}
}

// append writes the fields of one sample. A sample always has at least one: a bad one always tells its quality.
func (r *record) append(dst []byte, sep *byte) []byte {
	s := r.s
	field := func(name string) {
		dst = append(dst, *sep)
		dst = append(dst, name...)
		*sep = ','
	}
	if !r.quality.Bad() {
		field(s.field)
		switch s.kind {
		case telemetry.Int, telemetry.Enum:
			dst = append(strconv.AppendInt(dst, r.value.Int(), 10), 'i')
		case telemetry.Bool:
			dst = strconv.AppendBool(dst, r.value.Bool())
		case telemetry.KindText:
			dst = appendString(dst, r.value.Text())
		default:
			dst = appendFloat(dst, r.value.Float())
		}
	}
	if r.quality.Bad() || s.toldAt == 0 || r.quality != s.toldQ || r.ns < s.toldAt || r.ns-s.toldAt >= int64(QualityEvery) {
		field(s.field[:len(s.field)-1])
		dst = append(dst, "_q="...)
		dst = append(strconv.AppendUint(dst, uint64(r.quality), 10), 'i')
		s.toldQ, s.toldAt = r.quality, r.ns
	}
	return dst
}

// appendFloat appends what strconv.AppendFloat does for format 'g' and precision -1. What meters measure has few digits, and
// is written in a fraction of the time: of at most 15 digits there is one decimal for each float64, so that the first that
// stands for v exactly is the shortest.
func appendFloat(dst []byte, v float64) []byte {
	a := math.Abs(v)
	m, digits := uint32(0), 0 // v is m with so many digits behind the point
	switch {
	case !(a >= 1e-3 && a < 1e6): // beyond, exponents come in; zero may be negative
		return strconv.AppendFloat(dst, v, 'g', -1, 64)
	default:
		if m = uint32(a); float64(m) == a {
			break
		}
		digits = 1
		if m = uint32(a*10 + 0.5); float64(m)/10 == a {
			break
		}
		digits = 2
		if m = uint32(a*100 + 0.5); float64(m)/100 == a {
			break
		}
		digits = 3
		if m = uint32(a*1000 + 0.5); float64(m)/1000 == a {
			break
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 64)
	}
	var b [12]byte
	i := len(b)
	for range digits {
		i--
		b[i] = byte('0' + m%10)
		m /= 10
	}
	if digits > 0 {
		i--
		b[i] = '.'
	}
	for {
		i--
		b[i] = byte('0' + m%10)
		if m /= 10; m == 0 {
			break
		}
	}
	if v < 0 {
		i--
		b[i] = '-'
	}
	return append(dst, b[i:]...)
}

// learn prepares a series seen for the first time.
func (e *Encoder) learn(name *telemetry.Series, hash uint64) *series {
	if e.count >= maxSeries {
		e.forget()
	}
	s := &series{name: name, kind: name.Kind, index: int32(e.count), same: e.series[hash]}
	var b []byte
	tag := func(key, value string) {
		if value == "" {
			return // line protocol has no empty tags
		}
		b = append(append(append(append(b, ','), key...), '='), value...)
	}
	escaped := func(v string) string { return string(appendTagValue(nil, v)) }
	b = appendName(b, name.Class)
	field := name.Point
	if name.Class == telemetry.Derived {
		tag("gateway", e.gw)
		tag("rule", escaped(name.Point))
		tag("site", e.site)
		tag("subject", escaped(name.Device))
		// One measurement holds the results of all rules, and a database fixes a field's type: numbers and
		// bools are floats there, text has a field of its name.
		field = "value"
		if s.kind == telemetry.KindText {
			field = "text"
		} else {
			s.kind = telemetry.Float
		}
	} else {
		tag("device", escaped(name.Device))
		tag("gateway", e.gw)
		tag("site", e.site)
	}
	tag("zone", escaped(name.Zone))
	s.prefix = e.word(string(b))
	line, ok := e.lines[s.prefix]
	if !ok {
		line = int32(len(e.lines))
		e.lines[s.prefix] = line
	}
	s.line = line
	s.field = e.word(string(append(appendName(nil, field), '=')))
	e.series[hash] = s
	e.count++
	return s
}

// word returns a string like text that the encoder keeps.
func (e *Encoder) word(text string) string {
	own, ok := e.words[text]
	if !ok {
		own = strings.Clone(text)
		e.words[own] = own
	}
	return own
}

// appendName appends a measurement, tag key or field key. These are ids; whatever else gets in becomes "_".
func appendName(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, '_')
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; nameByte(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '_')
		}
	}
	return dst
}

// appendTagValue appends a tag's value, escaped. What no parser agrees about (quotes, backslashes, control
// characters) becomes "_": tags carry ids and names of rules, never free text.
func appendTagValue(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ' || c == ',' || c == '=':
			dst = append(dst, '\\', c)
		case c < 0x20 || c == 0x7f || c == '"' || c == '\\':
			dst = append(dst, '_')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// appendString appends a field's text, quoted. Line breaks stay as they are (line protocol allows them in quotes);
// bytes that are no UTF-8, and zero bytes, become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case 0:
			dst = append(dst, "\uFFFD"...)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
