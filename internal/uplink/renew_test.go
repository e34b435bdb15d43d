package uplink_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// everyFrame waits until all frames of the journal have reached one of the brokers, and are acknowledged.
func everyFrame(t *testing.T, u *running, j *fakeJournal, brokers ...*hostile) {
	t.Helper()
	_, next := j.Bounds()
	eventually(t, fmt.Sprintf("%d frames", next-1), func() bool {
		got := map[uint64]bool{}
		for _, h := range brokers {
			for _, m := range h.on("/telemetry") {
				head, _ := m.frames(t)
				for seq := head.From; seq <= head.To; seq++ {
					got[seq] = true
				}
			}
		}
		return uint64(len(got)) == next-1 && u.Status().BacklogFrames == 0
	})
}

// lastStatus is the newest status message at the broker.
func lastStatus(t *testing.T, h *hostile) (s wire.Status) {
	t.Helper()
	if m := h.on("/status"); len(m) > 0 {
		if err := json.Unmarshal(m[len(m)-1].payload, &s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// blackHole takes connections and never says a word.
func blackHole(t *testing.T) string {
	l := testservers.Listen(t)
	t.Cleanup(func() { l.Close() })
	return "tcp://" + l.Addr().String() // the kernel accepts
}

// A first broker that is dead and a second that never answers do not stop the third. When the first is there again the
// gateway goes back to it in good order.
func TestFailoverAndReturn(t *testing.T) {
	first := startHostile(t, ackAll)
	first.refuseConnections(true)
	third := startHostile(t, ackAll)
	j := newJournal(5)
	u := start(t, uplink.Config{Brokers: []string{first.url, blackHole(t), third.url}, DialTimeout: 200 * time.Millisecond,
		LookEvery: 30 * time.Millisecond, ReturnAfter: 50 * time.Millisecond}, j, newBook())
	everyFrame(t, u, j, third)
	if s := u.Status(); s.Broker != third.url {
		t.Errorf("connected to %s", s.Broker)
	}
	first.refuseConnections(false)
	eventually(t, "the first broker", func() bool { j.append(1, "boot"); return u.Status().Connected && u.Status().Broker == first.url })
	everyFrame(t, u, j, first, third)
	if s := lastStatus(t, third); s.State != "offline" || s.Reason != "moved" {
		t.Errorf("the broker that was left has %s, %s", s.State, s.Reason)
	}
	if s := lastStatus(t, first); s.State != "online" {
		t.Errorf("the broker in use has %s", s.State)
	}
}

// A broker that takes longer to answer than a good connection lives at least, and one that takes everything and
// acknowledges nothing, do not keep the next one from its turn.
func TestFailoverFromWhatHangs(t *testing.T) {
	for name, first := range map[string]string{"no answer": blackHole(t), "no acknowledgement": startHostile(t, func(published) (bool, bool) { return false, false }).url} {
		t.Run(name, func(t *testing.T) {
			good := startHostile(t, ackAll)
			j := newJournal(5)
			u := start(t, uplink.Config{Brokers: []string{first, good.url}, LivedAfter: 50 * time.Millisecond, DialTimeout: 100 * time.Millisecond,
				AckTimeout: 150 * time.Millisecond, ReturnAfter: time.Hour}, j, newBook())
			everyFrame(t, u, j, good)
		})
	}
}

// A better broker that takes connections and does nothing with them is looked at less and less often, and costs little.
func TestReturnToABlackHole(t *testing.T) {
	hole := blackHole(t)
	good := startHostile(t, ackAll)
	j := newJournal(5)
	u := start(t, uplink.Config{Brokers: []string{hole, good.url}, DialTimeout: 100 * time.Millisecond,
		LookEvery: 20 * time.Millisecond, ReturnAfter: 40 * time.Millisecond}, j, newBook())
	everyFrame(t, u, j, good)
	eventually(t, "three vain returns", func() bool { return u.Status().Failures >= 4 })
	began, failures := time.Now(), u.Status().Failures
	j.append(5, "boot")
	everyFrame(t, u, j, good)
	eventually(t, "another", func() bool { return u.Status().Failures > failures })
	if d := time.Since(began); d < 100*time.Millisecond {
		t.Errorf("again after %v", d)
	}
}

// New certificates on the disk are used without a restart: wrong ones never, and nothing is lost over the change.
func TestCertificatesAreRenewed(t *testing.T) {
	dir := t.TempDir()
	a := testservers.NewAuthority(t, dir, "ca")
	a.Issue("broker", "broker", time.Hour)
	a.Issue("gw", "riverside.gw1", 12*time.Hour)
	port := testservers.FreePort(t)
	broker := testservers.StartMosquitto(t, fmt.Sprintf("listener %d 127.0.0.1", port), "cafile "+filepath.Join(dir, "ca.crt"),
		"certfile "+filepath.Join(dir, "broker.crt"), "keyfile "+filepath.Join(dir, "broker.key"), "require_certificate true")
	city := subscribe(t, broker.URL, "city", "linli/v1/+/telemetry")
	j := newJournal(3)
	file := func(name string) string { return filepath.Join(dir, name) }
	u := start(t, uplink.Config{Brokers: []string{fmt.Sprintf("tls://127.0.0.1:%d", port)}, CAFile: file("ca.crt"),
		CertFile: file("gw.crt"), KeyFile: file("gw.key"), LookEvery: 20 * time.Millisecond}, j, newBook())
	arrived := func() {
		t.Helper()
		j.append(1, "boot")
		_, next := j.Bounds()
		eventually(t, "every frame", func() bool { return len(city.frames(t)) == int(next-1) })
	}
	arrived()
	until := u.Status().CertificateUntil
	if left := time.Until(until); left < 11*time.Hour || left > 13*time.Hour {
		t.Errorf("the certificate is good for %v", left)
	}

	// Everything that may lie on the disk instead, and what is said of it.
	read := func(name string) []byte {
		b, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(file(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, key, ca := read("gw.crt"), read("gw.key"), read("ca.crt")
	a.Issue("other", "hillside.gw9", time.Hour)
	a.Issue("old", "riverside.gw1", -time.Minute)
	a.Issue("next", "riverside.gw1", 48*time.Hour)
	stranger := t.TempDir()
	testservers.NewAuthority(t, stranger, "ca").Issue("gw", "riverside.gw1", time.Hour)
	strange := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(stranger, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name          string
		cert, key, ca []byte
		says          string
	}{
		{"half written", cert[:len(cert)/2], key, ca, "gw.crt"},
		{"empty", nil, key, ca, "gw.crt"},
		{"new certificate, old key", read("next.crt"), key, ca, "private key"},
		{"old certificate, new key", cert, read("next.key"), ca, "private key"},
		{"for another", read("other.crt"), read("other.key"), ca, "hillside.gw9"},
		{"expired", read("old.crt"), read("old.key"), ca, "expired"},
		{"of an authority that the broker does not know", strange("gw.crt"), strange("gw.key"), ca, "connect to"},
		{"authority that did not issue the broker's", cert, key, strange("ca.crt"), "connect to"},
		{"no authority", cert, key, []byte("nothing"), "ca.crt holds no certificate"},
	} {
		connects := u.Status().Connects
		write("gw.crt", c.cert)
		write("gw.key", c.key)
		write("ca.crt", c.ca)
		eventually(t, c.name, func() bool { return strings.Contains(u.Status().CertificateError, c.says) })
		arrived()
		if s := u.Status(); s.Connects != connects || !s.CertificateUntil.Equal(until) || !s.Connected {
			t.Errorf("%s: %d connections more, certificate until %v", c.name, s.Connects-connects, s.CertificateUntil)
		}
		write("gw.crt", cert)
		write("gw.key", key)
		write("ca.crt", ca)
		eventually(t, "the old ones again", func() bool { return u.Status().CertificateError == "" })
	}

	connects, failures := u.Status().Connects, u.Status().Failures
	write("gw.crt", read("next.crt"))
	write("gw.key", read("next.key"))
	write("ca.crt", bytes.Join([][]byte{strange("ca.crt"), ca}, nil)) // as when authorities change
	eventually(t, "a new connection", func() bool {
		j.append(1, "boot")
		return u.Status().Connects > connects && time.Until(u.Status().CertificateUntil) > 47*time.Hour
	})
	arrived()
	if s := u.Status(); s.Connects != connects+1 || s.Failures != failures {
		t.Errorf("%d connections and %d failures for one renewal", s.Connects-connects, s.Failures-failures)
	}
	for seq, n := range city.frames(t) {
		if n > 1 {
			t.Errorf("frame %d came %d times", seq, n)
		}
	}
}

// A restart in the midst of a renewal: the pair that the broker accepted last is used until the files are good again.
func TestRestartInTheMidstOfARenewal(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	a := testservers.NewAuthority(t, dir, "ca")
	a.Issue("broker", "broker", time.Hour)
	a.Issue("gw", "riverside.gw1", 12*time.Hour)
	port := testservers.FreePort(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	testservers.StartMosquitto(t, fmt.Sprintf("listener %d 127.0.0.1", port), "cafile "+file("ca.crt"),
		"certfile "+file("broker.crt"), "keyfile "+file("broker.key"), "require_certificate true")
	run := func() *running {
		return start(t, uplink.Config{Brokers: []string{fmt.Sprintf("tls://127.0.0.1:%d", port)}, CAFile: file("ca.crt"), StateDir: state,
			CertFile: file("gw.crt"), KeyFile: file("gw.key"), LookEvery: 20 * time.Millisecond}, newJournal(3), newBook())
	}
	u := run()
	eventually(t, "connected", func() bool { return u.Status().Connected })
	u.stop()
	info, err := os.Stat(filepath.Join(state, "last-good-keys"))
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	a.Issue("next", "riverside.gw1", 48*time.Hour)
	next, err := os.ReadFile(file("next.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string][]byte{"half written": next[:len(next)/2], "without its key": next, "empty": nil} {
		if err := os.WriteFile(file("gw.crt"), cert, 0o600); err != nil {
			t.Fatal(err)
		}
		u = run()
		eventually(t, name, func() bool {
			s := u.Status()
			return s.Connected && strings.Contains(s.CertificateError, "accepted last are used") && time.Until(s.CertificateUntil) < 13*time.Hour
		})
		u.stop()
	}
	u = run()
	eventually(t, "connected with what was kept", func() bool { return u.Status().Connected })
	a.Issue("gw", "riverside.gw1", 48*time.Hour)
	eventually(t, "the new ones", func() bool {
		s := u.Status()
		return s.Connected && s.CertificateError == "" && time.Until(s.CertificateUntil) > 47*time.Hour
	})
}

// A box whose clock stands in 1970 judges certificates by what else it knows of the time.
func TestCertificatesAreJudgedByWhatTheBoxKnows(t *testing.T) {
	u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{"tcp://127.0.0.1:1"}, StateDir: t.TempDir(),
		Built: time.Now().Add(time.Hour)}, newJournal(1), newBook(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(u.JudgedBy()); d < 59*time.Minute || d > 61*time.Minute {
		t.Errorf("judged %v from now, want the time of the build", d)
	}
}
