#!/bin/sh
# Writes RabbitMQ's definitions: who the gateways, ingest and who commands are, what each may do, and that the queue of an
# ingest refuses when it is full. Usage: ./users.sh < nodes > linli.json, with one node (site.gateway) a line, and on a server
# of the cluster `rabbitmqctl import_definitions linli.json`; what is there already is replaced. Nobody has a password: they
# are known by the common name of their certificate.
set -eu
awk '
  # Each may have the session of its own client id and no other. RabbitMQ has a dot in a topic where MQTT has a slash.
  function user(name, client, write, read) {
    queue = "mqtt-subscription-" client "qos[01]"
    users = users sep "\n  {\"name\": \"" name "\", \"password_hash\": \"\", \"tags\": \"\"}"
    permissions = permissions sep "\n  {\"vhost\": \"/\", \"user\": \"" name "\", \"configure\": \"^" queue "$\"," \
      " \"write\": \"^(" queue "|amq[.]topic)$\", \"read\": \"^(" queue "|amq[.]topic)$\"}"
    topics = topics sep "\n  {\"vhost\": \"/\", \"user\": \"" name "\", \"exchange\": \"amq.topic\"," \
      " \"write\": \"^linli[.]v1[.]" write "$\", \"read\": \"^linli[.]v1[.]" read "$\"}"
    sep = ","
  }
  BEGIN {
    any = "[^.]+[.][^.]+[.]"
    user("ingest", "linli-ingest[^.]*", "(dead[.][^.]+[.][^.]+|" any "cmd[.]resend)", any "(telemetry|alert[.][^.]+|status)")
    # Who commands gateways. What a command may do is decided by its signature, not here; here is decided who may try.
    user("commander", "linli-command[^.]*", any "cmd[.][^.]+", any "(reply[.][^.]+|status)")
  }
  /^[ \t]*(#|$)/ { next }
  !/^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*[ \t]*$/ { print "not a node: " $0 > "/dev/stderr"; bad = 1; exit 1 }
  {
    own = $1; sub(/\./, "[.]", own); id = $1; sub(/\./, "-", id)
    # A gateway reads its own status to notice another client that uses its name.
    user($1, id, own "[.](telemetry|alert[.][^.]+|alerts[.]open|event|status|reply[.][^.]+)", own "[.](status|cmd[.][^.]+)")
  }
  END {
    if (bad) exit 1
    print "{\"users\": [" users "],"
    print " \"permissions\": [" permissions "],"
    print " \"topic_permissions\": [" topics "],"
    print " \"policies\": [\n  {\"vhost\": \"/\", \"name\": \"linli-ingest\", \"apply-to\": \"queues\", \"priority\": 0, \"pattern\": \"^mqtt-subscription-linli-ingest\"," \
      "\n   \"definition\": {\"max-length-bytes\": 34359738368, \"overflow\": \"reject-publish\"}}]}"
  }'
