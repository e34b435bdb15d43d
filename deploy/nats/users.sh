#!/bin/sh
# Writes linli-users.conf: who may do what. Usage: ./users.sh < nodes > linli-users.conf, with one node (site.gateway) a
# line. A gateway's certificate has the node as its common name and nothing else in its subject, and no other names.
set -eu
cat <<'HEAD'
accounts {
  LINLI {
    jetstream: enabled
    users: [
      { user: "CN=ingest"
        allowed_connection_types: ["STANDARD", "MQTT"]
        permissions: {
          publish: {
            allow: ["$JS.API.>", "$JS.ACK.>", "linli.v1.*.cmd.resend", "linli.v1.dead.*"]
            deny: ["$JS.API.STREAM.DELETE.>", "$JS.API.STREAM.PURGE.>", "$JS.API.STREAM.MSG.DELETE.>"]
          }
          subscribe: { allow: ["_INBOX.>"] }
        }
      }
HEAD
cat <<'COMMANDER'
      # Who commands gateways. What a command may do is decided by its signature, not here; here is decided who may try.
      { user: "CN=commander", allowed_connection_types: ["MQTT"], permissions: {
        publish: { allow: ["linli.v1.*.cmd.*"] }
        subscribe: { allow: ["linli.v1.*.reply.*", "linli.v1.*.status", "$MQTT.sub.>"] } } }
COMMANDER
# A gateway reads its own status to notice another client that uses its name. A dot in a topic's level is // in a subject.
awk '
  /^[ \t]*(#|$)/ { next }
  !/^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*[ \t]*$/ { print "not a node: " $0 > "/dev/stderr"; exit 1 }
  { node = $1; subject = $1; sub(/\./, "//", subject); subject = "linli.v1." subject
    printf "      { user: \"CN=%s\", allowed_connection_types: [\"MQTT\"], permissions: {\n", node
    printf "        publish: { allow: [\"%s.telemetry\", \"%s.alert.*\", \"%s.alerts.open\", \"%s.event\", \"%s.status\", \"%s.reply.*\"] }\n", subject, subject, subject, subject, subject, subject
    printf "        subscribe: { allow: [\"%s.cmd.*\", \"%s.status\", \"$MQTT.sub.>\"] } } }\n", subject, subject }'
cat <<'TAIL'
    ]
  }
  SYS { users: [] }
}
system_account: SYS
TAIL
