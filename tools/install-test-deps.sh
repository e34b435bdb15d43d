#!/usr/bin/env bash
# Installs what the tests need and says so loudly when it cannot. Does nothing where everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
need() { # need PACKAGE TEST...: the package is needed where the test command fails
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || packages+=("$package")
}
PATH="$PATH:/usr/sbin:/sbin"
need mosquitto command -v mosquitto
need mosquitto-clients command -v mosquitto_sub
need socat command -v socat
need chromium command -v chromium
need fonts-noto-cjk test -d /usr/share/fonts/opentype/noto
need python3-pymodbus /usr/bin/python3 -c 'import pymodbus'
need python3-serial /usr/bin/python3 -c 'import serial'
need python3-serial-asyncio /usr/bin/python3 -c 'import serial_asyncio'
need e2fsprogs command -v mkfs.ext4
need mount command -v losetup
need libmodbus5 sh -c 'ldconfig -p | grep libmodbus.so.5'

if [ ${#packages[@]} -gt 0 ]; then
	echo "installing for the tests: ${packages[*]}"
	sudo=
	if [ "$(id -u)" -ne 0 ]; then
		sudo=sudo
		command -v sudo >/dev/null || { echo "cannot install ${packages[*]}: not root, and there is no sudo" >&2; exit 1; }
	fi
	log=$(mktemp)
	if ! { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
		tail -20 "$log" >&2
		echo "cannot install ${packages[*]} with apt-get; the tests need them" >&2
		exit 1
	fi
	rm -f "$log"
fi

# A real InfluxDB with the v2 write API, built from source: one minute, once.
if ! [ -x .tools/bin/influxd ]; then
	echo "building InfluxDB 1.8.10 for the tests (about a minute, once)"
	mkdir -p .tools/bin
	# Outside the module, so that its requirements never meet ours.
	(cd / && CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOBIN="$OLDPWD/.tools/bin" go install -ldflags='-s -w' github.com/influxdata/influxdb/cmd/influxd@v1.8.10) ||
		{ echo "cannot build InfluxDB 1.8.10; the tests need it" >&2; exit 1; }
fi

# A real Telegraf, the peer of ingest, with no more plugins than our configurations use: a minute or so, once.
if ! [ -x .tools/bin/telegraf ]; then
	echo "building Telegraf 1.37.2 for the tests (about a minute, once)"
	mkdir -p .tools/bin
	plugins=custom,inputs.modbus,inputs.mqtt_consumer,outputs.mqtt,outputs.influxdb_v2
	plugins+=,parsers.influx,parsers.value,processors.starlark,serializers.influx
	(cd / && CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOBIN="$OLDPWD/.tools/bin" go install -trimpath -ldflags='-s -w' -tags "$plugins" github.com/influxdata/telegraf/cmd/telegraf@v1.37.2) ||
		{ echo "cannot build Telegraf 1.37.2; the tests need it" >&2; exit 1; }
fi

# Three of these are the cluster that speaks MQTT and JetStream.
if ! [ -x .tools/bin/nats-server ]; then
	echo "building nats-server 2.15.2 for the tests (half a minute, once)"
	mkdir -p .tools/bin
	(cd / && CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOBIN="$OLDPWD/.tools/bin" go install -ldflags='-s -w' github.com/nats-io/nats-server/v2@v2.15.2) ||
		{ echo "cannot build nats-server 2.15.2; the tests need it" >&2; exit 1; }
fi

# The database of docs/scale.md that is no InfluxDB. `go install` wants a list of its versions, which not every proxy has.
if ! [ -x .tools/bin/victoria-metrics ]; then
	echo "building VictoriaMetrics 1.151.0 for the tests (about a minute, once)"
	mkdir -p .tools/bin
	module=$(cd / && go mod download -json github.com/VictoriaMetrics/VictoriaMetrics@v1.151.0 | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
	[ -n "$module" ] && CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -C "$module" -trimpath -ldflags='-s -w' -o "$PWD/.tools/bin/victoria-metrics" ./app/victoria-metrics ||
		{ echo "cannot build VictoriaMetrics 1.151.0; the tests need it" >&2; exit 1; }
fi

# A machine for qemu whose kernel has GPIO lines.
tools/gpio-vm.sh
