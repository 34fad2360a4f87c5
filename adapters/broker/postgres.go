package broker

import (
	"fmt"

	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/postgres/topics"
	"github.com/millrace/millrace/kit/runner"
)

// Postgres is watermill-sql's Pub/Sub in the service's own database: BROKER=postgres, for small installations without Kafka.
func Postgres(e runner.BrokerEnv) (broker.Broker, error) {
	readers, err := topics.OpenReaders(e.DSN)
	if err != nil {
		return nil, fmt.Errorf("POSTGRES_DSN: %w", err)
	}
	return broker.Postgres(e.DB, readers, e.Log), nil
}
