package read

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"linli/internal/wire"
)

// flux writes the question down, in words that InfluxDB 1.8's Flux knows as well.
func (s *selection) flux(bucket string) string {
	var b strings.Builder
	stamp := func(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }
	fmt.Fprintf(&b, "from(bucket: %s)\n  |> range(start: %s, stop: %s)\n", strconv.Quote(bucket), stamp(s.from), stamp(s.to))
	fmt.Fprintf(&b, "  |> filter(fn: (r) => r._measurement == %q", s.measurement)
	if site, gateway, ok := wire.SplitNode(s.node); ok {
		fmt.Fprintf(&b, " and r.site == %q and r.gateway == %q", site, gateway)
	}
	if s.epoch != "" {
		fmt.Fprintf(&b, " and r.epoch == %q", s.epoch)
	}
	fields := s.fields
	if s.pick == "distinct" { // The conditions are about other fields.
		for _, c := range s.conditions {
			if !slices.Contains(fields, c.field) {
				fields = append(slices.Clip(fields), c.field)
			}
		}
	} else if s.pick != "" {
		fmt.Fprintf(&b, " and r._field == %q)\n", s.fields[0])
		for _, c := range s.conditions {
			fmt.Fprintf(&b, "  |> filter(fn: (r) => r._value %s %d)\n", c.op, c.value)
		}
		fmt.Fprintf(&b, "  |> %s()\n", s.pick)
		return b.String()
	}
	b.WriteString(" and (")
	for i, f := range fields {
		if i > 0 {
			b.WriteString(" or ")
		}
		fmt.Fprintf(&b, "r._field == %q", f)
	}
	b.WriteString("))\n  |> pivot(rowKey: [\"_time\"], columnKey: [\"_field\"], valueColumn: \"_value\")\n")
	for _, c := range s.conditions {
		fmt.Fprintf(&b, "  |> filter(fn: (r) => r.%s %s %d)\n", c.field, c.op, c.value)
	}
	if s.pick == "distinct" {
		fmt.Fprintf(&b, "  |> group(columns: [\"gateway\", \"site\"])\n  |> distinct(column: %q)\n  |> count()\n", s.fields[0])
	}
	return b.String()
}

func (r *Reader) eachFlux(ctx context.Context, s *selection, take func(*record)) error {
	result, err := r.flux.QueryAPI(r.cfg.Org).Query(ctx, s.flux(r.cfg.Bucket))
	if err != nil {
		return err
	}
	defer result.Close()
	rec := record{tags: make([]string, len(s.tags)), values: make([]string, len(s.fields))}
	for result.Next() {
		row := result.Record()
		rec.time = row.Time().UnixNano()
		for i, t := range s.tags {
			rec.tags[i], _ = row.ValueByKey(t).(string)
		}
		for i, f := range s.fields {
			if s.pick != "" && i == 0 {
				f = "_value"
			}
			switch v := row.ValueByKey(f).(type) {
			case int64:
				rec.values[i] = strconv.FormatInt(v, 10)
			case bool:
				rec.values[i] = strconv.FormatBool(v)
			case string:
				rec.values[i] = v
			default:
				rec.values[i] = ""
			}
		}
		take(&rec)
	}
	return result.Err()
}
