package modbus_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err) // a typing mistake in this file
	}
	return b
}

// FuzzRTU: whatever bytes arrive, nothing panics, and what is accepted is a whole frame of the right unit with its
// CRC that fits the request.
func FuzzRTU(f *testing.F) {
	f.Add(unhex("01 04 14 08 D1 00 6C 00 00 00 F4 00 00 00 26 00 00 01 F4 00 64 00 00 51 34"), byte(1), unhex("04 00 00 00 0A"))
	f.Add(unhex("FF 02 01 01 51 A0"), byte(255), unhex("02 00 00 00 08"))
	f.Add(unhex("01 83 02 C0 F1"), byte(1), unhex("03 00 00 00 02"))
	f.Add(unhex("FF 01 03 09 03 02 DE AD 91 1C 01 03 02 02 18 B9 2E"), byte(1), unhex("03 00 00 00 01"))
	f.Add(unhex("01 05 00 03 FF 00 7C 3A"), byte(1), unhex("05 00 03 FF 00"))
	f.Fuzz(func(t *testing.T, buf []byte, unit byte, req []byte) {
		if len(req) < 5 {
			return
		}
		at, n, k := modbus.NextRTU(buf, unit, req)
		if at < 0 || n < 0 || at+n > len(buf) || (n > 0) != (k == modbus.Answer || k == modbus.Other) {
			t.Fatalf("verdict %v of %d bytes at %d of %d", k, n, at, len(buf))
		}
		if n > 0 {
			frame := buf[at : at+n]
			if !bytes.Equal(modbus.AppendRTU(nil, frame[0], frame[1:n-2]), frame) {
				t.Fatalf("% x is no frame", frame)
			}
			if k == modbus.Answer && (frame[0] != unit || modbus.CheckAsked(req, frame[1:n-2]) != nil) {
				t.Fatalf("accepted % x for % x", frame, req)
			}
		}
		if n := modbus.FrameRTU(buf); n != 0 && (n < 5 || n > len(buf) || modbus.CRC16(buf[:n]) != 0) {
			t.Fatalf("foreign frame of %d in % x", n, buf)
		}
		if at, ok := modbus.EndRTU(buf, unit, req); ok && (buf[at] != unit || modbus.CheckAsked(req, buf[at+1:len(buf)-2]) != nil) {
			t.Fatalf("accepted % x for % x", buf[at:], req)
		}
	})
}

// FuzzTCP: nothing panics, never more is used than is there, and what is accepted carries the right id and unit.
func FuzzTCP(f *testing.F) {
	f.Add(unhex("0001 0000 0005 01 03 02 00 07"), uint16(1), byte(1), unhex("03 00 00 00 01"))
	f.Add(unhex("0001 0000 0005 01 03 02 00 07 0002 0000 0003 01 83 02"), uint16(2), byte(1), unhex("03 00 00 00 01"))
	f.Add(unhex("FFFF 0000 0003 01 83 02"), uint16(0), byte(1), unhex("03 00 00 00 01"))
	f.Add(unhex("0001 0001 0003 01 83 02"), uint16(1), byte(1), unhex("03 00 00 00 01"))
	f.Fuzz(func(t *testing.T, buf []byte, id uint16, unit byte, req []byte) {
		pdu, used, stale, err := modbus.FindTCP(buf, id, unit, req, false, nil)
		if used < 0 || used > len(buf) || stale < 0 {
			t.Fatalf("used %d of %d, %d stale", used, len(buf), stale)
		}
		if err == nil && pdu != nil {
			frame := modbus.AppendTCP(nil, id, unit, pdu)
			if !bytes.HasSuffix(buf[:used], frame) {
				t.Fatalf("accepted % x in % x", frame, buf)
			}
			if err := modbus.CheckAsked(req, pdu); err != nil {
				t.Fatalf("accepted what does not fit: %v", err)
			}
		}
	})
}

// FuzzAnswer: an answer that is accepted has exactly the bytes that decoding the request's range needs.
func FuzzAnswer(f *testing.F) {
	f.Add(unhex("03 00 00 00 01"), unhex("03 02 00 07"))
	f.Add(unhex("01 00 00 00 09"), unhex("01 02 FF 01"))
	f.Add(unhex("03 00 00 00 01"), unhex("83 02"))
	f.Add(unhex("10 00 01 00 02 04 00 0A 01 02"), unhex("10 00 01 00 02"))
	f.Add(unhex("04 00 00 FF FF"), unhex("04 FE"))
	f.Fuzz(func(t *testing.T, req, ans []byte) {
		if modbus.CheckAnswer(req, ans) != nil || ans[0] != req[0] {
			return
		}
		n := int(req[3])<<8 | int(req[4])
		switch req[0] {
		case 1, 2:
			if len(ans) != 2+(n+7)/8 || n > 2040 {
				t.Fatalf("%d bits in %d bytes", n, len(ans))
			}
		case 3, 4:
			if len(ans) != 2+2*n || n > 127 {
				t.Fatalf("%d registers in %d bytes", n, len(ans))
			}
		case 5, 6, 15, 16:
			if len(ans) != 5 {
				t.Fatalf("%d bytes", len(ans))
			}
		default:
			t.Fatalf("function %d was accepted", req[0])
		}
	})
}

// FuzzPlan: six bytes make a channel; the plan keeps its rules for any of them.
func FuzzPlan(f *testing.F) {
	f.Add([]byte{4, 9, 0, 0, 0, 0, 4, 9, 0, 2, 0, 0}, 0, 0, 0)
	f.Add([]byte{3, 2, 255, 255, 1, 1, 1, 1, 0, 9, 0, 0}, 4, 8, -1)
	f.Add([]byte{4, 7, 255, 252, 0, 0, 4, 2, 0, 0, 2, 0}, 125, 2000, 60000)
	f.Fuzz(func(t *testing.T, data []byte, regs, bits, gap int) {
		var chs []firmwareconfig.Channel
		for i := 0; i+6 <= len(data) && i < 600; i += 6 {
			chs = append(chs, firmwareconfig.Channel{Name: fmt.Sprintf("c%d", i), Table: firmwareconfig.Table(data[i]),
				Encoding: firmwareconfig.Encoding(data[i+1]), Address: int(data[i+2])<<8 | int(data[i+3]),
				Bit: int(data[i+4] & 15), Width: int(data[i+5] & 7)})
		}
		if len(chs) == 0 || gap > 1<<20 || gap < -1 {
			return
		}
		u := unitOf("a", 1, 0, chs...)
		u.Profile.Limits = firmwareconfig.Limits{MaxRegisters: regs, MaxBits: bits, MaxGap: gap}
		blocks, err := modbus.Plan(&u)
		if err != nil {
			return
		}
		if err := checkPlan(&u, blocks); err != nil {
			t.Fatal(err)
		}
	})
}
