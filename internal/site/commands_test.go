package site_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"linli/internal/site"
)

func loadCommands(t *testing.T, lines string) (*site.Site, error) {
	t.Helper()
	src := "version: 1\nsite: a\nuplink:\n  brokers: [\"tls://city.example:8883\"]\n  commands:\n" + lines
	return site.Load("/etc/linli/site.yaml", []byte(src), testLibrary(), testPacks(t))
}

func TestCommandKeys(t *testing.T) {
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	std := base64.StdEncoding.EncodeToString
	for name, text := range map[string]string{
		"base64":       std(pub),
		"no padding":   strings.TrimRight(std(pub), "="),
		"base64url":    base64.RawURLEncoding.EncodeToString(pub),
		"in DER":       std(der),
		"in PEM":       string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"in one space": " " + std(pub) + " ",
	} {
		s, err := loadCommands(t, fmt.Sprintf("    keys: {city: %q}\n", text))
		if err != nil || len(s.Uplink.Commands.Keys) != 1 || !s.Uplink.Commands.Keys[0].Key.Equal(pub) ||
			strings.Join(s.Uplink.Commands.Allow, ",") != "resend" {
			t.Errorf("%s: %v", name, err)
		}
	}
	small, _ := hex.DecodeString("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
	noncanonical, _ := hex.DecodeString("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
	offCurve := make([]byte, 32)
	offCurve[0] = 2
	one := make([]byte, 32)
	one[0] = 1
	for name, test := range map[string]struct{ text, want string }{
		"private, as Go has it":  {std(private), "this is a private key"},
		"private, in PEM":        {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), "this is a private key"},
		"private, in DER":        {std(secret), "this is a private key"},
		"a seed":                 {std(offCurve), "these 32 bytes are no Ed25519 public key"},
		"zeros":                  {std(make([]byte, 32)), "placeholder"},
		"the neutral one":        {std(one), "placeholder"},
		"of order eight":         {std(small), "placeholder"},
		"zero in another way":    {std(noncanonical), "placeholder"},
		"too short":              {std(pub[:31]), "a public key has 32 bytes, here are 31"},
		"too long":               {std(append(pub[:32:32], 1, 2)), "a public key has 32 bytes, here are 34"},
		"nothing":                {"", "missing"},
		"a word":                 {"city_key!", "want the public key, 32 bytes in base64"},
		"a certificate":          {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "it holds a certificate, want a PUBLIC KEY"},
		"a PEM that holds noise": {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), "it holds no public key"},
	} {
		_, err := loadCommands(t, fmt.Sprintf("    keys: {city: %q}\n", test.text))
		if err == nil || !strings.HasPrefix(err.Error(), "/etc/linli/site.yaml:6:18: key city: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), std(private)[:20]) {
			t.Errorf("%s: the message tells the secret", name)
		}
	}
	s, err := loadCommands(t, "    keys: {city: keys/city.pem, ops: /etc/linli/ops.pem}\n    allow: [write, status]\n")
	if err != nil || s.Uplink.Commands.Keys[0].File != "/etc/linli/keys/city.pem" || s.Uplink.Commands.Keys[1].File != "/etc/linli/ops.pem" ||
		strings.Join(s.Uplink.Commands.Allow, ",") != "write,status" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err = loadCommands(t, fmt.Sprintf("    keys: {city: %q}\n    allow: []\n", std(pub))); err != nil || len(s.Uplink.Commands.Allow) != 0 {
		t.Errorf("an empty list allows %v, %v", s.Uplink.Commands.Allow, err)
	}
	for lines, want := range map[string]string{
		"    allow: [resent]\n":                                                 `6:13: unknown command "resent"`,
		"    allow: [resend, resend]\n":                                         "6:21: resend is named already",
		fmt.Sprintf("    keys: {gateway: %q}\n", std(pub)):                      `6:12: "gateway" is no name for a key`,
		fmt.Sprintf("    keys: {City: %q}\n", std(pub)):                         `6:12: "City" is no name for a key`,
		fmt.Sprintf("    keys: {a: %q, b: %q}\n", std(pub), std(pub)):           "key b is the same as a",
		fmt.Sprintf("    key: {a: %q}\n", std(pub)):                             `did you mean "keys"?`,
		fmt.Sprintf("    keys: {a: %q}\n    allowed: [resend]\n", std(pub)):     `did you mean "allow"?`,
		fmt.Sprintf("    keys: {a: [%q]}\n    allow: [resend]\n", std(pub)):     "want a single value",
		fmt.Sprintf("    keys: {a: }\n    allow: resend\n# %s\n", std(pub[:3])): "expected a list",
	} {
		if _, err := loadCommands(t, lines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", lines, err)
		}
	}
	s, err = loadCommands(t, "    allow: [write]\n")
	if err != nil || !strings.Contains(fmt.Sprint(s.Warnings), "commands without keys") {
		t.Errorf("%v, %v", s.Warnings, err)
	}
}
