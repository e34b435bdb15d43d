package mqtt

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// Keys are the authorities, the certificate and the key of a client, as they were on the disk when they were last good. A
// long-lived client looks at the files from time to time and takes new ones without being started anew. Safe for
// concurrent use.
type Keys struct {
	caFile, certFile, keyFile string
	now                       func() time.Time

	mu   sync.Mutex
	good *keySet // nil before the first that could be read
}

// keySet is one reading of the files.
type keySet struct {
	sum   [sha256.Size]byte
	cas   *x509.CertPool    // nil: the system's
	cert  []tls.Certificate // empty: none
	texts keyTexts
}

// keyTexts are the contents of the files, as Kept writes them.
type keyTexts struct {
	CA   []byte `json:"ca"`
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// NewKeys reads the files; an empty name is a file that is not wanted. The error says what is wrong with them; the keys
// are of use all the same, and tried again at each look. now is the time by which certificates are judged, nil the clock.
func NewKeys(caFile, certFile, keyFile string, now func() time.Time) (*Keys, error) {
	if now == nil {
		now = time.Now
	}
	k := &Keys{caFile: caFile, certFile: certFile, keyFile: keyFile, now: now}
	set, err := k.read()
	if err == nil {
		k.good = set
	}
	return k, err
}

// read reads the files as they are now.
func (k *Keys) read() (*keySet, error) {
	file := func(name string) ([]byte, error) {
		if name == "" {
			return nil, nil
		}
		return os.ReadFile(name)
	}
	cas, err := file(k.caFile)
	cert, errCert := file(k.certFile)
	key, errKey := file(k.keyFile)
	if err := errors.Join(err, errCert, errKey); err != nil {
		return nil, err
	}
	return k.parse(keyTexts{cas, cert, key})
}

// parse makes of the contents of the files what a connection needs.
func (k *Keys) parse(t keyTexts) (*keySet, error) {
	set := &keySet{texts: t}
	sum := sha256.New()
	for _, b := range [][]byte{t.CA, t.Cert, t.Key} {
		fmt.Fprintf(sum, "%d:", len(b))
		sum.Write(b)
	}
	sum.Sum(set.sum[:0])
	if k.caFile != "" {
		set.cas = x509.NewCertPool()
		if !set.cas.AppendCertsFromPEM(t.CA) {
			return nil, fmt.Errorf("%s holds no certificate", k.caFile)
		}
	}
	if k.certFile != "" {
		pair, err := tls.X509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", k.certFile, k.keyFile, err)
		}
		set.cert = []tls.Certificate{pair}
	}
	return set, nil
}

// leaf returns the client's certificate, nil where there is none.
func (s *keySet) leaf() *x509.Certificate {
	if s == nil || len(s.cert) == 0 {
		return nil
	}
	return s.cert[0].Leaf
}

// Certificate returns the client's certificate in use, nil where there is none.
func (k *Keys) Certificate() *x509.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.good.leaf()
}

// Kept returns the files of the keys in use as one text, to be kept like a private key; nil where there is no certificate.
func (k *Keys) Kept() []byte {
	k.mu.Lock()
	good := k.good
	k.mu.Unlock()
	if good.leaf() == nil {
		return nil
	}
	b, err := json.Marshal(good.texts)
	if err != nil {
		return nil // only bytes: cannot happen
	}
	return b
}

// Restore has what Kept returned used until the files are good again.
func (k *Keys) Restore(kept []byte) error {
	var t keyTexts
	if err := json.Unmarshal(kept, &t); err != nil {
		return err
	}
	set, err := k.parse(t)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.good = set
	k.mu.Unlock()
	return nil
}

// Renew looks at the files. New ones are taken where they can be read whole, fit each other, are valid now, are for the
// same name as those in use, and try, which gets them, has no objection; then changed is true. Otherwise those in use
// stay, and the error says why. try may be nil.
func (k *Keys) Renew(try func(*Keys) error) (changed bool, err error) {
	set, err := k.read()
	k.mu.Lock()
	old := k.good
	k.mu.Unlock()
	if err != nil {
		return false, err
	}
	if old != nil && set.sum == old.sum {
		return false, nil
	}
	if c := set.leaf(); c != nil {
		now, was := k.now(), old.leaf()
		switch {
		case now.Before(c.NotBefore):
			return false, fmt.Errorf("%s is not valid before %v", k.certFile, c.NotBefore.UTC())
		case now.After(c.NotAfter):
			return false, fmt.Errorf("%s has expired at %v", k.certFile, c.NotAfter.UTC())
		case was != nil && was.Subject.CommonName != c.Subject.CommonName:
			return false, fmt.Errorf("%s is for %q, the one in use for %q", k.certFile, c.Subject.CommonName, was.Subject.CommonName)
		}
	}
	if try != nil {
		if err := try(&Keys{now: k.now, good: set}); err != nil {
			return false, err
		}
	}
	k.mu.Lock()
	k.good = set
	k.mu.Unlock()
	return true, nil
}

// config returns what TLS needs for a connection to host.
func (k *Keys) config(host string) (*tls.Config, error) {
	k.mu.Lock()
	good := k.good
	k.mu.Unlock()
	if good == nil {
		set, err := k.read()
		if err != nil {
			return nil, err
		}
		k.mu.Lock()
		k.good = set
		k.mu.Unlock()
		good = set
	}
	return &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, Time: k.now, RootCAs: good.cas, Certificates: good.cert}, nil
}

// refuseWithin is how long a broker gets to refuse us: with TLS 1.3 it judges a certificate after the handshake.
const refuseWithin = 2 * time.Second

// Probe finds out whether a broker takes connections and, where it speaks TLS, the keys of cfg. It says nothing in MQTT, so
// that it disturbs no session.
func Probe(ctx context.Context, cfg Config, broker string) error {
	cfg = cfg.withDefaults()
	address, secure, err := ParseBroker(broker)
	if err != nil {
		return err
	}
	dialing, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	conn, err := dial(dialing, &cfg, address, secure)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", broker, err)
	}
	defer conn.Close()
	deadline := time.Now().Add(refuseWithin)
	if d, ok := dialing.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = conn.SetReadDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // not of dialing: it ends with the deadline, and a close is no silence
	defer stop()
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
		return fmt.Errorf("connect to %s: %w", broker, err)
	}
	return nil
}
