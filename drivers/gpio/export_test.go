package gpio

import (
	"time"

	"linli/internal/telemetry"
)

// Bit is one edge of a Wiegand reader, for tests of the decoder.
type Bit struct {
	At  time.Duration
	One bool
}

// Decode judges a burst of bits as a reader's Step does.
func Decode(bits []Bit, lengths []int) (code uint64, n int, verdict string) {
	var f frame
	for _, b := range bits {
		f.add(bit{at: telemetry.Mono(b.At), one: b.One})
	}
	code, n, v := f.decode(lengths)
	return code, n, [...]string{"none", "good", "key", "bad length", "bad parity"}[v]
}

// CardHash is what stands for a card.
func CardHash(key []byte, code uint64, n int) string { return cardHash(key, code, n) }

// KernelHost is the Host of the Linux character device.
func KernelHost(clock *telemetry.Clock) Host { return kernelHost(clock) }
