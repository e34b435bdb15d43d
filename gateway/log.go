package main

import (
	"io"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger returns the process's logger: one JSON object a line on w, times in UTC, no sampling (which would hide
// the second device that fails with the same words), no callers. Lines go through a bounded queue, so that a log
// collector that has stopped reading cannot stop the polling: what does not fit is dropped and counted.
//
// The returned function writes out what is queued, for at most a second.
func newLogger(w io.Writer, level zapcore.Level) (*zap.Logger, func()) {
	encoder := zap.NewProductionEncoderConfig()
	encoder.TimeKey, encoder.EncodeTime = "time", zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00")
	encoder.EncodeDuration = zapcore.StringDurationEncoder
	q := newLogQueue(w, 4096)
	core := zapcore.NewCore(zapcore.NewJSONEncoder(encoder), q, level)
	return zap.New(core), q.flush
}

// logQueue is a WriteSyncer that never blocks its caller.
type logQueue struct {
	lines   chan []byte // a nil line asks the writer to answer on flushed
	flushed chan struct{}
	dropped atomic.Uint64
}

func newLogQueue(w io.Writer, size int) *logQueue {
	q := &logQueue{lines: make(chan []byte, size), flushed: make(chan struct{}, 1)}
	go func() {
		for line := range q.lines {
			if line == nil {
				q.flushed <- struct{}{}
				continue
			}
			if n := q.dropped.Swap(0); n > 0 {
				line = append(append([]byte(nil), droppedLine(n)...), line...)
			}
			_, _ = w.Write(line) // There is nowhere to report that the log cannot be written.
		}
	}()
	return q
}

func droppedLine(n uint64) []byte {
	return zapLine("log lines dropped because the log was not read", n)
}

// zapLine makes a line of its own, outside the logger whose queue is full.
func zapLine(msg string, n uint64) []byte {
	enc := zapcore.NewJSONEncoder(zapcore.EncoderConfig{TimeKey: "time", LevelKey: "level", MessageKey: "msg",
		EncodeLevel: zapcore.LowercaseLevelEncoder, EncodeTime: zapcore.ISO8601TimeEncoder, LineEnding: "\n"})
	buf, err := enc.EncodeEntry(zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now().UTC(), Message: msg},
		[]zapcore.Field{zap.Uint64("count", n)})
	if err != nil {
		return nil
	}
	return buf.Bytes()
}

// Write queues a copy of line, or drops it where the queue is full.
func (q *logQueue) Write(line []byte) (int, error) {
	select {
	case q.lines <- append([]byte(nil), line...):
	default:
		q.dropped.Add(1)
	}
	return len(line), nil
}

// Sync does nothing: syncing a pipe or a terminal is an error (zap issue 880), and a file is written at once.
func (q *logQueue) Sync() error { return nil }

// flush waits until everything queued so far is written, at most a second.
func (q *logQueue) flush() {
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	select {
	case q.lines <- nil:
	case <-timeout.C:
		return
	}
	select {
	case <-q.flushed:
	case <-timeout.C:
	}
}
