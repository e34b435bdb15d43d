package scan

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
)

// Times of a scan.
const (
	// quickLimit is what the quick scan may take, asking again and asking who the units are included.
	quickLimit = 60 * time.Second
	// searchPart is the part of the limit for the search itself; the rest is for asking again and for who it is.
	searchPart = 0.68
	// usualTimeout is the wait for an answer to begin where no limit presses. Units answer within 5 to 100 ms; those
	// that are slower are found when they are asked again.
	usualTimeout = 150 * time.Millisecond
	// leastTimeout is the shortest wait that still finds the ordinary unit.
	leastTimeout = 60 * time.Millisecond
	// patientTimeout is the wait at settings where units answered: the default timeout of the driver.
	patientTimeout = 300 * time.Millisecond
	// tcpTimeout allows for converters that wait for the serial side before they say that nobody is there.
	tcpTimeout = time.Second
	// rtuOverTCPTimeout allows for the network on top of the unit.
	rtuOverTCPTimeout = 400 * time.Millisecond
	// overhead is what an exchange costs beyond the wire: the adapter's and the kernel's latency.
	overhead = 6 * time.Millisecond
	// listenTime hears a unit that reports every second twice.
	listenTime = 2200 * time.Millisecond
	// elsewhere is how long each further setting is listened to, where the first could not be understood.
	elsewhere = 1200 * time.Millisecond
)

// The kinds of line that a scan knows.
const (
	Serial     = "serial"
	TCP        = "tcp"
	RTUOverTCP = "rtu_over_tcp"
)

// Options is what a plan is made of. The zero value of each field is the default in its comment.
type Options struct {
	Kind string // Serial, TCP or RTUOverTCP
	// Own is the line's own setting; it is tried first. Zero: 9600 8N1.
	Own       firmwareconfig.Line
	Units     []int         // addresses; default 1 to 32, Full: 1 to 247
	Bauds     []int         // default: the common settings, Full: every usual rate
	Formats   []string      // default: the common settings, Full: 8N1, 8E1, 8O1, 8N2
	Full      bool          // every address at every usual setting
	Who       bool          // only ask Units who they are: each at the first setting at which it answers, without a limit
	Universal bool          // Units may hold 0 and 248 to 255
	Running   bool          // a gateway polls the line: only its own setting, unless Suspend
	Share     float64       // part of a running line's time, default 0.2
	Suspend   time.Duration // for how long the gateway gives the line away; bounds the scan
	Timeout   time.Duration // wait for an answer to begin; default by kind and limit
}

// Plan is what will be asked, computed before anything is sent.
type Plan struct {
	Kind    string
	Stages  []Stage
	Listen  time.Duration // before anything is asked
	Timeout time.Duration // for an answer to begin
	Limit   time.Duration // of the whole scan, asking who the units are included; 0 none
	Share   float64       // part of the line's time that is used, 0 for all
	Running bool          // others use the line meanwhile: it is listened to in short pieces
	Fixed   bool          // the line's setting cannot or must not be changed
	Once    bool          // an address that answered is not asked at further settings
}

// Stage is the addresses asked at one setting.
type Stage struct {
	Line  firmwareconfig.Line // zero where the line has none (TCP)
	Units []int
}

// commonSettings are what devices leave the factory with, most frequent first (domain experience: sensors 9600 8N1,
// noise and pollution sensors 4800, meters 8E1 and 19200 8E1 as the standard says, old meters 2400).
func commonSettings() []firmwareconfig.Line {
	return []firmwareconfig.Line{
		{Baud: 9600, Format: "8N1"}, {Baud: 4800, Format: "8N1"}, {Baud: 9600, Format: "8E1"}, {Baud: 19200, Format: "8E1"},
		{Baud: 2400, Format: "8N1"}, {Baud: 9600, Format: "8O1"}, {Baud: 115200, Format: "8N1"}, {Baud: 9600, Format: "8N2"},
	}
}

// usualBauds are the rates of the full search, most frequent first.
func usualBauds() []int {
	return []int{9600, 4800, 19200, 2400, 115200, 38400, 57600, 1200, 14400, 230400}
}

// usualFormats are the formats of the full search, most frequent first.
func usualFormats() []string { return []string{"8N1", "8E1", "8O1", "8N2"} }

// NewPlan computes a plan. The errors say which option is wrong.
func NewPlan(o Options) (Plan, error) {
	p := Plan{Kind: o.Kind, Listen: listenTime, Timeout: o.Timeout, Running: o.Running && o.Suspend == 0}
	switch {
	case o.Timeout < 0:
		return Plan{}, fmt.Errorf("a wait of %s for an answer: it is positive, as 150ms", o.Timeout)
	case o.Suspend < 0:
		return Plan{}, fmt.Errorf("a suspension of %s: it is positive, as 60s", o.Suspend)
	case o.Share < 0 || o.Share > 1:
		return Plan{}, fmt.Errorf("a share of %g: it is a part of the line's time, above 0 and at most 1", o.Share)
	case o.Who && len(o.Units) == 0:
		return Plan{}, errors.New("say which units are to be asked who they are")
	}
	units, err := o.units()
	if err != nil {
		return Plan{}, err
	}
	chosen := o.Full || len(o.Bauds) > 0 || len(o.Formats) > 0 || len(o.Units) > 0 || o.Timeout > 0
	switch o.Kind {
	case Serial:
		lines, err := o.lines()
		if err != nil {
			return Plan{}, err
		}
		for _, l := range lines {
			p.Stages = append(p.Stages, Stage{Line: l, Units: units})
		}
		if !chosen && !p.Running {
			p.Limit = quickLimit
		}
		if p.Timeout == 0 {
			p.Timeout = usualTimeout
		}
	case TCP, RTUOverTCP:
		if len(o.Bauds) > 0 || len(o.Formats) > 0 || o.Suspend > 0 {
			return Plan{}, errors.New("the serial settings of a network endpoint belong to the converter: change them there")
		}
		p.Fixed = true
		p.Stages = []Stage{{Units: units}}
		if p.Timeout == 0 {
			p.Timeout = tcpTimeout
			if o.Kind == RTUOverTCP {
				p.Timeout = rtuOverTCPTimeout
			}
		}
		if o.Kind == TCP {
			p.Listen = 0 // Nobody but the answering unit is heard on a connection of our own.
		}
	default:
		return Plan{}, fmt.Errorf("unknown kind of line %q", o.Kind)
	}
	if p.Running {
		p.Fixed = true
		p.Share = o.Share
		if p.Share <= 0 {
			p.Share = 0.2
		}
	}
	if o.Suspend > 0 {
		// The gateway takes the line back at the end, whatever we do.
		p.Limit = max(o.Suspend-2*time.Second, time.Second)
	}
	if p.Limit > 0 && o.Timeout == 0 {
		p.Timeout = p.timeoutWithin(time.Duration(float64(p.Limit)*searchPart) - p.Listen)
	}
	if o.Who {
		p.Once, p.Listen = true, 0
	}
	if takes := p.Estimate(); o.Suspend > 0 && takes > p.Limit {
		return Plan{}, fmt.Errorf("a suspension of %s is too short: asking %d addresses at %d settings takes up to %s. Suspend for longer, or ask less (--units, --baud, --format)",
			o.Suspend, len(units), len(p.Stages), roughly(takes))
	}
	return p, nil
}

// units returns the addresses to ask.
func (o *Options) units() ([]int, error) {
	if len(o.Units) == 0 {
		most := 32
		if o.Full {
			most = 247
		}
		units := make([]int, 0, most)
		for u := 1; u <= most; u++ {
			units = append(units, u)
		}
		return units, nil
	}
	units := slices.Clone(o.Units)
	slices.Sort(units)
	units = slices.Compact(units)
	for _, u := range units {
		switch {
		case u < 0 || u > 255:
			return nil, fmt.Errorf("%d is no unit address: 1 to 247", u)
		case (u == 0 || u > 247) && !o.Universal:
			return nil, fmt.Errorf("address %d is answered by every unit of some makes at once; ask it with a single unit on the line, and --universal", u)
		case u == 0 && o.Kind != TCP:
			return nil, errors.New("address 0 is broadcast on a serial line: nobody answers it")
		}
	}
	return units, nil
}

// lines returns the settings to try, the line's own first.
func (o *Options) lines() ([]firmwareconfig.Line, error) {
	own := o.Own
	if own.Baud == 0 {
		own.Baud = 9600
	}
	if own.Format == "" {
		own.Format = "8N1"
	}
	if o.Running && o.Suspend == 0 {
		if o.Full && len(o.Units) == 0 || len(o.Bauds) == 0 && len(o.Formats) == 0 {
			return []firmwareconfig.Line{own}, nil
		}
		return nil, errors.New("the gateway polls this bus: other settings need it suspended, as with --suspend 60s")
	}
	for _, f := range o.Formats {
		if !slices.Contains(usualFormats(), f) {
			return nil, fmt.Errorf("line format %q (%s)", f, strings.Join(usualFormats(), ", "))
		}
	}
	for _, b := range o.Bauds {
		if b < 300 || b > 1_000_000 {
			return nil, fmt.Errorf("%d baud (300 to 1000000)", b)
		}
	}
	if !o.Full && len(o.Bauds) == 0 && len(o.Formats) == 0 {
		return first(own, commonSettings()), nil
	}
	bauds, formats := o.Bauds, o.Formats
	if len(bauds) == 0 {
		bauds = []int{own.Baud}
		if o.Full {
			bauds = usualBauds()
		}
	}
	if len(formats) == 0 {
		formats = []string{own.Format}
		if o.Full {
			formats = usualFormats()
		}
	}
	var all, lines []firmwareconfig.Line
	for _, f := range formats {
		for _, b := range bauds {
			all = append(all, firmwareconfig.Line{Baud: b, Format: f})
		}
	}
	for _, l := range first(own, commonSettings()) { // The likely ones first.
		if slices.Contains(all, l) {
			lines = append(lines, l)
		}
	}
	for _, l := range all {
		if !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// first returns lines with own at the front.
func first(own firmwareconfig.Line, lines []firmwareconfig.Line) []firmwareconfig.Line {
	return append([]firmwareconfig.Line{own}, slices.DeleteFunc(slices.Clone(lines), func(l firmwareconfig.Line) bool { return l == own })...)
}

// timeoutWithin returns the wait for an answer with which the whole search takes d.
func (p *Plan) timeoutWithin(d time.Duration) time.Duration {
	n := 0
	for _, st := range p.Stages {
		n += len(st.Units)
		d -= time.Duration(len(st.Units)) * p.wire(st.Line)
	}
	return min(max(d/time.Duration(max(n, 1)), leastTimeout), usualTimeout).Truncate(time.Millisecond)
}

// wire is what asking a silent unit takes beside the wait: the silences, the request, and the time that an answer of
// one register would have taken.
func (p *Plan) wire(l firmwareconfig.Line) time.Duration {
	if l.Baud == 0 {
		return overhead
	}
	return 2*quiet(l) + 15*char(l) + overhead
}

// char is the time of one character: start, eight data bits, parity, stop.
func char(l firmwareconfig.Line) time.Duration {
	bits := 10
	if len(l.Format) == 3 && (l.Format[1] != 'N' || l.Format[2] == '2') {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(l.Baud)
}

// quiet is the silence between frames: 3.5 characters of 11 bits, 1.75 ms above 19200 baud (Modbus over serial line
// 1.02, section 2.5.1.1).
func quiet(l firmwareconfig.Line) time.Duration {
	if l.Baud > 19200 {
		return 1750 * time.Microsecond
	}
	return time.Duration(38.5 / float64(l.Baud) * float64(time.Second))
}

// Probes returns how many requests the search has.
func (p *Plan) Probes() int {
	n := 0
	for _, st := range p.Stages {
		n += len(st.Units)
	}
	return n
}

// left returns how long the search takes from its n-th request on where nobody answers.
func (p *Plan) left(n int) time.Duration {
	var d time.Duration
	for _, st := range p.Stages {
		k := max(0, len(st.Units)-n)
		n = max(0, n-len(st.Units))
		d += time.Duration(k) * (p.wire(st.Line) + p.Timeout)
	}
	if p.Share > 0 {
		d = time.Duration(float64(d) / p.Share)
	}
	return d
}

// Estimate returns how long the search takes at most, listening included: where nobody answers. Who answers costs
// less; asking again and asking who it is come on top.
func (p *Plan) Estimate() time.Duration {
	d := p.left(0)
	if p.Running {
		return d + pieces*(piece+pieceGap)
	}
	return d + p.Listen
}

// againTakes returns how long asking the silent addresses again takes at the first setting.
func (p *Plan) againTakes() time.Duration {
	st := p.Stages[0]
	d := time.Duration(len(st.Units)) * (p.wire(st.Line) + max(patientTimeout, p.Timeout))
	if p.Share > 0 {
		d = time.Duration(float64(d) / p.Share)
	}
	return d
}

// Print writes the plan for people.
func (p *Plan) Print(w io.Writer) {
	units := map[string]bool{}
	for _, st := range p.Stages {
		units[Ranges(st.Units)] = true
	}
	var settings []string
	for _, st := range p.Stages {
		if st.Line != (firmwareconfig.Line{}) {
			settings = append(settings, Setting(st.Line))
		}
	}
	const shown = 12
	if n := len(settings); n > shown {
		settings = append(settings[:shown:shown], fmt.Sprintf("and %d more", n-shown))
	}
	where := ""
	if len(settings) > 0 {
		where = " at " + strings.Join(settings, ", ")
	}
	unit, request := "units", "requests"
	if len(p.Stages[0].Units) == 1 {
		unit = "unit"
	}
	if p.Probes() == 1 {
		request = "request"
	}
	fmt.Fprintf(w, "Plan: %s %s%s: %d %s, %s each for an answer to begin.\n",
		unit, Ranges(p.Stages[0].Units), where, p.Probes(), request, p.Timeout)
	line := "At most " + roughly(p.Estimate()) + " for the search"
	if p.Limit > 0 {
		fmt.Fprintf(w, "%s, %s with asking again and asking who the units are. What is not identified by then is named.\n", line, roughly(p.Limit))
		return
	}
	if p.Limit == 0 && p.Kind != TCP {
		line += fmt.Sprintf("; where units answer, the silent addresses are asked again there, %s a setting", roughly(p.againTakes()))
	}
	if p.Share > 0 {
		line += fmt.Sprintf(", using %.0f %% of the line's time beside the gateway's polling", 100*p.Share)
	}
	each := "about a second"
	if p.Share > 0 {
		each = fmt.Sprintf("some %.0f s", unitCost.Seconds()/p.Share)
	}
	fmt.Fprintf(w, "%s; then %s for each unit found (slow ones take longer), to ask who it is.\n", line, each)
}

// roughly rounds a duration for people.
func roughly(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.0f s", max(1, d.Seconds()))
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}

// Ranges writes addresses shortly: 1-32, 40.
func Ranges(units []int) string {
	var b strings.Builder
	for i := 0; i < len(units); {
		j := i
		for j+1 < len(units) && units[j+1] == units[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteString(", ")
		}
		switch {
		case j == i:
			fmt.Fprint(&b, units[i])
		default:
			fmt.Fprintf(&b, "%d-%d", units[i], units[j])
		}
		i = j + 1
	}
	return b.String()
}
