package txn

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// inStartup are the parameters of a session that stay in the startup message: PgBouncer knows them, or they cannot be set later.
var inStartup = []string{"application_name", "client_encoding", "options", "replication"}

// Config reads a DSN and adds parameters of the session that it lacks. They are set after connecting (search_path, lock_timeout, …), because
// PgBouncer refuses a startup message with parameters that it does not know.
func Config(dsn string, defaults map[string]string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("not a PostgreSQL connection string: %w", err)
	}
	later := maps.Clone(defaults)
	if later == nil {
		later = map[string]string{}
	}
	maps.Copy(later, config.RuntimeParams)
	for _, name := range inStartup {
		if value, ok := later[name]; ok {
			config.RuntimeParams[name] = value
			delete(later, name)
		}
	}
	for name := range later {
		delete(config.RuntimeParams, name)
	}
	names := slices.Sorted(maps.Keys(later))
	config.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		for _, name := range names {
			values := [][]byte{[]byte(name), []byte(later[name])}
			if err := conn.ExecParams(ctx, `SELECT set_config($1, $2, false)`, values, nil, nil, nil).Read().Err; err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
		return nil
	}
	return config, nil
}
