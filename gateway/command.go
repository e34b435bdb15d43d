package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/spf13/cobra"

	"linli/internal/mqtt"
	"linli/internal/wire"
)

func commandCommand() *cobra.Command {
	cmd := group("command", "City side: ask a gateway for something by a signed message", "")
	cmd.AddCommand(keygenCommand(), sendCommand())
	return cmd
}

func keygenCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen --out DIR|FILE",
		Short: "Make a pair of keys for commands",
		Long: `Make an Ed25519 pair of keys: the private one signs commands and stays with whoever sends them, the public one goes
into the site file of every gateway that is to take them. Nothing is overwritten. openssl makes the same:

  openssl genpkey -algorithm ed25519 -out city.pem
  openssl pkey -in city.pem -pubout -out city.pub.pem`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return &usageError{errors.New("say where: --out DIR or --out FILE")}
			}
			return makeKey(out, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "directory, or file for the private key; the public one is put beside it")
	return cmd
}

// makeKey writes a new pair of keys and prints what goes into site files.
func makeKey(out string, stdout io.Writer) error {
	if info, err := os.Stat(out); err == nil && info.IsDir() || strings.HasSuffix(out, "/") {
		out = filepath.Join(out, "command.pem")
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o700); err != nil {
		return err
	}
	publicFile := strings.TrimSuffix(out, ".pem") + ".pub.pem"
	if _, err := os.Lstat(publicFile); err == nil {
		return fmt.Errorf("%s is there already; nothing was made", publicFile)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path, kind string
		mode       os.FileMode
		encode     func() ([]byte, error)
	}{
		{out, "PRIVATE KEY", 0o600, func() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(private) }},
		{publicFile, "PUBLIC KEY", 0o644, func() ([]byte, error) { return x509.MarshalPKIXPublicKey(public) }},
	} {
		der, err := f.encode()
		if err != nil {
			return err
		}
		if err := writeNew(f.path, f.mode, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: der})); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, `private key  %s   (only for whoever sends commands)
public key   %s

For the site files:

uplink:
  commands:
    keys: {city: "%s"}
    allow: [resend]
`, out, publicFile, base64.StdEncoding.EncodeToString(public))
	return nil
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, mode os.FileMode, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("%w; nothing is overwritten", err)
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// sendOptions is the command line of linli command send.
type sendOptions struct {
	mqtt             mqtt.Config
	brokers          []string
	node, key, kid   string
	id               string
	timeout, expires time.Duration
	json             bool
}

func sendCommand() *cobra.Command {
	var o sendOptions
	cmd := &cobra.Command{
		Use:   "send VERB --broker URL --node SITE.GATEWAY --key FILE --kid NAME",
		Short: "Sign a command, send it, wait for the reply and print it",
		Long: `Sign a command, send it, wait for the reply and print it. A command that is sent again with the same --id is carried
out once at most, and gets the same reply. Exit code 0: done; 1: refused, failed, unknown or no reply; 2: the command line.

  linli command send resend --from 10 --to 20 --broker tls://mqtt.city.example:8883 --node riverside.gw1 --key city.pem --kid city`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return &usageError{fmt.Errorf("there is no verb %q: %s", args[0], strings.Join(wire.Verbs(), ", "))}
		},
		RunE: func(*cobra.Command, []string) error {
			return &usageError{fmt.Errorf("say what: %s", strings.Join(wire.Verbs(), ", "))}
		},
	}
	f := cmd.PersistentFlags()
	f.StringSliceVar(&o.brokers, "broker", nil, "broker as tcp://host:port or tls://host:port; several are tried in turn")
	f.StringVar(&o.node, "node", "", "the gateway, as site.gateway")
	f.StringVar(&o.key, "key", "", "file with the private key that signs (PEM)")
	f.StringVar(&o.kid, "kid", "city", "name of that key in the gateway's site file")
	f.StringVar(&o.id, "id", "", "id of the command, to send the same one again (default: a new one)")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "wait for the reply")
	f.DurationVar(&o.expires, "expires", 5*time.Minute, "the gateway carries it out within this time or not at all; at most 24h")
	f.BoolVar(&o.json, "json", false, "print the reply as it came")
	f.StringVar(&o.mqtt.Username, "username", "", "MQTT user name")
	f.StringVar(&o.mqtt.PasswordFile, "password-file", "", "file with the MQTT password")
	f.StringVar(&o.mqtt.CAFile, "ca-file", "", "certificate authorities of the broker (default: the system's)")
	f.StringVar(&o.mqtt.CertFile, "cert-file", "", "client certificate for the broker")
	f.StringVar(&o.mqtt.KeyFile, "cert-key-file", "", "its key")

	verb := func(name, short string, flags func(*cobra.Command), args func() (any, error)) {
		sub := &cobra.Command{Use: name, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := args()
			if err != nil {
				return &usageError{err}
			}
			return o.send(cmd.Context(), name, a, cmd.OutOrStdout())
		}}
		if flags != nil {
			flags(sub)
		}
		cmd.AddCommand(sub)
	}
	none := func() (any, error) { return struct{}{}, nil }
	var resend wire.ResendArgs
	var since string
	verb(wire.VerbResend, "Send frames or alerts again", func(c *cobra.Command) {
		c.Flags().StringVar(&resend.Epoch, "epoch", "", "which journal, as the ledger and the status say it (default: the present one, from the status)")
		c.Flags().Uint64Var(&resend.From, "from", 0, "first frame")
		c.Flags().Uint64Var(&resend.To, "to", 0, "last frame")
		c.Flags().StringVar(&since, "alerts-since", "", "instead of frames: the alerts that have changed since this moment, as 2026-11-27T08:00")
	}, func() (any, error) {
		if since != "" {
			if resend != (wire.ResendArgs{}) {
				return nil, errors.New("resend sends frames or alerts: either --from and --to, or --alerts-since")
			}
			at, err := moment(since, time.Now(), time.Local)
			if err != nil {
				return nil, fmt.Errorf("--alerts-since: %w", err)
			}
			resend.AlertsSince = at.UTC()
			return &resend, nil
		}
		if resend.From == 0 || resend.To < resend.From {
			return nil, errors.New("resend needs --from and --to, the first and the last frame")
		}
		return &resend, nil
	})
	verb(wire.VerbStatus, "Ask how the gateway is", nil, none)
	var alert wire.AlertArgs
	ofAlert := func(c *cobra.Command) {
		c.Flags().StringVar(&alert.Alert, "alert", "", "id of the alert")
		c.Flags().StringVar(&alert.Note, "note", "", "what there is to say about it")
	}
	alertArgs := func() (any, error) {
		if alert.Alert == "" {
			return nil, errors.New("say which: --alert ID")
		}
		return &alert, nil
	}
	verb(wire.VerbAcknowledge, "Acknowledge an alert", ofAlert, alertArgs)
	verb(wire.VerbClose, "Close an alert whose condition is gone", ofAlert, alertArgs)
	var write wire.WriteArgs
	var point, value string
	verb(wire.VerbWrite, "Set an output", func(c *cobra.Command) {
		c.Flags().StringVar(&point, "point", "", "the output, as device.point")
		c.Flags().StringVar(&value, "value", "", "true or false, a number, or a text")
	}, func() (any, error) {
		var ok bool
		if write.Device, write.Point, ok = strings.Cut(point, "."); !ok || value == "" {
			return nil, errors.New("write needs --point device.point and --value")
		}
		write.Value = scalarJSON(value)
		return &write, nil
	})
	verb(wire.VerbReload, "Read the rules again", nil, none)
	return cmd
}

// scalarJSON returns a value of the command line as JSON: what is no bool and no number is a text.
func scalarJSON(s string) json.RawMessage {
	var v any
	if json.Unmarshal([]byte(s), &v) == nil {
		switch v.(type) {
		case bool, float64:
			return json.RawMessage(strings.TrimSpace(s))
		}
	}
	b, _ := json.Marshal(s) // a text
	return b
}

// send sends one command and prints the reply.
func (o *sendOptions) send(ctx context.Context, verb string, args any, stdout io.Writer) error {
	if len(o.brokers) == 0 || o.node == "" || o.key == "" {
		return &usageError{errors.New("sending needs --broker, --node and --key")}
	}
	if o.expires < time.Second || o.expires > wire.MaxCommandLife {
		return &usageError{fmt.Errorf("--expires %v: want 1s to %v", o.expires, wire.MaxCommandLife)}
	}
	if _, _, ok := wire.SplitNode(o.node); !ok {
		return &usageError{fmt.Errorf("--node %q: want site.gateway", o.node)}
	}
	for _, b := range o.brokers {
		if _, _, err := mqtt.ParseBroker(b); err != nil {
			return &usageError{err}
		}
	}
	key, err := wire.ReadSigningKey(o.key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	c := wire.Command{Node: o.node, ID: cmp.Or(o.id, hex.EncodeToString(random)), Verb: verb, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(o.expires)}
	o.mqtt.ClientID, o.mqtt.Clean = "linli-command-"+hex.EncodeToString(random), true
	topic := func(kind wire.TopicKind, id string) string {
		return wire.Topic{Kind: kind, Node: o.node, ID: id}.String()
	}
	replies, statuses := make(chan []byte, 1), make(chan []byte, 1)
	session, err := o.connect(ctx, func(m paho.Message) {
		into := statuses
		if t, err := wire.ParseTopic(m.Topic()); err == nil && t.Kind == wire.ReplyTopic && t.ID == c.ID {
			into = replies
		}
		select {
		case into <- bytes.Clone(m.Payload()):
		default:
		}
		m.Ack()
	})
	if err != nil {
		return err
	}
	defer session.Close(100 * time.Millisecond)
	if resend, ok := args.(*wire.ResendArgs); ok && resend.Epoch == "" && resend.AlertsSince.IsZero() {
		if resend.Epoch, err = epochOf(ctx, session, topic(wire.StatusTopic, ""), statuses); err != nil {
			return err
		}
	}
	if c.Args, err = json.Marshal(args); err != nil {
		return err
	}
	payload, err := wire.SignCommand(key, o.kid, &c)
	if err != nil {
		return &usageError{err}
	}
	if err := session.Subscribe(ctx, topic(wire.ReplyTopic, c.ID)); err != nil {
		return err
	}
	token := session.Publish(topic(wire.CommandTopic, verb), false, payload)
	select {
	case <-token.Done():
		if err := token.Error(); err != nil {
			return fmt.Errorf("send the command: %w", err)
		}
	case <-session.Lost():
		return fmt.Errorf("send the command: %w", session.Err())
	case <-ctx.Done():
		return errors.New("the broker has not taken the command")
	}
	select {
	case b := <-replies:
		return o.print(stdout, b)
	case <-session.Lost():
		return fmt.Errorf("wait for the reply: %w; ask again with --id %s", session.Err(), c.ID)
	case <-ctx.Done():
		return fmt.Errorf("no reply within %v: is %s connected, does it know the key %s, and does the broker let it subscribe to cmd/+? The same command again: --id %s",
			o.timeout, o.node, o.kid, c.ID)
	}
}

// connect tries the brokers in turn.
func (o *sendOptions) connect(ctx context.Context, heard func(paho.Message)) (*mqtt.Session, error) {
	var errs []error
	for _, broker := range o.brokers {
		session, err := mqtt.Connect(ctx, o.mqtt, broker, mqtt.Options{OnMessage: heard})
		if err == nil {
			return session, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// epochOf returns the epoch of the gateway's journal, as its retained status says it.
func epochOf(ctx context.Context, session *mqtt.Session, topic string, statuses <-chan []byte) (string, error) {
	if err := session.Subscribe(ctx, topic); err != nil {
		return "", err
	}
	for {
		select {
		case b := <-statuses:
			var s wire.Status
			if err := json.Unmarshal(b, &s); err == nil && s.Epoch != "" {
				return s.Epoch, nil
			}
		case <-session.Lost():
			return "", session.Err()
		case <-ctx.Done():
			return "", errors.New("the broker has no status of the gateway that says which journal it has: give --epoch")
		}
	}
}

// print prints a reply and returns errAnswered where it is not done.
func (o *sendOptions) print(stdout io.Writer, b []byte) error {
	var r wire.Reply
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("the reply cannot be read: %w: %.200q", err, b)
	}
	if o.json {
		fmt.Fprintf(stdout, "%s\n", b)
	} else {
		fmt.Fprintf(stdout, "%s %s: %s", r.Node, r.Verb, r.State)
		if r.Reason != "" {
			fmt.Fprintf(stdout, ": %s", r.Reason)
		}
		fmt.Fprintln(stdout)
		if len(r.Result) > 0 {
			var pretty bytes.Buffer
			if json.Indent(&pretty, r.Result, "", "  ") == nil {
				fmt.Fprintln(stdout, pretty.String())
			}
		}
	}
	if r.State != wire.ReplyDone {
		return errAnswered
	}
	return nil
}
