// Package wire is the language between a gateway and the city: topic names, telemetry messages (InfluxDB line
// protocol under a header line), alert messages (CloudEvents JSON), the gateway's status, and the database rows
// that the city makes of alerts, losses and the ledger. docs/wire.md is the same for people who do not read Go.
//
// # Topics
//
//	linli/v1/{node}/telemetry      samples, not retained
//	linli/v1/{node}/alert/{id}     one alert, retained while it is open
//	linli/v1/{node}/alerts/open    ids of the open alerts, retained
//	linli/v1/{node}/event          things that happened once
//	linli/v1/{node}/status         the gateway itself, retained; also its last will
//	linli/v1/{node}/cmd/{verb}     commands to the gateway
//	linli/v1/{node}/reply/{id}     its answers
//	linli/v1/dead/{node}           what the city side refused to write
//
// A node is site.gateway. Both are ids ([a-z][a-z0-9_]{0,31}), so the word "dead" is no node. RabbitMQ delivers
// linli/v1/{site}/{gateway}/...; that is read as the same.
//
// # Telemetry message
//
// Plain, gzip or zstd, told apart by the first bytes. Decompressed it is text, one line after another:
//
//	# linli epoch=00c0ffee00c0ffee seq=17-19 count=2 late=0 t0=1790000000000000000 t1=1790000002000000000
//	smoke_detector,device=smoke_3f,gateway=gw1,site=riverside,zone=b1 alarm=false,alarm_q=0i 1790000000120000000
//	derived,gateway=gw1,rule=busy_minutes,site=riverside,subject=lane1 value=4.5,value_q=0i 1790000001000000000
//	# linli lost epoch=00c0ffee00c0ffee seq=11-14 count=1760 reason=space t0=1789999990000000000 t1=1789999994000000000
//
// The header says which frames of which journal the message holds (from > to: none, the lane is idle), how many
// data lines follow, and whether it overtook nothing (late=0) or was itself overtaken by newer data (late=1).
// A frame too large for one message is sent in parts (part=1/3). Unknown keys are to be ignored. A lost line stands
// for samples that could not be kept.
//
// # Guarantees
//
// Decoders never panic, never allocate more than their stated bound, and accept only lines that every line
// protocol parser splits in the same place. Nothing here does I/O or reads a clock. Encoder, Compressor and
// Decompressor belong to one goroutine each; everything else is safe for concurrent use.
package wire
