package uplink

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"linli/internal/inplace"
	"linli/internal/wire"
)

const (
	memoName = "commands.state"
	// maxRemembered bounds the commands that are remembered, none of which has expired.
	maxRemembered = 1024
	// maxKept bounds a reply that is kept; of a longer one the result is left out.
	maxKept = 1 << 10
	// rewriteAt is how many lines the file has at least before it is written anew.
	rewriteAt = 4 * maxRemembered
	memoLine  = 16 << 10
)

// memo remembers commands until they expire, across restarts, so that none is carried out twice. The file is text, one
// line for each thing that is known, each with the CRC-32C of the JSON in it:
//
//	1a2b3c4d {"key":"city/r-10-20","exp":1790000600}             taken: on disk before anything is done
//	1a2b3c4d {"key":"city/r-10-20","reply":{...}}                what became of it
//	1a2b3c4d {"before":1789999999}                               commands that expire by then are refused: some are forgotten
//	1a2b3c4d {"issued":1789999999}                               commands issued by then are refused: the file was damaged or missing
//
// A line that a power cut tore was not acted upon. It may be used by several goroutines.
type memo struct {
	dir   string
	began func(*wire.Command) bool // see Commands; may be nil

	mu      sync.Mutex
	file    *os.File
	lines   int // in the file
	seen    map[string]*remembered
	before  int64 // highest expiry that is forgotten
	issued  int64 // commands issued until then may be forgotten
	damaged bool  // issued is not known yet: the clock was not set
	stale   bool  // the file must be written anew before it is appended to
}

// remembered is one command.
type remembered struct {
	exp     int64
	reply   json.RawMessage // nil while there is none
	earlier bool            // taken by an earlier process
}

type memoEntry struct {
	Key    string          `json:"key,omitempty"`
	Exp    int64           `json:"exp,omitempty"`
	Reply  json.RawMessage `json:"reply,omitempty"`
	Before int64           `json:"before,omitempty"`
	Issued int64           `json:"issued,omitempty"`
}

var errMemoFull = errors.New("too many commands are remembered that have not expired")

func memoKey(c *wire.Command) string { return c.Key + "/" + c.ID }

// loadMemo reads the file. After an error, which says what is wrong with it, commands that were issued before now are
// forgotten; now is zero while it is not known. The file is made where the state directory is new: afterwards one that is
// missing is one that was lost.
func loadMemo(dir string, now time.Time) (*memo, error) {
	m := &memo{dir: dir, seen: map[string]*remembered{}}
	f, err := os.Open(filepath.Join(dir, memoName))
	missing := errors.Is(err, fs.ErrNotExist)
	if missing {
		if _, errState := os.Lstat(filepath.Join(dir, stateName)); errors.Is(errState, fs.ErrNotExist) {
			_ = inplace.Replace(filepath.Join(dir, memoName), nil, 0o640) // begin says it where that is not possible
			return m, nil
		}
		err = fmt.Errorf("%s is missing and %s is there", memoName, stateName)
	}
	if err == nil {
		defer f.Close()
		err = m.read(f)
	}
	if err != nil {
		m.distrust(now)
	}
	if missing && !now.IsZero() {
		_ = m.rewrite() // The next start need not refuse more. begin says it where that is not possible.
	}
	return m, err
}

// distrust forgets commands that were issued before now.
func (m *memo) distrust(now time.Time) {
	m.stale, m.damaged = true, now.IsZero()
	if !now.IsZero() {
		m.issued = now.Unix()
	}
}

func (m *memo) read(f io.Reader) (err error) {
	r := bufio.NewReaderSize(f, memoLine)
	for {
		line, errRead := r.ReadSlice('\n')
		if errRead == io.EOF {
			m.stale = m.stale || len(line) > 0 // torn
			return err
		}
		if errRead != nil && !errors.Is(errRead, bufio.ErrBufferFull) {
			return errRead
		}
		m.lines++
		e, ok := parseMemoLine(line)
		if !ok {
			err = fmt.Errorf("damaged: %s, line %d", memoName, m.lines)
			continue
		}
		switch known := m.seen[e.Key]; {
		case e.Before > 0 || e.Issued > 0:
			m.before, m.issued = max(m.before, e.Before), max(m.issued, e.Issued)
		case e.Reply != nil && known != nil:
			known.reply = e.Reply
		case e.Reply == nil:
			m.seen[e.Key] = &remembered{exp: e.Exp, earlier: true}
		}
	}
}

func parseMemoLine(line []byte) (e memoEntry, ok bool) {
	sum, text, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !ok || string(sum) != memoSum(text) || json.Unmarshal(text, &e) != nil {
		return e, false
	}
	return e, true
}

func memoSum(text []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli))
}

func appendMemoLine(dst []byte, e memoEntry) []byte {
	text, _ := json.Marshal(e) // numbers, a name and a reply that was encoded before
	return append(append(append(append(dst, memoSum(text)...), ' '), text...), '\n')
}

// lookup says whether a command was taken before, and with what reply; none while it is being carried out.
func (m *memo) lookup(c *wire.Command) (known bool, answer []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.seen[memoKey(c)]
	switch {
	case r == nil && (m.began == nil || !m.began(c)):
		return false, nil
	case r == nil || r.reply == nil && r.earlier:
		answer, _ = json.Marshal(wire.Reply{
			ID: c.ID, Verb: c.Verb, Node: c.Node, State: wire.ReplyUnknown,
			Reason: "the gateway stopped before it knew what became of it",
		})
		return true, answer
	}
	return true, r.reply
}

// forgotten says whether the command may have been taken and forgotten.
func (m *memo) forgotten(c *wire.Command, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.damaged {
		m.damaged, m.stale, m.issued = false, true, max(m.issued, now.Unix())
	}
	return c.ExpiresAt.Unix() <= m.before || c.IssuedAt.Unix() <= m.issued
}

// begin remembers a command. After it has returned without an error the command is on the disk.
func (m *memo) begin(c *wire.Command, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.seen) >= maxRemembered || m.lines >= rewriteAt {
		m.forget(now)
	}
	if len(m.seen) >= maxRemembered {
		return errMemoFull
	}
	e := memoEntry{Key: memoKey(c), Exp: c.ExpiresAt.Unix()}
	m.seen[e.Key] = &remembered{exp: e.Exp}
	if err := m.append(e, true); err != nil {
		delete(m.seen, e.Key)
		return err
	}
	return nil
}

// end remembers the reply.
func (m *memo) end(c *wire.Command, reply []byte) error {
	if len(reply) > maxKept {
		var r wire.Reply
		if err := json.Unmarshal(reply, &r); err != nil {
			return err
		}
		r.Result = nil
		reply, _ = json.Marshal(r)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.seen[memoKey(c)]; r != nil {
		r.reply = reply
	}
	// Not synced: what a power cut takes of it leaves "unknown".
	return m.append(memoEntry{Key: memoKey(c), Reply: reply}, false)
}

// forget drops what has expired, and has the file written anew. m.mu is held.
func (m *memo) forget(now time.Time) {
	for key, r := range m.seen {
		if r.exp <= now.Unix() && (r.reply != nil || r.earlier) {
			delete(m.seen, key)
			// A clock that is set back must not bring it to life.
			m.before = max(m.before, r.exp)
		}
	}
	m.stale = true
}

// append writes a line. m.mu is held.
func (m *memo) append(e memoEntry, sync bool) error {
	if m.stale {
		return m.rewrite() // what e says is known, and among what is written
	}
	if m.file == nil {
		path := filepath.Join(m.dir, memoName)
		_, errStat := os.Stat(path)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return err
		}
		m.file = f
		if errStat != nil {
			if err := inplace.SyncDir(m.dir); err != nil {
				m.shut()
				return err
			}
		}
	}
	_, err := m.file.Write(appendMemoLine(nil, e))
	if err == nil && sync {
		err = m.file.Sync()
	}
	if err != nil {
		m.shut()
		m.stale = true // whatever is in the file now
		return err
	}
	m.lines++
	return nil
}

// rewrite writes the file anew: after a power cut either the old one is there or the new one. m.mu is held.
func (m *memo) rewrite() error {
	m.shut()
	var b []byte
	lines := 0
	add := func(e memoEntry) { b, lines = appendMemoLine(b, e), lines+1 }
	if m.before > 0 {
		add(memoEntry{Before: m.before})
	}
	if m.issued > 0 {
		add(memoEntry{Issued: m.issued})
	}
	for key, r := range m.seen {
		add(memoEntry{Key: key, Exp: r.exp})
		if r.reply != nil {
			add(memoEntry{Key: key, Reply: r.reply})
		}
	}
	if err := inplace.Replace(filepath.Join(m.dir, memoName), b, 0o640); err != nil {
		return err
	}
	m.lines, m.stale = lines, false
	return nil
}

// close closes the file; the memo may be used on.
func (m *memo) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shut()
}

// shut closes the file. m.mu is held.
func (m *memo) shut() {
	if m.file != nil {
		m.file.Close() // all that matters in it is synced
		m.file = nil
	}
}
