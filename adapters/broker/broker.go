// Package broker chooses the message broker: Apache Kafka or PostgreSQL.
package broker

import (
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/runner"
)

// New makes the broker that BROKER names.
func New(e runner.BrokerEnv) (broker.Broker, error) {
	if e.Config.Broker == runner.InPostgres {
		return Postgres(e)
	}
	return Kafka(e)
}
