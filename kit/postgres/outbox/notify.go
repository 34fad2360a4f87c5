// Notifications between instances. They save time only: a relay that gets none finds its rows at its next poll. TestRelaysShareTheShards and
// TestNotificationIsAboutShards show it.

package outbox

import (
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// channel is the name of the notifications' channel, in SQL. Channels are global to the database, which services share that have a schema
// each.
const channel = `'millrace_outbox_' || md5(current_schema())`

// parts is what was written: a bit for each shard, by its number, and one for delayed messages.
type parts uint32

const (
	delayed  parts = 1 // no shard has the number 0
	allParts       = ^parts(0)
)

func partOf(shard int16) parts { return 1 << shard }

// parse reads a notification. A notification of a former version, or one that cannot be parsed, is about all shards.
func parse(notification string) parts {
	n, err := strconv.ParseUint(notification, 16, 32)
	if err != nil {
		return allParts
	}
	return parts(n)
}

func notify(ctx context.Context, db *sqlx.DB, p parts) error {
	_, err := db.ExecContext(ctx, `SELECT pg_notify(`+channel+`, $1)`, strconv.FormatUint(uint64(p), 16))
	return err
}

// Notifier wakes the relays of other instances after a commit. It notifies outside the transaction, because NOTIFY makes commits queue for
// one lock, and at most once in a few milliseconds. A notification says of which shards messages were written, so that it wakes only the relays that hold
// them.
type Notifier struct {
	db      *sqlx.DB
	written atomic.Uint32 // parts
	pending chan struct{}
}

// NewNotifier makes a Notifier. Run starts it.
func NewNotifier(db *sqlx.DB) *Notifier { return &Notifier{db: db, pending: make(chan struct{}, 1)} }

// Notify requests a notification of the relays that are to send the messages. It does not block.
func (n *Notifier) Notify(written []*Message) {
	var p parts
	for _, w := range written {
		if w.Message.Metadata[cqrs.HeaderDue] != "" {
			p |= delayed
		} else {
			p |= partOf(w.shard())
		}
	}
	n.request(p)
}

// NotifyAll requests a notification of all relays, to read all that they hold. It does not block.
func (n *Notifier) NotifyAll() { n.request(allParts) }

func (n *Notifier) request(p parts) {
	if p == 0 {
		return
	}
	n.written.Or(uint32(p))
	wake(n.pending)
}

// Run sends until ctx is done.
func (n *Notifier) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.pending:
			if p := parts(n.written.Swap(0)); p != 0 {
				_ = notify(ctx, n.db, p) // relays look by themselves once a second
			}
			pause(ctx, 5*time.Millisecond)
		}
	}
}

// notified wakes the lanes or the timer goroutine. Shards that this relay takes later are read then.
func (r *Relay) notified(p parts) {
	if p&delayed != 0 {
		wake(r.timers)
	}
	for shard := range r.leases.holds() {
		if p&partOf(shard) != 0 {
			for _, l := range r.lanes {
				wake(l.wake)
			}
			return
		}
	}
}

// listen calls notified for every notification, and connected after each new connection: notifications may have been lost, and a database that has crashed may have
// brought back rows that were deleted without waiting for its disk.
func listen(ctx context.Context, dsn string, log *slog.Logger, connected func(), notified func(parts)) {
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
			connected()
			for {
				n, err := conn.WaitForNotification(ctx)
				if err != nil {
					return err
				}
				notified(parse(n.Payload))
			}
		}()
		if err != nil && ctx.Err() == nil {
			log.Warn("relay: not listening for other instances' commits", "error", err)
			pause(ctx, time.Second)
		}
	}
}
