package broker

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/topics"
)

// Postgres makes a Broker from Watermill's SQL Pub/Sub in the service's own database, for small installations. Readers is the connection pool of the
// subscribers; Close closes it.
func Postgres(db, readers *sqlx.DB, logger watermill.LoggerAdapter) Broker {
	return inPostgres{db, readers, logger}
}

// OpenPostgres calls Postgres with a new connection pool for the subscribers, which it opens with dsn.
func OpenPostgres(dsn string, db *sqlx.DB, logger watermill.LoggerAdapter) (Broker, error) {
	readers, err := topics.OpenReaders(dsn)
	if err != nil {
		return nil, fmt.Errorf("POSTGRES_DSN: %w", err)
	}
	return Postgres(db, readers, logger), nil
}

type inPostgres struct {
	db      *sqlx.DB
	readers *sqlx.DB
	logger  watermill.LoggerAdapter
}

func (inPostgres) Name() string { return "topics" }

func (inPostgres) Where() string { return "tables of PostgreSQL" }

// Ensure creates nothing, because topics are rows of a table.
func (inPostgres) Ensure(context.Context, []string) (limit int, err error) { return math.MaxInt32, nil }

// Missing returns none, because topics are rows of a table.
func (inPostgres) Missing(context.Context, []string) ([]string, error) { return nil, nil }

// LongestRetention returns zero values: the setting TOPIC_RETENTION is checked when the settings are read.
func (inPostgres) LongestRetention([]string) (longest time.Duration, topic string, unknown []string, err error) {
	return 0, "", nil, nil
}

func (b inPostgres) Ping(ctx context.Context) error { return b.readers.PingContext(ctx) }

func (b inPostgres) Senders(func() int) (func() outbox.Sender, error) {
	publisher, err := topics.NewPublisher(b.db, b.logger)
	return outbox.BatchSender(publisher), err
}

// Refused always returns false: a message that fits into the outbox fits into a topic.
func (inPostgres) Refused(error) bool { return false }

// TopicFault always returns false: all topics are in one table.
func (inPostgres) TopicFault(error) bool { return false }

func (b inPostgres) Subscriber(group string, _ messaging.Subscription) (message.Subscriber, error) {
	inner, err := topics.NewSubscriber(b.readers, group, b.logger)
	if err != nil {
		return nil, err
	}
	return messaging.Drain(inner, b.logger), nil
}

func (b inPostgres) ReadAll(ctx context.Context, names []string, each func(topic string, msg *message.Message) error) error {
	return topics.ReadAll(ctx, b.db, names, each)
}

func (b inPostgres) Close() error { return b.readers.Close() }
