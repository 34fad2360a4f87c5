package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// waitClaim claims a key as soon as that is possible.
func waitClaim(t *testing.T, relay *outbox.Relay, topic, key string) (c *outbox.Claim) {
	t.Helper()
	kittest.Eventually(t, func() error {
		if c = relay.Claim(topic, key); c == nil {
			return errors.New("the key is not claimed")
		}
		return nil
	})
	t.Cleanup(c.Release)
	return c
}

// commitWith commits a unit of work for which a key is claimed, with a message of it if text is not empty.
func commitWith(t *testing.T, db *sqlx.DB, c *outbox.Claim, text string) (w *outbox.Message, err error) {
	t.Helper()
	ctx, unit := txn.NewUnit(t.Context(), db)
	require.NoError(t, c.Confirm(ctx, "consumer", cqrs.Meta{ID: "m", SagaID: "saga", SagaStep: "step", Branch: cqrs.BranchAction}))
	if text != "" {
		msg := message.NewMessage(uuid.NewString(), []byte(text))
		msg.Metadata[cqrs.HeaderKey] = c.Key
		msg.SetContext(ctx)
		require.NoError(t, outbox.NewPublisher(0, kittest.Insert).Publish(c.Topic, msg))
		w = outbox.MessagesFromContext(ctx)[0]
	}
	return w, txn.Commit(t.Context(), db, []*txn.Unit{unit})
}

// A key is claimed only by the relay that has its lease, if its handlers would take the next message of the key, and if none is with them, was given back or is being sent.
func TestClaimIsRefused(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(key, _ string) bool { return key != "remote" && key != "sent" })
	relay := runHandlers(t, db, dsn, h, outbox.Options{})
	c := waitClaim(t, relay, "t", "k")
	require.Nil(t, relay.Claim("t", "k"), "it is claimed")
	require.Nil(t, relay.Claim("t", "remote"), "the handlers would not take it")
	require.Nil(t, relay.Claim("events", "k"), "the topic is not a local one")
	c.Release()
	c.Release()
	waitClaim(t, relay, "t", "k").Release()

	write(t, db, "t", item{key: "k", text: "1"})
	relay.Wake()
	h.waitTaken(t, "1")
	require.Nil(t, relay.Claim("t", "k"), "a message of the key is with its handler")
	h.end("1", true)
	waitClaim(t, relay, "t", "k").Release()

	sending, end := make(chan struct{}), make(chan struct{})
	h.mu.Lock()
	h.fails = func(context.Context) error { close(sending); <-end; return errors.New("broken pipe") }
	h.mu.Unlock()
	write(t, db, "t", item{key: "sent", text: "2"})
	relay.Wake()
	<-sending
	h.mu.Lock()
	h.takes, h.fails = all, nil
	h.mu.Unlock()
	require.Nil(t, relay.Claim("t", "sent"), "a message of the key is being sent")
	close(end)

	other, _ := runSenders(t, db, dsn, newHandlers(all).sender, outbox.Options{Local: []string{"t"}, Host: "other"})
	kittest.Eventually(t, func() error {
		if relay.Held() == outbox.Shards || other.Held() == 0 {
			return errors.New("the shards are not shared")
		}
		return nil
	})
	for n := range 100 {
		key := keyOf("t", func(shard int16) bool { return int(shard) == outbox.FirstShard+n%outbox.Shards })
		a, b := relay.Claim("t", key), other.Claim("t", key)
		require.False(t, a != nil && b != nil, "both relays claim %s", key)
		for _, c := range []*outbox.Claim{a, b} {
			if c != nil {
				c.Release()
			}
		}
	}
}

// A commit with a claim fails if a message of the key that was committed before may not have been handled.
func TestClaimConfirms(t *testing.T) {
	for name, c := range map[string]struct {
		disturb string
		fails   bool
	}{
		"nothing waits":              {`SELECT 1`, false},
		"a message of another key":   {`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ('x', 't', 'other', 3, '', '{}')`, false},
		"a delayed message":          {`INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at) SELECT 'x', 't', 'k', shard, '', '{}', now() + interval '1 hour' FROM of_key`, false},
		"a message in the outbox":    {`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) SELECT 'x', 't', 'k', shard, '', '{}' FROM of_key`, true},
		"a dead letter of the relay": {`INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, attempts, outbox_id, first_at, last_at) VALUES ('x@relay', 'relay', 'x', 't', 'k', '{}', '', 'r', 1, 1, now(), now())`, true},
		"the topic is suspended":     {`INSERT INTO suspended_topics (topic, reason, next_try) VALUES ('t', 'r', now() + interval '1 hour')`, true},
		"a message waits for a retry": {`INSERT INTO blocked_keys (consumer, key, attempts, first_at, due_at) VALUES ('consumer', 'k', 1, now(), now() + interval '1 hour')`,
			true},
		"another consumer's key is blocked": {`INSERT INTO blocked_keys (consumer, key, attempts, first_at, due_at) VALUES ('another', 'k', 1, now(), now() + interval '1 hour')`, false},
		"rows were released":                {`UPDATE outbox_epoch SET epoch = epoch + 1`, true},
		"the lease was lost":                {`UPDATE relay_leases SET owner = 'another'`, true},
	} {
		t.Run(name, func(t *testing.T) {
			db, dsn := kittest.Database(t)
			h := newHandlers(all)
			relay := runHandlers(t, db, dsn, h, outbox.Options{})
			write(t, db, "t", item{key: "k", text: "handled"})
			relay.Wake()
			h.waitTaken(t, "handled")
			h.end("handled", true) // its row is deleted later
			claim := waitClaim(t, relay, "t", "k")
			db.MustExec(`CREATE TABLE of_key (shard smallint)`)
			db.MustExec(`INSERT INTO of_key VALUES ($1)`, outbox.ShardOf("t", "k"))
			db.MustExec(c.disturb)
			_, err := commitWith(t, db, claim, "")
			if !c.fails {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, cqrs.ErrConflict)
			require.ErrorContains(t, err, `"t", "k"`)
		})
	}
}

// A message that was committed with a claim is delivered once, by the claim. Messages of its key that were written meanwhile are neither sent nor offered before, and
// its row is deleted when it was handled.
func TestClaimHandsOver(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	relay := runHandlers(t, db, dsn, h, outbox.Options{})
	claim := waitClaim(t, relay, "t", "k")
	write(t, db, "t", item{key: "other", text: "other"})
	w, err := commitWith(t, db, claim, "1")
	require.NoError(t, err)
	relay.Wake() // it reads the row before it is handed over
	h.waitTaken(t, "other")
	time.Sleep(100 * time.Millisecond)
	claim.HandOver(w)
	claim.Release()
	write(t, db, "t", item{key: "k", text: "2"})
	relay.Wake()
	h.waitTaken(t, "1", "2")
	require.Equal(t, []string{"other", "1", "2"}, h.offered)
	require.True(t, h.more["2"])
	for _, text := range []string{"other", "1", "2"} {
		h.end(text, true)
	}
	drained(t, db)
	require.Empty(t, h.sentOf())
	waitClaim(t, relay, "t", "k")
}

// While the low-water marks lag behind, as beside a transaction that has written to the outbox and is open, no key is claimed: each commit would pass all rows above them.
func TestNoClaimWhileTheMarksLag(t *testing.T) {
	db, dsn := kittest.Database(t)
	relay := runHandlers(t, db, dsn, newHandlers(all), outbox.Options{Poll: 50 * time.Millisecond})
	waitClaim(t, relay, "t", "k").Release()
	open := db.MustBegin()
	open.MustExec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ('x', 'events', 'k', 0, '', '{}')`)
	db.MustExec(`SELECT setval(pg_get_serial_sequence('outbox', 'id'), 100000)`)
	relay.See(100_000)
	require.Nil(t, relay.Claim("t", "k"))
	time.Sleep(time.Second)
	require.Nil(t, relay.Claim("t", "k"))
	require.NoError(t, open.Rollback())
	waitClaim(t, relay, "t", "k")
}

// What this instance commits of a claimed key is noted, so that a commit that would fail is not tried.
func TestClaimIsDisturbed(t *testing.T) {
	db, dsn := kittest.Database(t)
	relay := runHandlers(t, db, dsn, newHandlers(all), outbox.Options{})
	claim := waitClaim(t, relay, "t", "k")
	committed := func(topic, key, due string) {
		msg := message.NewMessage("x", nil)
		msg.Metadata[cqrs.HeaderKey], msg.Metadata[cqrs.HeaderDue] = key, due
		relay.Offer([]*outbox.Message{{ID: 1, Topic: topic, Message: msg}})
	}
	committed("t", "other", "")
	committed("events", "k", "")
	committed("t", "k", time.Now().Add(time.Hour).Format(time.RFC3339Nano))
	require.False(t, claim.Disturbed())
	committed("t", "k", "")
	require.True(t, claim.Disturbed())
}

// A key for which a claim was refused, and all keys of a topic for which a commit has failed, are not claimed for a while.
func TestKeyIsAvoidedAfterAFailure(t *testing.T) {
	db, dsn := kittest.Database(t)
	relay := runHandlers(t, db, dsn, newHandlers(all), outbox.Options{})
	claim := waitClaim(t, relay, "t", "k")
	other := waitClaim(t, relay, "t", "other")
	require.Nil(t, relay.Claim("t", "k"))
	claim.Release()
	require.Nil(t, relay.Claim("t", "k"), "it was refused a moment ago")
	other.Release()
	require.Nil(t, relay.Claim("t", ""), "a message without a key has no order")
	claim = waitClaim(t, relay, "t", "k")
	for range 3 {
		claim.Failed()
	}
	require.Nil(t, relay.Claim("t", "c"))
	waitClaim(t, relay, "t", "c")
}

// The messages of a suspended topic are sent, and the topic resumes, between a claim and its commit.
func TestTopicResumesWhileAKeyIsClaimed(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(_, text string) bool { return text == "claim" })
	h.fails = func(context.Context) error { return errTopic }
	relay := runHandlers(t, db, dsn, h, outbox.Options{TopicFault: func(err error) bool { return errors.Is(err, errTopic) }})
	write(t, db, "t", item{key: "k", text: "earlier"})
	relay.Wake()
	suspended := func(wanted int) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if s, err := outbox.SuspendedTopics(t.Context(), db); err != nil || len(s) != wanted {
				return fmt.Errorf("%d topics are suspended: %w", len(s), err)
			}
			return nil
		})
	}
	suspended(1)
	claim := waitClaim(t, relay, "t", "k")
	h.mu.Lock()
	h.fails = nil
	h.mu.Unlock()
	suspended(0)
	require.Equal(t, []string{"earlier"}, h.sentOf())
	_, err := commitWith(t, db, claim, "")
	require.ErrorIs(t, err, cqrs.ErrConflict, "the earlier message was sent, and not handled")
}

// offer commits events and offers them to a relay, as a unit of work does.
func offer(t *testing.T, db *sqlx.DB, relay *outbox.Relay, from, to int) {
	t.Helper()
	ctx, unit := txn.NewUnit(t.Context(), db)
	for n := from; n < to; n++ {
		msg := message.NewMessage(uuid.NewString(), []byte("x"))
		msg.Metadata[cqrs.HeaderKey] = fmt.Sprint("e-", n)
		msg.SetContext(ctx)
		require.NoError(t, outbox.NewPublisher(0, kittest.Insert).Publish("events", msg))
	}
	done := relay.Committing()
	defer done()
	require.NoError(t, txn.Commit(t.Context(), db, []*txn.Unit{unit}))
	relay.Offer(outbox.MessagesFromContext(ctx))
}

// When all was relayed, nothing is left in memory: neither messages that another host relays, nor those that were read while a key was blocked, or
// relayed before they were offered.
func TestNothingIsLeftInTheBuffer(t *testing.T) {
	db, dsn := kittest.Database(t)
	relay := runHandlers(t, db, dsn, newHandlers(all), outbox.Options{})
	waitClaim(t, relay, "t", "k").Release()
	emptied := func() { // a moment after the rows have been deleted
		t.Helper()
		require.Eventually(t, func() bool { return relay.Buffered() == 0 }, 5*time.Second, time.Millisecond)
	}
	db.MustExec(`INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, attempts, outbox_id, first_at, last_at)
		VALUES ('x@relay', 'relay', 'x', 'foreign', 'k', '{}', '', 'r', 1, 1, now(), now())`)
	for n := range 60 {
		offer(t, db, relay, 10*n, 10*n+10)
	}
	drained(t, db)
	emptied()
	db.MustExec(`DELETE FROM dead_letters`)
	other, _ := runSenders(t, db, dsn, newHandlers(all).sender, outbox.Options{Local: []string{"t"}, Host: "other"})
	kittest.Eventually(t, func() error {
		if relay.Held() != outbox.Shards/2 || other.Held() != outbox.Shards/2 {
			return errors.New("the shards are not shared")
		}
		return nil
	})
	offer(t, db, relay, 0, 600)
	other.Wake()
	drained(t, db)
	emptied()
	ctx, unit := txn.NewUnit(t.Context(), db)
	for n := range 20 {
		msg := message.NewMessage(uuid.NewString(), []byte("x"))
		msg.Metadata[cqrs.HeaderKey] = fmt.Sprint("early-", n)
		msg.SetContext(ctx)
		require.NoError(t, outbox.NewPublisher(0, kittest.Insert).Publish("events", msg))
	}
	done := relay.Committing()
	require.NoError(t, txn.Commit(t.Context(), db, []*txn.Unit{unit}))
	relay.Wake()
	other.Wake()
	drained(t, db) // before they are offered
	time.Sleep(20 * time.Millisecond)
	relay.Offer(outbox.MessagesFromContext(ctx))
	done()
	emptied()
	relay.Buffer("lost", -2*time.Minute) // its shard was lost, or it was relayed before it was offered
	require.Equal(t, 1, relay.Buffered())
	offer(t, db, relay, 600, 601)
	other.Wake()
	drained(t, db)
	emptied()
}

// A message that was handed over, handled and deleted before it was offered does not stay in memory.
func TestHandedOverMessageIsNotLeftInTheBuffer(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	relay := runHandlers(t, db, dsn, h, outbox.Options{})
	claim := waitClaim(t, relay, "t", "k")
	done := relay.Committing()
	w, err := commitWith(t, db, claim, "1")
	require.NoError(t, err)
	claim.HandOver(w)
	h.end("1", true)
	relay.Wake()
	drained(t, db)
	time.Sleep(50 * time.Millisecond) // memory follows the deletion
	relay.Offer([]*outbox.Message{w})
	done()
	require.Zero(t, relay.Buffered())
}

// While a key is claimed that has many messages, they are not read in a loop, and those of other keys behind them are handled.
func TestClaimedHotKeyHidesNoOthers(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	relay := runHandlers(t, db, dsn, h, outbox.Options{})
	other := keyOf("t", func(shard int16) bool { return shard == outbox.ShardOf("t", "k") })
	claim := waitClaim(t, relay, "t", "k")
	var items []item
	for n := range 1200 {
		items = append(items, item{key: "k", text: fmt.Sprint(n)})
	}
	write(t, db, "t", append(items, item{key: other, text: "other"})...)
	relay.Wake()
	h.waitTaken(t, "other")
	require.Less(t, transactionsWithin(t, db, 2*time.Second), 100)
	claim.Release()
	h.waitTaken(t, "0", "1199")
}

// A handed over message that is given back is offered again, before those behind it.
func TestClaimedMessageIsGivenBack(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	relay := runHandlers(t, db, dsn, h, outbox.Options{})
	claim := waitClaim(t, relay, "t", "k")
	w, err := commitWith(t, db, claim, "1")
	require.NoError(t, err)
	claim.HandOver(w)
	h.refuse()
	write(t, db, "t", item{key: "k", text: "2"})
	relay.Wake()
	time.Sleep(100 * time.Millisecond)
	require.Empty(t, h.sentOf())
	h.end("1", false)
	h.waitSent(t, "1", "2")
	drained(t, db)
}

// While a claim waits for its commit, rows of its key are left, and read at once when it has ended.
func TestRowsOfAClaimedKeyWait(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	relay := runHandlers(t, db, dsn, h, outbox.Options{Poll: time.Hour})
	claim := waitClaim(t, relay, "t", "k")
	write(t, db, "t", item{key: "k", text: "1"})
	relay.Wake()
	time.Sleep(200 * time.Millisecond)
	h.mu.Lock()
	require.Empty(t, h.offered)
	h.mu.Unlock()
	_, err := commitWith(t, db, claim, "")
	require.ErrorIs(t, err, cqrs.ErrConflict)
	claim.Release()
	h.waitTaken(t, "1")
	h.end("1", true)
	relay.Wake()
	drained(t, db)
}

// A plan that PostgreSQL keeps for all calls looks rows up: it once read the whole inbox, for a claim or two, on connections that were opened when it was small.
func TestConfirmReadsNoWholeTable(t *testing.T) {
	db, _ := kittest.Database(t)
	db.MustExec(`INSERT INTO inbox (consumer, message_id, saga_id, saga_step, branch, outcome) SELECT 'c', n::text, n::text, 's', 'do', 'done' FROM generate_series(1, 2000) n`)
	db.MustExec(`INSERT INTO blocked_keys (consumer, key, attempts, first_at, due_at) SELECT 'c', convert_to(n::text, 'UTF8'), 1, now(), 'infinity' FROM generate_series(1, 2000) n`)
	db.MustExec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) SELECT n, 't', n, n % 16, '', '{}' FROM generate_series(1, 2000) n`)
	plan := kittest.LastingPlan(t, db, outbox.ConfirmQuery(), 12)
	for _, table := range []string{"inbox", "blocked_keys", "outbox"} {
		require.NotContains(t, plan, "Seq Scan on "+table+" ")
	}
}
