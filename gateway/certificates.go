package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"linli/internal/site"
)

// certificateProblems returns what is wrong with the files of u's certificates, by their keys in the site file. node is
// this gateway's. Where now is before the program was built nobody knows whether a certificate is valid already.
func certificateProblems(u *site.Uplink, node string, now time.Time) map[string]error {
	problems := map[string]error{}
	if u.CAFile != "" {
		cas, err := readCertificates(u.CAFile)
		if err == nil {
			err = errors.New("holds authorities that have expired only")
			for _, ca := range cas {
				if now.Before(ca.NotAfter) {
					err = nil
				}
			}
		}
		if err != nil {
			problems["ca_file"] = fmt.Errorf("%s: %w", u.CAFile, err)
		}
	}
	if u.CertFile == "" || u.KeyFile == "" {
		return problems
	}
	key, errKey := os.ReadFile(u.KeyFile)
	if errKey != nil {
		problems["key_file"] = errKey
	}
	chain, err := readCertificates(u.CertFile)
	if err == nil {
		c := chain[0]
		switch {
		case now.After(c.NotAfter):
			err = fmt.Errorf("expired at %v", c.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(c.NotBefore) && now.After(builtAt()):
			err = fmt.Errorf("is not valid before %v", c.NotBefore.UTC().Format(time.RFC3339))
		case c.Subject.CommonName != node:
			err = fmt.Errorf("is for %q, and this gateway is %s", c.Subject.CommonName, node)
		}
		if cert, _ := os.ReadFile(u.CertFile); errKey == nil {
			if _, errPair := tls.X509KeyPair(cert, key); errPair != nil {
				problems["key_file"] = fmt.Errorf("%s does not go with %s: %w", u.KeyFile, u.CertFile, errPair)
			}
		}
	}
	if err != nil {
		problems["cert_file"] = fmt.Errorf("%s: %w", u.CertFile, err)
	}
	return problems
}

// readCertificates reads a PEM file of certificates, at least one.
func readCertificates(path string) (chain []*x509.Certificate, err error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the path is said by whoever asks
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d is damaged: %w", len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	switch {
	case bytes.Contains(rest, []byte("-----BEGIN ")):
		return nil, errors.New("ends in the midst of a certificate")
	case len(chain) == 0:
		return nil, errors.New("holds no certificate")
	}
	return chain, nil
}
