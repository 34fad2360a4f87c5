package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	ownoutbox "github.com/millrace/millrace/adapters/outbox"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// stock is what Watermill's documentation wires: the SQL publisher behind the forwarder's, and the forwarder, all with their
// default settings.
type stock struct{}

const stockTopic = "stock_outbox"

func (*stock) name() string { return "stock forwarder" }

func (*stock) prepare(ctx context.Context, g *environment) error {
	for _, q := range (wsql.DefaultPostgreSQLSchema{}).SchemaInitializingQueries(stockTopic) {
		if _, err := g.db.ExecContext(ctx, q.Query, q.Args...); err != nil {
			return err
		}
	}
	return nil
}

func (*stock) write(ctx context.Context, g *environment, topic string, messages []benchMessage) error {
	tx, err := g.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after a commit
	inner, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: wsql.DefaultPostgreSQLSchema{}}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	publisher := forwarder.NewPublisher(inner, forwarder.PublisherConfig{ForwarderTopic: stockTopic})
	var batch []*message.Message
	for _, m := range messages {
		msg := message.NewMessage(uuid.NewString(), []byte(m.payload))
		msg.Metadata.Set("key", m.key)
		batch = append(batch, msg)
	}
	if err := publisher.Publish(topic, batch...); err != nil {
		return err
	}
	return tx.Commit()
}

func (s *stock) start(_ context.Context, g *environment) (func() error, error) {
	return s.forward(g, 0)
}

// forward runs the forwarder; its poll interval is the default if 0.
func (*stock) forward(g *environment, poll time.Duration) (func() error, error) {
	logger := watermill.NopLogger{}
	subscriber, err := wsql.NewSubscriber(g.db, wsql.SubscriberConfig{
		SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true,
		PollInterval: poll,
	}, logger)
	if err != nil {
		return nil, err
	}
	publisher, err := wkafka.NewPublisher(wkafka.PublisherConfig{
		Brokers: g.brokers,
		Marshaler: wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
			return msg.Metadata.Get("key"), nil
		}),
	}, logger)
	if err != nil {
		return nil, err
	}
	f, err := forwarder.NewForwarder(subscriber, publisher, logger, forwarder.Config{ForwarderTopic: stockTopic})
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(context.Background()) }()
	return func() error { return errors.Join(f.Close(), <-done) }, nil
}

// ours is the outbox and its relay, with the settings that the service uses.
type ours struct{ relay *outbox.Relay }

func (*ours) name() string { return "millrace relay" }

func (*ours) prepare(context.Context, *environment) error { return nil }

func (o *ours) write(ctx context.Context, g *environment, topic string, messages []benchMessage) error {
	inner, unit := txn.NewUnit(ctx, g.db)
	publisher := outbox.NewPublisher(1_000_000, ownoutbox.Insert)
	for _, m := range messages {
		msg := message.NewMessage(uuid.NewString(), []byte(m.payload))
		msg.Metadata.Set(cqrs.HeaderKey, m.key)
		msg.SetContext(inner)
		if err := publisher.Publish(topic, msg); err != nil {
			return err
		}
	}
	if err := txn.Commit(ctx, g.db, []*txn.Unit{unit}); err != nil {
		return err
	}
	if o.relay != nil {
		o.relay.Wake()
	}
	return nil
}

func (o *ours) start(ctx context.Context, g *environment) (func() error, error) {
	o.relay = outbox.NewRelay(g.db, g.senders(), g.log, outbox.Options{DSN: g.dsn, Refused: kafka.Refused})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.relay.Run(ctx)
	}()
	return func() error {
		cancel()
		<-done
		return nil
	}, nil
}

// senders makes the relay's, as the service does, but without a breaker.
func (g *environment) senders() func() outbox.Sender {
	return func() outbox.Sender {
		return kafka.NewProducer(kafka.Config{Brokers: g.brokers, ClientID: "bench"}, func() int { return kafka.DefaultLimit }, time.Now)
	}
}

// read tells when each record of a topic arrives at a consumer.
func read(brokers []string, topic string) (arrivals <-chan time.Time, stop func(), err error) {
	consumer, err := sarama.NewConsumer(brokers, sarama.NewConfig())
	if err != nil {
		return nil, nil, err
	}
	out := make(chan time.Time, 1<<16)
	numbers, err := consumer.Partitions(topic)
	if err != nil {
		return nil, nil, err
	}
	var all []sarama.PartitionConsumer
	for _, n := range numbers {
		var p sarama.PartitionConsumer
		for range 50 { // a topic that was just created has no leaders for a moment
			if p, err = consumer.ConsumePartition(topic, n, sarama.OffsetOldest); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, p)
		go func() {
			for range p.Messages() {
				out <- time.Now()
			}
		}()
	}
	return out, func() {
		for _, p := range all {
			p.AsyncClose()
		}
	}, nil
}

// ownDatabase makes a database for this run.
func ownDatabase(ctx context.Context, dsn, name string) (own string, drop func() error, err error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", nil, fmt.Errorf("POSTGRES_DSN must be a URL: %w", err)
	}
	admin, err := postgres.Open(dsn, 1)
	if err != nil {
		return "", nil, err
	}
	if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, errors.Join(err, admin.Close())
	}
	u.Path = "/" + name
	return u.String(), func() error {
		_, err := admin.ExecContext(context.WithoutCancel(ctx), "DROP DATABASE "+name+" WITH (FORCE)")
		return errors.Join(err, admin.Close())
	}, nil
}

// rawLimit is what PostgreSQL and Kafka allow: rows that are there are read by the thousand, sent by one SendMessages of sarama, and deleted
// by one statement.
func rawLimit(ctx context.Context, g *environment, messages, keys int) (perSecond float64, err error) {
	topic := "bench." + g.stamp + ".raw"
	if _, err := kafka.EnsureTopics(ctx, kafka.Config{Brokers: g.brokers, ClientID: "bench"}, []string{topic}, partitions); err != nil {
		return 0, err
	}
	var all []benchMessage
	for n := range messages {
		all = append(all, benchMessage{fmt.Sprint("key-", n%keys), strings.Repeat("x", 200)})
	}
	for from := 0; from < messages; from += 1000 {
		if err := (&ours{}).write(ctx, g, topic, all[from:min(from+1000, messages)]); err != nil {
			return 0, err
		}
	}
	config := sarama.NewConfig()
	config.Producer.RequiredAcks, config.Producer.Idempotent, config.Net.MaxOpenRequests = sarama.WaitForAll, true, 1
	config.Producer.Return.Successes = true
	producer, err := sarama.NewSyncProducer(g.brokers, config)
	if err != nil {
		return 0, err
	}
	defer producer.Close() // everything is acknowledged
	began := time.Now()
	for done := 0; done < messages; {
		var rows []struct {
			ID      int64  `db:"id"`
			Key     string `db:"key"`
			Payload []byte `db:"payload"`
		}
		if err := g.db.SelectContext(ctx, &rows, `SELECT id, key, payload FROM outbox ORDER BY id LIMIT 1000`); err != nil {
			return 0, err
		}
		batch, ids := make([]*sarama.ProducerMessage, len(rows)), make([]int64, len(rows))
		for i, row := range rows {
			batch[i] = &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(row.Key), Value: sarama.ByteEncoder(row.Payload)}
			ids[i] = row.ID
		}
		if err := producer.SendMessages(batch); err != nil {
			return 0, err
		}
		if _, err := g.db.ExecContext(ctx, `DELETE FROM outbox WHERE id = ANY($1)`, ids); err != nil {
			return 0, err
		}
		done += len(rows)
	}
	return float64(messages) / time.Since(began).Seconds(), nil
}
