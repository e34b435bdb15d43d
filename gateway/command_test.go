package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"linli/internal/site"
	"linli/internal/wire"
)

// What the site file may allow is what there is.
func TestVerbsOfTheSiteFile(t *testing.T) {
	if !slices.Equal(site.CommandVerbs(), wire.Verbs()) {
		t.Errorf("the site file knows %v, the wire %v", site.CommandVerbs(), wire.Verbs())
	}
}

func TestKeygen(t *testing.T) {
	dir := t.TempDir()
	code, out, errs := linli(t, "command", "keygen", "--out", dir)
	if code != 0 || !strings.Contains(out, "allow: [resend]") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	private, public := filepath.Join(dir, "command.pem"), filepath.Join(dir, "command.pub.pem")
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// openssl reads both, and makes the same public key of the private one.
	made, err := exec.Command("openssl", "pkey", "-in", private, "-pubout").CombinedOutput()
	if written, _ := os.ReadFile(public); err != nil || string(made) != string(written) {
		t.Errorf("openssl: %v\n%s\n%s", err, made, written)
	}
	secret, _ := os.ReadFile(private)
	if strings.Contains(out, strings.Split(string(secret), "\n")[1]) {
		t.Error("the private key was printed")
	}
	for _, path := range []string{dir, private} {
		if code, _, _ := linli(t, "command", "keygen", "--out", path); code != 1 {
			t.Errorf("over %s: exit code %d", path, code)
		}
	}
	if again, _ := os.ReadFile(private); string(again) != string(secret) {
		t.Error("the key was overwritten")
	}
	// A key that openssl made.
	other := filepath.Join(dir, "openssl.pem")
	if b, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519", "-out", other).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, b)
	}
	if _, err := wire.ReadSigningKey(other); err != nil {
		t.Error(err)
	}
	if _, err := wire.ReadSigningKey(public); err == nil || !strings.Contains(err.Error(), "holds the public key") {
		t.Error(err)
	}
}

func TestSendUsage(t *testing.T) {
	key := filepath.Join(t.TempDir(), "k.pem")
	linli(t, "command", "keygen", "--out", key)
	base := []string{"--broker", "tcp://127.0.0.1:1", "--node", "test.gw1", "--key", key}
	for _, test := range []struct {
		code int
		want string
		args []string
	}{
		{2, "say what", nil},
		{2, `there is no verb "reboot"`, []string{"reboot"}},
		{2, "--broker", []string{"status"}},
		{2, "want site.gateway", append([]string{"status"}, "--broker", "tcp://127.0.0.1:1", "--node", "test", "--key", key)},
		{2, "must be tcp://", append([]string{"status"}, "--broker", "mqtt.example", "--node", "test.gw1", "--key", key)},
		{2, "--from", append([]string{"resend", "--from", "9", "--to", "3"}, base...)},
		{2, "either --from and --to, or --alerts-since", append([]string{"resend", "--from", "1", "--to", "3", "--alerts-since", "2026-01-01"}, base...)},
		{2, "--alerts-since", append([]string{"resend", "--alerts-since", "yesterday"}, base...)},
		{2, "invalid argument", append([]string{"resend", "--from", "-1", "--to", "3"}, base...)},
		{2, "--point", append([]string{"write", "--point", "siren", "--value", "1"}, base...)},
		{2, "--alert", append([]string{"acknowledge"}, base...)},
		{2, "unexpected argument", append([]string{"status", "now"}, base...)},
		{1, "no such file", append([]string{"status"}, "--broker", "tcp://127.0.0.1:1", "--node", "test.gw1", "--key", "/nowhere")},
		{1, "connect to tcp://127.0.0.1:1", append([]string{"status"}, base...)},
	} {
		code, _, errs := linli(t, append([]string{"command", "send"}, test.args...)...)
		if code != test.code || !strings.Contains(errs, test.want) {
			t.Errorf("%v: exit code %d, %s; want %d, %s", test.args, code, errs, test.code, test.want)
		}
	}
	for text, want := range map[string]string{"true": "true", "5": "5", "-1.5": "-1.5", "on": `"on"`, `"x"`: `"\"x\""`, "[1]": `"[1]"`, "null": `"null"`} {
		if got := scalarJSON(text); string(got) != want {
			t.Errorf("value %s: %s", text, got)
		}
	}
}

// check says which commands would be taken from whom, and what is wrong with keys in files.
func TestCheckTellsOfCommands(t *testing.T) {
	dir := t.TempDir()
	linli(t, "command", "keygen", "--out", filepath.Join(dir, "city.pem"))
	file := filepath.Join(dir, "site.yaml")
	write := func(keys, allow string) {
		src := strings.Replace(fmt.Sprintf(ordersSite, 8080), "/dev/PTY", "/dev/ttyS1", 1) +
			fmt.Sprintf("uplink:\n  brokers: [\"tcp://127.0.0.1:1883\"]\n  commands:\n    keys: {city: %s}\n    allow: [%s]\n", keys, allow)
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("city.pub.pem", "resend, write")
	code, out, errs := linli(t, "check", "-c", file)
	if code != 0 || !strings.Contains(out, "commands of the city: resend, write (signed by city)\n") || strings.Contains(out, "key city") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	_, out, _ = linli(t, "check", "-c", file, "--json")
	var checked struct{ Commands commandsJSON }
	if err := json.Unmarshal([]byte(out), &checked); err != nil || fmt.Sprint(checked.Commands) != "{[city] [resend write]}" {
		t.Errorf("%v %+v", err, checked)
	}
	write("city.pub.pem", "")
	if _, out, _ := linli(t, "check", "-c", file); !strings.Contains(out, "commands of the city: none (signed by city)\n") {
		t.Error(out)
	}
	for keys, want := range map[string]string{"city.pem": "this is a private key", "nowhere.pem": "no such file"} {
		write(keys, "resend")
		code, out, errs := linli(t, "check", "-c", file)
		if code != 0 || !strings.Contains(out, "warning: key city in "+filepath.Join(dir, keys)) || !strings.Contains(out, want) || !strings.Contains(out, "site.yaml:29:18: ") {
			t.Errorf("%s: %d %s %s", keys, code, out, errs)
		}
	}
}
