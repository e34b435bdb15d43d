// Package testservers runs the real servers that tests need: Mosquitto, NATS, InfluxDB 1.8, VictoriaMetrics and Telegraf,
// each as a process of its own on a free loopback port with its data in the test's temporary directory. They are stopped
// when the test ends.
// For tests with GPIO lines it also runs a real kernel in an emulated machine (InsideVM, RunInVM, SimChip).
//
// A missing program fails the test: a test that is skipped proves nothing. Programs are looked for in PATH, in
// /usr/sbin and in .tools/bin at the top of the repository.
package testservers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// FindTool returns the path of the program name, or fails the test.
func FindTool(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	dirs := []string{"/usr/sbin", "/usr/local/sbin"}
	if wd, err := os.Getwd(); err == nil {
		for dir := wd; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				dirs = append(dirs, filepath.Join(dir, ".tools", "bin"))
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed: looked in PATH and %v (make test installs it)", name, dirs)
	return ""
}

// FreePort returns a loopback TCP port that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Eventually polls cond until it holds, or fails the test after timeout.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); ; <-tick.C {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", timeout, what)
		}
	}
}

// process is a server process that can be stopped and started again.
type process struct {
	t    testing.TB
	name string
	path string
	args []string
	env  []string

	mu   sync.Mutex // guards cmd, done and log
	cmd  *exec.Cmd
	done chan struct{}
	log  bytes.Buffer
}

// Write collects the server's output for the failure message.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log.Len() > 64<<10 {
		p.log.Reset()
	}
	return p.log.Write(b)
}

func (p *process) start() {
	p.t.Helper()
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = p, p
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is no matter: the tests end it
		close(done)
	}()
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
}

// stop ends the process with sig and waits for it.
func (p *process) stop(sig os.Signal) {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.cmd = nil
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig) // an error means that it has already ended
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-done
	}
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// running reports whether the process was started and has not ended by itself.
func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) waitFor(timeout time.Duration, ready func() error) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); ; <-tick.C {
		err := ready()
		if err == nil {
			return
		}
		p.mu.Lock()
		done := p.done
		p.mu.Unlock()
		select {
		case <-done:
			p.t.Fatalf("%s ended: %s", p.name, p.output())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s is not ready: %v: %s", p.name, err, p.output())
		}
	}
}

// Mosquitto is a running broker.
type Mosquitto struct {
	Address string // host:port
	URL     string // tcp://host:port
	p       *process
}

// StartMosquitto starts a broker without access control, with persistence: a restarted one keeps sessions, queues
// and retained messages. Extra lines go into its configuration.
func StartMosquitto(t testing.TB, extra ...string) *Mosquitto {
	t.Helper()
	dir := t.TempDir()
	port := FreePort(t)
	config := []string{
		fmt.Sprintf("listener %d 127.0.0.1", port), "allow_anonymous true", "persistence true",
		"persistence_location " + dir + "/", "autosave_interval 1", "autosave_on_changes true",
		"max_queued_messages 0", "max_inflight_messages 100", "set_tcp_nodelay true",
	}
	if os.Geteuid() == 0 {
		config = append(config, "user root") // it would otherwise give up root and not be able to write its data
	}
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(strings.Join(append(config, extra...), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return StartMosquittoFile(t, file, fmt.Sprintf("127.0.0.1:%d", port))
}

// StartMosquittoFile starts a broker with a configuration of the test's own, that listens on address.
func StartMosquittoFile(t testing.TB, file, address string) *Mosquitto {
	t.Helper()
	m := &Mosquitto{Address: address, URL: "tcp://" + address, p: &process{
		t: t, name: "mosquitto", path: FindTool(t, "mosquitto"), args: []string{"-c", file},
	}}
	t.Cleanup(m.Stop)
	m.Start()
	return m
}

// Start starts the broker again after Stop or Kill, on the same port and with the same data.
func (m *Mosquitto) Start() {
	m.p.t.Helper()
	m.p.start()
	m.p.waitFor(10*time.Second, func() error {
		c, err := net.DialTimeout("tcp", m.Address, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// Stop ends the broker in order: it saves its data.
func (m *Mosquitto) Stop() { m.p.stop(syscall.SIGTERM) }

// Kill ends the broker at once: what it had not saved is gone.
func (m *Mosquitto) Kill() { m.p.stop(syscall.SIGKILL) }

// InfluxDB is a running InfluxDB 1.8 with the v2 write API.
type InfluxDB struct {
	URL      string // http://host:port
	Database string
	Bucket   string // Database + "/autogen", as the v2 API of 1.8 wants it
	p        *process
}

// StartInfluxDB starts a database server with an empty database.
func StartInfluxDB(t testing.TB) *InfluxDB {
	t.Helper()
	dir := t.TempDir()
	port, rpc := FreePort(t), FreePort(t)
	file := filepath.Join(dir, "influxdb.conf")
	config := fmt.Sprintf(`reporting-disabled = true
bind-address = "127.0.0.1:%d"
[meta]
  dir = %q
[data]
  dir = %q
  wal-dir = %q
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:%d"
  flux-enabled = true
  log-enabled = false
`, rpc, dir+"/meta", dir+"/data", dir+"/wal", port)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	db := &InfluxDB{URL: fmt.Sprintf("http://127.0.0.1:%d", port), Database: "linli", Bucket: "linli/autogen", p: &process{
		t: t, name: "influxd", path: FindTool(t, "influxd"), args: []string{"run", "-config", file}, env: []string{"HOME=" + dir},
	}}
	t.Cleanup(db.Stop)
	db.Start()
	if _, err := db.Query("CREATE DATABASE linli"); err != nil {
		t.Fatal(err)
	}
	return db
}

// Start starts the server again after Stop or Kill, on the same port and with the same data.
func (db *InfluxDB) Start() {
	db.p.t.Helper()
	db.p.start()
	db.p.waitFor(30*time.Second, func() error { return healthy(db.URL) })
}

// healthy asks a database whether it is.
func healthy(url string) error {
	resp, err := http.Get(url + "/health")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// Stop ends the server in order.
func (db *InfluxDB) Stop() { db.p.stop(syscall.SIGTERM) }

// Kill ends the server at once.
func (db *InfluxDB) Kill() { db.p.stop(syscall.SIGKILL) }

// Series is one series of a query's answer: rows of values in the order of Columns. Numbers are json.Number, so
// that nanoseconds and integers stay exact.
type Series struct {
	Name    string            `json:"name"`
	Tags    map[string]string `json:"tags"`
	Columns []string          `json:"columns"`
	Values  [][]any           `json:"values"`
}

// Row returns row i by column name.
func (s *Series) Row(i int) map[string]any {
	row := map[string]any{}
	for c, name := range s.Columns {
		row[name] = s.Values[i][c]
	}
	return row
}

// Query runs an InfluxQL query with times in nanoseconds.
func (db *InfluxDB) Query(q string) ([]Series, error) {
	resp, err := http.PostForm(db.URL+"/query", url.Values{"db": {db.Database}, "epoch": {"ns"}, "q": {q}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   string
		Results []struct {
			Error  string
			Series []Series
		}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&answer); err != nil {
		return nil, fmt.Errorf("query %q: %w: %.200s", q, err, body)
	}
	var all []Series
	for _, r := range answer.Results {
		answer.Error += r.Error
		all = append(all, r.Series...)
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("query %q: %s", q, answer.Error)
	}
	return all, nil
}

// Count returns the number of rows (distinct times) of a measurement over all its series, judged by one field.
func (db *InfluxDB) Count(measurement, field string) (int64, error) {
	all, err := db.Query(fmt.Sprintf("SELECT count(%q) FROM %q", field, measurement))
	if err != nil || len(all) == 0 {
		return 0, err
	}
	n, ok := all[0].Row(0)["count"].(json.Number)
	if !ok {
		return 0, fmt.Errorf("count is %v", all[0].Row(0)["count"])
	}
	return n.Int64()
}

// Telegraf is a running Telegraf.
type Telegraf struct{ p *process }

// StartTelegraf starts Telegraf with configuration files and the environment that they use, and returns when it has
// loaded them. It may still be about to connect.
func StartTelegraf(t testing.TB, env []string, files ...string) *Telegraf {
	t.Helper()
	var args []string
	for _, f := range files {
		args = append(args, "--config", f)
	}
	a := &Telegraf{p: &process{t: t, name: "telegraf", path: FindTool(t, "telegraf"), args: args, env: env}}
	t.Cleanup(a.Stop)
	a.p.start()
	a.p.waitFor(20*time.Second, func() error {
		if !strings.Contains(a.p.output(), "Loaded outputs:") {
			return errors.New("not loaded")
		}
		return nil
	})
	return a
}

// Stop ends Telegraf in order.
func (a *Telegraf) Stop() { a.p.stop(syscall.SIGTERM) }

// Kill ends Telegraf at once.
func (a *Telegraf) Kill() { a.p.stop(syscall.SIGKILL) }

// Log returns what Telegraf wrote lately.
func (a *Telegraf) Log() string { return a.p.output() }

// Pid returns the id of the process, 0 when it does not run.
func (a *Telegraf) Pid() int { return a.p.pid() }

// Log returns what the broker wrote lately.
func (m *Mosquitto) Log() string { return m.p.output() }
