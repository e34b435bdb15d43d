package mqtt_test

import (
	"encoding/json"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// What deploy/rabbitmq/users.sh writes lets each do what the page says and no more, in RabbitMQ's words: dots for slashes,
// and sessions as queues. (RabbitMQ itself takes these definitions; it is too large for these tests.)
func TestShippedRabbitMQDefinitions(t *testing.T) {
	users := exec.Command("../../deploy/rabbitmq/users.sh")
	users.Stdin = strings.NewReader("# gateways\nriverside.gw1\n\nriverside.gw10\n")
	text, err := users.Output()
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Users []struct {
			Name, Tags string
			Hash       *string `json:"password_hash"`
		}
		Permissions []struct{ User, Vhost, Configure, Write, Read string }
		Topics      []struct{ User, Vhost, Exchange, Write, Read string } `json:"topic_permissions"`
		Policies    []struct {
			Pattern    string
			Definition struct{ Overflow string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, u := range d.Users {
		if u.Hash == nil || *u.Hash != "" || u.Tags != "" {
			t.Errorf("%s has a password or a tag", u.Name)
		}
	}
	session := func(id string) string { return "mqtt-subscription-" + id + "qos1" }
	may := map[string]bool{} // what somebody may do, as USER VERB NAME
	try := func(user, verb, pattern string, names ...string) {
		for _, name := range names {
			may[user+" "+verb+" "+name] = regexp.MustCompile(pattern).MatchString(name)
		}
	}
	sessions := []string{session("riverside-gw1"), session("riverside-gw10"), session("linli-ingest-2"), session("linli-command-0a"), "amq.topic", "amq.direct"}
	for _, p := range d.Permissions {
		try(p.User, "makes", p.Configure, sessions...)
		try(p.User, "binds", p.Write, sessions...)
		try(p.User, "drains", p.Read, sessions...)
	}
	topics := []string{
		"linli.v1.riverside.gw1.telemetry", "linli.v1.riverside.gw10.telemetry", "linli.v1.riverside.gw1.alert.01A", "linli.v1.riverside.gw1.alerts.open",
		"linli.v1.riverside.gw1.status", "linli.v1.riverside.gw1.cmd.write", "linli.v1.riverside.gw1.cmd.resend", "linli.v1.riverside.gw1.cmd.*",
		"linli.v1.riverside.gw1.reply.1", "linli.v1.dead.riverside.gw1", "linli.v1.*.*.telemetry", "linli.v1.#", "#",
	}
	for _, p := range d.Topics {
		try(p.User, "writes", p.Write, topics...)
		try(p.User, "reads", p.Read, topics...)
	}
	want := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(`
		riverside.gw1 makes mqtt-subscription-riverside-gw1qos1
		riverside.gw1 writes linli.v1.riverside.gw1.telemetry
		riverside.gw1 writes linli.v1.riverside.gw1.alert.01A
		riverside.gw1 writes linli.v1.riverside.gw1.alerts.open
		riverside.gw1 writes linli.v1.riverside.gw1.status
		riverside.gw1 writes linli.v1.riverside.gw1.reply.1
		riverside.gw1 reads linli.v1.riverside.gw1.status
		riverside.gw1 reads linli.v1.riverside.gw1.cmd.write
		riverside.gw1 reads linli.v1.riverside.gw1.cmd.resend
		riverside.gw1 reads linli.v1.riverside.gw1.cmd.*
		riverside.gw10 makes mqtt-subscription-riverside-gw10qos1
		riverside.gw10 writes linli.v1.riverside.gw10.telemetry
		ingest makes mqtt-subscription-linli-ingest-2qos1
		ingest writes linli.v1.riverside.gw1.cmd.resend
		ingest writes linli.v1.dead.riverside.gw1
		ingest reads linli.v1.riverside.gw1.telemetry
		ingest reads linli.v1.riverside.gw10.telemetry
		ingest reads linli.v1.riverside.gw1.alert.01A
		ingest reads linli.v1.riverside.gw1.status
		ingest reads linli.v1.*.*.telemetry
		commander makes mqtt-subscription-linli-command-0aqos1
		commander writes linli.v1.riverside.gw1.cmd.write
		commander writes linli.v1.riverside.gw1.cmd.resend
		commander writes linli.v1.riverside.gw1.cmd.*
		commander reads linli.v1.riverside.gw1.reply.1
		commander reads linli.v1.riverside.gw1.status`), "\n") {
		line = strings.TrimSpace(line)
		want[line] = true
		if who, queue, ok := strings.Cut(line, " makes "); ok {
			for _, verb := range []string{" binds ", " drains "} {
				want[who+verb+queue], want[who+verb+"amq.topic"] = true, true
			}
		}
	}
	for what, is := range may {
		if is != want[what] {
			t.Errorf("%s: %v", what, is)
		}
	}
	for what := range want {
		if _, tried := may[what]; !tried {
			t.Errorf("not tried: %s", what)
		}
	}
	if len(d.Policies) != 1 || d.Policies[0].Definition.Overflow != "reject-publish" || !regexp.MustCompile(d.Policies[0].Pattern).MatchString(session("linli-ingest-2")) {
		t.Errorf("a full queue: %+v", d.Policies)
	}
}
