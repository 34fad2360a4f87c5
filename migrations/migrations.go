// Package migrations holds the database's schema, version by version, and applies it.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed *.sql
var files embed.FS

// ErrNewer says that the database was migrated by a newer program than this one.
var ErrNewer = errors.New("the database's schema is newer than this program")

// Status is one version of the schema.
type Status struct {
	Version int64
	Name    string
	Applied bool
}

func provider(db *sql.DB) (*goose.Provider, error) {
	return goose.NewProvider(goose.DialectPostgres, db, fs.FS(files))
}

// Up brings the schema to this program's version. Several instances may do so at once. The error wraps ErrNewer if the
// schema is ahead.
func Up(ctx context.Context, db *sql.DB) error {
	// One at a time in each schema: a session lock on a connection of its own, which goes with the connection.
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer conn.Close()                                                       //nolint:errcheck // it goes back to the pool
	if _, err := conn.ExecContext(ctx, `SET lock_timeout = 0`); err != nil { // another instance may take its time
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(hashtextextended('millrace migrations ' || current_schema(), 0))`); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer func() {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtextextended('millrace migrations ' || current_schema(), 0))`)
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `RESET lock_timeout`)
	}()
	p, err := provider(db)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := checkNotNewer(ctx, p); err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func checkNotNewer(ctx context.Context, p *goose.Provider) error {
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if current > target {
		return fmt.Errorf("%w: it is at version %d, this program knows up to %d; start the newer program, or restore a backup", ErrNewer, current, target)
	}
	return nil
}

// Check returns an error if the schema is not exactly this program's.
func Check(ctx context.Context, db *sql.DB) error {
	p, err := provider(db)
	if err != nil {
		return err
	}
	if err := checkNotNewer(ctx, p); err != nil {
		return err
	}
	pending, err := p.HasPending(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if pending {
		return errors.New("the database's schema is older than this program: run `migrate up`")
	}
	return nil
}

// Down takes the newest version back. All that its tables held is lost.
func Down(ctx context.Context, db *sql.DB) error {
	p, err := provider(db)
	if err != nil {
		return err
	}
	if _, err := p.Down(ctx); err != nil && !errors.Is(err, goose.ErrNoNextVersion) {
		return fmt.Errorf("migrate down: %w", err)
	}
	return nil
}

// List returns every version that this program knows.
func List(ctx context.Context, db *sql.DB) ([]Status, error) {
	p, err := provider(db)
	if err != nil {
		return nil, err
	}
	states, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate status: %w", err)
	}
	var out []Status
	for _, s := range states {
		out = append(out, Status{s.Source.Version, s.Source.Path, s.State == goose.StateApplied})
	}
	return out, nil
}
