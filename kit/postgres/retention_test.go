package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/keyqueue"
)

func sweep(t *testing.T, db *sqlx.DB, keep postgres.Retention) int64 {
	t.Helper()
	n, err := postgres.NewJanitor(db, keep, time.Hour, slog.New(slog.DiscardHandler)).Sweep(t.Context())
	require.NoError(t, err)
	return n
}

const twoWeeks = 14 * 24 * time.Hour

// A compensation that comes after the inbox's retention finds what was done: the rows of a saga are kept until it has ended.
func TestRetentionKeepsTheRowsOfASagaUntilItHasEnded(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`INSERT INTO saga_instances (saga_id, definition, subject, status, started_at, version) VALUES ('saga-1', 'd', 's', 'running', now(), 1)`)
	require.NoError(t, err)
	handle := func(w *environment, d cqrs.Delivery) cqrs.Outcome {
		outcome, err := w.uow.Handle(t.Context(), d, w.receive)
		require.NoError(t, err)
		return outcome
	}
	require.Equal(t, cqrs.Processed, handle(w, command("reserve", "reserve stock", cqrs.BranchAction)))
	other := command("other", "step", cqrs.BranchAction)
	other.Meta.SagaID = "a saga of another service"
	require.Equal(t, cqrs.Processed, handle(w, other))
	require.Equal(t, cqrs.Processed, handle(w, command("no saga", "", "")))

	ahead := kittest.ClockAhead(t, w.db, twoWeeks+time.Hour)
	keep := postgres.Retention{Inbox: twoWeeks}
	require.EqualValues(t, 1, sweep(t, ahead, keep), "only the row that belongs to no saga")
	later := (&environment{db: ahead}).another()
	require.Equal(t, cqrs.Duplicate, handle(later, command("reserve", "reserve stock", cqrs.BranchAction)))
	require.Equal(t, cqrs.Processed, handle(later, command("release", "reserve stock", cqrs.BranchCompensation)), "not: nothing to undo")

	// A child saga that has ended may have to be compensated until the first of its ancestors has ended.
	_, err = w.db.Exec(`UPDATE saga_instances SET status = 'completed', root_id = 'saga-0'; INSERT INTO saga_instances (saga_id, definition, subject, status, started_at, version)
		VALUES ('saga-0', 'd', 's', 'running', now(), 1)`)
	require.NoError(t, err)
	require.Zero(t, sweep(t, ahead, keep))

	_, err = w.db.Exec(`UPDATE saga_instances SET status = 'compensated'`)
	require.NoError(t, err)
	require.EqualValues(t, 1, sweep(t, ahead, keep), "the action; the compensation is new")
	require.EqualValues(t, 2, sweep(t, kittest.ClockAhead(t, w.db, 366*24*time.Hour), keep))
}

// An event that no saga waits for is kept for its retention.
func TestRetentionOfEventsThatNoSagaWaitsFor(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`INSERT INTO saga_events (definition, event, key, message_id, body, happened_at, received_at) VALUES
		('d', 'e', 'k', 'old', '{}', now(), now() - interval '15 days'), ('d', 'e', 'k', 'new', '{}', now(), now() - interval '13 days')`)
	require.NoError(t, err)
	require.Zero(t, sweep(t, w.db, postgres.Retention{}), "0 is for ever")
	require.EqualValues(t, 1, sweep(t, w.db, postgres.Retention{SagaEvents: twoWeeks}))
	var left string
	require.NoError(t, w.db.Get(&left, `SELECT message_id FROM saga_events`))
	require.Equal(t, "new", left)
}

// One thing that cannot be swept keeps no other from it: a locked row, a locked table, rows that are held.
func TestRetentionSweepGoesOnBesideABadElement(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`
		INSERT INTO saga_instances (saga_id, definition, subject, status, started_at, version) VALUES ('held', 'd', 's', 'stuck', now(), 1);
		INSERT INTO inbox (consumer, message_id, saga_id, outcome, received_at)
			SELECT 'c', n::text, CASE WHEN n <= 3000 THEN 'held' END, 'done', now() - interval '2 days' FROM generate_series(1, 5000) n;
		INSERT INTO topic_messages (topic, message_id, payload, headers, created_at) VALUES ('t', 'm', '', '{}', now() - interval '2 days')`)
	require.NoError(t, err)
	busy := w.db.MustBegin()
	busy.MustExec(`SELECT FROM inbox WHERE message_id = '4000' FOR UPDATE; LOCK TABLE idempotency_keys`)
	n, err := postgres.NewJanitor(w.db, postgres.Retention{Inbox: 24 * time.Hour, Idempotency: time.Hour, Dropped: time.Hour, Topics: time.Hour}, time.Hour, slog.New(slog.DiscardHandler)).
		Sweep(t.Context())
	require.ErrorContains(t, err, "sweep idempotency_keys")
	require.EqualValues(t, 1999+1, n)
	require.NoError(t, busy.Rollback())
	require.EqualValues(t, 1, sweep(t, w.db, postgres.Retention{Inbox: 24 * time.Hour}))
	require.Equal(t, 3000, w.count(t, `SELECT count(*) FROM inbox`))
	require.Zero(t, sweep(t, kittest.ClockAhead(t, w.db, 10000*time.Hour), postgres.Retention{}), "0 is for ever")
}

// A sweep that finds nothing reads next to nothing, after rows have turned over many times too.
func TestRetentionSweepReadsFewPages(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`ALTER TABLE inbox SET (autovacuum_enabled = off)`)
	require.NoError(t, err)
	for range 4 { // half of the rows are replaced by new ones, in the pages that old ones have left
		_, err := w.db.Exec(`DELETE FROM inbox WHERE received_at < (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY received_at) FROM inbox);
			INSERT INTO inbox (consumer, message_id, outcome, received_at)
				SELECT 'c', gen_random_uuid()::text, 'done', clock_timestamp() FROM generate_series(1, 50000) n`)
		require.NoError(t, err)
		_, err = w.db.Exec(`VACUUM ANALYZE inbox`) //nolint:misspell // as PostgreSQL spells it
		require.NoError(t, err)
	}
	var pages int
	require.NoError(t, w.db.Get(&pages, `SELECT pg_relation_size('inbox') / 8192`))
	require.Greater(t, pages, 500)
	var plan []byte
	require.NoError(t, w.db.Get(&plan, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+postgres.SweepOfInbox(), 3600, time.Time{}, "(0,0)", 1000)) //nolint:misspell // as PostgreSQL spells it
	var explained []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	require.NoError(t, json.Unmarshal(plan, &explained))
	require.Less(t, explained[0].Plan.Hit+explained[0].Plan.Read, 20, string(plan))
}

// All instances follow the database's clock, the test clock included.
func TestClockFollowsTheDatabase(t *testing.T) {
	w := newEnvironment(t)
	clock := postgres.NewClock(kittest.ClockAhead(t, w.db, twoWeeks), time.Now, slog.New(slog.DiscardHandler))
	require.NoError(t, clock.Sync(t.Context()))
	require.WithinDuration(t, time.Now().Add(twoWeeks), clock.Now(), 5*time.Second)
	var errs []error
	for _, column := range kittest.Column(t, w.db.DB, `SELECT table_name || '.' || column_name FROM information_schema.columns
		WHERE table_schema = 'public' AND column_default ~ '\mnow\(\)' AND table_name NOT LIKE 'goose%'`) {
		errs = append(errs, errors.New(column+" has now() as its default, not app_now()"))
	}
	require.NoError(t, errors.Join(errs...))
}

// A message that was processed is delivered again, as after a crash, while its key is blocked. It is not stored behind the others: the key may
// be blocked for longer than the inbox's retention, and the message would then be processed twice.
func TestRetentionOfAProcessedMessageOfABlockedKey(t *testing.T) {
	w := newEnvironment(t)
	queue, letters := keyqueue.New(w.db), deadletter.New(w.db)
	received := func(id string) cqrs.Received {
		return cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: "A"}, Topic: "topic", Source: "/warehouse", ID: id, Headers: map[string]string{}}
	}
	delivery := func(id string) cqrs.Delivery {
		return cqrs.Delivery{Consumer: "c", Meta: cqrs.Meta{ID: id, Source: "/warehouse"}}
	}
	_, err := w.uow.Handle(t.Context(), delivery("1"), w.receive)
	require.NoError(t, err)
	var letter string
	require.NoError(t, w.uow.Within(t.Context(), func(ctx context.Context) error {
		letter, err = queue.DeadLetter(ctx, received("2"), "reason", "", true)
		return err
	}))
	for _, id := range []string{"1", "2", "3"} { // a crash before the offsets were committed
		enqueued, err := queue.Enqueue(t.Context(), received(id))
		require.NoError(t, err)
		require.True(t, enqueued)
	}
	require.NoError(t, queue.RetryAfter(t.Context(), received("1"), 0), "an instance that has lost the partition")

	ahead := kittest.ClockAhead(t, w.db, twoWeeks+time.Hour)
	sweep(t, ahead, postgres.Retention{Inbox: twoWeeks})
	require.NoError(t, letters.Replay(t.Context(), letter))
	later := (&environment{db: ahead}).another()
	for _, id := range kittest.Column(t, w.db.DB, `SELECT convert_from(message_id, 'UTF8') FROM waiting_messages ORDER BY id`) {
		_, err := later.uow.Handle(t.Context(), delivery(id), later.receive)
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, w.onHand(t), "each message is processed once")
}

// A message that was processed blocks no key, although an instance that had it too could not handle it.
func TestRetryOfAProcessedMessageBlocksNoKey(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.uow.Handle(t.Context(), command("1", "", ""), w.receive)
	require.NoError(t, err)
	m := cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: "A"}, Topic: "topic", ID: "1", Headers: map[string]string{}}
	require.NoError(t, keyqueue.New(w.db).RetryAfter(t.Context(), m, time.Hour))
	require.Zero(t, w.count(t, `SELECT count(*) FROM blocked_keys`))
	m.ID = "\xff\x00"
	require.NoError(t, keyqueue.New(w.db).RetryAfter(t.Context(), m, time.Hour))
	require.Equal(t, 1, w.count(t, `SELECT count(*) FROM blocked_keys`))
}
