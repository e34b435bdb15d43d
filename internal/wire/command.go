package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The verbs of commands.
const (
	VerbResend      = "resend"      // ResendArgs: send frames or alerts again
	VerbStatus      = "status"      // no arguments: answer with a Status
	VerbAcknowledge = "acknowledge" // AlertArgs
	VerbClose       = "close"       // AlertArgs
	VerbWrite       = "write"       // WriteArgs
	VerbReload      = "reload"      // no arguments: read the rules again
)

// Verbs returns all verbs, in the order of the documentation.
func Verbs() []string {
	return []string{VerbResend, VerbStatus, VerbAcknowledge, VerbClose, VerbWrite, VerbReload}
}

const (
	// MaxCommand is the longest command taken, in bytes.
	MaxCommand = 8 << 10
	// MaxCommandLife is how long after its issue a command expires at the latest.
	MaxCommandLife = 24 * time.Hour
	// MaxCommandAhead is how far ahead of the gateway's clock a command may have been issued.
	MaxCommandAhead = 5 * time.Minute

	maxJOSEHeader = 512 // bytes, in base64
	maxArgsDepth  = 4
	maxUnix       = int64(253402300799) // seconds: the end of the year 9999, beyond which JSON has no times
)

// Command is what the city asks one gateway to do. On the wire it is a JWS in compact serialization (RFC 7515) with
// Ed25519 (RFC 8037) over the claims of a JWT.
type Command struct {
	Key       string    // kid: name of the key that signed it
	Node      string    // aud
	ID        string    // jti: the same command has the same id, however often it is sent
	IssuedAt  time.Time // iat, whole seconds
	ExpiresAt time.Time // exp, whole seconds
	Verb      string
	Args      json.RawMessage // an object; nil is the empty one
}

// ResendArgs are the arguments of resend: frames From to To, both included, of the journal Epoch; or, instead of these, the
// alerts that have changed since AlertsSince.
type ResendArgs struct {
	Epoch       string    `json:"epoch,omitempty"` // 16 hexadecimal digits, as in Status
	From        uint64    `json:"from,omitempty"`
	To          uint64    `json:"to,omitempty"`
	AlertsSince time.Time `json:"alerts_since,omitzero"`
}

// AlertArgs are the arguments of acknowledge and close.
type AlertArgs struct {
	Alert string `json:"alert"` // id
	Note  string `json:"note,omitempty"`
}

// WriteArgs are the arguments of write.
type WriteArgs struct {
	Device string          `json:"device"`
	Point  string          `json:"point"`
	Value  json.RawMessage `json:"value"` // a bool, a number or a text
}

// ReplyState is what became of a command.
type ReplyState string

// The states of replies.
const (
	ReplyDone    ReplyState = "done"
	ReplyRefused ReplyState = "refused" // nothing was done, and nothing will be
	ReplyFailed  ReplyState = "failed"  // tried, in vain
	ReplyUnknown ReplyState = "unknown" // it may have been carried out
)

// Reply is the gateway's answer to a command. To a command that comes again the first answer is given again.
type Reply struct {
	ID     string     `json:"id"`
	Verb   string     `json:"verb"`
	Node   string     `json:"node"`
	Time   time.Time  `json:"time,omitzero"` // left out while the gateway's clock has never been set
	State  ReplyState `json:"state"`
	Reason string     `json:"reason,omitempty"`
	// Result depends on the verb.
	Result json.RawMessage `json:"result,omitempty"`
}

// AlertsResult is the result of a resend of alerts.
type AlertsResult struct {
	Alerts int `json:"alerts"` // so many are sent, each in its newest state
}

// ResendResult is the result of a resend of frames: what became of the frames asked for. Together they are all of them.
type ResendResult struct {
	Epoch   string `json:"epoch"`    // of the journal on the box
	Frames  uint64 `json:"frames"`   // will be sent, late
	Waiting uint64 `json:"waiting"`  // were on their way anyhow
	Gone    uint64 `json:"gone"`     // are not on the box any more, and are told as lost
	NextSeq uint64 `json:"next_seq"` // the frames from here on do not exist yet; what was asked of them is left out
}

// ErrCommand is wrapped by the errors of ParseCommand and SignCommand that are no Refusal: nobody has proved who asks,
// and nobody is to be answered.
var ErrCommand = errors.New("bad command")

// Refusal is the error of a command whose signature is good and which is not to be carried out all the same.
type Refusal struct {
	Reason string // one of the words below; goes into the reply
	Detail string // for people, may be empty
}

// The reasons why a command with a good signature is refused by ParseCommand.
const (
	ReasonMalformed  = "malformed"   // its claims are not what they must be
	ReasonWrongNode  = "wrong_node"  // it is for another gateway
	ReasonWrongVerb  = "wrong_verb"  // it was sent on the topic of another verb
	ReasonExpired    = "expired"     //
	ReasonNotYet     = "not_yet"     // issued too far in the future
	ReasonClockUnset = "clock_unset" // the gateway does not know the time, and so not whether it has expired
)

// Error says why.
func (r *Refusal) Error() string {
	if r.Detail == "" {
		return "command refused: " + r.Reason
	}
	return "command refused: " + r.Reason + ": " + r.Detail
}

// strict64 returns base64url without padding and with zero bits at the end, so that a text stands for one value only.
func strict64() *base64.Encoding { return base64.RawURLEncoding.Strict() }

// signature64 is the length of a signature in base64.
const signature64 = (ed25519.SignatureSize*8 + 5) / 6

type joseHeader struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ,omitempty"`
}

type claims struct {
	Aud  string          `json:"aud"`
	Jti  string          `json:"jti"`
	Iat  int64           `json:"iat"`
	Exp  int64           `json:"exp"`
	Verb string          `json:"verb"`
	Args json.RawMessage `json:"args"`
}

// SignCommand returns the command as it is published, signed by key, whose name is kid. It refuses what every gateway
// would refuse. Times are cut to seconds.
func SignCommand(key ed25519.PrivateKey, kid string, c *Command) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%w: not an Ed25519 private key", ErrCommand)
	}
	args := c.Args
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	h, err := json.Marshal(joseHeader{Alg: "EdDSA", Kid: kid, Typ: "JWT"})
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(claims{Aud: c.Node, Jti: c.ID, Iat: c.IssuedAt.Unix(), Exp: c.ExpiresAt.Unix(), Verb: c.Verb, Args: args})
	if err != nil {
		return nil, fmt.Errorf("%w: args: %w", ErrCommand, err)
	}
	out := signRaw(key, h, b)
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an Ed25519 private key", ErrCommand)
	}
	topic := Topic{Kind: CommandTopic, Node: c.Node, ID: c.Verb}
	if _, err := ParseTopic(topic.String()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	if _, err := ParseCommand(out, topic, map[string]ed25519.PublicKey{kid: pub}, time.Unix(c.IssuedAt.Unix(), 0)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	return out, nil
}

// signRaw signs what it is given.
func signRaw(key ed25519.PrivateKey, header, payload []byte) []byte {
	out := strict64().AppendEncode(nil, header)
	out = strict64().AppendEncode(append(out, '.'), payload)
	signature := ed25519.Sign(key, out)
	return strict64().AppendEncode(append(out, '.'), signature)
}

// ParseCommand checks a command that came on topic at the time now, which is zero while it is not known; keys are the
// public keys by name. It looks at the claims only after the signature, and at nothing that is too large. An error that
// is a *Refusal comes with the command, as far as it is known: its Key always, its ID where that can be answered to.
// After any other error the command is zero.
func ParseCommand(payload []byte, topic Topic, keys map[string]ed25519.PublicKey, now time.Time) (Command, error) {
	kid, body, err := verify(payload, keys)
	if err != nil {
		return Command{}, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	c := Command{Key: kid}
	refuse := func(reason, format string, a ...any) (Command, error) {
		return c, &Refusal{Reason: reason, Detail: fmt.Sprintf(format, a...)}
	}
	set, err := object(body)
	if err != nil {
		return refuse(ReasonMalformed, "claims: %v", err)
	}
	if id, ok := text(set["jti"]); ok && validTopicID(id) {
		c.ID = id // First of all: whoever asks can be answered then.
	} else {
		return refuse(ReasonMalformed, "jti must be 1 to %d letters, digits, _ or -", maxTopicID)
	}
	for name := range set {
		switch name {
		case "aud", "jti", "iat", "exp", "verb", "args":
		default:
			return refuse(ReasonMalformed, "claim %.32q is not known here", name)
		}
	}
	verb, ok := text(set["verb"])
	if !ok || !validTopicID(verb) {
		return refuse(ReasonMalformed, "verb must be a word")
	}
	c.Verb = verb
	if c.Node, ok = text(set["aud"]); !ok {
		return refuse(ReasonMalformed, "aud must be the gateway's node, as a text")
	}
	iat, okI := seconds(set["iat"])
	exp, okE := seconds(set["exp"])
	if !okI || !okE {
		return refuse(ReasonMalformed, "iat and exp must be whole seconds since 1970")
	}
	c.IssuedAt, c.ExpiresAt = time.Unix(iat, 0).UTC(), time.Unix(exp, 0).UTC()
	if err := checkArgs(set["args"]); err != nil {
		return refuse(ReasonMalformed, "args: %v", err)
	}
	c.Args = set["args"]
	switch {
	case c.Node != topic.Node:
		return refuse(ReasonWrongNode, "it is for %.80q", c.Node)
	case c.Verb != topic.ID || topic.Kind != CommandTopic:
		return refuse(ReasonWrongVerb, "it says %.80q and came on the topic of %q", c.Verb, topic.ID)
	case exp <= iat || exp-iat > int64(MaxCommandLife/time.Second):
		return refuse(ReasonMalformed, "exp must be after iat and at most %v later", MaxCommandLife)
	case now.IsZero():
		return refuse(ReasonClockUnset, "")
	case !now.Before(c.ExpiresAt):
		return refuse(ReasonExpired, "at %s; it is %s here", c.ExpiresAt.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case c.IssuedAt.Sub(now) > MaxCommandAhead:
		return refuse(ReasonNotYet, "issued at %s; it is %s here", c.IssuedAt.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// DecodeArgs reads the arguments into v, a pointer to a struct with JSON names of small letters. Names that the struct
// does not have are an error.
func (c *Command) DecodeArgs(v any) error {
	args := c.Args
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("args of %s: %w", c.Verb, inWords(err))
	}
	return nil
}

// inWords says what is wrong with arguments in words of JSON: whoever reads it knows nothing of our types.
func inWords(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return errors.New(strings.Replace(strings.TrimPrefix(err.Error(), "json: "), "unknown field", "there is no", 1))
	}
	want := "something else"
	switch wrong.Type.Kind() {
	case reflect.String:
		want = "a text"
	case reflect.Uint64:
		want = "a whole number, not below 0"
	}
	return fmt.Errorf("%s must be %s, and is: %s", wrong.Field, want, wrong.Value)
}

// verify returns the name of the key that signed the payload and the claims, undecoded.
func verify(payload []byte, keys map[string]ed25519.PublicKey) (kid string, body []byte, err error) {
	if len(payload) > MaxCommand {
		return "", nil, fmt.Errorf("%d bytes; at most %d", len(payload), MaxCommand)
	}
	header, rest, ok1 := bytes.Cut(payload, []byte("."))
	claims, signature, ok2 := bytes.Cut(rest, []byte("."))
	if !ok1 || !ok2 || len(signature) != signature64 || len(header) > maxJOSEHeader {
		return "", nil, errors.New("not header.claims.signature")
	}
	h, err := decode64(header)
	if err != nil {
		return "", nil, fmt.Errorf("header: %w", err)
	}
	set, err := object(h)
	if err != nil {
		return "", nil, fmt.Errorf("header: %w", err)
	}
	for name, value := range set {
		v, ok := text(value)
		switch name {
		case "alg":
			ok = ok && v == "EdDSA"
		case "typ":
			ok = ok && v == "JWT"
		case "kid":
			kid = v
			ok = ok && validTopicID(v)
		default: // crit above all, which says that more must be understood than we do
			ok = false
		}
		if !ok {
			return "", nil, fmt.Errorf("header: %.32q is not for us", name)
		}
	}
	if set["alg"] == nil || kid == "" {
		return "", nil, errors.New("header: alg and kid must be there")
	}
	key := keys[kid]
	if len(key) != ed25519.PublicKeySize {
		return "", nil, fmt.Errorf("no key %q", kid)
	}
	s, err := decode64(signature)
	if err != nil {
		return "", nil, fmt.Errorf("signature: %w", err)
	}
	if !ed25519.Verify(key, payload[:len(header)+1+len(claims)], s) {
		return "", nil, fmt.Errorf("not signed by %q", kid)
	}
	if body, err = decode64(claims); err != nil {
		return "", nil, fmt.Errorf("claims: %w", err)
	}
	return kid, body, nil
}

// decode64 decodes base64url. The library passes over line breaks; here they are an error.
func decode64(b []byte) ([]byte, error) {
	if bytes.ContainsAny(b, "\r\n") {
		return nil, errors.New("line break in base64")
	}
	return strict64().AppendDecode(nil, b)
}

// object parses a JSON object in which no name is there twice, at no depth: of two values one reader would take the
// first and another one the last.
func object(b []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	if err := checkNames(b); err != nil {
		return nil, err
	}
	var set map[string]json.RawMessage
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, err
	}
	if set == nil {
		return nil, errors.New("not an object")
	}
	return set, nil
}

// checkNames refuses names that are there twice within an object, and nesting beyond maxArgsDepth.
func checkNames(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	type level struct {
		names map[string]bool // nil in an array
		value bool            // a name was read, its value is next
	}
	var open []level
	for {
		t, err := d.Token()
		if err != nil {
			return err
		}
		if n := len(open) - 1; n >= 0 && open[n].names != nil && t != json.Delim('}') {
			if name, ok := t.(string); ok && !open[n].value {
				if open[n].names[name] {
					return fmt.Errorf("%.32q is there twice", name)
				}
				open[n].names[name], open[n].value = true, true
				continue
			}
			open[n].value = false
		}
		switch t {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) > maxArgsDepth {
			return errors.New("nested too deep")
		}
		if len(open) == 0 {
			return nil // what follows is the business of Unmarshal
		}
	}
}

// checkArgs says what is wrong with arguments. Their names are of small letters, since the decoder of DecodeArgs takes
// capitals for the same.
func checkArgs(b json.RawMessage) error {
	set, err := object(b)
	if err != nil {
		return err
	}
	for name := range set {
		for _, c := range []byte(name) {
			if (c < 'a' || c > 'z') && c != '_' {
				return fmt.Errorf("%.32q: names are of small letters", name)
			}
		}
	}
	return nil
}

// text returns a JSON text.
func text(b json.RawMessage) (string, bool) {
	var s string
	if len(b) == 0 || b[0] != '"' || json.Unmarshal(b, &s) != nil {
		return "", false
	}
	return s, true
}

// seconds returns a time in whole seconds.
func seconds(b json.RawMessage) (int64, bool) {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil { // some libraries write 1.79e9 or 1790000000.0
		f, errF := strconv.ParseFloat(string(b), 64)
		if errF != nil || f != math.Trunc(f) || math.Abs(f) > float64(maxUnix) {
			return 0, false
		}
		n = int64(f)
	}
	return n, n >= 0 && n <= maxUnix
}
