package views_test

import (
	"net/url"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	kitmigrations "github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/migrations"
)

// TestFormerNamesOfTablesDuringARollingUpdate writes with a role that does not own the tables, by the table names that the previous version uses.
func TestFormerNamesOfTablesDuringARollingUpdate(t *testing.T) {
	db, dsn := kittest.Database(t, migrations.Files)
	schema := kitmigrations.New(migrations.Files)
	var renamed string
	for !t.Failed() { // down to the version before the tables were renamed
		require.NoError(t, db.Get(&renamed, `SELECT COALESCE(to_regclass('saga_instances')::text, '')`))
		if renamed == "" {
			break
		}
		require.NoError(t, schema.Down(t.Context(), db.DB))
	}
	require.NoError(t, db.Get(&renamed, `SELECT COALESCE(to_regclass('order_rows')::text, '')`))
	require.Empty(t, renamed, "the service's migrations are taken back before the kit's")

	t.Run("saga_rows", func(t *testing.T) {
		former := restricted(t, db, dsn, "saga_rows")
		require.NoError(t, schema.Up(t.Context(), db.DB))
		for _, status := range []string{"running", "completed"} {
			_, err := former.Exec(`INSERT INTO saga_rows AS s (saga_id, definition, subject, status, started_at, version) VALUES ('s', 'd', 's', $1, now(), 1)
				ON CONFLICT (saga_id) DO UPDATE SET status = excluded.status`, status)
			require.NoError(t, err)
		}
		var status string
		require.NoError(t, db.Get(&status, `SELECT status FROM saga_instances`))
		require.Equal(t, "completed", status)
	})
	t.Run("stock_rows", func(t *testing.T) {
		require.NoError(t, schema.Down(t.Context(), db.DB))
		former := restricted(t, db, dsn, "stock_rows")
		require.NoError(t, schema.Up(t.Context(), db.DB))
		for range 2 {
			_, err := former.Exec(`INSERT INTO stock_rows AS s (sku, received, on_hand, reserved, version) VALUES ('MUG-01', 1, 1, 0, 1)
				ON CONFLICT (sku) DO UPDATE SET received = s.received + excluded.received`)
			require.NoError(t, err)
		}
		var received int
		require.NoError(t, former.Get(&received, `SELECT received FROM stock_rows WHERE sku = 'MUG-01' FOR UPDATE`))
		require.Equal(t, 2, received)
		require.NoError(t, db.Get(&received, `SELECT received FROM stock_view`))
		require.Equal(t, 2, received)
	})
}

// restricted connects as a role that may read and write one table.
func restricted(t *testing.T, db *sqlx.DB, dsn, table string) *sqlx.DB {
	t.Helper()
	role := newRole(t, db)
	_, err := db.Exec(`GRANT SELECT, INSERT, UPDATE, DELETE ON ` + table + ` TO ` + role)
	require.NoError(t, err)
	return sqlx.NewDb(kittest.OpenDB(t, loginAs(t, dsn, role)), "pgx")
}

// newRole makes a role that owns nothing.
func newRole(t *testing.T, db *sqlx.DB) (name string) {
	t.Helper()
	require.NoError(t, db.Get(&name, `SELECT current_database() || '_' || count(*) FROM pg_roles`))
	_, err := db.Exec(`CREATE ROLE ` + name + ` LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA public TO ` + name)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := db.Exec(`DROP OWNED BY ` + name + `; DROP ROLE ` + name)
		require.NoError(t, err)
	})
	return name
}

// loginAs is the DSN for a role of newRole.
func loginAs(t *testing.T, dsn, role string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.User = url.UserPassword(role, "x")
	return u.String()
}
