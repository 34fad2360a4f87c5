package outbox

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// channel is the name of the notifications' channel, in SQL. Channels are global to the database, which services share that have a schema
// each.
const channel = `'millrace_outbox_' || md5(current_schema())`

func notify(ctx context.Context, db *sqlx.DB) error {
	_, err := db.ExecContext(ctx, `SELECT pg_notify(`+channel+`, '')`)
	return err
}

// Notifier wakes the relays of other instances after a commit. It notifies outside the transaction, because NOTIFY makes commits queue for
// one lock, and at most once in a few milliseconds.
type Notifier struct {
	db      *sqlx.DB
	pending chan struct{}
}

// NewNotifier makes a Notifier. Run starts it.
func NewNotifier(db *sqlx.DB) *Notifier { return &Notifier{db, make(chan struct{}, 1)} }

// Notify requests a notification of the other instances. It does not block.
func (n *Notifier) Notify() {
	select {
	case n.pending <- struct{}{}:
	default:
	}
}

// Run sends until ctx is done.
func (n *Notifier) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.pending:
			_ = notify(ctx, n.db) // relays look by themselves once a second
			pause(ctx, 5*time.Millisecond)
		}
	}
}

// listen calls wake for every notification, and once after each new connection.
func listen(ctx context.Context, dsn string, log *slog.Logger, wake func()) {
	for ctx.Err() == nil {
		err := func() error {
			config, err := txn.Config(dsn, map[string]string{"application_name": "millrace relay"})
			if err != nil {
				return err
			}
			conn, err := pgx.ConnectConfig(ctx, config)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it
			var name string
			if err := conn.QueryRow(ctx, `SELECT `+channel).Scan(&name); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{name}.Sanitize()); err != nil { //nolint:misspell // its author's spelling
				return err
			}
			for {
				wake()
				if _, err := conn.WaitForNotification(ctx); err != nil {
					return err
				}
			}
		}()
		if err != nil && ctx.Err() == nil {
			log.Warn("relay: not listening for other instances' commits", "error", err)
			pause(ctx, time.Second)
		}
	}
}
