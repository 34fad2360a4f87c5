package broker

import (
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/runner"
)

// inPostgres makes the broker of BROKER=postgres: the Pub/Sub of watermill-sql in the service's own database, for small installations without Kafka.
func inPostgres(e runner.BrokerEnv) (broker.Broker, error) {
	return broker.OpenPostgres(e.DSN, e.DB, e.Log)
}
