// Package broker chooses the message broker: Apache Kafka or PostgreSQL.
package broker

import (
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"

	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/runner"
)

// records converts records of Kafka to messages. The records are CloudEvents in Kafka's binary mode. Records that watermill-kafka's publisher writes have
// the format of wkafka.DefaultMarshaler.
var records wkafka.Unmarshaler = kafka.CloudEvents{}

// New makes the broker that BROKER names. The broker on Kafka sends through the kit's batching producer and consumes through the kit's key-ordered
// subscriber, which handles many messages of a partition at once and messages of one key in order.
func New(e runner.BrokerEnv) (broker.Broker, error) {
	if e.Config.Broker == runner.InPostgres {
		return inPostgres(e)
	}
	e.Kafka.Records = records
	return broker.Kafka(e.Kafka, e.Options), nil
}
