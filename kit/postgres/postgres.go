// Package postgres is the unit of work: a message's inbox row, the aggregates that its handler changes and the messages that the handler
// sends are committed together or not at all. Units that end at the same time share a transaction. The tables belong to the packages below
// it: eventstore, inbox, outbox, keyqueue, deadletter, readmodel.
package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// Connector makes connections with the session settings that this package needs: time limits for waiting for locks and for idle transactions.
// It does not connect.
func Connector(dsn string) (driver.Connector, error) {
	config, err := txn.Config(dsn, map[string]string{
		"application_name": "millrace",
		// A unit of work that waits for a lock blocks a partition, so it gives up after a while and its message is retried later.
		"lock_timeout": "5s",
		// An instance that is stopped in the middle of a unit of work must not keep its locks.
		"idle_in_transaction_session_timeout": "15s",
	})
	if err != nil {
		return nil, err
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	return stdlib.GetConnector(*config), nil
}

// Pool makes a pool of connections of Connector. It does not connect.
func Pool(dsn string, maxConns int) (*sql.DB, error) {
	connector, err := Connector(dsn)
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(maxConns)
	pool.SetMaxIdleConns(maxConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	return pool, nil
}

// Open is Pool with sqlx.
func Open(dsn string, maxConns int) (*sqlx.DB, error) {
	pool, err := Pool(dsn, maxConns)
	if err != nil {
		return nil, err
	}
	return sqlx.NewDb(pool, "pgx"), nil
}

// Wait pings until the database answers or patience is over, and logs once a second. An error that waiting cannot fix (a wrong password, an
// unknown database) ends it at once.
func Wait(ctx context.Context, db *sqlx.DB, patience time.Duration, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code != pgCannotConnectNow && pg.Code != pgTooManyConnections {
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

// CheckSession refuses a search_path without a schema, and a pooler that gives a session another server connection for each transaction. It
// opens two connections at the same time: with transaction pooling they share a server connection, or one of them gets several.
func CheckSession(ctx context.Context, dsn string) error {
	config, err := txn.Config(dsn, nil)
	if err != nil {
		return err
	}
	var conns [2]*pgx.Conn
	for i := range conns {
		if conns[i], err = pgx.ConnectConfig(ctx, config); err != nil {
			return txn.Classify(err, "connect")
		}
		defer conns[i].Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only asked
	}
	var schema *string
	var path string
	if err := conns[0].QueryRow(ctx, `SELECT current_schema(), current_setting('search_path')`, pgx.QueryExecModeExec).Scan(&schema, &path); err != nil {
		return txn.Classify(err, "ask for the schema")
	}
	if schema == nil {
		return fmt.Errorf("POSTGRES_DSN: its search_path %q names no schema that exists: create it first", path)
	}
	var pids [2]uint32
	for range 5 {
		for i, conn := range conns {
			var pid uint32
			if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`, pgx.QueryExecModeExec).Scan(&pid); err != nil {
				return txn.Classify(err, "ask for the connection")
			}
			if pids[i] != 0 && pids[i] != pid {
				return errTransactionPooling
			}
			pids[i] = pid
		}
		if pids[0] == pids[1] {
			return errTransactionPooling
		}
	}
	return nil
}

var errTransactionPooling = errors.New("POSTGRES_DSN: a pooler in front of PostgreSQL gives each transaction another connection (pool_mode = transaction or statement): the service needs pool_mode = session, for LISTEN and prepared statements")
