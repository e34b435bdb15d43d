package ingest_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"linli/internal/ingest"
	"linli/internal/testservers"
)

// rawDB is a database that answers with bytes, right ones or not. Of requests it keeps nothing but what answer notes.
type rawDB struct {
	l net.Listener

	// answer answers request number post, from 1, and reports whether the connection goes on. early says that the body
	// has not been read.
	answer func(c net.Conn, post int, body string) bool
	early  bool

	mu    sync.Mutex
	posts int
	lines []string
}

func startRawDB(t *testing.T, early bool, answer func(db *rawDB, c net.Conn, post int, body string) bool) *rawDB {
	t.Helper()
	db := &rawDB{l: testservers.Listen(t), early: early}
	db.answer = func(c net.Conn, post int, body string) bool { return answer(db, c, post, body) }
	testservers.Serve(t, db.l, db.serve)
	return db
}

func (db *rawDB) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		var body []byte
		if !db.early || req.ContentLength < 1<<10 {
			if body, err = io.ReadAll(req.Body); err != nil {
				return
			}
		}
		db.mu.Lock()
		db.posts++
		post := db.posts
		db.mu.Unlock()
		if !db.answer(c, post, string(body)) {
			return
		}
	}
}

// good takes the lines, but for those with 666.
func (db *rawDB) good(c net.Conn, body string) bool {
	db.mu.Lock()
	for l := range strings.Lines(body) {
		if !strings.Contains(l, "n=666i") {
			db.lines = append(db.lines, l)
		}
	}
	db.mu.Unlock()
	return send(c, "HTTP/1.1 204 No Content\r\n\r\n")
}

func (db *rawDB) has(part string) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, l := range db.lines {
		if strings.Contains(l, part) {
			return true
		}
	}
	return false
}

func send(c net.Conn, text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

func withLength(head, body string) string {
	return fmt.Sprintf("%s\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
}

// forever writes until the other side has had enough.
func forever(c net.Conn, text string) bool {
	for send(c, text) {
		time.Sleep(time.Millisecond) // the far end is to wait for us
	}
	return false
}

// Whatever a database answers, and however: no good line is missing or dead, no bad one holds up the others, nothing is
// acknowledged before it is written, and ingest comes to an end with each answer.
func TestHostileDatabase(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		elsewhere.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer other.Close()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 64<<20))
	_ = z.Close()

	type answer = func(db *rawDB, c net.Conn, post int, body string) bool
	// first answers the first n requests with text, and then well.
	first := func(n int, text string, goesOn bool) answer {
		return func(db *rawDB, c net.Conn, post int, body string) bool {
			if post > n {
				return db.good(c, body)
			}
			return send(c, text) && goesOn
		}
	}
	// bad refuses what holds the bad line, after it has stored the rest where that is said.
	bad := func(stores bool, refuse func(c net.Conn) bool) answer {
		return func(db *rawDB, c net.Conn, _ int, body string) bool {
			if !strings.Contains(body, "n=666i") {
				return db.good(c, body)
			}
			if stores {
				db.good(discard{c}, body)
			}
			return refuse(c)
		}
	}
	text := func(s string) func(net.Conn) bool { return func(c net.Conn) bool { return send(c, s) } }
	const conflict = `partial write: field type conflict: input field \"n\" on measurement \"counter\" is type float, already exists as type integer dropped=1`
	soon := func() string { return time.Now().Add(1100 * time.Millisecond).UTC().Format(http.TimeFormat) }

	for i, c := range []struct {
		name   string
		answer answer
		early  bool
		dead   int
		held   string // yes, no, or nothing where it does not matter
		least  time.Duration
	}{
		{name: "200 with a page", answer: first(3, withLength("HTTP/1.1 200 OK\r\nContent-Type: text/html", "<html>Welcome to the network. Please log in.</html>"), true), held: "yes"},
		{name: "200 with the words of a database", answer: first(3, withLength("HTTP/1.1 200 OK\r\nContent-Type: application/json", `{"results":[{}]}`), true), held: "yes"},
		{name: "204 with a body", answer: func(db *rawDB, c net.Conn, _ int, body string) bool {
			return db.good(discard{c}, body) && send(c, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")
		}},
		{name: "204 with the next answer behind it", answer: func(db *rawDB, c net.Conn, _ int, body string) bool {
			return db.good(discard{c}, body) && send(c, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		}},
		{name: "204 with a body that never ends", answer: func(db *rawDB, c net.Conn, _ int, body string) bool {
			return db.good(discard{c}, body) && send(c, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n") && forever(c, "1\r\nx\r\n")
		}},
		{name: "400 partial write, the rest stored", answer: bad(true, text(withLength("HTTP/1.1 400 Bad Request", `{"error":"`+conflict+`"}`))), dead: 1, held: "no"},
		{name: "400 partial write, nothing stored", answer: bad(false, text(withLength("HTTP/1.1 400 Bad Request", `{"error":"`+conflict+`"}`))), dead: 1, held: "no"},
		{name: "422 partial write, the rest stored", answer: bad(true, text(withLength("HTTP/1.1 422 Unprocessable Entity", `{"code":"unprocessable entity","message":"`+conflict+`"}`))), dead: 1, held: "no"},
		{name: "400 with a body cut short", answer: bad(false, func(c net.Conn) bool {
			return send(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 1000\r\n\r\n{\"code\":") && false
		}), dead: 1, held: "no"},
		{name: "400 with a body that never ends", answer: bad(false, func(c net.Conn) bool {
			return send(c, "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n") && forever(c, "1\r\nx\r\n")
		}), dead: 1, held: "no"},
		{name: "503 with a body cut short", answer: first(2, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000\r\n\r\npart", false), held: "yes"},
		{name: "cut within the status", answer: first(2, "HTTP/1.1 204 No Con", false), held: "yes"},
		{name: "cut within the headers", answer: first(2, "HTTP/1.1 204 No Content\r\nDate: ", false), held: "yes"},
		{name: "closed without an answer", answer: first(2, "", false), held: "yes"},
		{name: "no HTTP", answer: first(2, "-ERR unknown command 'POST'\r\n", true), held: "yes"},
		{name: "a status that is none", answer: first(2, withLength("HTTP/1.1 999 Whatever", ""), true), held: "yes"},
		{name: "headers that never end", answer: func(db *rawDB, c net.Conn, post int, body string) bool {
			if post == 1 {
				return send(c, "HTTP/1.1 204 No Content\r\nX-A: ") && forever(c, "a")
			}
			return db.good(c, body)
		}, held: "yes"},
		{name: "a huge header", answer: first(1, "HTTP/1.1 204 No Content\r\nX-A: "+strings.Repeat("a", 1<<20)+"\r\n\r\n", false), held: "yes"},
		{name: "no answer at all", answer: func(db *rawDB, c net.Conn, post int, body string) bool {
			if post == 1 {
				_, _ = c.Read(make([]byte, 1)) // until the far end gives up
				return false
			}
			return db.good(c, body)
		}, held: "yes"},
		{name: "a huge error", answer: first(1, withLength("HTTP/1.1 500 Internal Server Error", strings.Repeat("x", 8<<20)), false), held: "yes"},
		{name: "a packed bomb", answer: first(1, withLength("HTTP/1.1 500 Internal Server Error\r\nContent-Encoding: gzip", bomb.String()), false), held: "yes"},
		{name: "an error of zeros and line breaks", answer: first(2, withLength("HTTP/1.1 500 Internal Server Error", "\x00\n\r\x1b[31m"), true), held: "yes"},
		// Not followed, whoever it is.
		{name: "redirected", answer: first(9, withLength("HTTP/1.1 307 Temporary Redirect\r\nLocation: "+other.URL+"/api/v2/write", ""), true), held: "yes"},
		{name: "moved for good", answer: first(9, withLength("HTTP/1.1 301 Moved Permanently\r\nLocation: "+other.URL+"/", ""), true), held: "yes"},
		{name: "103 before 204", answer: func(db *rawDB, c net.Conn, _ int, body string) bool {
			return send(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 3)) && db.good(c, body)
		}, held: "no"},
		{name: "100 without end", answer: func(db *rawDB, c net.Conn, post int, body string) bool {
			if post == 1 {
				return forever(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			return db.good(c, body)
		}, held: "yes"},
		{name: "101", answer: first(1, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", true), held: "yes"},
		{name: "413 before the body was read", early: true, answer: func(db *rawDB, c net.Conn, _ int, body string) bool {
			if body != "" {
				return db.good(c, body)
			}
			send(c, withLength("HTTP/1.1 413 Request Entity Too Large\r\nConnection: close", "<html>too large</html>"))
			_, _ = io.Copy(io.Discard, c) // as nginx does
			return false
		}, held: "no"},
		{name: "429 with seconds", answer: first(1, withLength("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1", ""), true), held: "yes", least: time.Second},
		{name: "503 with a date", answer: func(db *rawDB, c net.Conn, post int, body string) bool {
			if post == 1 {
				return send(c, withLength("HTTP/1.1 503 Service Unavailable\r\nRetry-After: "+soon(), ""))
			}
			return db.good(c, body)
		}, held: "yes", least: 90 * time.Millisecond}, // the date has whole seconds
		{name: "503 with nonsense", answer: first(2, withLength("HTTP/1.1 503 Service Unavailable\r\nRetry-After: tomorrow", ""), true), held: "yes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := startRawDB(t, c.early, c.answer)
			site := fmt.Sprintf("hostile%d", i)
			n := site + ".gw1"
			in, stop := start(t, ingest.Config{
				Brokers: []string{broker.URL}, ClientID: "ingest-" + site, Filters: []string{"linli/v1/" + n + "/telemetry"},
				Influx: ingest.Influx{URL: "http://" + db.l.Addr().String(), Bucket: "b"},
			}, func(in *ingest.Ingest) { in.SetTimeouts(700*time.Millisecond, 50*time.Millisecond) })
			defer stop()
			client := connect(t, broker.URL, "box-"+site, "linli/v1/dead/"+n)
			began := time.Now()
			client.publish("linli/v1/"+n+"/telemetry", message(1, 1, twelve(site+",zone="+strings.Repeat("z", 100))...))
			held, acknowledgedEarly := false, false
			eventually(t, "acknowledged", func() bool {
				s := in.Stats()
				held = held || s.Retries > 0
				acknowledgedEarly = acknowledgedEarly || s.Acknowledged > 0 && !db.has("linli_ledger")
				return s.Acknowledged == 1
			})
			took := time.Since(began)
			if acknowledgedEarly {
				t.Error("acknowledged before it was written")
			}
			if c.held != "" && held != (c.held == "yes") {
				t.Errorf("held back %v, want %s", held, c.held)
			}
			for k := range 12 {
				if k != 5 && !db.has(fmt.Sprintf(" n=%di ", k)) {
					t.Errorf("line %d is missing", k)
				}
			}
			eventually(t, "dead letters", func() bool { return len(client.letters()) == c.dead })
			s := in.Stats()
			if s.RefusedLines != uint64(c.dead) || s.Holding != "" || len(s.LastError) > 1<<10 {
				t.Errorf("stats %+v", s)
			}
			if took < c.least || took > 12*time.Second {
				t.Errorf("took %v, want at least %v", took, c.least)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests followed a redirect", n)
	}
}

// discard is a connection of which only reads count.
type discard struct{ net.Conn }

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// Two that share a subscription share the messages, each of which is written once; one that stops in order leaves what it
// has not written to be written when it comes back, and the other goes on.
func TestSharedSubscription(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	db := &fakeDB{answer: func(string) (int, string, string) { return 204, "", "" }}
	server := httptest.NewServer(db)
	defer server.Close()
	cfg := func(id string) ingest.Config {
		return ingest.Config{Brokers: []string{broker.URL}, ClientID: id, Filters: []string{"$share/city/linli/v1/+/telemetry", "$share/city/linli/v1/+/alert/+"},
			Influx: ingest.Influx{URL: server.URL, Bucket: "b"}}
	}
	first, stopFirst := start(t, cfg("ingest-1"))
	second, _ := start(t, cfg("ingest-2"))
	c := connect(t, broker.URL, "box")
	const n = 200
	for i := range n {
		c.publish(topic, message(uint64(i+1), uint64(i+1), line(i, fmt.Sprintf("n=%di", i))))
	}
	sum := func() uint64 { return first.Stats().Acknowledged + second.Stats().Acknowledged }
	eventually(t, "all acknowledged", func() bool { return sum() >= n })
	if a, b := first.Stats().Acknowledged, second.Stats().Acknowledged; a+b != n || a < n/10 || b < n/10 {
		t.Errorf("%d and %d messages of %d", a, b, n)
	}
	stopFirst()
	for i := range n {
		c.publish(topic, message(uint64(n+i+1), uint64(n+i+1), line(n+i, fmt.Sprintf("n=%di", n+i))))
	}
	eventually(t, "the other goes on", func() bool { return second.Stats().Acknowledged > n/2 })
	again, _ := start(t, cfg("ingest-1"))
	eventually(t, "the rest as well", func() bool {
		for i := range 2 * n {
			if !db.has(fmt.Sprintf(" n=%di ", i)) {
				return false
			}
		}
		return true
	})
	t.Logf("after the stop: %d by the other, %d by the one that came back", second.Stats().Acknowledged, again.Stats().Acknowledged)
	db.mu.Lock()
	defer db.mu.Unlock()
	rows := 0
	for _, l := range db.lines {
		if strings.HasPrefix(l, "counter") {
			rows++
		}
	}
	if rows != 2*n {
		t.Errorf("%d rows written, want each of %d once", rows, 2*n)
	}
}

// A stop in order finishes the batch at hand and acknowledges it.
func TestStopFinishesTheBatch(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	asked, release := make(chan struct{}, 100), make(chan struct{})
	var written atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-release
		written.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	cfg := ingest.Config{Brokers: []string{broker.URL}, StopTimeout: 10 * time.Second, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}}
	in, stop := start(t, cfg)
	c := connect(t, broker.URL, "box")
	for i := range 5 {
		c.publish(topic, message(uint64(i+1), uint64(i+1), line(i, "n=1i")))
	}
	<-asked
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	select {
	case <-stopped:
		t.Fatal("stopped while a batch was on its way")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	<-stopped
	acknowledged := in.Stats().Acknowledged
	if acknowledged == 0 || written.Load() == 0 {
		t.Errorf("%d messages acknowledged in %d writes", acknowledged, written.Load())
	}
	// The broker has them acknowledged: only the others come again.
	again, _ := start(t, cfg)
	eventually(t, "the others", func() bool { return again.Stats().Acknowledged+acknowledged == 5 })
}
