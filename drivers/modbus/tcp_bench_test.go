package modbus_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// BenchmarkTCPCommunity reads 200 units of 60 registers over one connection, flat out: values for each second of our
// processor time. The server is a process of its own (this test binary, TestServeTwoHundred), so that its time does not
// count.
func BenchmarkTCPCommunity(b *testing.B) {
	server := exec.Command(os.Args[0], "-test.run=^TestServeTwoHundred$", "-test.v")
	server.Env = append(os.Environ(), "LINLI_BENCH_SERVER=1")
	out, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdin, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = stdin.Close(); _ = server.Wait() }()
	address := ""
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		_, address, _ = strings.Cut(lines.Text(), "serving ")
	}
	var units []firmwareconfig.Unit
	for a := 1; a <= 200; a++ {
		u, _ := reading(a, 60, time.Millisecond, false)
		units = append(units, u)
	}
	bus, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.TCP, Address: address, Timeout: 5 * time.Second, Units: units})
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close()
	var s []telemetry.Sample
	start, before := time.Now(), processTime()
	values := 0
	b.ReportAllocs()
	for b.Loop() {
		s, _ = bus.Step(b.Context(), telemetry.Mono(time.Since(start)), s[:0])
		values += len(s)
	}
	if values != 60*b.N {
		b.Fatalf("%d values of %d reads", values, b.N)
	}
	b.ReportMetric(float64(values)/b.Elapsed().Seconds(), "values/s")
	b.ReportMetric(float64(values)/(processTime()-before).Seconds()/1e6, "Mvalues/cpu-s")
	b.ReportMetric((processTime()-before).Seconds()/float64(values)*1e6, "cpu-s/Mvalues")
}

// processTime returns the processor time that this process has used.
func processTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestServeTwoHundred is the server of BenchmarkTCPCommunity, and as a test proves that it serves.
func TestServeTwoHundred(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	units := map[byte][]byte{}
	for a := 1; a <= 200; a++ {
		_, d := reading(a, 60, time.Second, false)
		units[byte(a)] = d.answer([]byte{3, 0, 0, 0, 60})
	}
	serve := func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf, out := make([]byte, 12), make([]byte, 0, 256)
		for {
			if n, err := c.Read(buf); err != nil || n < 12 {
				return
			}
			out = modbus.AppendTCP(out[:0], uint16(buf[0])<<8|uint16(buf[1]), buf[6], units[buf[6]])
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}
	if os.Getenv("LINLI_BENCH_SERVER") != "" {
		os.Stdout.WriteString("serving " + l.Addr().String() + "\n")
		go serve()
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the benchmark closes it
		return
	}
	go serve()
	u, _ := reading(7, 60, time.Second, false)
	bus, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.TCP, Address: l.Addr().String(), Units: []firmwareconfig.Unit{u}})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	s, _ := bus.Step(t.Context(), 0, nil)
	if len(s) != 60 || s[59].Value.Float() != 7<<8|59 {
		t.Fatalf("got %v", s)
	}
}
