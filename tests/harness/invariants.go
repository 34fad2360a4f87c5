package harness

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/audit"
	intopics "github.com/millrace/millrace/kit/postgres/topics"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/service/demo/invariants"
)

// Consistent waits until the invariants hold, and compares the event store with Kafka.
func (i *Instance) Consistent() invariants.Report {
	i.t.Helper()
	client := invariants.Client{URL: i.URL, HTTP: i.HTTP(), AtLeast: int(i.placed.Load())}
	if i.env != nil {
		client.SandboxURL = i.env.sandbox
	}
	report, err := client.Wait(context.Background(), kittest.Patience)
	require.NoError(i.t, err)
	require.Empty(i.t, report.Faults, "the invariants")
	switch {
	case i.env == nil:
	case i.env.Setting("DEBEZIUM") == "on": // an empty outbox says only that all is in the database's log
		kittest.Eventually(i.t, func() error {
			if missing := i.unlogged(); len(missing) > 0 {
				return fmt.Errorf("%v", missing)
			}
			return nil
		})
	default:
		require.Empty(i.t, i.unlogged())
	}
	return report
}

// unlogged says which stored events are not in Kafka, or not in the order of their stream.
func (i *Instance) unlogged() []string {
	i.t.Helper()
	var topics []string
	for _, category := range []string{"orders", "inventory", "payments", "shipments"} {
		topics = append(topics, i.Topic("events."+category))
	}
	var logged audit.Logged
	saw := func(_ string, msg *message.Message) error {
		var version int
		if _, err := fmt.Sscan(msg.Metadata.Get(cqrs.HeaderSequence), &version); err != nil {
			return nil //nolint:nilerr // an answer, which no stream holds; or what a test has put there
		}
		var partition int32
		if i.env.Grown.Load() {
			partition = kafka.Partition(msg)
		}
		return logged.Saw(partition, msg.Metadata.Get(cqrs.HeaderSubject), version)
	}
	if i.env.Setting("BROKER") == "postgres" {
		require.NoError(i.t, intopics.ReadAll(context.Background(), sqlx.NewDb(kittest.OpenDB(i.t, i.DSN()), "pgx"), topics, saw))
	} else {
		require.NoError(i.t, kafka.ReadAll(context.Background(), kafka.Config{Brokers: i.Brokers()}, topics, saw))
	}
	rows, err := kittest.OpenDB(i.t, i.DSN()).Query(`SELECT stream, max(version) FROM events WHERE stream NOT LIKE $1 GROUP BY stream`, saga.Category+"/%")
	require.NoError(i.t, err)
	defer rows.Close()
	stored := map[string]int{}
	for rows.Next() {
		var stream string
		var version int
		require.NoError(i.t, rows.Scan(&stream, &version))
		stored[stream] = version
	}
	require.NoError(i.t, rows.Err())
	require.NotEmpty(i.t, stored)
	return logged.Missing(stored)
}
