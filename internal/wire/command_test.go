package wire_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"linli/internal/wire"
)

// exampleKey is the key pair of RFC 8037, appendix A.
func exampleKey(t testing.TB) (ed25519.PrivateKey, map[string]ed25519.PublicKey) {
	t.Helper()
	seed, err := base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	public := key.Public().(ed25519.PublicKey)
	if got := base64.RawURLEncoding.EncodeToString(public); got != "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" {
		t.Fatalf("public key %s", got)
	}
	return key, map[string]ed25519.PublicKey{"city": public}
}

var commandTopic = wire.Topic{Kind: wire.CommandTopic, Node: "riverside.gw1", ID: "resend"}

const commandIAT = 1790000000

func exampleCommand() wire.Command {
	iat := time.Unix(commandIAT, 0).UTC()
	return wire.Command{
		Key: "city", Node: "riverside.gw1", ID: "r-10-20", IssuedAt: iat, ExpiresAt: iat.Add(10 * time.Minute), Verb: "resend",
		Args: json.RawMessage(`{"epoch":"00c0ffee00c0ffee","from":10,"to":20}`),
	}
}

func join(header, claims string) []byte {
	return []byte(base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)))
}

func sign(key ed25519.PrivateKey, header, claims string) []byte {
	b := join(header, claims)
	return append(append(b, '.'), base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, b))...)
}

func TestACommandIsReadAsItWasSigned(t *testing.T) {
	key, keys := exampleKey(t)
	want := exampleCommand()
	payload, err := wire.SignCommand(key, "city", &want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.ParseCommand(payload, commandTopic, keys, want.IssuedAt.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if got.Key != want.Key || got.ID != want.ID || got.Node != want.Node || got.Verb != want.Verb || string(got.Args) != string(want.Args) ||
		!got.IssuedAt.Equal(want.IssuedAt) || !got.ExpiresAt.Equal(want.ExpiresAt) {
		t.Errorf("%+v, want %+v", got, want)
	}
	var args wire.ResendArgs
	if err := got.DecodeArgs(&args); err != nil || args != (wire.ResendArgs{Epoch: "00c0ffee00c0ffee", From: 10, To: 20}) {
		t.Errorf("%+v, %v", args, err)
	}
	var other wire.AlertArgs
	if err := got.DecodeArgs(&other); err == nil {
		t.Error("the arguments of another verb are taken")
	}
}

const (
	goodHeader = `{"alg":"EdDSA","kid":"city"}`
	goodClaims = `{"aud":"riverside.gw1","jti":"a","iat":1790000000,"exp":1790000600,"verb":"resend","args":{}}`
)

// What nobody has proved to have sent is an ErrCommand, and not even its id is believed.
func TestCommandsThatProveNothing(t *testing.T) {
	key, keys := exampleKey(t)
	_, stranger, _ := ed25519.GenerateKey(nil)
	good := string(sign(key, goodHeader, goodClaims))
	if _, err := wire.ParseCommand([]byte(good), commandTopic, keys, time.Unix(commandIAT, 0)); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	broken := []byte(parts[0] + "." + parts[1][:20] + "\n" + parts[1][20:]) // and signed so
	broken = append(append(broken, '.'), base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, broken))...)
	for name, payload := range map[string]string{
		"empty":                       "",
		"no dots":                     "abc",
		"json":                        goodClaims,
		"four parts":                  good + ".x",
		"no signature":                parts[0] + "." + parts[1] + ".",
		"too long":                    good + strings.Repeat("x", wire.MaxCommand),
		"padding":                     good + "==",
		"line break, signed":          string(broken),
		"line break in claims":        parts[0] + "." + parts[1] + "\n." + parts[2],
		"line break at the end":       good + "\n",
		"line break in the signature": parts[0] + "." + parts[1] + "." + parts[2][:85] + "\n",
		"another signature":           parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86),
		"not canonical":               good[:len(good)-1] + string(good[len(good)-1]+1),
		"another key":                 string(sign(stranger, goodHeader, goodClaims)),
		"claims changed":              string(join(goodHeader, strings.Replace(goodClaims, "600", "601", 1))) + "." + parts[2],
		"alg none":                    string(join(`{"alg":"none","kid":"city"}`, goodClaims)) + ".",
		"alg none, signed":            string(sign(key, `{"alg":"none","kid":"city"}`, goodClaims)),
		"alg HS256":                   string(sign(key, `{"alg":"HS256","kid":"city"}`, goodClaims)),
		"alg in small letters":        string(sign(key, `{"alg":"eddsa","kid":"city"}`, goodClaims)),
		"Alg":                         string(sign(key, `{"Alg":"EdDSA","kid":"city"}`, goodClaims)),
		"alg twice":                   string(sign(key, `{"alg":"none","alg":"EdDSA","kid":"city"}`, goodClaims)),
		"alg missing":                 string(sign(key, `{"kid":"city"}`, goodClaims)),
		"kid missing":                 string(sign(key, `{"alg":"EdDSA"}`, goodClaims)),
		"kid a number":                string(sign(key, `{"alg":"EdDSA","kid":1}`, goodClaims)),
		"unknown kid":                 string(sign(key, `{"alg":"EdDSA","kid":"town"}`, goodClaims)),
		"crit":                        string(sign(key, `{"alg":"EdDSA","kid":"city","crit":["exp"]}`, goodClaims)),
		"empty crit":                  string(sign(key, `{"alg":"EdDSA","kid":"city","crit":[]}`, goodClaims)),
		"b64":                         string(sign(key, `{"alg":"EdDSA","kid":"city","b64":false}`, goodClaims)),
		"jwk":                         string(sign(stranger, `{"alg":"EdDSA","kid":"city","jwk":{"kty":"OKP"}}`, goodClaims)),
		"typ":                         string(sign(key, `{"alg":"EdDSA","kid":"city","typ":"at+jwt"}`, goodClaims)),
		"header an array":             string(sign(key, `["EdDSA"]`, goodClaims)),
		"header null":                 string(sign(key, `null`, goodClaims)),
		"two headers":                 string(sign(key, goodHeader+goodHeader, goodClaims)),
		"header not UTF-8":            string(sign(key, "{\"alg\":\"EdDSA\",\"kid\":\"city\xff\"}", goodClaims)),
		"large header":                string(sign(key, `{"alg":"EdDSA","kid":"city","typ":"`+strings.Repeat("x", 600)+`"}`, goodClaims)),
	} {
		c, err := wire.ParseCommand([]byte(payload), commandTopic, keys, time.Unix(commandIAT, 0))
		var refusal *wire.Refusal
		if !errors.Is(err, wire.ErrCommand) || errors.As(err, &refusal) || c.ID != "" || c.Key != "" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := wire.ParseCommand([]byte(good), commandTopic, nil, time.Unix(commandIAT, 0)); !errors.Is(err, wire.ErrCommand) {
		t.Errorf("without keys: %v", err)
	}
}

// What is signed and must not be carried out all the same is a Refusal with its reason, and with the id to answer to.
func TestSignedCommandsThatAreRefused(t *testing.T) {
	key, keys := exampleKey(t)
	change := func(old, new string) string { return strings.Replace(goodClaims, old, new, 1) }
	now := time.Unix(commandIAT+60, 0)
	for name, test := range map[string]struct {
		claims string
		now    time.Time
		reason string
		noID   bool
	}{
		"not JSON":             {claims: "x", reason: wire.ReasonMalformed, noID: true},
		"null":                 {claims: "null", reason: wire.ReasonMalformed, noID: true},
		"no id":                {claims: change(`"jti":"a",`, ""), reason: wire.ReasonMalformed, noID: true},
		"id with a slash":      {claims: change(`"jti":"a"`, `"jti":"a/b"`), reason: wire.ReasonMalformed, noID: true},
		"long id":              {claims: change(`"jti":"a"`, `"jti":"`+strings.Repeat("a", 65)+`"`), reason: wire.ReasonMalformed, noID: true},
		"claim twice":          {claims: change(`"iat"`, `"exp":1799999999,"iat"`), reason: wire.ReasonMalformed, noID: true},
		"name twice, escaped":  {claims: change(`"iat"`, `"\u0065xp":1799999999,"iat"`), reason: wire.ReasonMalformed, noID: true},
		"argument twice":       {claims: change(`{}`, `{"a":{"b":1,"b":2}}`), reason: wire.ReasonMalformed, noID: true},
		"nested deep":          {claims: change(`{}`, `{"a":[[[[1]]]]}`), reason: wire.ReasonMalformed, noID: true},
		"something behind":     {claims: goodClaims + "{}", reason: wire.ReasonMalformed, noID: true},
		"argument in capitals": {claims: change(`{}`, `{"From":1}`), reason: wire.ReasonMalformed},
		"unknown claim":        {claims: change(`"iat"`, `"nbf":1790000500,"iat"`), reason: wire.ReasonMalformed},
		"claim in capitals":    {claims: change(`"exp"`, `"EXP"`), reason: wire.ReasonMalformed},
		"aud an array":         {claims: change(`"riverside.gw1"`, `["riverside.gw1"]`), reason: wire.ReasonMalformed},
		"aud missing":          {claims: change(`"aud":"riverside.gw1",`, ``), reason: wire.ReasonMalformed},
		"exp missing":          {claims: change(`"exp":1790000600,`, ``), reason: wire.ReasonMalformed},
		"exp a text":           {claims: change(`1790000600`, `"1790000600"`), reason: wire.ReasonMalformed},
		"exp null":             {claims: change(`1790000600`, `null`), reason: wire.ReasonMalformed},
		"exp a fraction":       {claims: change(`1790000600`, `1790000600.5`), reason: wire.ReasonMalformed},
		"exp huge":             {claims: change(`1790000600`, `1e300`), reason: wire.ReasonMalformed},
		"exp negative":         {claims: change(`1790000600`, `-5`), reason: wire.ReasonMalformed},
		"exp before iat":       {claims: change(`1790000600`, `1789999999`), reason: wire.ReasonMalformed},
		"lives too long":       {claims: change(`1790000600`, `1790086401`), reason: wire.ReasonMalformed},
		"args missing":         {claims: change(`,"args":{}`, ``), reason: wire.ReasonMalformed},
		"args null":            {claims: change(`{}`, `null`), reason: wire.ReasonMalformed},
		"args an array":        {claims: change(`{}`, `[]`), reason: wire.ReasonMalformed},
		"verb a number":        {claims: change(`"resend"`, `1`), reason: wire.ReasonMalformed},
		"another node":         {claims: change(`riverside`, `hillside`), reason: wire.ReasonWrongNode},
		"another verb":         {claims: change(`"resend"`, `"write"`), reason: wire.ReasonWrongVerb},
		"expired":              {now: time.Unix(commandIAT+600, 0), reason: wire.ReasonExpired},
		"from the future":      {now: time.Unix(commandIAT-301, 0), reason: wire.ReasonNotYet},
		"no clock":             {now: time.Time{}, reason: wire.ReasonClockUnset},
	} {
		claims := test.claims
		if claims == "" {
			claims = goodClaims
		} else {
			test.now = now
		}
		c, err := wire.ParseCommand(sign(key, goodHeader, claims), commandTopic, keys, test.now)
		var refusal *wire.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != test.reason || c.Key != "city" || (c.ID == "") != test.noID {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	for name, claims := range map[string]string{
		"as floats":     change(`1790000600`, `1.7900006e9`),
		"whole day":     change(`1790000600`, `1790086400`),
		"last second":   change(`1790000600`, `1790000061`),
		"spaces":        strings.ReplaceAll(goodClaims, ",", " ,\n "),
		"args in depth": change(`{}`, `{"value":[[1]]}`),
	} {
		if _, err := wire.ParseCommand(sign(key, goodHeader, claims), commandTopic, keys, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := wire.ParseCommand(sign(key, goodHeader, goodClaims), commandTopic, keys, time.Unix(commandIAT-300, 0)); err != nil {
		t.Errorf("a clock 5 minutes behind: %v", err)
	}
}

// Whoever sent arguments that are wrong is told so in words of JSON.
func TestWrongArgumentsAreToldInWords(t *testing.T) {
	for args, want := range map[string]string{
		`{"from":-3}`:           "args of resend: from must be a whole number, not below 0, and is: number -3",
		`{"from":1.5}`:          "args of resend: from must be a whole number, not below 0, and is: number 1.5",
		`{"epoch":7}`:           "args of resend: epoch must be a text, and is: number",
		`{"epoch":"a","til":3}`: `args of resend: there is no "til"`,
	} {
		c := wire.Command{Verb: "resend", Args: json.RawMessage(args)}
		if err := c.DecodeArgs(&wire.ResendArgs{}); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
	c := wire.Command{Verb: "status", Args: json.RawMessage(`{"x":1}`)}
	if err := c.DecodeArgs(&struct{}{}); err == nil || err.Error() != `args of status: there is no "x"` {
		t.Error(err)
	}
}

// Nothing is signed that every gateway would refuse.
func TestSignCommandRefusesWhatGatewaysWould(t *testing.T) {
	key, _ := exampleKey(t)
	for name, spoil := range map[string]func(*wire.Command){
		"no id":      func(c *wire.Command) { c.ID = "" },
		"no node":    func(c *wire.Command) { c.Node = "" },
		"bad node":   func(c *wire.Command) { c.Node = "riverside" },
		"no verb":    func(c *wire.Command) { c.Verb = "" },
		"long life":  func(c *wire.Command) { c.ExpiresAt = c.IssuedAt.Add(25 * time.Hour) },
		"no life":    func(c *wire.Command) { c.ExpiresAt = c.IssuedAt },
		"args":       func(c *wire.Command) { c.Args = json.RawMessage("{") },
		"args twice": func(c *wire.Command) { c.Args = json.RawMessage(`{"a":1,"a":2}`) },
		"large": func(c *wire.Command) {
			c.Args = json.RawMessage(`{"a":"` + strings.Repeat("x", wire.MaxCommand) + `"}`)
		},
	} {
		c := exampleCommand()
		spoil(&c)
		if b, err := wire.SignCommand(key, "city", &c); err == nil {
			t.Errorf("%s: %s", name, b)
		}
	}
	c := exampleCommand()
	if _, err := wire.SignCommand(key, "the city", &c); err == nil {
		t.Error("a kid with a space")
	}
	if _, err := wire.SignCommand(key[:10], "city", &c); err == nil {
		t.Error("half a key")
	}
	c.Args = nil
	if _, err := wire.SignCommand(key, "city", &c); err != nil {
		t.Errorf("no arguments: %v", err)
	}
}

// The command of docs/wire.md is one, and its claims are those shown beside it.
func TestTheCommandOfTheDocumentation(t *testing.T) {
	key, keys := exampleKey(t)
	page, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(name string) string {
		m := regexp.MustCompile("(?s)```" + name + "\n(.*?)```").FindStringSubmatch(string(page))
		if m == nil {
			t.Fatalf("no example %s", name)
		}
		return strings.Join(strings.Fields(m[1]), "")
	}
	got, err := wire.ParseCommand([]byte(block("command")), commandTopic, keys, time.Unix(commandIAT, 0))
	if err != nil {
		c := exampleCommand()
		b, _ := wire.SignCommand(key, "city", &c)
		t.Fatalf("%v; right would be\n%s", err, b)
	}
	var shown struct {
		Aud, Jti, Verb string
		Iat, Exp       int64
		Args           json.RawMessage
	}
	if err := json.Unmarshal([]byte(block("claims")), &shown); err != nil {
		t.Fatal(err)
	}
	if shown.Aud != got.Node || shown.Jti != got.ID || shown.Verb != got.Verb || shown.Iat != got.IssuedAt.Unix() ||
		shown.Exp != got.ExpiresAt.Unix() || string(shown.Args) != string(got.Args) {
		t.Errorf("%+v is shown, %+v is signed", shown, got)
	}
	d := json.NewDecoder(strings.NewReader(block("reply")))
	d.DisallowUnknownFields()
	var reply wire.Reply
	if err := d.Decode(&reply); err != nil || reply.ID != got.ID || reply.Verb != got.Verb || reply.Node != got.Node {
		t.Errorf("reply %+v: %v", reply, err)
	}
	d = json.NewDecoder(strings.NewReader(string(reply.Result)))
	d.DisallowUnknownFields()
	if err := d.Decode(&wire.ResendResult{}); err != nil {
		t.Error(err)
	}
}

// Arbitrary bytes prove nothing.
func FuzzParseCommand(f *testing.F) {
	key, keys := exampleKey(f)
	f.Add(sign(key, goodHeader, goodClaims))
	f.Add([]byte("a.b." + strings.Repeat("A", 86)))
	good := string(sign(key, goodHeader, goodClaims))
	f.Fuzz(func(t *testing.T, payload []byte) {
		_, err := wire.ParseCommand(payload, commandTopic, keys, time.Unix(commandIAT, 0))
		if err == nil && string(payload) != good {
			t.Errorf("accepted: %q", payload)
		}
	})
}

// Whatever is signed, what is accepted keeps the bounds, and its arguments can be decoded in one way only.
func FuzzSignedClaims(f *testing.F) {
	key, keys := exampleKey(f)
	f.Add([]byte(goodClaims))
	f.Add([]byte(strings.Replace(goodClaims, "{}", `{"epoch":"00c0ffee00c0ffee","from":10,"to":20}`, 1)))
	f.Fuzz(func(t *testing.T, claims []byte) {
		now := time.Unix(commandIAT, 0)
		c, err := wire.ParseCommand(sign(key, goodHeader, string(claims)), commandTopic, keys, now)
		var refusal *wire.Refusal
		if err != nil {
			if !errors.As(err, &refusal) && !errors.Is(err, wire.ErrCommand) {
				t.Fatal(err)
			}
			return
		}
		if c.Node != commandTopic.Node || c.Verb != commandTopic.ID || c.ID == "" || !now.Before(c.ExpiresAt) ||
			c.ExpiresAt.Sub(c.IssuedAt) > wire.MaxCommandLife || c.IssuedAt.Sub(now) > wire.MaxCommandAhead {
			t.Errorf("accepted: %+v", c)
		}
		// Signed again it is the same command.
		again, err := wire.SignCommand(key, "city", &c)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		d, err := wire.ParseCommand(again, commandTopic, keys, now)
		if err != nil || d.ID != c.ID || !d.ExpiresAt.Equal(c.ExpiresAt) {
			t.Errorf("%+v became %+v: %v", c, d, err)
		}
	})
}
