//go:build noembedded

package embedded

import (
	"context"
	"errors"
)

// Available tells whether the embedded PostgreSQL and Kafka are in this binary.
const Available = false

var errUnavailable = errors.New("this binary was built without the embedded PostgreSQL and Kafka (build tag noembedded): set POSTGRES_DSN and KAFKA_BROKERS")

// Postgres is a running server.
type Postgres struct {
	DSN   string
	Fresh bool
}

// StartPostgres returns an error: see Available.
func StartPostgres(context.Context, string, func(string)) (*Postgres, error) {
	return nil, errUnavailable
}

// Running returns nothing: see Available.
func Running(string) string { return "" }

// Stop does nothing.
func (*Postgres) Stop() error { return nil }

// Kafka is a running broker.
type Kafka struct{ Brokers []string }

// StartKafka returns an error: see Available.
func StartKafka(string, int) (*Kafka, error) { return nil, errUnavailable }

// Stop does nothing.
func (*Kafka) Stop() {}
