# The two commands that matter: `make run` and `make test`. Both work on a clean Debian with Go and nothing else.

GO       ?= go
BIN      := bin
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
PRODUCT  := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
TOOLS    := $(CURDIR)/.tools/bin
export PATH := $(TOOLS):$(PATH)

.PHONY: run build test soak race fuzz reference bench compare lint web cross test-deps clean

## run: start the gateway with a simulated community; ARGS="--scenario fire-lane" plays a story
run: build
	@$(BIN)/linli demo $(ARGS)

## build: the product, bin/linli, static
build:
	@$(PRODUCT) -o $(BIN)/linli ./gateway

## test: install what the tests need, then run everything once; end-to-end tests use the binary that ships
test: test-deps lint cross build
	LINLI_BIN=$(CURDIR)/$(BIN)/linli $(GO) test -timeout 15m ./...

## soak: what make test does of kills, power cuts, hanging disks, outages and slow lines, for long (an hour and a half, as root)
SOAK ?= -soak 500 -cuts 30 -freeze 30s -flash 10m -firstboot 90s -rollups 40
soak: test-deps build
	LINLI_BIN=$(CURDIR)/$(BIN)/linli $(GO) test ./gateway -run 'TestKilledAtAnyMoment|TestPowerCutOfTheBox|TestFrozenDisk|TestFullDisk$$|TestReadOnlyDisk$$|TestFlashWrites|TestFirstBoot|TestKilledWhileRollingUp' \
		-parallel 1 -timeout 3h -v -args $(SOAK)
	LINLI_BIN=$(CURDIR)/$(BIN)/linli LINLI_JETSTREAM_SOAK=10m $(GO) test ./gateway -run TestJetStreamLosesNothing -timeout 40m -v
	LINLI_BIN=$(CURDIR)/$(BIN)/linli LINLI_WHOLE=10m $(GO) test ./gateway -run 'TestWholeRun|TestWithoutRepair' -parallel 1 -timeout 40m -v
	LINLI_OUTAGE=full LINLI_SLOW_LINE=60s $(GO) test ./internal/uplink -run 'TestThreeDayOutage|TestSlowLine' -timeout 40m -v

## race: the same under the race detector (needs a C compiler)
race: test-deps build
	CGO_ENABLED=1 LINLI_BIN=$(CURDIR)/$(BIN)/linli $(GO) test -race -shuffle=on -timeout 40m ./...

## lint: formatting, vet, and the checks pinned in tools/
lint:
	@tools/lint.sh

## cross: the product builds for every board
cross:
	@tools/cross.sh

## fuzz: every fuzz target for FUZZTIME each
FUZZTIME ?= 30s
fuzz:
	@tools/fuzz.sh $(FUZZTIME)

## reference: the rules engine against the slow reference, a million random steps (minutes); TestMutants in CONTRIBUTING.md
reference:
	$(GO) test ./rules -run 'TestReference$$' -reference.steps=1000000 -timeout 60m -v

## bench: benchmarks with allocations
bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

## compare: the same work beside Telegraf, in turn, three rounds, and the gateway's memory (about 10 minutes; leave the
## machine alone meanwhile)
compare: test-deps build
	LINLI_BIN=$(CURDIR)/$(BIN)/linli $(GO) test -run '^$$' -bench 'Compare|ResidentMemory' -benchtime 1x -timeout 40m ./gateway

## web: build the console's pages anew (needs Node 20); the result is committed
web:
	cd internal/console/web && npm ci && npm run build

## test-deps: install Mosquitto, pymodbus, libmodbus, socat, Chromium, qemu (Debian packages), InfluxDB 1.8.10,
## Telegraf, nats-server and VictoriaMetrics (from Go source), and a Debian kernel with simulated GPIO lines for qemu (tools/gpio-vm.sh)
test-deps:
	@tools/install-test-deps.sh

clean:
	rm -rf $(BIN)
