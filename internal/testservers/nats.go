package testservers

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// NATSCluster are three nats-servers on loopback that keep three copies of everything and speak MQTT.
type NATSCluster struct {
	MQTT []string // tcp://host:port of each for gateways
	URLs []string // nats://host:port of each
	http []string
	p    []*process
}

// NATSServer is one server of a cluster before its start.
type NATSServer struct {
	Name, Dir             string
	Client, MQTT, Cluster string // host:port each
	Routes                []string
}

// StartNATSCluster starts the servers and waits until they have a leader.
func StartNATSCluster(t testing.TB) *NATSCluster {
	t.Helper()
	return StartNATSClusterConf(t, func(s *NATSServer) string {
		return fmt.Sprintf("server_name: %s\nlisten: %q\njetstream { store_dir: %q, max_memory_store: 64MB, max_file_store: 4GB }\n"+
			"cluster { name: linli, listen: %q, routes: [%s] }\nmqtt { listen: %q, stream_replicas: 3 }\n",
			s.Name, s.Client, s.Dir, s.Cluster, strings.Join(s.Routes, ", "), s.MQTT)
	})
}

// StartNATSClusterConf does so with a configuration of the test's own.
func StartNATSClusterConf(t testing.TB, conf func(*NATSServer) string) *NATSCluster {
	t.Helper()
	c := &NATSCluster{}
	path := FindTool(t, "nats-server")
	dir := t.TempDir()
	var servers []*NATSServer
	var routes []string
	local := func() string { return fmt.Sprintf("127.0.0.1:%d", FreePort(t)) }
	for i := range 3 {
		s := &NATSServer{Name: fmt.Sprint("n", i+1), Client: local(), MQTT: local(), Cluster: local()}
		s.Dir = filepath.Join(dir, s.Name)
		servers, routes = append(servers, s), append(routes, "nats://"+s.Cluster)
		c.MQTT, c.URLs, c.http = append(c.MQTT, "tcp://"+s.MQTT), append(c.URLs, "nats://"+s.Client), append(c.http, local())
	}
	for i, s := range servers {
		s.Routes = routes
		file := filepath.Join(dir, s.Name+".conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, "http: %q\n%s", c.http[i], conf(s)), 0o600); err != nil {
			t.Fatal(err)
		}
		p := &process{t: t, name: "nats-server " + s.Name, path: path, args: []string{"-c", file}}
		c.p = append(c.p, p)
		t.Cleanup(func() { p.stop(syscall.SIGTERM) })
		p.start()
	}
	c.WaitReady(60 * time.Second)
	return c
}

// WaitReady waits until every server is healthy: it has a leader and has caught up.
func (c *NATSCluster) WaitReady(timeout time.Duration) {
	tick := time.NewTicker(200 * time.Millisecond) // a server that is not healthy logs each question
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); ; <-tick.C {
		why := ""
		for i, p := range c.p {
			p.t.Helper()
			if !p.running() {
				p.t.Fatalf("%s ended: %s", p.name, p.output())
			}
			resp, err := http.Get("http://" + c.http[i] + "/healthz")
			if err != nil {
				why = err.Error()
				continue
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				why = p.name + ": " + resp.Status
			}
		}
		switch {
		case why == "":
			return
		case time.Now().After(deadline):
			for _, p := range c.p {
				p.t.Log(p.output())
			}
			c.p[0].t.Fatalf("not healthy within %v: %s", timeout, why)
		}
	}
}

// Kill ends server i at once.
func (c *NATSCluster) Kill(i int) { c.p[i].stop(syscall.SIGKILL) }

// Stop ends server i in order.
func (c *NATSCluster) Stop(i int) { c.p[i].stop(syscall.SIGTERM) }

// Start starts server i again after Kill or Stop, and does not wait for it.
func (c *NATSCluster) Start(i int) {
	c.p[i].t.Helper()
	c.p[i].start()
}

// Log returns what server i wrote lately.
func (c *NATSCluster) Log(i int) string { return c.p[i].output() }
