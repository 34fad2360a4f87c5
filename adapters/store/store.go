// Package store chooses where events and read models are stored: in PostgreSQL, with sqlx on the database/sql driver of pgx.
package store

import (
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
)

// Open makes the connection pool. The kit's pool configures the sessions for its transactions, such as time limits for locks.
func Open(dsn string, maxConns int) (*sqlx.DB, error) {
	pool, err := postgres.Pool(dsn, maxConns)
	if err != nil {
		return nil, err
	}
	return sqlx.NewDb(pool, "pgx"), nil
}

// Events makes the event store.
func Events(db *sqlx.DB, types aggregate.Types) *eventstore.Store { return eventstore.New(db, types) }
