package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"linli/internal/mqtt"
	"linli/internal/testservers"
)

// binary returns the product's binary: the one named by LINLI_BIN (make test builds it), or one built here.
func binary(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("LINLI_BIN"); bin != "" {
		return bin
	}
	buildOnce.Do(func() {
		dir, err := os.MkdirTemp("", "linli-test-")
		if err != nil {
			buildErr = err
			return
		}
		built = filepath.Join(dir, "linli")
		cmd := exec.Command("go", "build", "-o", built, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("build the product: %w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return built
}

var (
	buildOnce sync.Once
	built     string
	buildErr  error
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == killWritingArg {
		os.Exit(killWritingMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == bareLoopArg {
		os.Exit(bareLoopMain(os.Args[2:]))
	}
	code := m.Run()
	if built != "" {
		os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(code)
}

// process is a running subcommand of the product.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait, valid once done
	out  *lockedBuffer
}

// start starts the product with args. It is killed at the end of the test if it still runs.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(binary(t), args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{}), out: &lockedBuffer{}}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of %s %s:\n%s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), tail(p.out.String(), 6000))
		}
	})
	return p
}

// kill ends the process with SIGKILL and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // It may have ended already.
	<-p.done
}

// stop ends the process with SIGTERM and fails the test where it does not end well within limit.
func (p *process) stop(limit time.Duration) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.err != nil {
			p.t.Errorf("%s ended with %v after SIGTERM, want exit code 0", p.cmd.Args, p.err)
		}
	case <-time.After(limit):
		p.t.Errorf("%s still runs %s after SIGTERM", p.cmd.Args, limit)
		p.kill()
	}
}

// lockedBuffer is a bytes.Buffer that a process writes while a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// waitFor polls cond until it holds and fails the test where it does not within limit.
func waitFor(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	if !within(limit, 20*time.Millisecond, cond) {
		t.Fatalf("waited %s in vain for: %s", limit, what)
	}
}

// within says whether cond comes true in that time, and looks each time that every has passed.
func within(limit, every time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(limit); !cond(); pause(every) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// pause lets real processes get on for a time that the test sets: between two looks at a condition, between two blows, or
// while something is measured. What can be seen is waited for with waitFor or within.
func pause(d time.Duration) { <-time.After(d) }

// freePort returns a TCP port of loopback that nobody listens on just now.
func freePort(t *testing.T) int {
	t.Helper()
	l := testservers.Listen(t)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// writeFile writes a file into a new directory of the test and returns its path.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// api is the console's HTTP API of a running gateway.
type api struct {
	t    *testing.T
	base string
}

// get decodes the answer to GET path into v and reports whether there was a good one.
func (a api) get(path string, v any) bool {
	resp, err := http.Get(a.base + path)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false
	}
	return json.NewDecoder(resp.Body).Decode(v) == nil
}

// post sends body as JSON and returns the status and the answer.
func (a api) post(path string, body any) (int, string) {
	a.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := http.Post(a.base+path, "application/json", bytes.NewReader(data))
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// subscriber is mosquitto_sub, the third party that sees what is on the broker.
type subscriber struct {
	mu       sync.Mutex
	messages []string // "retain topic payload"
}

// subscribe starts mosquitto_sub on a broker.
func subscribe(t *testing.T, address, topic string) *subscriber {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mosquitto_sub", "-h", host, "-p", port, "-q", "1", "-F", "%r %t %p", "-t", topic)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &subscriber{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(pipe)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			s.mu.Lock()
			s.messages = append(s.messages, lines.Text())
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	return s
}

// all returns the messages so far.
func (s *subscriber) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.messages...)
}

// publisher connects to a broker as the client "box" and returns how to publish something and wait for its acknowledgement.
func publisher(t *testing.T, url string) func(topic string, retain bool, payload []byte) {
	t.Helper()
	session, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "box"}, url, mqtt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(time.Second) })
	return func(topic string, retain bool, payload []byte) {
		t.Helper()
		token := session.Publish(topic, retain, payload)
		select {
		case <-token.Done():
		case <-session.Lost():
			t.Fatal(session.Err())
		}
		if err := token.Error(); err != nil {
			t.Fatal(err)
		}
	}
}
