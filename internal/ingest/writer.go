package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"
	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"
	"go.uber.org/zap"

	"linli/internal/wire"
)

// writer writes lines to the database until it says yes. It belongs to one goroutine.
type writer struct {
	service influxhttp.Service
	url     string
	cfg     Config
	log     *zap.Logger
	count   func(func(*Stats))
	max     int // bytes of one request; lowered when the database says that one was too large
	probe   []byte
	good    []byte // a line that the database took lately
}

// refusal is a line that the database does not take.
type refusal struct {
	line   []byte
	reason string
}

const (
	requestTimeout = 60 * time.Second
	answerTimeout  = 5 * time.Second // from the status to the end of the answer
	answerBytes    = 64 << 10        // of an answer's headers, and of its body, that are read
	maxRetryAfter  = 5 * time.Minute
	oddTries       = 3 // of answers that are in no table
	smallestMax    = 4 << 10
)

func (c *Influx) writeURL() (string, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return "", fmt.Errorf("database URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("database URL %q must be http://host:port or https://host:port", u.Redacted())
	}
	if u.User != nil {
		return "", errors.New("database URL must not hold a password: use the token file")
	}
	if c.Bucket == "" {
		return "", errors.New("no bucket")
	}
	u = u.JoinPath("api/v2/write")
	u.RawQuery = url.Values{"org": {c.Org}, "bucket": {c.Bucket}, "precision": {"ns"}}.Encode()
	return u.String(), nil
}

func newWriter(cfg Config, log *zap.Logger, count func(func(*Stats))) (*writer, error) {
	target, err := cfg.Influx.writeURL()
	if err != nil {
		return nil, err
	}
	probe := appendProbe(cfg.ClientID)
	return &writer{service: newService(cfg.Influx.URL, requestTimeout, answerTimeout), url: target, cfg: cfg, log: log, count: count, max: 4 << 20, probe: probe}, nil
}

// newService returns the HTTP side of the library. request bounds the whole exchange, answer what comes after the
// status: somebody whose answer never ends has said already what it is.
func newService(address string, request, answer time.Duration) influxhttp.Service {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = answerBytes
	return influxdb2.NewClientWithOptions(address, "", influxdb2.DefaultOptions().SetHTTPClient(&http.Client{
		Timeout:   request,
		Transport: &recorder{next: transport, answer: answer},
		// A redirect would lose the body; it is an answer that the table does not know.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})).HTTPService()
}

// appendProbe returns a line that every database takes that takes anything from us.
func appendProbe(client string) []byte {
	return []byte(wire.MeasurementProbe + ",client=" + cleanName(client) + " probe=1i")
}

// cleanName returns a name that needs no escapes as a tag.
func cleanName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, name)
}

// answer is what the database said.
type answer struct {
	status  int // 0: nothing
	after   time.Duration
	message string

	cancel context.CancelFunc // ends the exchange
	limit  *time.Timer        // does so when the body takes too long; nil without an answer
}

// recorder notes the answer as it came: the library's error takes its fields from the body, which can then claim
// another status.
type recorder struct {
	next   http.RoundTripper
	answer time.Duration // for the body
}

type answerKey struct{}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	if a, ok := req.Context().Value(answerKey{}).(*answer); ok {
		a.status = resp.StatusCode
		a.after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
		a.limit = time.AfterFunc(r.answer, a.cancel)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// Nothing limits the reading of what would follow, neither the timeout nor the context.
		resp.Body.Close()
		resp.Body = http.NoBody
		return resp, nil
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, answerBytes), resp.Body}
	return resp, nil
}

// retryAfter parses both forms of the header, seconds and date; 0 for none.
func retryAfter(v string, now time.Time) time.Duration {
	var d time.Duration
	if s, err := strconv.ParseFloat(v, 64); err == nil && s > 0 {
		d = time.Duration(min(s, maxRetryAfter.Seconds()) * float64(time.Second))
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return max(0, min(d, maxRetryAfter))
}

// post sends one request.
func (w *writer) post(ctx context.Context, body []byte) answer {
	var a answer
	token := ""
	if w.cfg.Influx.TokenFile != "" {
		b, err := os.ReadFile(w.cfg.Influx.TokenFile)
		if err != nil {
			return answer{status: http.StatusUnauthorized, message: "token: " + err.Error()}
		}
		token = "Token " + strings.TrimSpace(string(b))
	}
	ctx, a.cancel = context.WithCancel(ctx)
	defer a.cancel()
	ctx = context.WithValue(ctx, answerKey{}, &a)
	err := w.service.DoPostRequest(ctx, w.url, bytes.NewReader(body), func(req *http.Request) {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
		if token != "" {
			req.Header.Set("Authorization", token)
		}
	}, func(resp *http.Response) error {
		// The library leaves the body of a good answer open. What is in it does not matter.
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Body.Close()
	})
	if a.limit != nil {
		a.limit.Stop()
	}
	if err != nil {
		a.message = err.Error()
		if a.status == 0 && err.Err != nil {
			a.message = err.Err.Error()
		}
	} else if a.status != http.StatusNoContent {
		a.message = "a write is answered with 204; is this the database?"
	}
	return a
}

// Of one node in one write this many refused lines are found one by one.
const (
	strikesPerMeasurement = 16
	strikesPerNode        = 64
)

// write writes every line of body and returns those that the database refuses. It returns an error only when ctx
// ends; until then it tries.
func (w *writer) write(ctx context.Context, body []byte) ([]refusal, error) {
	var refused []refusal
	strikes := map[string]int{}
	// Since the last line was given up, the database has taken something: it is the line that is bad.
	alive := false
	// Pieces still to be written, in order.
	todo := cut(body, w.max)
	tries := 0
	for len(todo) > 0 {
		piece := todo[0]
		a := w.post(ctx, piece)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		switch {
		case a.status == http.StatusNoContent:
			w.wrote(piece)
			todo, tries = todo[1:], 0
			continue
		case a.status == http.StatusRequestEntityTooLarge:
			w.max = max(smallestMax, min(w.max, len(piece)/2))
			if halves := halve(piece); halves != nil {
				todo = append(halves, todo[1:]...)
				continue
			}
			refused = w.refuse(refused, piece, a)
			todo = todo[1:]
			continue
		case w.refuses(a.status, tries):
			if halves := halve(piece); halves != nil && !dropped(a.message, piece) {
				todo, tries = append(halves, todo[1:]...), 0
				continue
			}
			if !alive {
				ok := w.takesGood(ctx)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				if !ok {
					// Not this line is wrong: the database takes nothing.
					if err := w.hold(ctx, a, w.cfg.SlowRetry); err != nil {
						return nil, err
					}
					continue
				}
				// It may have begun to take data only just now: the line gets its last chance.
				alive = true
				continue
			}
			alive = false
			refused = w.refuse(refused, piece, a)
			todo, tries = todo[1:], 0
			for _, limit := range strike(strikes, piece) {
				var rest []byte
				if todo, rest = sweep(todo, limit); len(rest) > 0 {
					a.message = "not tried, after too many refused lines of this node: " + a.message
					refused = w.refuse(refused, rest, a)
				}
			}
			continue
		}
		tries++
		wait := w.cfg.SlowRetry
		if !held(a.status) {
			wait = a.after
			if wait == 0 {
				wait = rand.N(min(w.cfg.MaxBackoff, 500*time.Millisecond<<min(tries-1, 10))) + time.Millisecond
			}
		}
		if err := w.hold(ctx, a, wait); err != nil {
			return nil, err
		}
	}
	return refused, nil
}

// refuses says whether an answer means that something in the piece is bad. Answers that are in no table do so after
// a few tries.
func (w *writer) refuses(status, tries int) bool {
	return bad(status) || status >= 300 && status < 500 && !held(status) && !passing(status) && tries >= oddTries
}

// takesGood reports whether the database takes what is certainly good: the probe, or, should the probe's own
// measurement be spoilt, a line that it has taken before.
func (w *writer) takesGood(ctx context.Context) bool {
	a := w.post(ctx, w.probe)
	if bad(a.status) && w.good != nil {
		a = w.post(ctx, w.good)
	}
	return a.status == http.StatusNoContent
}

// dropped reports whether InfluxDB says that it dropped every line of the piece ("partial write: ... dropped=7").
func dropped(message string, piece []byte) bool {
	i := strings.LastIndex(message, " dropped=")
	if i < 0 || !strings.Contains(message, "partial write") {
		return false
	}
	n, err := strconv.Atoi(strings.TrimSpace(message[i+len(" dropped="):]))
	return err == nil && n == countLines(piece)
}

// nodeOf returns whose line it is: the node, and the node with the measurement. Of what ingest itself writes only
// alerts are anybody's: ledger and losses are never given up untried.
func nodeOf(line []byte) (node, measurement string) {
	l, err := wire.CheckLine(line)
	if err != nil && string(l.Measurement) != wire.MeasurementAlert {
		return "", ""
	}
	node = string(l.Site) + "." + string(l.Gateway)
	return node, node + " " + string(l.Measurement)
}

// strike counts refused lines, and returns the nodes and measurements of which no more are searched for.
func strike(strikes map[string]int, lines []byte) (limits []string) {
	count := func(key string, limit int) {
		if strikes[key]++; strikes[key] == limit {
			limits = append(limits, key)
		}
	}
	for len(lines) > 0 {
		var line []byte
		line, lines = wire.NextLine(lines)
		if node, measurement := nodeOf(line); node != "" {
			count(measurement, strikesPerMeasurement)
			count(node, strikesPerNode)
		}
	}
	return limits
}

// sweep takes the lines of a node, or of one of its measurements, out of the pieces.
func sweep(todo [][]byte, whose string) (keep [][]byte, out []byte) {
	for _, piece := range todo {
		kept := make([]byte, 0, len(piece))
		for rest := piece; len(rest) > 0; {
			line, after := wire.NextLine(rest)
			whole := rest[:len(rest)-len(after)]
			if node, measurement := nodeOf(line); node == whose || measurement == whose {
				out = append(out, whole...)
			} else {
				kept = append(kept, whole...)
			}
			rest = after
		}
		if len(kept) > 0 {
			keep = append(keep, kept)
		}
	}
	return keep, out
}

// bad are the answers that mean that the database refuses something in the request.
func bad(status int) bool { return status == 400 || status == 422 }

// held are the answers that mean that we are configured wrongly: what we have is kept and tried again slowly. So is a
// "yes" that is not a database's: each that we know answers a write with 204. A captive portal says 200, and some
// databases 201 when they took a part.
func held(status int) bool {
	return status == 401 || status == 403 || status == 404 || status >= 200 && status < 300 && status != http.StatusNoContent
}

// passing are the answers that mean "later", and no answer at all.
func passing(status int) bool { return status == 0 || status == 408 || status == 429 || status >= 500 }

// hold waits before the next attempt; the first time it says why.
func (w *writer) hold(ctx context.Context, a answer, wait time.Duration) error {
	why := fmt.Sprintf("database: status %d: %.300s", a.status, a.message)
	if a.status == 0 {
		why = fmt.Sprintf("database: %.300s", a.message)
	}
	first := false
	w.count(func(s *Stats) {
		first = s.Holding == ""
		s.Holding, s.LastError = why, why
		s.Retries++
	})
	if first {
		if held(a.status) || bad(a.status) {
			w.log.Error("database refuses everything; holding all data", zap.Int("status", a.status), zap.String("err", a.message))
		} else {
			w.log.Warn("database does not take data; retrying", zap.Int("status", a.status), zap.String("err", a.message))
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (w *writer) wrote(piece []byte) {
	lines, last := 0, piece
	for rest := piece; len(rest) > 0; lines++ {
		last = rest
		_, rest = wire.NextLine(rest)
	}
	w.good = append(w.good[:0], last...)
	resumed := false
	w.count(func(s *Stats) {
		resumed = s.Holding != ""
		s.Holding = ""
		s.Writes++
		s.Lines += uint64(lines)
		s.Bytes += uint64(len(piece))
	})
	if resumed {
		w.log.Info("database takes data again")
	}
}

// refuse gives lines up.
func (w *writer) refuse(refused []refusal, lines []byte, a answer) []refusal {
	reason := fmt.Sprintf("database: status %d: %.300s", a.status, a.message)
	n := len(refused)
	for len(lines) > 0 {
		var line []byte
		line, lines = wire.NextLine(lines)
		refused = append(refused, refusal{line: line, reason: reason})
	}
	w.count(func(s *Stats) { s.RefusedLines += uint64(len(refused) - n); s.Holding = "" })
	return refused
}

// cut splits lines into pieces of at most max bytes (a longer line stays whole).
func cut(b []byte, max int) [][]byte {
	var pieces [][]byte
	for len(b) > max {
		n := 0
		for rest := b; len(rest) > 0; {
			_, after := wire.NextLine(rest)
			end := len(b) - len(after)
			if end > max && n > 0 {
				break
			}
			n, rest = end, after
		}
		pieces = append(pieces, b[:n])
		b = b[n:]
	}
	if len(b) > 0 {
		pieces = append(pieces, b)
	}
	return pieces
}

// halve splits lines near the middle; nil for a single line.
func halve(b []byte) [][]byte {
	n := 0
	for rest := b; len(rest) > 0; {
		_, after := wire.NextLine(rest)
		end := len(b) - len(after)
		if n > 0 && end > len(b)/2 {
			break
		}
		n, rest = end, after
		if n > len(b)/2 {
			break
		}
	}
	if n == 0 || n == len(b) {
		return nil
	}
	return [][]byte{b[:n], b[n:]}
}

func countLines(b []byte) int {
	n := 0
	for len(b) > 0 {
		_, b = wire.NextLine(b)
		n++
	}
	return n
}
