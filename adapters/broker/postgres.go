package broker

import (
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/runner"
)

// inPostgres is watermill-sql's Pub/Sub in the service's own database: BROKER=postgres, for small installations without Kafka.
func inPostgres(e runner.BrokerEnv) (broker.Broker, error) {
	return broker.OpenPostgres(e.DSN, e.DB, e.Log)
}
