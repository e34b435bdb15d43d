package read

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"linli/internal/wire"
)

// guarded puts the token of the file into each request, and takes no page of a portal for an answer: an answer without
// rows is one as well, and the Flux client reads anything as such.
type guarded struct {
	next http.RoundTripper
	file string
}

func (g *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if g.file != "" {
		b, err := os.ReadFile(g.file)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Token "+strings.TrimSpace(string(b)))
	}
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		defer resp.Body.Close()
		return nil, fmt.Errorf("the database does not take the token, or it may not read there 令牌不对，或无权读取: %w", statusError(resp))
	}
	if resp.StatusCode != http.StatusOK {
		return resp, nil
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/csv") && !strings.HasPrefix(kind, "application/csv") {
		resp.Body.Close()
		return nil, fmt.Errorf("a query is answered with CSV, not %.60q; is this the database?", kind)
	}
	return resp, nil
}

// influxQL writes the question down. Names in it are ours or were checked to be ids.
func (s *selection) influxQL() string {
	var b strings.Builder
	b.WriteString("SELECT ")
	if s.pick == "distinct" {
		fmt.Fprintf(&b, "count(distinct(%q)) AS %q", s.fields[0], s.fields[0])
	} else if s.pick != "" {
		fmt.Fprintf(&b, "%s(%q) AS %q", s.pick, s.fields[0], s.fields[0])
	} else {
		for i, f := range s.fields {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%q", f)
		}
	}
	fmt.Fprintf(&b, " FROM %q WHERE time >= %d AND time < %d", s.measurement, s.from, s.to)
	if site, gateway, ok := wire.SplitNode(s.node); ok {
		fmt.Fprintf(&b, " AND \"site\" = '%s' AND \"gateway\" = '%s'", site, gateway)
	}
	if s.epoch != "" {
		fmt.Fprintf(&b, " AND \"epoch\" = '%s'", s.epoch)
	}
	for _, c := range s.conditions {
		fmt.Fprintf(&b, " AND %q %s %d", c.field, c.op, c.value)
	}
	b.WriteString(" GROUP BY ")
	for i, t := range s.tags {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", t)
	}
	return b.String()
}

// eachInfluxQL asks by InfluxQL and takes the answer as CSV, in which 1.8 and 2.x are alike.
func (r *Reader) eachInfluxQL(ctx context.Context, s *selection, take func(*record)) error {
	db, rp, _ := strings.Cut(r.cfg.Bucket, "/")
	u, err := url.Parse(r.cfg.URL)
	if err != nil {
		return err
	}
	form := url.Values{"db": {db}, "epoch": {"ns"}, "chunked": {"true"}, "chunk_size": {"10000"}, "q": {s.influxQL() + "; " + lastWords}}
	if rp != "" {
		form.Set("rp", rp)
	}
	if r.cfg.Org != "" {
		form.Set("org", r.cfg.Org)
	}
	// What names the database is in the address as well: 2.x reads it there only.
	u = u.JoinPath("query")
	address := url.Values{"db": form["db"]}
	if rp != "" {
		address.Set("rp", rp)
	}
	if r.cfg.Org != "" {
		address.Set("org", r.cfg.Org)
	}
	u.RawQuery = address.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/csv")
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return statusError(resp)
	}
	return s.csv(resp.Body, take)
}

// statusError tells what the database said.
func statusError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // only for the message
	var said struct{ Error, Message string }
	if json.Unmarshal(b, &said) == nil && said.Error+said.Message != "" {
		return fmt.Errorf("status %d: %.300s", resp.StatusCode, said.Error+said.Message)
	}
	return fmt.Errorf("status %d: %.300q", resp.StatusCode, b)
}

// lastWords is asked behind each question, and always has an answer. CSV does not tell the error of a statement (no such
// database, a query that took too long), but what stands behind one that failed is not executed.
const lastWords = "SHOW DATABASES"

// csv takes the rows of an answer of /query: a line of columns name, tags, time, ... before the rows of each result.
func (s *selection) csv(body io.Reader, take func(*record)) error {
	in := csv.NewReader(bufio.NewReaderSize(body, 64<<10))
	in.ReuseRecord, in.FieldsPerRecord = true, -1
	rec := record{tags: make([]string, len(s.tags)), values: make([]string, len(s.fields))}
	var fieldAt []int // column of each field, 0: none
	lastTags := "\x00"
	ending, whole := false, false // the rows are those of the last words
	for {
		line, err := in.Read()
		if errors.Is(err, io.EOF) {
			if !whole {
				return errors.New("the database has not answered to the end: is there such a database and retention policy, may we read it, or did the query take too long? 没有此数据库、无权读取或查询超时")
			}
			return nil
		} else if err != nil {
			return err
		}
		switch {
		case len(line) == 1 && line[0] == "error":
			line, err := in.Read()
			if err != nil {
				return errors.New("the database says error, and not which")
			}
			return fmt.Errorf("the database says %.300s", strings.Join(line, ","))
		case len(line) >= 3 && line[0] == "name" && line[1] == "tags" && line[2] == "time":
			fieldAt = make([]int, len(s.fields))
			for i, f := range s.fields {
				for c, name := range line {
					if c > 2 && name == f {
						fieldAt[i] = c
					}
				}
			}
			continue
		case len(line) == 3 && line[0] == "name" && line[1] == "tags" && line[2] == "name":
			ending = true
			continue
		case ending && len(line) == 3:
			whole = true
			continue
		case fieldAt == nil || len(line) < 3:
			return fmt.Errorf("this is no answer of a database: %.100q", strings.Join(line, ","))
		}
		if rec.time, err = strconv.ParseInt(line[2], 10, 64); err != nil {
			return fmt.Errorf("time %.40q", line[2])
		}
		if line[1] != lastTags {
			lastTags = strings.Clone(line[1])
			clear(rec.tags)
			for pair := range strings.SplitSeq(lastTags, ",") {
				key, value, _ := strings.Cut(pair, "=")
				for i, t := range s.tags {
					if key == t {
						rec.tags[i] = value
					}
				}
			}
		}
		for i, c := range fieldAt {
			if rec.values[i] = ""; c > 0 && c < len(line) {
				rec.values[i] = line[c]
			}
		}
		take(&rec)
	}
}
