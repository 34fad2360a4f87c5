package postgres_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// liar is a connection to PostgreSQL that at times reports a timeout, after executing the statements or without executing them.
type liar struct {
	driver.Connector
	mu     sync.Mutex
	chance *rand.Rand
	lies   int
}

// errTimeout is what a connection says that was cut in the middle.
var errTimeout = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}

func (l *liar) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := l.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &lyingConn{c.(pgxConn), l}, nil
}

// lie returns whether to do a thing, and what to say of it.
func (l *liar) lie() (do bool, say error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.chance.IntN(10) {
	case 0:
		l.lies++
		return true, errTimeout
	case 1:
		l.lies++
		return false, errTimeout
	}
	return true, nil
}

type pgxConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Pinger
	Conn() *pgx.Conn
}

type lyingConn struct {
	pgxConn
	liar *liar
}

func (c *lyingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	do, say := c.liar.lie()
	if !do {
		return nil, say
	}
	result, err := c.pgxConn.ExecContext(ctx, query, args)
	return result, errors.Join(err, say)
}

// SendBatch sends what units of work commit, or read.
func (c *lyingConn) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	do, say := c.liar.lie()
	if !do {
		return lyingResults{err: say}
	}
	return lyingResults{c.pgxConn.Conn().SendBatch(ctx, b), say}
}

type lyingResults struct {
	pgx.BatchResults
	err error
}

func (r lyingResults) Exec() (pgconn.CommandTag, error) {
	if r.BatchResults == nil {
		return pgconn.CommandTag{}, r.err
	}
	return r.BatchResults.Exec()
}

func (r lyingResults) Query() (pgx.Rows, error) {
	if r.BatchResults == nil {
		return nil, r.err
	}
	return r.BatchResults.Query()
}

func (r lyingResults) Close() error {
	if r.BatchResults == nil {
		return r.err
	}
	return errors.Join(r.BatchResults.Close(), r.err)
}

func (c *lyingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.pgxConn.BeginTx(ctx, o)
	if err != nil {
		return nil, err
	}
	return lyingTx{tx, c.liar}, nil
}

type lyingTx struct {
	driver.Tx
	liar *liar
}

func (t lyingTx) Commit() error {
	do, say := t.liar.lie()
	if !do {
		return errors.Join(t.Rollback(), say)
	}
	return errors.Join(t.Tx.Commit(), say)
}

// A commit reports a timeout although it took effect, or took no effect. The message is retried until it succeeds, and takes effect once.
func TestTimedOutCallThatTookEffect(t *testing.T) {
	_, dsn := kittest.Database(t)
	config, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	l := &liar{Connector: stdlib.GetConnector(*config), chance: rand.New(rand.NewPCG(seed, 0))}
	db := sqlx.NewDb(sql.OpenDB(l), "pgx")
	defer db.Close()
	store := eventstore.New(db, inventory.Types)
	b := &bus{publisher: outbox.NewPublisher(1_000_000, kittest.Insert)}
	w := &environment{db: db, bus: b, uow: postgres.NewUnitOfWork(db, store, b, time.Now)}
	w.stock = eventstore.NewRepository(store, inventory.Category, inventory.Rebuild, eventstore.Options{Contended: true})
	const messages = 150
	var handling sync.WaitGroup
	for part := range 5 {
		handling.Go(func() {
			for n := part; n < messages; n += 5 {
				for { // as the router does
					_, err := w.uow.Handle(context.Background(), command(fmt.Sprint("m-", n), fmt.Sprint("step-", n), cqrs.BranchAction), w.receive)
					if err == nil {
						break
					}
					if kind := cqrs.KindOf(err); kind != cqrs.KindTransient && kind != cqrs.KindConflict {
						t.Errorf("%s: %v", kind, err)
						return
					}
				}
			}
		})
	}
	handling.Wait()
	require.Greater(t, l.lies, 10)
	honest, err := postgres.Open(dsn, 2)
	require.NoError(t, err)
	defer honest.Close()
	count := func(query string) (n int) {
		require.NoError(t, honest.Get(&n, query))
		return n
	}
	require.Equal(t, messages, count(`SELECT count(*) FROM events`))
	require.Equal(t, messages, count(`SELECT count(*) FROM outbox`))
	require.Equal(t, messages, count(`SELECT count(*) FROM inbox WHERE outcome = 'done'`))
}

// What is thrown just after a message was sent takes the message with it.
func TestPanicJustAfterDispatch(t *testing.T) {
	w := newEnvironment(t)
	handle := func(throw bool) {
		defer func() { _ = recover() }()
		_, _ = w.uow.Handle(t.Context(), command("m-1", "", ""), func(ctx context.Context) error {
			if err := w.bus.Publish(ctx, cqrs.Event{Category: "x"}); err != nil {
				return err
			}
			if throw {
				panic("just after")
			}
			return nil
		})
	}
	handle(true)
	require.Zero(t, w.count(t, `SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM inbox)`))
	handle(false)
	require.Equal(t, 1, w.count(t, `SELECT count(*) FROM outbox`))
}
