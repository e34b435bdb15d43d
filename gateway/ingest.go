package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	firmwareconfig "linli/firmware-config"
	"linli/internal/ingest"
	"linli/internal/wire"
)

// databaseFlags adds the flags that say which database the city has.
func databaseFlags(cmd *cobra.Command, url, org, bucket, tokenFile *string) {
	f := cmd.Flags()
	f.StringVar(url, "influx-url", "", "database, as http://host:8086")
	f.StringVar(org, "org", "", "organisation; may be empty for InfluxDB 1.8")
	f.StringVar(bucket, "bucket", "", "bucket; database/retention-policy for InfluxDB 1.8")
	f.StringVar(tokenFile, "token-file", "", "file with the database's token; user:password for InfluxDB 1.8")
}

func ingestCommand() *cobra.Command {
	var cfg ingest.Config
	var natsCfg ingest.NATS
	var listen, classes string
	cmd := &cobra.Command{
		Use:   "ingest",
		Short: "City side: carry messages from the broker into the database",
		Long: "Carry the messages of all gateways from an MQTT broker, or from the JetStream of a NATS cluster that speaks MQTT\n" +
			"to them, into any database with the InfluxDB v2 write API.\n" +
			"A message is acknowledged only after the database said yes to every line of it. Ingest keeps nothing:\n" +
			"run as many as you like, each with a --client-id of its own and a shared subscription, or on NATS the same --durable.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(cfg.Brokers)+len(natsCfg.Servers) == 0 || cfg.Influx.URL == "" || cfg.Influx.Bucket == "" {
				return &usageError{errors.New("ingest needs --broker or --nats, --influx-url and --bucket")}
			}
			if len(natsCfg.Servers) > 0 {
				cfg.NATS = &natsCfg
			}
			if err := cfg.Validate(); err != nil {
				return &usageError{err}
			}
			// A name that is wrong would be noticed only when nothing arrives.
			var missing []error
			for _, flag := range []string{"nats-creds", "password-file", "ca-file", "cert-file", "key-file", "token-file", "command-key"} {
				if path := cmd.Flags().Lookup(flag).Value.String(); path != "" {
					if _, err := os.ReadFile(path); err != nil {
						missing = append(missing, fmt.Errorf("--%s: %w", flag, err))
					}
				}
			}
			if err := errors.Join(missing...); err != nil {
				return err
			}
			log, flush := newLogger(cmd.ErrOrStderr(), zapcore.InfoLevel)
			defer flush()
			library, err := loadLibrary(classes)
			if err != nil {
				return err
			}
			cfg.Kinds = fieldKinds(library)
			in, err := ingest.New(cfg, log)
			if err != nil {
				return err
			}
			var repairer *ingest.Repairer
			if cfg.Repair.Horizon > 0 {
				if repairer, err = ingest.NewRepairer(in); err != nil {
					return err
				}
			}
			return runIngest(cmd.Context(), in, repairer, listen, log)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Brokers, "broker", nil, "broker as tcp://host:port or tls://host:port; several are tried in turn")
	f.StringSliceVar(&natsCfg.Servers, "nats", nil, "instead of --broker: NATS servers as nats://host:port or tls://host:port")
	f.StringVar(&natsCfg.CredsFile, "nats-creds", "", "credentials for NATS, as nsc writes them (or --username, or a certificate)")
	f.StringVar(&natsCfg.Stream, "stream", "", "JetStream stream of telemetry, made if it is not there (default linli)")
	f.StringVar(&natsCfg.Durable, "durable", "", "durable consumer, shared by all that name it (default linli-ingest)")
	f.IntVar(&natsCfg.Replicas, "stream-replicas", 0, "copies of each message in streams made here (default 3)")
	f.Int64Var(&natsCfg.MaxBytes, "stream-bytes", 0, "telemetry that waits in a stream made here before gateways are told to keep it (default 64 GiB)")
	f.StringVar(&cfg.ClientID, "client-id", "", "MQTT client id, stable and of its own (default linli-ingest)")
	f.StringSliceVar(&cfg.Filters, "filter", nil, "MQTT subscriptions (default: telemetry, alerts and status of every node); $share/group/... shares the work")
	f.StringVar(&cfg.Username, "username", "", "MQTT user name")
	f.StringVar(&cfg.PasswordFile, "password-file", "", "file with the MQTT password")
	f.StringVar(&cfg.CAFile, "ca-file", "", "certificate authorities of the broker (default: the system's)")
	f.StringVar(&cfg.CertFile, "cert-file", "", "client certificate for the broker")
	f.StringVar(&cfg.KeyFile, "key-file", "", "its key")
	databaseFlags(cmd, &cfg.Influx.URL, &cfg.Influx.Org, &cfg.Influx.Bucket, &cfg.Influx.TokenFile)
	f.IntVar(&cfg.BatchBytes, "batch-bytes", 0, "bytes of lines in one write (default 500 KiB)")
	f.DurationVar(&cfg.BatchAge, "batch-age", 0, "a batch waits no longer for more (default 200ms)")
	f.StringVar(&classes, "classes", "", "directory with further classes/ of the sites; lines of a known class with a wrong type are refused")
	f.DurationVar(&cfg.Repair.Horizon, "repair-horizon", 7*24*time.Hour, "look for so long at hours of which something is missing; 0: do not look at all, as with a database that answers no queries")
	f.StringVar(&cfg.Repair.KeyFile, "command-key", "", "private key (Ed25519, PEM) with which gateways are asked to send again what is missing (default: they are not asked)")
	f.StringVar(&cfg.Repair.KeyName, "command-kid", "", "its name in the gateways' site files")
	f.StringVar(&cfg.Repair.Language, "query", "", "influxql or flux (default: influxql if the bucket is a database/retention-policy, otherwise flux)")
	f.DurationVar(&cfg.Repair.Every, "repair-every", 0, "between looks at the newest minutes (default 1m; all hours ten times as seldom)")
	f.DurationVar(&cfg.Repair.Grace, "repair-grace", 0, "what is missing may still be on its way for so long (default 2m)")
	f.DurationVar(&cfg.Repair.Again, "repair-again", 0, "what did not come is asked for again after so long; all ingests must have the same (default 10m)")
	f.StringVar(&listen, "listen", "", "serve /metrics and /healthz on this address (default: not at all)")
	return cmd
}

// fieldKinds says of which type a field is, from the classes: no gateway may make the database refuse another's fields by
// being the first to write one with a wrong type. Measurements that are no known class are not judged.
func fieldKinds(library *firmwareconfig.Library) func(measurement, field string) (wire.FieldType, bool) {
	return func(measurement, field string) (wire.FieldType, bool) {
		class := library.Classes[measurement]
		if class == nil {
			return 0, false
		}
		i := class.Point(field)
		if i < 0 {
			return 0, false
		}
		return wire.TypeOf(class.Points[i].Kind), true
	}
}

// runIngest runs ingest and, where asked for, its metrics until ctx ends.
func runIngest(ctx context.Context, in *ingest.Ingest, repairer *ingest.Repairer, listen string, log *zap.Logger) (err error) {
	parts := newLifecycle()
	defer func() { err = errors.Join(err, parts.stop()) }()
	if listen != "" {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return fmt.Errorf("open the metrics: %w", err)
		}
		log.Info("metrics listening", zap.String("address", l.Addr().String()))
		parts.start("metrics", time.Second, func(ctx context.Context) error { return serveIngestMetrics(ctx, l, in, repairer) })
	}
	parts.start("ingest", 10*time.Second, in.Run)
	if repairer != nil {
		parts.start("repair", 10*time.Second, repairer.Run)
	}
	return parts.wait(ctx)
}

func serveIngestMetrics(ctx context.Context, l net.Listener, in *ingest.Ingest, repairer *ingest.Repairer) error {
	set := metrics.NewSet()
	gauge := func(name string, value func(ingest.Stats) float64) {
		set.NewGauge(name, func() float64 { return value(in.Stats()) })
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("linli_ingest_connected", func(s ingest.Stats) float64 { return flag(s.Connected) })
	gauge("linli_ingest_holding", func(s ingest.Stats) float64 { return flag(s.Holding != "") })
	gauge("linli_ingest_messages_total", func(s ingest.Stats) float64 { return float64(s.Messages) })
	gauge("linli_ingest_acknowledged_total", func(s ingest.Stats) float64 { return float64(s.Acknowledged) })
	gauge("linli_ingest_lines_total", func(s ingest.Stats) float64 { return float64(s.Lines) })
	gauge("linli_ingest_bytes_total", func(s ingest.Stats) float64 { return float64(s.Bytes) })
	gauge("linli_ingest_writes_total", func(s ingest.Stats) float64 { return float64(s.Writes) })
	gauge("linli_ingest_retries_total", func(s ingest.Stats) float64 { return float64(s.Retries) })
	gauge("linli_ingest_bad_messages_total", func(s ingest.Stats) float64 { return float64(s.BadMessages) })
	gauge("linli_ingest_strange_topics_total", func(s ingest.Stats) float64 { return float64(s.Strangers) })
	gauge("linli_ingest_bad_lines_total", func(s ingest.Stats) float64 { return float64(s.BadLines) })
	gauge("linli_ingest_foreign_lines_total", func(s ingest.Stats) float64 { return float64(s.Foreign) })
	gauge("linli_ingest_refused_lines_total", func(s ingest.Stats) float64 { return float64(s.RefusedLines) })
	gauge("linli_ingest_count_wrong_total", func(s ingest.Stats) float64 { return float64(s.CountWrong) })
	gauge("linli_ingest_throttled_total", func(s ingest.Stats) float64 { return float64(s.Throttled) })
	gauge("linli_ingest_oversized_total", func(s ingest.Stats) float64 { return float64(s.Oversized) })
	gauge("linli_ingest_queue_messages", func(s ingest.Stats) float64 { return float64(s.QueueMessages) })
	gauge("linli_ingest_queue_bytes", func(s ingest.Stats) float64 { return float64(s.QueueBytes) })
	if repairer != nil {
		repair := func(name string, value func(ingest.RepairStats) float64) {
			set.NewGauge(name, func() float64 { return value(repairer.Stats()) })
		}
		repair("linli_repair_failing", func(s ingest.RepairStats) float64 { return flag(s.Failing != "") })
		repair("linli_repair_rounds_total", func(s ingest.RepairStats) float64 { return float64(s.Rounds) })
		repair("linli_repair_failures_total", func(s ingest.RepairStats) float64 { return float64(s.Failures) })
		repair("linli_repair_open_gaps", func(s ingest.RepairStats) float64 { return float64(s.OpenGaps) })
		repair("linli_repair_open_frames", func(s ingest.RepairStats) float64 { return float64(s.OpenFrames) })
		repair("linli_repair_resends_asked_total", func(s ingest.RepairStats) float64 { return float64(s.Asked) })
		repair("linli_repair_frames_closed_total", func(s ingest.RepairStats) float64 { return float64(s.ClosedFrames) })
		repair("linli_repair_hours_looked_total", func(s ingest.RepairStats) float64 { return float64(s.HoursLooked) })
		repair("linli_repair_alerts_missing", func(s ingest.RepairStats) float64 { return float64(s.AlertsMissing) })
		repair("linli_repair_hours_waiting", func(s ingest.RepairStats) float64 { return float64(s.HoursWaiting) })
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		set.WritePrometheus(w)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}
