// Package postgres is the unit of work and the pool of connections. The tables that it brings together are its children:
// eventstore, inbox, outbox, readmodel, deadletter.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
)

// Open makes a pool of at most maxConns connections. It does not connect yet; the error is about the DSN.
func Open(dsn string, maxConns int) (*sqlx.DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("not a PostgreSQL connection string: %w", err)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "millrace"
	}
	if config.RuntimeParams["lock_timeout"] == "" {
		// Who waits for a lock holds up a partition; after a while its message is better tried again later.
		config.RuntimeParams["lock_timeout"] = "5s"
	}
	if config.RuntimeParams["idle_in_transaction_session_timeout"] == "" {
		// An instance that is stopped in the middle of a unit of work must not keep its locks from others.
		config.RuntimeParams["idle_in_transaction_session_timeout"] = "15s"
	}
	db := sqlx.NewDb(stdlib.OpenDB(*config, stdlib.OptionAfterConnect(prepare)), "pgx")
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, nil
}

// Wait pings until the database answers or patience ends. It says once a second what it waits for. What time cannot mend
// (a wrong password, no such database) ends it at once.
func Wait(ctx context.Context, db *sqlx.DB, patience time.Duration, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code != "57P03" && pg.Code != "53300" {
			return fmt.Errorf("PostgreSQL refuses us: %s", pg.Message)
		}
		log.Warn("waiting for PostgreSQL", "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL did not answer within %s: %w", patience, err)
		case <-time.After(time.Second):
		}
	}
}
