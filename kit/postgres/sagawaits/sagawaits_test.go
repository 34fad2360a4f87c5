package sagawaits_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/sagawaits"
	"github.com/millrace/millrace/kit/postgres/txn"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

func TestMain(m *testing.M) { kittest.Main(m) }

var waits sagawaits.Waits

// within runs work in a transaction, and rolls it back if it fails.
func within(db *sqlx.DB, work func(ctx context.Context) error) error {
	tx, err := db.BeginTxx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after a commit
	if err := work(txn.WithTx(context.Background(), tx)); err != nil {
		return err
	}
	return tx.Commit()
}

func waiting(id, key string) manager.Waiting {
	return manager.Waiting{SagaID: id, Wait: saga.Wait{Step: "wait", Correlation: saga.Correlation{Event: "parcel", Key: key}}}
}

func event(id string) manager.KeptEvent {
	return manager.KeptEvent{MessageID: id, Body: json.RawMessage(fmt.Sprintf(`{"id":%q,"text":"\u0000"}`, id)), Time: time.Now()}
}

// deliver delivers an event and returns the saga that waited for it.
func deliver(t *testing.T, db *sqlx.DB, id string, keys ...string) (sagaID string) {
	t.Helper()
	var by []saga.Correlation
	for _, key := range keys {
		by = append(by, saga.Correlation{Event: "parcel", Key: key})
	}
	require.NoError(t, within(db, func(ctx context.Context) error {
		w, err := waits.Deliver(ctx, "return", event(id), by)
		if w != nil {
			sagaID = w.SagaID
		}
		return err
	}))
	return sagaID
}

// begin starts a wait and returns the id of the event that had arrived before, or "".
func begin(t *testing.T, db *sqlx.DB, id, key string) (message string) {
	t.Helper()
	require.NoError(t, within(db, func(ctx context.Context) error {
		e, err := waits.Begin(ctx, "return", waiting(id, key))
		if e != nil {
			message = e.MessageID
			require.JSONEq(t, string(event(message).Body), string(e.Body))
		}
		return err
	}))
	return message
}

func TestWaits(t *testing.T) {
	db, _ := kittest.Database(t)
	require.Empty(t, begin(t, db, "s1", "a"))
	require.Empty(t, begin(t, db, "s2", "a"))
	require.Empty(t, begin(t, db, "s3", "b"))
	require.Equal(t, "s1", deliver(t, db, "m1", "a"), "the oldest")
	require.Equal(t, "s2", deliver(t, db, "m2", "a"))
	require.Empty(t, deliver(t, db, "m3", "a"))
	require.Empty(t, deliver(t, db, "m4", "a"))
	require.Empty(t, deliver(t, db, "m4", "a"), "the same message again counts once")
	kept, err := sagawaits.List(t.Context(), db, 10)
	require.NoError(t, err)
	require.Len(t, kept, 2)
	require.Equal(t, "m4", kept[0].MessageID)
	count, err := sagawaits.Count(t.Context(), db, 10)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"return": 2}, count)
	require.Equal(t, "m3", begin(t, db, "s4", "a"), "the oldest")

	require.NoError(t, within(db, func(ctx context.Context) error {
		return waits.End(ctx, "return", []manager.Waiting{waiting("s3", "b")})
	}))
	require.Empty(t, deliver(t, db, "m5", "b"), "it does not wait any more")

	// One event with two keys, as when two versions of a definition extract different keys.
	require.Empty(t, deliver(t, db, "m6", "x", "y"))
	require.Equal(t, "m6", begin(t, db, "s5", "y"))
	require.Empty(t, begin(t, db, "s6", "x"), "it completes one wait")
	require.Equal(t, "s6", deliver(t, db, "m7", "y", "x"))

	require.Error(t, within(db, func(ctx context.Context) error {
		_, err := waits.Begin(ctx, "return", waiting("s7", "z"))
		require.NoError(t, err)
		return context.Canceled
	}))
	require.Empty(t, deliver(t, db, "m8", "z"), "the wait was rolled back")
	_, err = waits.Begin(t.Context(), "return", waiting("s8", "z"))
	require.ErrorContains(t, err, "outside a unit of work")
}

// In either order, and at the same time: each event completes one wait, and no wait and no event is left.
func TestAnEventAndAWaitFindEachOther(t *testing.T) {
	db, _ := kittest.Database(t)
	const pairs, keys = 400, 7
	var mu sync.Mutex
	matched := map[string]string{} // message by saga
	var all sync.WaitGroup
	for n := range pairs {
		key := fmt.Sprint(n % keys)
		all.Go(func() {
			if m := begin(t, db, fmt.Sprint("s", n), key); m != "" {
				mu.Lock()
				matched[fmt.Sprint("s", n)] = m
				mu.Unlock()
			}
		})
		all.Go(func() {
			if id := deliver(t, db, fmt.Sprint("m", n), key); id != "" {
				mu.Lock()
				matched[id] = fmt.Sprint("m", n)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	require.Len(t, matched, pairs)
	messages := map[string]bool{}
	for _, m := range matched {
		messages[m] = true
	}
	require.Len(t, messages, pairs, "each event completes one wait")
	var left int
	require.NoError(t, db.Get(&left, `SELECT (SELECT count(*) FROM saga_waits) + (SELECT count(*) FROM saga_events)`))
	require.Zero(t, left)
}

// An event that is deleted while a wait begins, because its retention is over, does not hide the next event of its key.
func TestAWaitBeginsWhileTheOldestEventIsDeleted(t *testing.T) {
	db, _ := kittest.Database(t)
	for _, id := range []string{"m1", "m2"} {
		require.Empty(t, deliver(t, db, id, "a"))
	}
	janitor, err := db.Beginx()
	require.NoError(t, err)
	_, err = janitor.Exec(`DELETE FROM saga_events WHERE message_id = 'm1'`)
	require.NoError(t, err)
	began := make(chan string, 1)
	go func() {
		err := within(db, func(ctx context.Context) error {
			e, err := waits.Begin(ctx, "return", waiting("s1", "a"))
			if e != nil {
				began <- e.MessageID
			}
			return err
		})
		began <- fmt.Sprint("no event: ", err)
	}()
	kittest.Eventually(t, func() error {
		var waiting int
		if err := db.Get(&waiting, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`); err != nil || waiting == 1 {
			return err
		}
		return errors.New("it does not wait for the row")
	})
	require.NoError(t, janitor.Commit())
	require.Equal(t, "m2", <-began)
}
