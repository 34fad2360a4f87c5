package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/adapters/kafka"
	"github.com/millrace/millrace/adapters/postgres/outbox"
)

// portion is how many messages are measured at a time.
const portion = 100_000

// ages shows that the outbox does not age: the relay's rate while many messages pass through one table, and then while a
// transaction that was begun before is open elsewhere, so that no deleted row can be vacuumed.
func ages(ctx context.Context, out io.Writer, g *ground, passed, keys int) error {
	topic := "bench." + g.stamp + ".age"
	if _, err := kafka.EnsureTopics(ctx, kafka.Config{Brokers: g.brokers, ClientID: "bench"}, []string{topic}, partitions); err != nil {
		return err
	}
	var relayed atomic.Int64
	relay := outbox.NewRelay(g.db, g.senders(), g.log, outbox.Options{DSN: g.dsn, Refused: kafka.Refused, OnRelayed: func(n int) { relayed.Add(int64(n)) }})
	relayCtx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); relay.Run(relayCtx) }()
	defer func() { stop(); <-done }()

	names, shards := make([]string, keys), make([]int16, keys)
	for k := range keys {
		names[k] = fmt.Sprint("key-", k)
		shards[k] = outbox.ShardOf(topic, names[k])
	}
	pass := func() (time.Duration, error) {
		_, err := g.db.ExecContext(ctx, `
			INSERT INTO outbox (message_id, topic, key, shard, payload, headers)
			SELECT gen_random_uuid()::text, $1, k.key, k.shard, convert_to(repeat('x', 200), 'UTF8'), jsonb_build_object('ce_partitionkey', k.key)
			FROM generate_series(1, $4) n JOIN unnest($2::text[], $3::smallint[]) WITH ORDINALITY k(key, shard, nth) ON k.nth = n % cardinality($2) + 1
			ORDER BY n`, topic, names, shards, portion)
		if err != nil {
			return 0, err
		}
		began, want := time.Now(), relayed.Load()+portion
		if relayed.Load() > 0 && relayed.Load()%portion != 0 {
			want = (relayed.Load()/portion + 1) * portion
		}
		relay.Wake()
		for relayed.Load() < want {
			if time.Since(began) > 10*time.Minute || ctx.Err() != nil {
				return 0, fmt.Errorf("%d of %d messages were relayed", relayed.Load(), want)
			}
			time.Sleep(time.Millisecond)
		}
		return time.Since(began), nil
	}
	rates := func(what string, n int) (first, last float64, err error) {
		var took []time.Duration
		for i := range max(n/portion, 4) {
			d, err := pass()
			if err != nil {
				return 0, 0, err
			}
			took = append(took, d)
			fmt.Fprintf(out, "\r%s: %d messages, %.0f/s   ", what, (i+1)*portion, portion/d.Seconds())
		}
		fmt.Fprint(out, "\r")
		few := max(1, len(took)/10)
		return rate(took[:few]), rate(took[len(took)-few:]), nil
	}
	if _, err := pass(); err != nil { // to get warm
		return err
	}
	first, last, err := rates("passing", passed)
	if err != nil {
		return err
	}
	long, err := g.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer long.Rollback() // it has written nothing
	if _, err := long.ExecContext(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`); err != nil {
		return err
	}
	if _, err := long.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return err
	}
	var holds int
	if err := long.GetContext(ctx, &holds, `SELECT count(*) FROM outbox`); err != nil { // now it has a snapshot
		return err
	}
	openFirst, openLast, err := rates("a transaction is open", passed/4)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tmessages\tat first\tat last\tratio\t")
	fmt.Fprintf(table, "passed through one table\t%d\t%.0f/s\t%.0f/s\t%.2f\t\n", passed, first, last, last/first)
	fmt.Fprintf(table, "with a transaction open elsewhere\t%d\t%.0f/s\t%.0f/s\t%.2f\t\n", max(passed/4, 4*portion), openFirst, openLast, openLast/first)
	return table.Flush()
}

func rate(took []time.Duration) float64 {
	var all time.Duration
	for _, d := range took {
		all += d
	}
	return float64(len(took)) * portion / all.Seconds()
}
