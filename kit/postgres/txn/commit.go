// One commit of several units: one transaction, one round trip, all or none. TestGroupCommit and TestCommitWhileATableIsLocked show it.

package txn

import (
	"cmp"
	"context"
	"database/sql"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
)

// Waits limits how long each statement of a commit may wait for a lock, and how long it may run. Zero keeps the setting of the connection.
type Waits struct{ Lock, Statement time.Duration }

var setWaits statement = &Statement[Waits]{
	Doing: "set time limits",
	Query: func(w []Waits) (string, []any, error) {
		return `SELECT set_config('lock_timeout', COALESCE(NULLIF($1, '0'), current_setting('lock_timeout')), true),
			set_config('statement_timeout', COALESCE(NULLIF($2, '0'), current_setting('statement_timeout')), true)`,
			[]any{milliseconds(w[0].Lock), milliseconds(w[0].Statement)}, nil
	},
}

// Commit commits units in one transaction and one round trip, all or none. A unit with a transaction of its own commits alone.
func Commit(ctx context.Context, db *sqlx.DB, units []*Unit) error {
	return CommitWithin(ctx, db, units, Waits{})
}

// CommitWithin is Commit with time limits for each statement. A statement that exceeds one fails with a *WaitError.
func CommitWithin(ctx context.Context, db *sqlx.DB, units []*Unit, limits Waits) error {
	b, statements, err := batchOf(units, limits)
	if err != nil {
		return err
	}
	if u := units[0]; u.tx != nil {
		if err := send(ctx, u.conn.Conn, b, statements); err != nil {
			return err
		}
		return Classify(u.tx.Commit(), "commit")
	}
	if b.Len() == 0 {
		return nil
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return Classify(err, "commit")
	}
	defer conn.Close() //nolint:errcheck // back to the pool
	if limits.Lock > 0 {
		if err := parseOnce(ctx, conn, b, statements, limits.Lock); err != nil {
			return err
		}
	}
	return send(ctx, conn, b, statements)
}

// parseOnce makes a connection parse statements that are new to it within a time limit. PostgreSQL locks the tables of a statement to parse
// it, and the driver prepares statements before the batch sets its time limits, so without this the preparation could wait for a lock without
// limit.
func parseOnce(ctx context.Context, conn *sql.Conn, b *pgx.Batch, statements []statement, lock time.Duration) error {
	return conn.Raw(func(driver any) (err error) {
		pg := driver.(interface{ Conn() *pgx.Conn }).Conn().PgConn()
		limited := false
		for i, q := range b.QueuedQueries {
			seen := "millrace parsed " + q.SQL
			if pg.CustomData()[seen] != nil {
				continue
			}
			if !limited {
				limited = true
				if err := pg.Exec(ctx, `BEGIN; SET LOCAL lock_timeout = `+milliseconds(lock)).Close(); err != nil {
					return Classify(err, "set time limits")
				}
				// The end of the transaction restores what the connection was set to. RESET would not: it takes the server's value.
				defer func() { err = cmp.Or(err, Classify(pg.Exec(ctx, `ROLLBACK`).Close(), "set time limits")) }()
			}
			if _, err := pg.Prepare(ctx, "", q.SQL, nil); err != nil {
				return waited(statements[i], Classify(err, statements[i].doing()))
			}
			pg.CustomData()[seen] = true
		}
		return nil
	})
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// send sends a batch in one round trip. Outside a transaction PostgreSQL executes a batch as one transaction.
func send(ctx context.Context, conn *sql.Conn, b *pgx.Batch, statements []statement) error {
	if b.Len() == 0 {
		return nil
	}
	return conn.Raw(func(driver any) error {
		results := sender(driver).SendBatch(ctx, b)
		err := error(nil)
		for i, q := range b.QueuedQueries {
			if q.Fn != nil {
				err = q.Fn(results)
			} else {
				_, err = results.Exec()
			}
			if err != nil {
				err = waited(statements[i], Classify(err, statements[i].doing()))
				break
			}
		}
		if closing := results.Close(); err == nil {
			err = Classify(closing, "commit")
		}
		return err
	})
}

// Send sends statements in one round trip: in the unit's own transaction if it has one, else in a transaction for this batch. Each statement
// reads its own result.
func Send(ctx context.Context, db *sqlx.DB, u *Unit, b *pgx.Batch) error {
	if u != nil && u.conn != nil {
		return u.conn.Raw(func(driver any) error { return sender(driver).SendBatch(ctx, b).Close() })
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // back to the pool
	return conn.Raw(func(driver any) error { return sender(driver).SendBatch(ctx, b).Close() })
}

type batchSender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// sender is pgx's connection below that of database/sql.
func sender(driver any) batchSender {
	if s, ok := driver.(batchSender); ok {
		return s
	}
	return driver.(*stdlib.Conn).Conn()
}
