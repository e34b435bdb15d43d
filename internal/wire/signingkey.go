package wire

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// ReadSigningKey reads the private key that signs commands: PKCS#8 in PEM, not encrypted, as `linli command keygen` and
// `openssl genpkey -algorithm ed25519` write it. An error says which file, and what it holds instead.
func ReadSigningKey(file string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the key for commands: %w", err)
	}
	key, err := parseSigningKey(text)
	if err != nil {
		return nil, fmt.Errorf("the key for commands: %s: %w", file, err)
	}
	return key, nil
}

func parseSigningKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return nil, errors.New("it holds no PEM: want a private key (linli command keygen)")
	case block.Type == "PUBLIC KEY":
		return nil, errors.New("it holds the public key; signing needs the private one")
	case block.Type != "PRIVATE KEY":
		return nil, fmt.Errorf("it holds a %s, want a PRIVATE KEY that is not encrypted", strings.ToLower(block.Type))
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it holds a key of another kind (%T), want Ed25519", k)
	}
	return key, nil
}
