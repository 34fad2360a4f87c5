// Package lines keeps the order of keys whose messages fail. A message that could not be handled becomes the head of a line;
// what comes after it under the same key waits behind it in the outbox, and is handled one by one once the head is done, by whoever
// has handled that, without going by way of the broker again. A line belongs to one consumer: others of the same topic go on.
package lines

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/deadletter"
	"github.com/millrace/millrace/adapters/postgres/outbox"
	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Lines is the table.
type Lines struct {
	db      *sqlx.DB
	wake    func()
	lookups txn.Gather[app.Place, standing]
	ahead   txn.Ahead[string, standing]
	begun   atomic.Int64 // lines that this instance has begun
}

// New makes Lines. Wake is called when something is due in the outbox.
func New(db *sqlx.DB, wake func()) *Lines {
	l := &Lines{db: db, wake: wake}
	l.lookups.Do, l.lookups.Max, l.lookups.Parallel = l.lookUp, 1000, 1
	return l
}

// standing is how a line stands; the zero value says that there is none.
type standing struct {
	head     string
	failures int
}

// lookUp reads the lines that several messages ask for at the same time. Hardly ever is there one.
func (l *Lines) lookUp(asked []app.Place) ([]standing, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	consumers, names, out := make([]string, len(asked)), make([]string, len(asked)), make([]standing, len(asked))
	for i, p := range asked {
		consumers[i], names[i] = p.Consumer, p.Line
	}
	b := &pgx.Batch{}
	b.Queue(`SELECT w.n::int, l.head, l.attempts FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(consumer, line, n)
		CROSS JOIN LATERAL (SELECT * FROM lines WHERE consumer = w.consumer AND line = w.line OFFSET 0) l`, consumers, names).Query(func(rows pgx.Rows) error {
		var n int
		var s standing
		_, err := pgx.ForEachRow(rows, []any{&n, &s.head, &s.failures}, func() error {
			out[n-1] = s
			return nil
		})
		return err
	})
	return out, txn.Classify(txn.Send(ctx, l.db, nil, b), "look for lines")
}

// inHand is how long the next of a line may be in the hands of who took it, before it comes again by way of the broker.
const inHand = "30 seconds"

// Expect has the line of a message looked up that waits for others of its key.
func (l *Lines) Expect(p app.Place, messageID string) {
	if app.CheckText("message key", p.Line, 0) != nil {
		return // Join says so
	}
	begun, wait := l.begun.Load(), l.lookups.Join(p)
	l.ahead.Expect(p.Consumer+"\x00"+messageID, func(ctx context.Context) (standing, error) {
		s, err := wait(ctx)
		if err != nil || s.head != "" || l.begun.Load() != begun { // one of its key may have begun a line meanwhile
			return l.lookups.Call(ctx, p)
		}
		return s, nil
	})
}

// look tells how a message's line stands.
func (l *Lines) look(ctx context.Context, p app.Place, messageID string) (standing, error) {
	if err := app.CheckText("message key", p.Line, 0); err != nil {
		return standing{}, err
	}
	if expected := l.ahead.Take(p.Consumer + "\x00" + messageID); expected != nil {
		return expected(ctx)
	}
	return l.lookups.Call(ctx, p)
}

// Join tells whether a message may be handled now: alone, or as the head of its line, which has failed so many times before.
// If it may not, it was put at the end of the line, and comes again.
func (l *Lines) Join(ctx context.Context, p app.Place, topic string, msg *message.Message) (turn app.Turn, failures int, err error) {
	s, err := l.look(ctx, p, msg.UUID)
	switch {
	case err != nil:
		return "", 0, err
	case s.head == "":
		return app.Alone, 0, nil
	case s.head == msg.UUID:
		return app.Head, s.failures, nil
	}
	err = l.within(ctx, func(tx *sqlx.Tx) error {
		var head string
		head, failures, err = lock(ctx, tx, p)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			turn = app.Alone
			return nil
		case err != nil:
			return err
		case head == msg.UUID:
			turn = app.Head
			return nil
		}
		turn = app.Behind
		return put(ctx, tx, p, topic, msg, "infinity")
	})
	return turn, failures, err
}

// lock reads a line so that its head cannot leave meanwhile without taking along who waits.
func lock(ctx context.Context, tx *sqlx.Tx, p app.Place) (head string, failures int, err error) {
	err = tx.QueryRowxContext(ctx, `SELECT head, attempts FROM lines WHERE consumer = $1 AND line = $2 FOR UPDATE`, p.Consumer, p.Line).Scan(&head, &failures)
	return head, failures, err
}

// Later has a message come again at a time, as the head of its line.
func (l *Lines) Later(ctx context.Context, p app.Place, topic string, msg *message.Message, due time.Time) error {
	defer l.wake() // its time may be the next one
	l.begun.Add(1)
	return l.within(ctx, func(tx *sqlx.Tx) error {
		if err := fail(ctx, tx, p, msg.UUID); err != nil {
			return err
		}
		return put(ctx, tx, p, topic, msg, due.UTC().Format(time.RFC3339Nano))
	})
}

// Bury makes a message a dead letter. Hold says that it stays the head of its line, until it is redriven or dropped; else the
// next one comes. More is done in the same transaction.
func (l *Lines) Bury(ctx context.Context, p app.Place, letter app.DeadLetter, hold bool, more func(ctx context.Context) error) error {
	tx, err := txn.From(ctx)
	if err != nil {
		return err
	}
	if hold {
		l.begun.Add(1)
		letter.Line = p.Line
		if err := fail(ctx, tx, p, letter.MessageID); err != nil {
			return err
		}
	}
	err = tx.QueryRowxContext(ctx, `SELECT attempts, first_at FROM lines WHERE consumer = $1 AND line = $2 AND head = $3 AND first_at IS NOT NULL`,
		p.Consumer, p.Line, letter.MessageID).Scan(&letter.Attempts, &letter.First)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return txn.Classify(err, "look for a line")
	}
	if !hold && err == nil {
		letter.Attempts++
	}
	if err := deadletter.Put(ctx, tx, letter); err != nil {
		return err
	}
	if err := remove(ctx, tx, p, letter.MessageID); err != nil {
		return err
	}
	if !hold {
		if err := deadletter.Advance(ctx, tx, p, letter.MessageID); err != nil {
			return err
		}
	}
	return more(ctx)
}

// Done notes that the head of a line was handled, and returns what comes next, to be handled at once; nil if nobody waits. Should
// that not happen, it comes again by itself. A message that is not the head changes nothing.
func (l *Lines) Done(ctx context.Context, p app.Place, messageID string) (next *message.Message, err error) {
	err = l.within(ctx, func(tx *sqlx.Tx) error {
		next = nil
		if err := remove(ctx, tx, p, messageID); err != nil {
			return err
		}
		// Locked by a statement of its own: the next one then sees who has joined the line while this one waited.
		if head, _, err := lock(ctx, tx, p); errors.Is(err, sql.ErrNoRows) || err == nil && head != messageID {
			return nil
		} else if err != nil {
			return err
		}
		var row struct {
			MessageID string `db:"message_id"`
			Payload   []byte `db:"payload"`
			Headers   []byte `db:"headers"`
		}
		err := tx.QueryRowxContext(ctx, `
			WITH line AS (SELECT consumer, line FROM lines WHERE consumer = $1 AND line = $2 AND head = $3 FOR UPDATE),
			next AS (
				SELECT o.id, o.message_id FROM outbox o JOIN line l ON o.consumer = l.consumer AND o.line = l.line
				WHERE o.due_at = 'infinity' ORDER BY o.id LIMIT 1),
			ended AS (
				DELETE FROM lines USING line WHERE lines.consumer = line.consumer AND lines.line = line.line AND NOT EXISTS (SELECT FROM next)),
			moved AS (
				UPDATE lines SET head = next.message_id, attempts = 0, first_at = NULL FROM line, next
				WHERE lines.consumer = line.consumer AND lines.line = line.line)
			UPDATE outbox SET due_at = now() + $4::interval FROM next WHERE outbox.id = next.id
			RETURNING outbox.message_id, outbox.payload, outbox.headers`, p.Consumer, p.Line, messageID, inHand).StructScan(&row)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		next = message.NewMessage(row.MessageID, row.Payload)
		return json.Unmarshal(row.Headers, &next.Metadata)
	})
	return next, err
}

// Release lets the head of a line come by way of the broker.
func (l *Lines) Release(ctx context.Context, p app.Place, messageID string) error {
	err := l.within(ctx, func(tx *sqlx.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE outbox SET due_at = NULL, id = DEFAULT WHERE consumer = $1 AND line = $2 AND message_id = $3 AND due_at IS NOT NULL`,
			p.Consumer, p.Line, messageID)
		return err
	})
	l.wake()
	return err
}

// remove takes the rows of a message out of the outbox, once it is handled or dead.
func remove(ctx context.Context, tx *sqlx.Tx, p app.Place, messageID string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE consumer = $1 AND line = $2 AND message_id = $3 AND due_at IS NOT NULL`, p.Consumer, p.Line, messageID)
	return txn.Classify(err, "take a message out of its line")
}

func (l *Lines) within(ctx context.Context, work func(tx *sqlx.Tx) error) error {
	tx, err := l.db.BeginTxx(ctx, nil)
	if err != nil {
		return txn.Classify(err, "begin")
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if err := work(tx); err != nil {
		return txn.Classify(err, "keep a line")
	}
	return txn.Classify(tx.Commit(), "commit")
}

// fail counts a failure of the head. A message becomes head if there is none.
func fail(ctx context.Context, tx *sqlx.Tx, p app.Place, messageID string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO lines (consumer, line, head, attempts, first_at) VALUES ($1, $2, $3, 1, now())
		ON CONFLICT (consumer, line) DO UPDATE SET attempts = lines.attempts + 1, first_at = COALESCE(lines.first_at, now())
		WHERE lines.head = $3`, p.Consumer, p.Line, messageID)
	return txn.Classify(err, "begin a line")
}

// put makes a message a row of the outbox that waits in line. One that is there already, because Kafka delivered it twice, only
// changes its time.
func put(ctx context.Context, tx *sqlx.Tx, p app.Place, topic string, msg *message.Message, due string) error {
	metadata := maps.Clone(msg.Metadata)
	metadata[app.HeaderFor] = p.Consumer
	headers, err := json.Marshal(metadata)
	if err != nil {
		return err
	}
	key := metadata[app.HeaderKey]
	_, err = tx.ExecContext(ctx, `
		WITH there AS (
			UPDATE outbox SET due_at = LEAST(due_at, $7::timestamptz) WHERE consumer = $8 AND line = $9 AND message_id = $1 AND due_at IS NOT NULL RETURNING 1
		) INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at, consumer, line)
		SELECT $1, $2, $3, $4, COALESCE($5::bytea, ''), $6::json, $7::timestamptz, $8, $9 WHERE NOT EXISTS (SELECT FROM there)`,
		msg.UUID, topic, key, outbox.ShardOf(topic, key), []byte(msg.Payload), string(headers), due, p.Consumer, p.Line)
	return txn.Classify(err, "wait in line")
}
