package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression says how telemetry messages are packed.
type Compression uint8

// The compressions. A reader tells them apart by the first bytes.
const (
	Plain Compression = iota
	Gzip
	Zstd
)

// ParseCompression returns the compression that a site file names; the empty string is none.
func ParseCompression(s string) (Compression, error) {
	switch s {
	case "", "none":
		return Plain, nil
	case "gzip":
		return Gzip, nil
	case "zstd":
		return Zstd, nil
	}
	return 0, fmt.Errorf("unknown compression %q (none, gzip or zstd)", s)
}

// Compressor packs messages. It belongs to one goroutine and starts none.
type Compressor struct {
	how  Compression
	gzip *gzip.Writer
	zstd *zstd.Encoder
}

// NewCompressor returns a compressor of the given sort.
func NewCompressor(how Compression) (*Compressor, error) {
	c := &Compressor{how: how}
	var err error
	switch how {
	case Gzip:
		c.gzip, err = gzip.NewWriterLevel(nil, gzip.DefaultCompression)
	case Zstd:
		// Concurrency 1 and a small window: a gateway has little memory and messages are small.
		c.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	}
	return c, err
}

// Pack returns the message packed into fresh memory: a client may keep it until it is acknowledged.
func (c *Compressor) Pack(message []byte) []byte {
	switch c.how {
	case Gzip:
		var b bytes.Buffer
		c.gzip.Reset(&b)
		if _, err := c.gzip.Write(message); err == nil && c.gzip.Close() == nil {
			return b.Bytes()
		}
	case Zstd:
		return c.zstd.EncodeAll(message, nil)
	}
	return bytes.Clone(message)
}

// ErrTooLarge says that a message unpacks to more than allowed.
var ErrTooLarge = errors.New("message is too large")

// Decompressor unpacks messages up to a bound. It belongs to one goroutine.
type Decompressor struct {
	max  int
	zstd *zstd.Decoder
	gzip *gzip.Reader
	buf  []byte
}

// NewDecompressor returns a decompressor for messages of at most max bytes unpacked.
func NewDecompressor(max int) (*Decompressor, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max)),
		zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	return &Decompressor{max: max, zstd: d}, err
}

// Close releases the decompressor's memory.
func (d *Decompressor) Close() { d.zstd.Close() }

// Unpack returns the message in plain. The result is valid until the next call and must not be changed.
func (d *Decompressor) Unpack(payload []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		return d.gunzip(payload)
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		out, err := d.zstd.DecodeAll(payload, d.buf[:0])
		if err != nil {
			if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
				err = ErrTooLarge
			}
			return nil, fmt.Errorf("unpack zstd: %w", err)
		}
		if len(out) > d.max {
			return nil, ErrTooLarge
		}
		d.buf = out
		return out, nil
	case len(payload) > d.max:
		return nil, ErrTooLarge
	}
	return payload, nil
}

func (d *Decompressor) gunzip(payload []byte) ([]byte, error) {
	var err error
	if d.gzip == nil {
		d.gzip, err = gzip.NewReader(bytes.NewReader(payload))
	} else {
		err = d.gzip.Reset(bytes.NewReader(payload))
	}
	if err != nil {
		d.gzip = nil
		return nil, fmt.Errorf("unpack gzip: %w", err)
	}
	out := bytes.NewBuffer(d.buf[:0])
	n, err := io.Copy(out, io.LimitReader(d.gzip, int64(d.max)+1))
	d.buf = out.Bytes()
	if err != nil {
		return nil, fmt.Errorf("unpack gzip: %w", err)
	}
	if n > int64(d.max) {
		return nil, ErrTooLarge
	}
	return d.buf, nil
}
