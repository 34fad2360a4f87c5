// Package store chooses where events and read models are stored: in PostgreSQL, by sqlx over pgx's database/sql driver.
package store

import (
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
)

// Open makes the pool of connections. The kit's pool sets what its transactions need, such as time limits for locks.
func Open(dsn string, maxConns int) (*sqlx.DB, error) {
	pool, err := postgres.Pool(dsn, maxConns)
	if err != nil {
		return nil, err
	}
	return sqlx.NewDb(pool, "pgx"), nil
}

// Events is the event store.
func Events(db *sqlx.DB, types aggregate.Types) *eventstore.Store { return eventstore.New(db, types) }
