package ingest

import "testing"

func TestSubjectsAndTopics(t *testing.T) {
	for topic, subject := range map[string]string{
		"linli/v1/riverside.gw1/telemetry":   "linli.v1.riverside//gw1.telemetry",
		"linli/v1/riverside.gw1/alert/01A-b": "linli.v1.riverside//gw1.alert.01A-b",
		"linli/v1/dead/a_b.c":                "linli.v1.dead.a_b//c",
	} {
		if got := natsSubject(topic); got != subject {
			t.Errorf("subject of %s is %s, want %s", topic, got, subject)
		}
		if got := natsTopic(subject); got != topic {
			t.Errorf("topic of %s is %s, want %s", subject, got, topic)
		}
	}
	if got := natsSubject("linli/v1/+/alert/#"); got != "linli.v1.*.alert.>" {
		t.Errorf("filter %s", got)
	}
}
