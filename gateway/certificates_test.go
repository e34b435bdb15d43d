package main

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/site"
	"linli/internal/testservers"
)

// What a gateway could not prove itself with is told before somebody drives there.
func TestCertificatesAreLookedInto(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good, key := testservers.SelfSigned(t, "test.gw1", now.Add(-time.Hour), now.Add(time.Hour))
	_, otherKey := testservers.SelfSigned(t, "test.gw1", now.Add(-time.Hour), now.Add(time.Hour))
	expired, expiredKey := testservers.SelfSigned(t, "test.gw1", now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, earlyKey := testservers.SelfSigned(t, "test.gw1", now.Add(time.Hour), now.Add(2*time.Hour))
	other, othersKey := testservers.SelfSigned(t, "test.gw2", now.Add(-time.Hour), now.Add(time.Hour))
	for name, test := range map[string]struct {
		ca, cert, key []byte
		want          map[string]string
	}{
		"good":             {good, good, key, nil},
		"one CA expired":   {append(expired, good...), good, key, nil},
		"missing":          {nil, nil, nil, map[string]string{"ca_file": "no such file", "cert_file": "no such file", "key_file": "no such file"}},
		"half written":     {good[:200], good[:200], key, map[string]string{"ca_file": "ends in the midst", "cert_file": "ends in the midst"}},
		"second half":      {append(append([]byte{}, good...), good[:200]...), good, key, map[string]string{"ca_file": "ends in the midst"}},
		"damaged":          {good, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), key, map[string]string{"cert_file": "is damaged"}},
		"no certificate":   {key, []byte("hello\n"), key, map[string]string{"ca_file": "no certificate", "cert_file": "no certificate"}},
		"another's key":    {good, good, otherKey, map[string]string{"key_file": "does not go with"}},
		"half a key":       {good, good, key[:90], map[string]string{"key_file": "does not go with"}},
		"expired":          {expired, expired, expiredKey, map[string]string{"ca_file": "expired", "cert_file": "expired at"}},
		"not yet":          {good, early, earlyKey, map[string]string{"cert_file": "not valid before"}},
		"for another node": {good, other, othersKey, map[string]string{"cert_file": `is for "test.gw2", and this gateway is test.gw1`}},
	} {
		dir := t.TempDir()
		u := &site.Uplink{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "box.crt"), KeyFile: filepath.Join(dir, "box.key")}
		for path, b := range map[string][]byte{u.CAFile: test.ca, u.CertFile: test.cert, u.KeyFile: test.key} {
			if b == nil {
				continue
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := certificateProblems(u, "test.gw1", now)
		if len(got) != len(test.want) {
			t.Errorf("%s: %v", name, got)
		}
		for key, want := range test.want {
			if got[key] == nil || !strings.Contains(got[key].Error(), want) {
				t.Errorf("%s: %s: %v, want %s", name, key, got[key], want)
			}
		}
	}
}
