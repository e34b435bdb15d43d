package testservers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority issues certificates into a directory.
type Authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

// NewAuthority makes an authority, whose own certificate is name.crt in dir.
func NewAuthority(t testing.TB, dir, name string) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: dir}
	a.Issue(name, "Linli test authority", time.Hour)
	return a
}

// Issue writes name.crt and name.key, for clients and for servers on 127.0.0.1, valid from an hour ago until valid from now.
func (a *Authority) Issue(name, commonName string, valid time.Duration) {
	a.t.Helper()
	a.n++
	template := newTemplate(a.n, commonName, time.Now().Add(-time.Hour), time.Now().Add(valid))
	if a.cert == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	}
	cert, key, private := sign(a.t, template, a.cert, a.key)
	if a.cert == nil {
		block, _ := pem.Decode(cert)
		var err error
		if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
			a.t.Fatal(err)
		}
		a.key = private
	}
	for file, text := range map[string][]byte{name + ".crt": cert, name + ".key": key} {
		if err := os.WriteFile(filepath.Join(a.dir, file), text, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// SelfSigned returns a certificate that is its own authority, for clients and for servers on 127.0.0.1, and its key, as PEM.
func SelfSigned(t testing.TB, commonName string, from, until time.Time) (cert, key []byte) {
	t.Helper()
	template := newTemplate(1, commonName, from, until)
	template.IsCA = true
	cert, key, _ = sign(t, template, nil, nil)
	return cert, key
}

func newTemplate(n int64, commonName string, from, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: commonName}, NotBefore: from, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
	}
}

// sign makes a key and a certificate for it, signed by the parent's, or by itself where there is none.
func sign(t testing.TB, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (cert, key []byte, private *ecdsa.PrivateKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parent, parentKey = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), private
}
