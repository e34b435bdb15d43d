package console_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/console"
	"linli/internal/telemetry"
	"linli/internal/testservers"
)

// do answers one request.
func do(c *community, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:8080"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	c.server.ServeHTTP(w, r)
	return w
}

// decode reads the JSON of an answer.
func decode(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("answer %d is not JSON: %v\n%s", w.Code, err, w.Body)
	}
	return v
}

// dig walks into decoded JSON by keys and indices.
func dig(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("%v: not an object at %q", path, p)
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("%v: no element %d", path, p)
			}
			v = l[p]
		}
	}
	return v
}

func TestSiteNamesWhatIsInstalled(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	w := do(c, "GET", "/api/v1/site", "")
	site := decode(t, w)
	if got := dig(t, site, "title", "zh"); got != "阳光社区" {
		t.Errorf("title = %v", got)
	}
	if got := dig(t, site, "timezone"); got != "Asia/Shanghai" {
		t.Errorf("timezone = %v", got)
	}
	if got := dig(t, site, "zones", 1, "parent"); got != "b1" {
		t.Errorf("parent of %v = %v, want b1", dig(t, site, "zones", 1, "id"), got)
	}
	var bin map[string]any
	for _, d := range dig(t, site, "devices").([]any) {
		if d.(map[string]any)["id"] == "bin_2_3" {
			bin = d.(map[string]any)
		}
	}
	if got, want := dig(t, bin, "points", 0), float64(c.point(t, "bin_2_3", "fill_pct")); got != want {
		t.Errorf("fill_pct has id %v, want %v", got, want)
	}
	if got := dig(t, bin, "points", 1); got != nil {
		t.Errorf("a point nothing provides has id %v, want null", got)
	}
	if got := dig(t, bin, "constants", 1); got != 3.0 {
		t.Errorf("stream fixed by the site file = %v, want 3", got)
	}
}

func TestStateSaysWhatIsKnownAndHowWell(t *testing.T) {
	c := newCommunity(t, console.Config{Version: "1.2.3"}, true)
	c.read(t, "smoke_1_1", "temperature_c", telemetry.FloatValue(21.5))
	c.read(t, "smoke_1_2", "temperature_c", telemetry.FloatValue(22))
	c.quality(t, "smoke_1_2", telemetry.BadComm)
	lane := c.raiseLane(t)

	state := decode(t, do(c, "GET", "/api/v1/state", ""))
	if got := dig(t, state, "server", "version"); got != "1.2.3" {
		t.Errorf("version = %v", got)
	}
	if at, err := time.Parse(time.RFC3339Nano, dig(t, state, "now", "time").(string)); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("now.time = %v, %v", at, err)
	}
	if got := dig(t, state, "now", "utc_offset_s"); got != 8*3600.0 {
		t.Errorf("utc_offset_s = %v", got)
	}
	if got := dig(t, state, "alerts", "open", 0, "id"); got != lane.ID {
		t.Errorf("open alert = %v, want %s", got, lane.ID)
	}
	if got := dig(t, state, "alerts", "open", 0, "state"); got != "active_unacknowledged" {
		t.Errorf("state = %v", got)
	}
	if got := dig(t, state, "status", "uplink", "connected"); got != true {
		t.Errorf("uplink.connected = %v", got)
	}
	values := map[float64]map[string]any{}
	for _, v := range dig(t, state, "values").([]any) {
		values[v.(map[string]any)["id"].(float64)] = v.(map[string]any)
	}
	good := values[float64(c.point(t, "smoke_1_1", "temperature_c"))]
	if good["value"] != 21.5 || good["quality"] != nil || good["confirmed_ms"] == nil {
		t.Errorf("good value = %v", good)
	}
	bad := values[float64(c.point(t, "smoke_1_2", "temperature_c"))]
	if bad["value"] != nil || bad["quality"] != "bad_comm" || bad["last"] != 22.0 || bad["confirmed_ms"] == nil {
		t.Errorf("silent device = %v", bad)
	}
	never := values[float64(c.point(t, "smoke_1_2", "alarm"))]
	if never["value"] != nil || never["quality"] != "bad_comm" || never["last"] != nil || never["confirmed_ms"] != nil {
		t.Errorf("point that never had a value = %v", never)
	}
	if v, ok := values[float64(c.point(t, "smoke_2_1", "alarm"))]; ok {
		t.Errorf("a point of which nothing is known has an entry: %v", v)
	}
}

func TestAcknowledge(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	lane := c.raiseLane(t)
	path := "/api/v1/alerts/" + lane.ID + "/acknowledge"

	w := do(c, "POST", path, `{"by":" 王工 ","note":"已联系\n车主"}`)
	if w.Code != http.StatusOK {
		t.Fatalf("acknowledge: %d %s", w.Code, w.Body)
	}
	answer := decode(t, w)
	if dig(t, answer, "alert", "state") != "active_acknowledged" || dig(t, answer, "alert", "acknowledged_by") != "王工" {
		t.Errorf("answer = %v", answer)
	}
	if w := do(c, "POST", path, `{"by":"李师傅"}`); w.Code != http.StatusOK || dig(t, decode(t, w), "alert", "acknowledged_by") != "王工" {
		t.Errorf("second acknowledgement: %d %s", w.Code, w.Body)
	}
	detail := decode(t, do(c, "GET", "/api/v1/alerts/"+lane.ID, ""))
	if got := dig(t, detail, "history", 1, "note"); got != "已联系 车主" {
		t.Errorf("note = %q", got)
	}
	if got := dig(t, detail, "history", 0, "what"); got != "raised" {
		t.Errorf("first line of history = %v", got)
	}
}

func TestCloseByHand(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	lane := c.raiseLane(t)
	path := "/api/v1/alerts/" + lane.ID + "/close"
	w := do(c, "POST", path, `{"by":"王工"}`)
	if w.Code != http.StatusConflict || dig(t, decode(t, w), "error", "code") != "still_active" {
		t.Fatalf("closing an active alert: %d %s", w.Code, w.Body)
	}
	lane.Unknown = true
	c.book.put(lane, alert.WhatUnknown, alert.BySensor, "")
	w = do(c, "POST", path, `{"by":"王工","note":"现场看过，没有车"}`)
	if w.Code != http.StatusOK || dig(t, decode(t, w), "alert", "close_reason") != "by_hand" {
		t.Fatalf("closing an unknown alert: %d %s", w.Code, w.Body)
	}
}

// TestRefusals: each mistake has its own code, and a message in both languages.
func TestRefusals(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	id := c.raiseLane(t).ID
	ack := "/api/v1/alerts/" + id + "/acknowledge"
	for _, x := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code                     string
	}{
		{"unknown alert", "GET", "/api/v1/alerts/nope", "", nil, 404, "alert_not_found"},
		{"acknowledge unknown alert", "POST", "/api/v1/alerts/nope/acknowledge", `{"by":"w"}`, nil, 404, "alert_not_found"},
		{"close unknown alert", "POST", "/api/v1/alerts/nope/close", `{"by":"w"}`, nil, 404, "alert_not_found"},
		{"unknown page", "GET", "/api/v1/nothing", "", nil, 404, "not_found"},
		{"no path out of the files", "GET", "/assets/..%2f..%2fgo.mod", "", nil, 404, "not_found"},
		{"the list of sources is not served", "GET", "/sources.sha256", "", nil, 404, "not_found"},
		{"wrong method", "GET", ack, "", nil, 405, "method_not_allowed"},
		{"wrong method on a page", "DELETE", "/", "", nil, 405, "method_not_allowed"},
		{"nobody", "POST", ack, `{"note":"x"}`, nil, 400, "by_required"},
		{"blank name", "POST", ack, `{"by":" \u200b\n "}`, nil, 400, "by_required"},
		{"long name", "POST", ack, `{"by":"` + strings.Repeat("王", 41) + `"}`, nil, 400, "text_too_long"},
		{"long note", "POST", ack, `{"by":"w","note":"` + strings.Repeat("长", 501) + `"}`, nil, 400, "text_too_long"},
		{"not JSON", "POST", ack, `by=w`, nil, 400, "bad_json"},
		{"cut off", "POST", ack, `{"by":"w"`, nil, 400, "bad_json"},
		{"two values", "POST", ack, `{"by":"w"}{"by":"v"}`, nil, 400, "bad_json"},
		{"wrong type", "POST", ack, `{"by":7}`, nil, 400, "bad_json"},
		{"unknown key", "POST", ack, `{"by":"w","as":"admin"}`, nil, 400, "bad_json"},
		{"a form", "POST", ack, `{"by":"w"}`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "json_required"},
		{"oversize", "POST", ack, `{"by":"w","note":"` + strings.Repeat("x", 20<<10) + `"}`, nil, 413, "body_too_large"},
		{"another site", "POST", ack, `{"by":"w"}`, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403, "cross_origin"},
		{"another origin", "POST", ack, `{"by":"w"}`, []string{"Origin", "http://127.0.0.1:9999"}, 403, "cross_origin"},
		{"a name pointed here", "GET", "/api/v1/state", "", []string{"Host", "rebind.evil.example:8080"}, 421, "wrong_host"},
		{"unknown story", "POST", "/api/v1/demo/scenarios/flood", "", nil, 404, "scenario_not_found"},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := do(c, x.method, x.path, x.body, x.header...)
			if w.Code != x.status {
				t.Fatalf("status = %d, want %d: %s", w.Code, x.status, w.Body)
			}
			e := decode(t, w)
			if got := dig(t, e, "error", "code"); got != x.code {
				t.Errorf("code = %v, want %s", got, x.code)
			}
			if dig(t, e, "error", "message", "zh") == "" || dig(t, e, "error", "message", "en") == "" {
				t.Errorf("message is missing: %s", w.Body)
			}
			if x.status == 405 && w.Header().Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	if a, _, _ := c.book.Get(id); a.State != alert.ActiveUnacknowledged {
		t.Errorf("a refused request changed the alert: %v", a.State)
	}
}

func TestFailedStoreIsAFailure(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	lane := c.raiseLane(t)
	c.book.failWith(errors.New("disk I/O error"))
	w := do(c, "POST", "/api/v1/alerts/"+lane.ID+"/acknowledge", `{"by":"王工"}`)
	if w.Code != http.StatusInternalServerError || dig(t, decode(t, w), "error", "code") != "store_failed" {
		t.Errorf("answer = %d %s", w.Code, w.Body)
	}
}

func TestPageFiles(t *testing.T) {
	c := newCommunity(t, console.Config{}, false)
	w := do(c, "GET", "/", "")
	if w.Code != 200 || w.Header().Get("Cache-Control") != "no-cache" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'self'") {
		t.Errorf("page: %d %v", w.Code, w.Header())
	}
	script := regexp.MustCompile(`/assets/[^"]+\.js`).FindString(w.Body.String())
	if script == "" {
		t.Fatalf("no script in the page: %s", w.Body)
	}
	w = do(c, "GET", script, "", "Accept-Encoding", "br, gzip")
	if w.Header().Get("Content-Encoding") != "gzip" || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
		t.Errorf("script headers: %v", w.Header())
	}
	if w.Body.Len() > 60<<10 {
		t.Errorf("script is %d bytes compressed, want at most 60 kB", w.Body.Len())
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	plain := do(c, "GET", script, "", "Accept-Encoding", "gzip;q=0")
	if !bytes.Equal(zipped, plain.Body.Bytes()) {
		t.Error("the compressed script is not the script")
	}
	if again := do(c, "GET", script, "", "If-None-Match", plain.Header().Get("ETag")); again.Code != http.StatusNotModified {
		t.Errorf("same ETag: %d", again.Code)
	}
}

func TestDemo(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	if got := dig(t, decode(t, do(c, "GET", "/api/v1/demo", "")), "scenarios", 0, "name"); got != "fire-lane" {
		t.Errorf("first story = %v", got)
	}
	if w := do(c, "POST", "/api/v1/demo/scenarios/smoke", ""); w.Code != http.StatusNoContent {
		t.Errorf("start: %d %s", w.Code, w.Body)
	}
	if w := do(c, "POST", "/api/v1/demo/scenarios/smoke", ""); w.Code != http.StatusConflict {
		t.Errorf("start again: %d %s", w.Code, w.Body)
	}
	plain, err := console.New(console.Config{}, console.Sources{Inventory: c.inv, Clock: c.clock, Live: c.live, Alerts: c.book}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.server = plain
	if w := do(c, "GET", "/api/v1/demo", ""); w.Code != 200 || len(dig(t, decode(t, w), "scenarios").([]any)) != 0 {
		t.Errorf("outside the demo: %d %s", w.Code, w.Body)
	}
	if w := do(c, "POST", "/api/v1/demo/scenarios/smoke", ""); w.Code != http.StatusNotFound {
		t.Errorf("start outside the demo: %d", w.Code)
	}
}

func TestProbesAndMetrics(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	if w := do(c, "GET", "/readyz", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("readyz before the first reading: %d", w.Code)
	}
	c.quality(t, "smoke_1_1", telemetry.BadComm) // A device that does not answer is a result, too.
	if w := do(c, "GET", "/readyz", ""); w.Code != http.StatusOK {
		t.Errorf("readyz after it: %d", w.Code)
	}
	do(c, "GET", "/", "", "Host", "evil.example")
	body := do(c, "GET", "/metrics", "").Body.String()
	for _, want := range []string{"linli_test 1\n", "linli_console_wrong_host_total 1\n", "linli_console_streams 0\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %q:\n%s", want, body)
		}
	}
}

// TestBuiltFromTheseSources: the committed page is built from the committed sources (`make web` after a change).
func TestBuiltFromTheseSources(t *testing.T) {
	var got bytes.Buffer
	for _, root := range []string{"index.html", "package.json", "package-lock.json", "public", "src", "svelte.config.js", "tsconfig.json", "vite.config.ts"} {
		err := filepath.WalkDir(filepath.Join("web", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(body)
			rel, err := filepath.Rel("web", path)
			fmt.Fprintf(&got, "%s  %s\n", hex.EncodeToString(sum[:]), filepath.ToSlash(rel))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("dist/sources.sha256")
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		t.Errorf("dist is not built from these sources; run `make web` and commit dist.\nsources:\n%s\ndist:\n%s", got.String(), want)
	}
}

// TestCatalogues: both languages have the same keys with the same placeholders, and no text is empty.
func TestCatalogues(t *testing.T) {
	load := func(lang string) map[string]string {
		body, err := os.ReadFile("web/src/i18n/" + lang + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]string
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	zh, en := load("zh"), load("en")
	holders := regexp.MustCompile(`\{\w+\}`)
	for key, text := range zh {
		other, ok := en[key]
		if !ok {
			t.Errorf("en lacks %s", key)
			continue
		}
		a, b := holders.FindAllString(text, -1), holders.FindAllString(other, -1)
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Errorf("%s: placeholders %v and %v", key, a, b)
		}
		if strings.TrimSpace(text) == "" || strings.TrimSpace(other) == "" {
			t.Errorf("%s is empty", key)
		}
	}
	for key := range en {
		if _, ok := zh[key]; !ok {
			t.Errorf("zh lacks %s", key)
		}
	}
	// Every text is used somewhere: by its key, or by a key that is put together from a prefix.
	var code bytes.Buffer
	err := filepath.WalkDir("web/src", func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, ".svelte") || strings.HasSuffix(path, ".ts")) {
			body, err := os.ReadFile(path)
			code.Write(body)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for key := range zh {
		prefix := key[:strings.LastIndex("."+key, ".")]
		if !strings.Contains(code.String(), `"`+key+`"`) && !strings.Contains(code.String(), "`"+prefix+"$") && !strings.Contains(code.String(), `"`+prefix+`" +`) {
			t.Errorf("nothing uses %s", key)
		}
	}
}

// event is one server-sent event.
type event struct {
	name string
	data map[string]any
}

// follow opens a stream and returns its events; the channel closes with the stream.
func follow(t *testing.T, ctx context.Context, url string) <-chan event {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", url+"/api/v1/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		t.Fatalf("stream: %s %v", resp.Status, resp.Header)
	}
	events := make(chan event, 64)
	go func() {
		defer close(events)
		defer resp.Body.Close()
		read(resp.Body, events)
	}()
	return events
}

// read decodes events until the stream ends.
func read(r io.Reader, events chan<- event) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	var e event
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "event":
			e.name = value
		case "data":
			if json.Unmarshal([]byte(value), &e.data) != nil {
				return
			}
		case "":
			events <- e
			e = event{}
		}
	}
}

// await returns the next event named name.
func await(t *testing.T, events <-chan event, name string) event {
	t.Helper()
	limit := time.After(15 * time.Second)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the stream ended while waiting for %s", name)
			}
			if e.name == name {
				return e
			}
		case <-limit:
			t.Fatalf("no %s event", name)
		}
	}
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	ln := testservers.Listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.server.Serve(ctx, ln) }()
	events := follow(t, t.Context(), "http://"+ln.Addr().String())
	await(t, events, "snapshot")
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not end while a stream is open")
	}
	for range events { // The stream has ended, too.
	}
}

// TestRaisedAgain: an open alert whose condition came back says when, wherever it is told.
func TestRaisedAgain(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	lane := c.raiseLane(t)
	told := func() any {
		t.Helper()
		first := dig(t, decode(t, do(c, "GET", "/api/v1/state", "")), "alerts", "open", 0).(map[string]any)
		one := dig(t, decode(t, do(c, "GET", "/api/v1/alerts/"+lane.ID, "")), "alert").(map[string]any)
		if first["raised_again_at"] != one["raised_again_at"] || first["raised_at"] != one["raised_at"] || one["raised_at"] == nil {
			t.Errorf("the list says %v, the alert %v", first, one)
		}
		return one["raised_again_at"]
	}
	if got := told(); got != nil {
		t.Errorf("raised once: %v", got)
	}
	var again []any
	for range 2 {
		lane = c.move(lane, alert.ReturnedUnacknowledged, alert.WhatReturned)
		lane = c.move(lane, alert.ActiveUnacknowledged, alert.WhatRaisedAgain)
		_, history, _ := c.book.Get(lane.ID)
		again = append(again, told())
		if want := history[len(history)-1].Time.Format(time.RFC3339Nano); again[len(again)-1] != want {
			t.Errorf("raised again at %v, want %v", again[len(again)-1], want)
		}
	}
	lane.Severity = telemetry.Critical
	c.book.put(lane, alert.WhatChanged, alert.BySensor, "")
	_, history, _ := c.book.Get(lane.ID)
	w := do(c, "POST", "/api/v1/alerts/"+lane.ID+"/acknowledge", `{"by":"王工"}`)
	if got, want := dig(t, decode(t, w), "alert", "changed_at"), history[len(history)-1].Time.Format(time.RFC3339Nano); got != want {
		t.Errorf("became worse at %v, want %v", got, want)
	}
	if got := dig(t, decode(t, w), "alert", "raised_again_at"); got != again[1] {
		t.Errorf("acknowledged: %v, want %v", got, again[1])
	}
}

// TestSpareConnectionDoesNotHoldTheEnd: browsers open a connection in advance and send nothing on it.
func TestSpareConnectionDoesNotHoldTheEnd(t *testing.T) {
	s := newCommunity(t, console.Config{}, true).server
	ln := testservers.Listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if resp, err := http.Get("http://" + ln.Addr().String() + "/healthz"); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}
	ended := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(ended); took > 2500*time.Millisecond {
		t.Errorf("the end took %s", took)
	}
}
