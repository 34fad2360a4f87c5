package views_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/adapters/views"
	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
	kitmigrations "github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/migrations"
)

// storeOrders stores the events of n orders that are placed and cancelled.
func storeOrders(t *testing.T, db *sqlx.DB, first, n int) {
	t.Helper()
	_, err := db.Exec(`INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
		SELECT 'orders/o' || i, v, nextval('events_position'), CASE v WHEN 1 THEN 'order.placed' ELSE 'order.cancelled' END, CASE v WHEN 1 THEN 2 ELSE 1 END,
			CASE v WHEN 1 THEN json_build_object('order_id', 'o' || i, 'customer_id', 'ada', 'lines', '[]'::json, 'total', json_build_object('amount', i, 'currency', 'EUR'))
				ELSE json_build_object('order_id', 'o' || i, 'reason', 'reason ' || i) END,
			json_build_object('id', 'e' || i || '-' || v), now()
		FROM generate_series($1::int, $2::int) i, generate_series(1, 2) v ORDER BY i, v`, first, first+n-1)
	require.NoError(t, err)
}

func rebuilding(dsn string) postgres.Rebuilding {
	return postgres.Rebuilding{
		DSN: dsn, Table: "order_view", Projection: projection.Orders(views.Orders{}), Types: order.Types, Progress: func(int, int64, int64) {},
		Failed: func(_ context.Context, _ cqrs.Event, cause error) error { return cause },
	}
}

func rows(t *testing.T, db *sqlx.DB) (n int) {
	t.Helper()
	require.NoError(t, db.Get(&n, `SELECT count(*) FROM order_view`))
	return n
}

// schemaOf lists the indexes, constraints and grants of a table.
func schemaOf(t *testing.T, db *sqlx.DB, table string) (all []string) {
	t.Helper()
	require.NoError(t, db.Select(&all, `
		SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = $1::regclass
		UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::regclass
		UNION ALL SELECT relacl::text || pg_get_userbyid(relowner) || oid FROM pg_class WHERE oid = $1::regclass ORDER BY 1`, table))
	return all
}

func TestRebuildKeepsIndexesConstraintsAndGrants(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	_, err := db.Exec(`GRANT SELECT ON order_view TO pg_monitor`)
	require.NoError(t, err)
	storeOrders(t, db, 1, 3)
	before := schemaOf(t, db, "order_view")
	r := rebuilding(dsn)
	events, err := r.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 6, events)
	require.Equal(t, 3, rows(t, db))
	require.Equal(t, before, schemaOf(t, db, "order_view"))
	schema := kitmigrations.New(migrations.Files)
	for range 20 { // all versions, down to an empty database
		require.NoError(t, schema.Down(t.Context(), db.DB))
	}
}

func TestRebuildRepairsRowsAndLeavesEqualOnesAlone(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	storeOrders(t, db, 1, 100)
	first := rebuilding(dsn)
	_, err := first.Run(t.Context())
	require.NoError(t, err)
	var before, after []string
	untouched := `SELECT ctid::text || order_view::text FROM order_view WHERE order_id NOT IN ('o1', 'o2') ORDER BY 1`
	require.NoError(t, db.Select(&before, untouched))
	_, err = db.Exec(`UPDATE order_view SET total = -1 WHERE order_id = 'o1'; DELETE FROM order_view WHERE order_id = 'o2';
		INSERT INTO order_view SELECT 'stray', customer_id, status, reason, lines, total, currency, placed_at, updated_at, version FROM order_view WHERE order_id = 'o3'`)
	require.NoError(t, err)
	second := rebuilding(dsn)
	_, err = second.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 100, rows(t, db))
	require.NoError(t, db.Select(&after, untouched))
	require.Equal(t, before, after)
	var total int
	require.NoError(t, db.Get(&total, `SELECT total FROM order_view WHERE order_id = 'o1'`))
	require.Equal(t, 1, total)
}

// The grants are those of docs/guides/security.md for a role that does not own the tables.
func TestRebuildNeedsNoRightsButThoseOfTheGuide(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	storeOrders(t, db, 1, 3)
	role := newRole(t, db)
	_, err := db.Exec(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ` + role + `;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO ` + role)
	require.NoError(t, err)
	r := rebuilding(loginAs(t, dsn, role))
	_, err = r.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, rows(t, db))
}

// A rebuild that is interrupted at any point changes nothing.
func TestRebuildIsAllOrNothing(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	storeOrders(t, db, 1, 3)
	first := rebuilding(dsn)
	_, err := first.Run(t.Context())
	require.NoError(t, err)
	storeOrders(t, db, 4, 5000)

	ctx, cancel := context.WithCancel(t.Context())
	cancelled := rebuilding(dsn)
	cancelled.Progress = func(int, int64, int64) { cancel() }
	_, err = cancelled.Run(ctx)
	require.Error(t, err)
	require.Equal(t, 3, rows(t, db))
	ended(t, db)

	// The connection of the rebuild is killed while it holds the lock or waits for the lock.
	for _, state := range []string{"", "locked"} {
		killed := rebuilding(dsn)
		if state == "" {
			killed.Progress = func(int, int64, int64) { kill(t, db) }
		} else {
			tx := db.MustBegin()
			tx.MustExec(`LOCK TABLE order_view IN ROW EXCLUSIVE MODE`)
			go func() {
				defer tx.Rollback()
				kittest.Eventually(t, func() error {
					var waits int
					if err := db.Get(&waits, `SELECT count(*) FROM pg_locks WHERE relation = 'order_view'::regclass AND NOT granted`); err != nil || waits == 0 {
						return fmt.Errorf("nobody waits: %w", err)
					}
					kill(t, db)
					return nil
				})
			}()
		}
		_, err = killed.Run(t.Context())
		require.Error(t, err)
		require.Equal(t, 3, rows(t, db))
		ended(t, db)
	}
	last := rebuilding(dsn)
	_, err = last.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5003, rows(t, db))
}

// ended waits until PostgreSQL has ended the sessions of a rebuild and released its lock.
func ended(t *testing.T, db *sqlx.DB) {
	t.Helper()
	kittest.Eventually(t, func() error {
		var n int
		err := db.Get(&n, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'millrace rebuild' AND datname = current_database()`)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d sessions are left", n)
		}
		return err
	})
}

func kill(t *testing.T, db *sqlx.DB) {
	_, err := db.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'millrace rebuild' AND datname = current_database()`)
	if err != nil {
		t.Error(err)
	}
}

// A transaction that has appended events and stays open, like that of a stuck instance, does not delay the lock of a rebuild.
func TestRebuildCatchesUpUnderItsLock(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	storeOrders(t, db, 1, 10)
	r := rebuilding(dsn)
	late := false
	r.Projection.On = append([]cqrs.EventHandler(nil), r.Projection.On...)
	r.Progress = func(int, int64, int64) {
		if !late {
			late = true
			blocker := db.MustBegin()
			blocker.MustExec(`LOCK TABLE order_view IN ROW EXCLUSIVE MODE`) // like a projection that writes
			time.AfterFunc(time.Second, func() {
				storeOrders(t, db, 11, 10) // after the rebuild has caught up and before it has the lock
				_ = blocker.Commit()
			})
		}
	}
	events, err := r.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 40, events)
	require.Equal(t, 20, rows(t, db))
}

// An event that can never be processed becomes a dead letter, wherever it fails; the other events are processed.
func TestRebuildIsolatesABadEvent(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	storeOrders(t, db, 1, 5000)
	_, err := db.Exec(`ALTER TABLE order_view ADD CONSTRAINT poison CHECK (total <> 4711)`)
	require.NoError(t, err)
	r := rebuilding(dsn)
	var failed []string
	r.Failed = func(_ context.Context, e cqrs.Event, cause error) error {
		require.Error(t, cause)
		failed = append(failed, e.Meta.Subject+" "+e.Meta.Type)
		return nil
	}
	placed := r.Projection.On[0]
	r.Projection.On = append([]cqrs.EventHandler{{Type: placed.Type, Handle: func(ctx context.Context, e cqrs.Event) error {
		switch e.Key {
		case "o13":
			return errors.New("not today")
		case "o14":
			panic("boom")
		}
		return placed.Handle(ctx, e)
	}}}, r.Projection.On[1:]...)
	_, err = r.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 4997, rows(t, db))
	require.Equal(t, []string{
		"orders/o13 order.placed", "orders/o14 order.placed", "orders/o13 order.cancelled", "orders/o14 order.cancelled",
		"orders/o4711 order.placed", "orders/o4711 order.cancelled",
	}, failed)
}

// A provider's reason with a NUL character is stored as JSON, and cannot be stored as text.
func TestRebuildReplacesNULCharacters(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	storeOrders(t, db, 1, 2)
	_, err := db.Exec(`UPDATE events SET payload = '{"order_id": "o1", "reason": "declined\u0000here"}' WHERE stream = 'orders/o1' AND version = 2`)
	require.NoError(t, err)
	r := rebuilding(dsn)
	_, err = r.Run(t.Context())
	require.NoError(t, err)
	var reason string
	require.NoError(t, db.Get(&reason, `SELECT reason FROM order_view WHERE order_id = 'o1'`))
	require.Equal(t, "declined\uFFFDhere", reason)
}
