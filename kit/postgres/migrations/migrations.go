// Package migrations holds the schema of the kit's tables and applies it, before the migrations of the service. Each of the two sets has its own
// numbers and its own version table, so that an upgrade of the kit never collides with a migration of the service.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed *.sql
var files embed.FS

// ErrNewer says that a newer program has migrated the database.
var ErrNewer = errors.New("the database's schema is newer than this program")

// Status is one version of the schema.
type Status struct {
	Set     string // kit or service
	Version int64
	Name    string
	Applied bool
}

// set is a sequence of migrations.
type set struct {
	name  string
	files fs.FS
}

// table is the table in which goose stores the applied versions of the set.
func (s set) table() string { return s.name + "_migrations" }

// Schema is the kit's migrations and those of a service.
type Schema struct{ sets []set }

// New makes the schema of a service. Service has its migrations, 00001_what.sql and so on in goose's format; nil if the service has no tables
// of its own.
func New(service fs.FS) Schema {
	sets := []set{{"kit", files}}
	if service != nil {
		if found, err := fs.Glob(service, "*.sql"); err == nil && len(found) > 0 {
			sets = append(sets, set{"service", service})
		}
	}
	return Schema{sets}
}

func (s set) provider(db *sql.DB) (*goose.Provider, error) {
	store, err := database.NewStore(goose.DialectPostgres, s.table())
	if err != nil {
		return nil, err
	}
	// A service that was made before its migrations had their own numbers begins with numbers after the kit's: a lower one that comes later is
	// applied too.
	return goose.NewProvider("", db, s.files, goose.WithStore(store), goose.WithAllowOutofOrder(true))
}

// Up migrates the schema to this program's version. Several instances may call it at once: a session lock lets one after the other pass. The
// error wraps ErrNewer if the schema is newer.
func (s Schema) Up(ctx context.Context, db *sql.DB) error {
	// The lock is one of its schema, because several services may share a database. It is held by one connection and ends with it.
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer conn.Close() //nolint:errcheck // it goes back to the pool
	var before string
	if err := conn.QueryRowContext(ctx, `SHOW lock_timeout`).Scan(&before); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := conn.ExecContext(ctx, `SET lock_timeout = 0`); err != nil { // a migration of another instance may take long
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(hashtextextended('millrace migrations ' || current_schema(), 0))`); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer func() {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtextextended('millrace migrations ' || current_schema(), 0))`)
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `SELECT set_config('lock_timeout', $1, false)`, before)
	}()
	if err := takeOver(ctx, db); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, set := range s.sets {
		p, err := set.provider(db)
		if err != nil {
			return fmt.Errorf("migrate: %s: %w", set.name, err)
		}
		if err := checkNotNewer(ctx, p, set); err != nil {
			return err
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate: %s: %w", set.name, err)
		}
	}
	return nil
}

// lastShared is the last version of the kit from the time when kit and service shared one sequence, in goose_db_version.
const lastShared = 10

// takeOver splits the version table of a database that was made when kit and service shared one sequence: versions up to lastShared are the
// kit's, later ones the service's. The old table stays and gets a version that older programs do not know, so that they refuse to start.
func takeOver(ctx context.Context, db *sql.DB) error {
	var shared bool
	err := db.QueryRowContext(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL AND to_regclass('kit_migrations') IS NULL
		AND to_regclass('events') IS NOT NULL AND to_regclass('outbox') IS NOT NULL`).Scan(&shared)
	if err != nil || !shared {
		return err
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf(`BEGIN;
		CREATE TABLE kit_migrations (LIKE goose_db_version INCLUDING ALL);
		CREATE TABLE service_migrations (LIKE goose_db_version INCLUDING ALL);
		INSERT INTO kit_migrations (version_id, is_applied, tstamp) SELECT version_id, is_applied, tstamp FROM goose_db_version WHERE version_id <= %[1]d ORDER BY id;
		INSERT INTO service_migrations (version_id, is_applied, tstamp) SELECT version_id, is_applied, tstamp FROM goose_db_version
			WHERE version_id = 0 OR version_id > %[1]d ORDER BY id;
		INSERT INTO goose_db_version (version_id, is_applied) SELECT greatest(max(version_id), %[1]d) + 1, true FROM goose_db_version;
		COMMIT`, lastShared))
	return err
}

func checkNotNewer(ctx context.Context, p *goose.Provider, s set) error {
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if current > target {
		return fmt.Errorf("%w: it is at version %d of %s, this program knows up to %d; start the newer program, or restore a backup", ErrNewer, current, s.table(), target)
	}
	return nil
}

// Check returns an error if the schema is not exactly this program's.
func (s Schema) Check(ctx context.Context, db *sql.DB) error {
	for _, set := range s.sets {
		older := fmt.Errorf("the database's schema is older than this program (%s): run `migrate up`", set.table())
		var there bool
		if err := db.QueryRowContext(ctx, `SELECT to_regclass($1) IS NOT NULL`, set.table()).Scan(&there); err != nil {
			return fmt.Errorf("read the schema's version: %w", err)
		}
		if !there { // goose would make the table, which the role of a service need not be allowed to
			return older
		}
		p, err := set.provider(db)
		if err != nil {
			return err
		}
		if err := checkNotNewer(ctx, p, set); err != nil {
			return err
		}
		pending, err := p.HasPending(ctx)
		if err != nil {
			return fmt.Errorf("read the schema's version: %w", err)
		}
		if pending {
			return older
		}
	}
	return nil
}

// Down reverts the newest version: of the service's migrations while one is applied, then of the kit's. The data of its tables is lost.
func (s Schema) Down(ctx context.Context, db *sql.DB) error {
	for _, set := range slices.Backward(s.sets) {
		p, err := set.provider(db)
		if err != nil {
			return err
		}
		switch _, err := p.Down(ctx); {
		case errors.Is(err, goose.ErrNoNextVersion):
			continue
		case err != nil:
			return fmt.Errorf("migrate down: %s: %w", set.name, err)
		}
		return nil
	}
	return nil
}

// List returns every version that this program knows, the kit's first.
func (s Schema) List(ctx context.Context, db *sql.DB) ([]Status, error) {
	var out []Status
	for _, set := range s.sets {
		p, err := set.provider(db)
		if err != nil {
			return nil, err
		}
		states, err := p.Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("migrate status: %w", err)
		}
		for _, v := range states {
			out = append(out, Status{set.name, v.Source.Version, v.Source.Path, v.State == goose.StateApplied})
		}
	}
	return out, nil
}
