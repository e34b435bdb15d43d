package testservers

import (
	"errors"
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

// StartNATSCluster starts the servers and waits until they have a leader. Extra lines go into the configuration of
// each; in them %MQTT% is the address on which to listen for MQTT, and must be used where a line begins with "mqtt".
func StartNATSCluster(t testing.TB, extra ...string) *NATSCluster {
	t.Helper()
	c := &NATSCluster{}
	path := FindTool(t, "nats-server")
	dir := t.TempDir()
	var routes, cluster []string
	for range 3 {
		route := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		cluster, routes = append(cluster, route), append(routes, "nats://"+route)
		c.MQTT = append(c.MQTT, fmt.Sprintf("tcp://127.0.0.1:%d", FreePort(t)))
		c.URLs = append(c.URLs, fmt.Sprintf("nats://127.0.0.1:%d", FreePort(t)))
		c.http = append(c.http, fmt.Sprintf("127.0.0.1:%d", FreePort(t)))
	}
	for i := range 3 {
		mqtt := strings.TrimPrefix(c.MQTT[i], "tcp://")
		config := []string{
			fmt.Sprintf("server_name: n%d", i+1), fmt.Sprintf("listen: %q", strings.TrimPrefix(c.URLs[i], "nats://")), fmt.Sprintf("http: %q", c.http[i]),
			fmt.Sprintf("jetstream { store_dir: %q, max_memory_store: 64MB, max_file_store: 4GB }", filepath.Join(dir, fmt.Sprint("n", i+1))),
			fmt.Sprintf("cluster { name: linli, listen: %q, routes: [%s] }", cluster[i], strings.Join(routes, ", ")),
		}
		own := false
		for _, line := range extra {
			own = own || strings.HasPrefix(line, "mqtt")
			config = append(config, strings.ReplaceAll(line, "%MQTT%", mqtt))
		}
		if !own {
			config = append(config, fmt.Sprintf("mqtt { listen: %q, stream_replicas: 3 }", mqtt))
		}
		file := filepath.Join(dir, fmt.Sprintf("n%d.conf", i+1))
		if err := os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := &process{t: t, name: fmt.Sprint("nats-server ", i+1), path: path, args: []string{"-c", file}}
		c.p = append(c.p, p)
		t.Cleanup(func() { p.stop(syscall.SIGTERM) })
		p.start()
	}
	c.WaitReady(60 * time.Second)
	return c
}

// WaitReady waits until every server is healthy: it has a leader and has caught up.
func (c *NATSCluster) WaitReady(timeout time.Duration) {
	for i, p := range c.p {
		p.t.Helper()
		p.waitFor(timeout, func() error {
			resp, err := http.Get("http://" + c.http[i] + "/healthz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return nil
		})
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
