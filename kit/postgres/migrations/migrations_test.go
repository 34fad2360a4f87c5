package migrations_test

import (
	"database/sql"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// service is a service's migrations: a table that a database of the version before has already, and one that is new.
var service = fstest.MapFS{
	"00001_views.sql": {Data: []byte("-- +goose Up\nCREATE TABLE IF NOT EXISTS order_rows (id text);\n-- +goose Down\nDROP TABLE order_rows;\n")},
	"00002_more.sql":  {Data: []byte("-- +goose Up\nCREATE TABLE more (id text);\n-- +goose Down\nDROP TABLE more;\n")},
}

func versions(t *testing.T, db *sql.DB, s migrations.Schema) (applied []string) {
	t.Helper()
	all, err := s.List(t.Context(), db)
	require.NoError(t, err)
	for _, v := range all {
		if v.Applied {
			applied = append(applied, fmt.Sprint(v.Set, " ", v.Version))
		}
	}
	return applied
}

// before makes the version table of the time when kit and service shared one sequence.
func before(t *testing.T, db *sql.DB, own ...int) {
	t.Helper()
	for slices.Contains(versions(t, db, migrations.New(nil)), "kit 11") {
		require.NoError(t, migrations.New(nil).Down(t.Context(), db))
	}
	_, err := db.Exec(`ALTER TABLE kit_migrations RENAME TO goose_db_version; DROP TABLE IF EXISTS service_migrations; CREATE TABLE order_rows (id text)`)
	require.NoError(t, err)
	for _, version := range own {
		_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)`, version)
		require.NoError(t, err)
	}
}

func TestDatabaseOfTheVersionBefore(t *testing.T) {
	db, _ := kittest.Database(t)
	before(t, db.DB, 11)
	own := fstest.MapFS{"00011_own.sql": {Data: []byte("-- +goose Up\nSELECT 1/0;\n")}} // applied before, so it must not run again
	maps.Copy(own, service)
	schema := migrations.New(own)
	var instances sync.WaitGroup
	for range 3 {
		instances.Go(func() {
			if err := schema.Up(t.Context(), db.DB); err != nil {
				t.Error(err)
			}
		})
	}
	instances.Wait()
	require.NoError(t, schema.Check(t.Context(), db.DB))
	require.Equal(t, []string{
		"kit 1", "kit 2", "kit 3", "kit 4", "kit 5", "kit 6", "kit 7", "kit 8", "kit 9", "kit 10", "kit 11", "kit 12", "kit 13", "kit 14", "service 1", "service 2", "service 11",
	}, versions(t, db.DB, schema))
	var newest int
	require.NoError(t, db.Get(&newest, `SELECT max(version_id) FROM goose_db_version`))
	require.Equal(t, 12, newest, "so that a program of the version before refuses to start")
}

// Messages that wait get their new shards, and while a relay of the version before may still send, nobody holds one.
func TestShardsOfTheVersionBefore(t *testing.T) {
	db, _ := kittest.Database(t)
	schema := migrations.New(nil)
	before := func() {
		for slices.Contains(versions(t, db.DB, schema), "kit 13") {
			require.NoError(t, schema.Down(t.Context(), db.DB))
		}
	}
	before()
	shards := func() (found []int) {
		require.NoError(t, db.Select(&found, `SELECT shard FROM outbox ORDER BY id`))
		return found
	}
	// "topic" and "key" as the version before divided them, and keys with any hash; the third is delayed, the fourth has no key
	db.MustExec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at) VALUES
		('1', 'topic', 'key', 15, '', '{}', NULL), ('2', 'topic', 'ключ', 7, '', '{}', NULL), ('3', 'topic', 'key', 15, '', '{}', 'infinity'), ('4', 'topic', '', 1, '', '{}', NULL)`)
	require.NoError(t, schema.Up(t.Context(), db.DB))
	of := func(key string) int { return int(outbox.ShardOf("topic", key)) }
	require.Equal(t, []int{of("key"), of("ключ"), of("key"), of("")}, shards())
	var free int
	require.NoError(t, db.Get(&free, `SELECT count(*) FROM relay_leases WHERE owner IS NULL AND shard >= $1`, outbox.FirstShard))
	require.Equal(t, outbox.Shards, free, "no relay runs")

	before()
	former := func(key string) int {
		h := fnv.New32a()
		_, _ = h.Write([]byte("topic\x00" + key)) // a hash takes everything
		return int(h.Sum32() % 16)
	}
	require.Equal(t, []int{former("key"), former("ключ"), former("key"), former("")}, shards())
	db.MustExec(`INSERT INTO relays (owner, host, since, expires_at) VALUES ('r', 'h', now(), app_now() + interval '2 s')`)
	db.MustExec(`UPDATE relay_leases SET owner = 'r', expires_at = app_now() + interval '2 s'`)
	require.NoError(t, schema.Up(t.Context(), db.DB))
	require.NoError(t, db.Get(&free, `SELECT count(*) FROM relay_leases WHERE owner IS NULL OR expires_at < app_now() + interval '4 s'`))
	require.Zero(t, free, "a relay may still send")
	for range 2 { // with a row of the first time
		before()
		require.NoError(t, schema.Up(t.Context(), db.DB))
	}

	// What a relay of the version before does with a message that Kafka refuses: it looks for those behind it in the former shard.
	db.MustExec(`UPDATE outbox SET due_at = CASE id WHEN 1 THEN NULL ELSE '-infinity'::timestamptz END`)
	db.MustExec(`INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, attempts, outbox_id, first_at, last_at)
		SELECT '1@relay', 'relay', '1', topic, key, '{}', '', 'refused', 2, id, now(), now() FROM outbox WHERE id = 1`)
	var blocked []int
	require.NoError(t, db.Select(&blocked, `SELECT id FROM outbox WHERE due_at = 'infinity' ORDER BY id`))
	require.Equal(t, []int{3}, blocked, "the one of its key behind it")
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	for _, table := range []string{"kit_migrations", "service_migrations"} {
		db, _ := kittest.Database(t, service)
		_, err := db.Exec(`INSERT INTO ` + table + ` (version_id, is_applied) VALUES (99, true)`)
		require.NoError(t, err)
		for _, err := range []error{migrations.New(service).Up(t.Context(), db.DB), migrations.New(service).Check(t.Context(), db.DB)} {
			require.ErrorIs(t, err, migrations.ErrNewer)
			require.ErrorContains(t, err, "it is at version 99 of "+table)
		}
	}
}

func TestOlderDatabaseIsNamed(t *testing.T) {
	db, _ := kittest.Database(t)
	require.ErrorContains(t, migrations.New(service).Check(t.Context(), db.DB), "older than this program (service_migrations): run `migrate up`")
	require.NoError(t, migrations.New(service).Up(t.Context(), db.DB))
	require.NoError(t, migrations.New(service).Down(t.Context(), db.DB))
	require.ErrorContains(t, migrations.New(service).Check(t.Context(), db.DB), "older than this program (service_migrations): run `migrate up`")
}

// Down takes back the service's versions first, then the kit's, down to an empty database; Up makes all of them again.
func TestDownAndUpAgain(t *testing.T) {
	db, _ := kittest.Database(t, service)
	schema := migrations.New(service)
	all := versions(t, db.DB, schema)
	for i := range slices.Backward(all) {
		require.NoError(t, schema.Down(t.Context(), db.DB))
		require.Equal(t, append([]string(nil), all[:i]...), versions(t, db.DB, schema))
	}
	require.NoError(t, schema.Up(t.Context(), db.DB))
	require.Equal(t, all, versions(t, db.DB, schema))
}
