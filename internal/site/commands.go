package site

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"linli/internal/yamlfile"
)

// Commands says whose commands the gateway takes from the city, and which.
type Commands struct {
	Keys  []CommandKey // none: no command is taken
	Allow []string     // verbs
}

// CommandKey is a key that signs commands.
type CommandKey struct {
	Name string
	Key  ed25519.PublicKey // nil where it stands in File
	File string            // PEM file of the public key; "" where it stands in the site file
	Pos  yamlfile.Pos
}

type commands struct {
	Pos   yamlfile.Pos          `yaml:",pos"`
	Keys  yamlfile.Map[scalar]  `yaml:"keys" doc:"Names of keys, each with the public key that signs the city's commands: 32 bytes in base64, as linli command keygen prints them, or a PEM file. Without keys no command is taken."`
	Allow []yamlfile.At[string] `yaml:"allow" enum:"resend,status,acknowledge,close,write,reload" doc:"What may be commanded. Default: resend alone."`
}

// CommandVerbs returns what may be allowed.
func CommandVerbs() []string { return choices[commands]("allow") }

func (r *resolver) commands(c *commands) *Commands {
	if c == nil {
		return nil
	}
	out := &Commands{Allow: []string{"resend"}}
	for _, e := range c.Keys {
		name := e.Key.Value
		if name == byGateway || !validID(name) {
			r.failf(e.Key.Pos, "%q is no name for a key: names are a small letter, then up to 31 small letters, digits and _, and not %s", name, byGateway)
			continue
		}
		if r.refused[e.Value.pos] {
			continue
		}
		key := CommandKey{Name: name, Pos: e.Value.pos}
		var err error
		if key.Key, err = decodePublicKey(e.Value.text); errors.Is(err, errNoKey) {
			key.File = r.path(yamlfile.At[string]{Value: e.Value.text, Pos: e.Value.pos})
		} else if err != nil {
			r.failf(e.Value.pos, "key %s: %v", name, err)
			continue
		}
		for _, other := range out.Keys {
			if key.Key != nil && key.Key.Equal(other.Key) {
				r.failf(e.Value.pos, "key %s is the same as %s: whoever has one could sign as the other", name, other.Name)
			}
		}
		out.Keys = append(out.Keys, key)
	}
	if c.Allow != nil {
		out.Allow = []string{}
	}
	for _, v := range c.Allow {
		switch {
		case !r.choice("command", v, CommandVerbs()):
		case slices.Contains(out.Allow, v.Value):
			r.failf(v.Pos, "%s is named already", v.Value)
		default:
			out.Allow = append(out.Allow, v.Value)
		}
	}
	if len(c.Keys) == 0 {
		r.warnf(c.Pos, "commands without keys: none will be taken")
	}
	return out
}

// byGateway is the name under which the gateway's record says what it did by itself.
const byGateway = "gateway"

// errNoKey says that a text looks like the name of a file.
var errNoKey = errors.New("no key")

// What is wrong with a key.
var (
	errPrivate = errors.New("this is a private key, with which commands are signed: it stays with whoever signs them, and what has stood in a file of a box is no secret any more. Make a new pair (linli command keygen) and write its public key here")
	errCurve   = errors.New("these 32 bytes are no Ed25519 public key; if they are the seed of a private one: that stays with whoever signs, and a new pair is needed")
	errWeak    = errors.New("this key is a placeholder for which anybody can sign; write the one that linli command keygen prints")
)

// decodePublicKey reads a public key as people write it: 32 bytes in base64, the same in a PKIX envelope, or PEM. A text
// that is none of these, and looks like the name of a file, is errNoKey.
func decodePublicKey(text string) (ed25519.PublicKey, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "-----BEGIN") {
		return ParsePublicKeyPEM([]byte(text))
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	b, err := encoding.DecodeString(strings.TrimRight(text, "="))
	switch {
	case text == "":
		return nil, errors.New("the key is missing")
	case err != nil || len(b) < 24 && strings.ContainsAny(text, "./"):
		if !strings.ContainsAny(text, "./") {
			return nil, errors.New("want the public key, 32 bytes in base64 (44 characters), or the path of a PEM file, as keys/city.pem")
		}
		return nil, errNoKey
	case len(b) == ed25519.PublicKeySize:
		return checkPublicKey(b)
	case len(b) == ed25519.PrivateKeySize:
		return nil, errPrivate
	}
	if _, err := x509.ParsePKCS8PrivateKey(b); err == nil {
		return nil, errPrivate
	}
	if _, err := x509.ParsePKIXPublicKey(b); err == nil {
		return publicKeyOf(b)
	}
	return nil, fmt.Errorf("a public key has %d bytes, here are %d", ed25519.PublicKeySize, len(b))
}

// ParsePublicKeyPEM reads an Ed25519 public key as openssl writes it (openssl pkey -pubout).
func ParsePublicKeyPEM(b []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(b)
	switch {
	case block == nil:
		return nil, errors.New("no PEM in it")
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return nil, errPrivate
	case block.Type != "PUBLIC KEY":
		return nil, fmt.Errorf("it holds a %s, want a PUBLIC KEY (openssl pkey -pubout)", strings.ToLower(block.Type))
	}
	return publicKeyOf(block.Bytes)
}

func publicKeyOf(der []byte) (ed25519.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("it holds no public key: %w", err)
	}
	key, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("it holds a key of another kind (%T), want Ed25519", k)
	}
	return checkPublicKey(key)
}

// checkPublicKey refuses what is no point of the curve, and the few points for which anybody can make signatures.
func checkPublicKey(b []byte) (ed25519.PublicKey, error) {
	le := slices.Clone(b)
	le[31] &= 0x7f
	slices.Reverse(le)
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	mod := func(x *big.Int) *big.Int { return x.Mod(x, p) }
	y := mod(new(big.Int).SetBytes(le))
	// x² = (y² - 1) / (dy² + 1), d = -121665/121666
	d := mod(new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), p)))
	y2 := mod(new(big.Int).Mul(y, y))
	x2 := mod(new(big.Int).Mul(new(big.Int).Sub(y2, one), new(big.Int).ModInverse(mod(new(big.Int).Add(mod(new(big.Int).Mul(d, y2)), one)), p)))
	if new(big.Int).ModSqrt(x2, p) == nil {
		return nil, errCurve
	}
	if y.Cmp(one) == 0 {
		return nil, errWeak
	}
	// The same point on Curve25519, u = (1 + y) / (1 - y): a point of small order is refused there.
	u := mod(new(big.Int).Mul(new(big.Int).Add(one, y), new(big.Int).ModInverse(mod(new(big.Int).Sub(one, y)), p)))
	ub := u.FillBytes(make([]byte, 32))
	slices.Reverse(ub)
	point, err := ecdh.X25519().NewPublicKey(ub)
	if err != nil {
		return nil, err
	}
	any25519, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		return nil, err
	}
	if _, err := any25519.ECDH(point); err != nil {
		return nil, errWeak
	}
	return ed25519.PublicKey(b), nil
}
