//go:build noembedded

package embedded

import (
	"context"
	"errors"
)

// Available reports whether this binary contains the embedded PostgreSQL and Kafka.
const Available = false

var errUnavailable = errors.New("this binary was built without the embedded PostgreSQL and Kafka (build tag noembedded): set POSTGRES_DSN and KAFKA_BROKERS")

// Postgres has no server in this binary: see Available.
type Postgres struct {
	DSN   string
	Fresh bool
}

// StartPostgres always returns an error: see Available.
func StartPostgres(context.Context, string, func(string)) (*Postgres, error) {
	return nil, errUnavailable
}

// Running always returns "": see Available.
func Running(string) string { return "" }

// Stop does nothing.
func (*Postgres) Stop() error { return nil }

// Kafka has no broker in this binary: see Available.
type Kafka struct{ Brokers []string }

// StartKafka always returns an error: see Available.
func StartKafka(string, int) (*Kafka, error) { return nil, errUnavailable }

// Stop does nothing.
func (*Kafka) Stop() {}
