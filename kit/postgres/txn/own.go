package txn

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Own is a connection beside the pool, so that a busy pool does not delay it. It is opened when it is used, and again after an error. It is for one
// goroutine.
type Own struct {
	dsn      string
	defaults map[string]string
	*pgx.Conn
}

// NewOwn makes an Own of a DSN and parameters of the session that the DSN lacks.
func NewOwn(dsn string, defaults map[string]string) *Own { return &Own{dsn: dsn, defaults: defaults} }

// Open opens the connection if it is not open.
func (o *Own) Open(ctx context.Context) error {
	if o.Conn != nil && !o.IsClosed() {
		return nil
	}
	config, err := Config(o.dsn, o.defaults)
	if err != nil {
		return err
	}
	o.Conn, err = pgx.ConnectConfig(ctx, config)
	return err
}

// Close closes the connection within a second.
func (o *Own) Close() error {
	if o.Conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := o.Conn.Close(ctx)
	o.Conn = nil
	return err
}
