package gpio_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"linli/drivers/gpio"
)

// burst turns a frame's text into edges 1 ms apart.
func burst(bits string) []gpio.Bit {
	var out []gpio.Bit
	for i, c := range bits {
		out = append(out, gpio.Bit{At: time.Duration(i+1) * time.Millisecond, One: c == '1'})
	}
	return out
}

// framed puts parity bits around a card's number, as readers do.
func framed(payload string) string {
	n := len(payload) + 2
	half := (n + 1) / 2
	even, odd := "0", "1"
	if strings.Count(payload[:half-1], "1")%2 == 1 {
		even = "1"
	}
	if strings.Count(payload[len(payload)-half+1:], "1")%2 == 1 {
		odd = "0"
	}
	return even + payload + odd
}

func TestDecodeFrames(t *testing.T) {
	// 26 bits, facility 118, number 1603: the example of many readers' manuals.
	known := "0" + "01110110" + "0000011001000011" + "0"
	all := []int{26, 34, 37}
	tests := map[string]struct {
		bits    []gpio.Bit
		lengths []int
		want    string
		n       int
	}{
		"26 bits":            {burst(framed("011101100000011001000011")), all, "good", 26},
		"34 bits":            {burst(framed(strings.Repeat("1001", 8))), all, "good", 34},
		"37 bits":            {burst(framed(strings.Repeat("10110", 7))), all, "good", 37},
		"26 not allowed":     {burst(framed("011101100000011001000011")), []int{34}, "bad length", 26},
		"nothing":            {nil, all, "none", 0},
		"one bit":            {burst("1"), all, "bad length", 1},
		"25 bits":            {burst(known[:25]), all, "bad length", 25},
		"27 bits":            {burst(known + "1"), all, "bad length", 27},
		"a key":              {burst("0101"), all, "key", 4},
		"a key of eight":     {burst("10100101"), all, "key", 8},
		"all zero":           {burst(strings.Repeat("0", 26)), all, "bad parity", 26}, // the second half must be odd
		"both frames as one": {burst(strings.Repeat(framed("011101100000011001000011"), 2)), all, "bad length", 52},
		"endless":            {burst(strings.Repeat("10", 300)), all, "bad length", 128},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, n, got := gpio.Decode(tt.bits, tt.lengths)
			if got != tt.want || n != tt.n {
				t.Errorf("%d bits %s, want %d bits %s", n, got, tt.n, tt.want)
			}
		})
	}
}

// Of every good frame, any single wrong bit is noticed by the parity.
func TestParityNoticesEveryWrongBit(t *testing.T) {
	for _, n := range []int{26, 34, 37} {
		good := framed(strings.Repeat("1101000110", 4)[:n-2])
		for i := range n {
			bad := []byte(good)
			bad[i] ^= 1
			if _, _, got := gpio.Decode(burst(string(bad)), []int{n}); got != "bad parity" {
				// The middle bit of 37 is in both halves and makes both wrong.
				t.Errorf("%d bits, bit %d wrong: %s", n, i, got)
			}
		}
	}
}

func TestGlitchesAndOrder(t *testing.T) {
	text := framed("011101100000011001000011")
	want, _, _ := gpio.Decode(burst(text), []int{26})

	ringing := burst(text)
	for _, b := range burst(text) {
		ringing = append(ringing, gpio.Bit{At: b.At + 15*time.Microsecond, One: !b.One}, gpio.Bit{At: b.At + 19*time.Microsecond, One: b.One})
	}
	if code, n, v := gpio.Decode(ringing, []int{26}); v != "good" || code != want {
		t.Errorf("with ringing: %d bits %s, code right: %v", n, v, code == want)
	}
	fast := burst(text)
	for i := range fast {
		fast[i].At = time.Duration(i) * 200 * time.Microsecond // the fastest that the standard allows
	}
	if code, n, v := gpio.Decode(fast, []int{26}); v != "good" || code != want {
		t.Errorf("fastest reader: %d bits %s", n, v)
	}
	// The lines' interrupts tell their edges independently.
	var mixed []gpio.Bit
	for _, one := range []bool{true, false} {
		for _, b := range burst(text) {
			if b.One == one {
				mixed = append(mixed, b)
			}
		}
	}
	if code, n, v := gpio.Decode(mixed, []int{26}); v != "good" || code != want {
		t.Errorf("out of order: %d bits %s, code right: %v", n, v, code == want)
	}
}

func TestCardHash(t *testing.T) {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("26:10110110011000011001000011"))
	want := hex.EncodeToString(mac.Sum(nil))[:16]
	code := uint64(0b10110110011000011001000011)
	if got := gpio.CardHash(key, code, 26); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if gpio.CardHash(key, code, 34) == want || gpio.CardHash([]byte("another key of a site"), code, 26) == want {
		t.Error("length or key make no difference")
	}
}

func FuzzDecode(f *testing.F) {
	seed := func(bits string) {
		var b []byte
		for _, c := range bits {
			b = binary.LittleEndian.AppendUint16(b, 1000)
			b = append(b, byte(c-'0'))
		}
		f.Add(b)
	}
	seed(framed("011101100000011001000011"))
	seed(framed(strings.Repeat("1001", 8)))
	seed(framed(strings.Repeat("10110", 7)))
	seed("0101")
	f.Add([]byte{5, 0, 1, 5, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		// Each edge is two bytes of microseconds since the one before and one of its line; the highest bit turns back.
		var bits []gpio.Bit
		at := time.Second
		for len(in) >= 3 {
			d := time.Duration(binary.LittleEndian.Uint16(in)) * time.Microsecond
			if in[2]&0x80 != 0 {
				d = -d
			}
			at += d
			bits = append(bits, gpio.Bit{At: at, One: in[2]&1 != 0})
			in = in[3:]
		}
		code, n, v := gpio.Decode(bits, []int{26, 34, 37})
		if n > len(bits) || n > 128 {
			t.Fatalf("%d bits of %d edges", n, len(bits))
		}
		if v != "good" {
			if code != 0 {
				t.Fatalf("%s gives a code", v)
			}
			return
		}
		if n != 26 && n != 34 && n != 37 || code>>n != 0 {
			t.Fatalf("good frame of %d bits: %b", n, code)
		}
		// What is taken as good is what a reader would send for it.
		text := make([]byte, n)
		for i := range text {
			text[i] = '0' + byte(code>>(n-1-i)&1)
		}
		if want := framed(string(text[1 : n-1])); want != string(text) {
			t.Fatalf("took %s, a reader sends %s", text, want)
		}
	})
}
