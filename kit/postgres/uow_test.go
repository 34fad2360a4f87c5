package postgres_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// bus puts events into the outbox and remembers them.
type bus struct {
	publisher outbox.Publisher
	mu        sync.Mutex
	published []cqrs.Event
	onPublish func() // nil: nothing
}

func (b *bus) Publish(ctx context.Context, e any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = append(b.published, e.(cqrs.Event))
	if b.onPublish != nil {
		b.onPublish()
	}
	msg := message.NewMessage(uuid.NewString(), []byte(strconv.Itoa(e.(cqrs.Event).Meta.Version)))
	msg.Metadata[cqrs.HeaderKey] = e.(cqrs.Event).Meta.Subject
	msg.SetContext(ctx)
	return b.publisher.Publish("events", msg)
}

type environment struct {
	db    *sqlx.DB
	uow   *postgres.UnitOfWork
	store *eventstore.Store
	stock *eventstore.Repository[*inventory.Stock, inventory.Event]
	bus   *bus
	now   time.Time
}

func newEnvironment(t *testing.T) *environment {
	t.Helper()
	db, _ := kittest.Database(t)
	return (&environment{db: db}).another()
}

// another is an instance on the same database.
func (w *environment) another() *environment {
	db := w.db
	w = &environment{db: db, bus: &bus{publisher: outbox.NewPublisher(1_000_000, kittest.Insert)}, now: time.Now()}
	w.store = eventstore.New(db, inventory.Types)
	w.stock = eventstore.NewRepository(w.store, inventory.Category, inventory.Rebuild, eventstore.Options{})
	w.uow = postgres.NewUnitOfWork(db, w.store, w.bus, func() time.Time { return w.now })
	return w
}

// snapshots is another instance on the same database, which saves a snapshot every so many events.
func (w *environment) snapshots(every int) *environment {
	w = w.another()
	w.stock = eventstore.NewRepository(w.store, inventory.Category, inventory.Rebuild, eventstore.Options{SnapshotEvery: every})
	return w
}

func (w *environment) verifyDuplicates(d time.Duration) *environment {
	w.uow.VerifyDuplicates(d)
	return w
}

func (w *environment) receive(ctx context.Context) error {
	return w.stock.Update(ctx, "A", func(s *inventory.Stock) error { return s.Receive("A", 1) })
}

func (w *environment) onHand(t *testing.T) int64 {
	t.Helper()
	s, err := w.stock.Load(t.Context(), "A")
	if errors.Is(err, cqrs.ErrNotFound) {
		return 0
	}
	require.NoError(t, err)
	return s.OnHand()
}

func (w *environment) count(t *testing.T, query string) (n int) {
	t.Helper()
	require.NoError(t, w.db.Get(&n, query))
	return n
}

func command(id, step string, branch cqrs.Branch) cqrs.Delivery {
	m := cqrs.Meta{ID: id}
	if branch != "" {
		m.SagaID, m.SagaStep, m.Branch = "saga-1", step, branch
	}
	return cqrs.Delivery{Consumer: "c", Meta: m, Command: true, Category: inventory.Category, Key: "A"}
}

func TestDuplicateMessageChangesNothing(t *testing.T) {
	w := newEnvironment(t)
	var handling sync.WaitGroup
	var done, repeated atomic.Int32
	for range 10 {
		handling.Go(func() { // at the same time, as after a rebalance
			outcome, err := w.uow.Handle(t.Context(), command("m-1", "", ""), w.receive)
			switch {
			case err == nil && outcome == "done":
				done.Add(1)
			case err == nil && outcome == "repeated":
				repeated.Add(1)
			}
		})
	}
	handling.Wait()
	require.Equal(t, int32(1), done.Load())
	require.Equal(t, int32(9), repeated.Load())
	require.Equal(t, int64(1), w.onHand(t))
	require.Equal(t, 1, w.count(t, `SELECT count(*) FROM outbox`))
	other := command("m-1", "", "")
	other.Consumer = "another"
	outcome, err := w.uow.Handle(t.Context(), other, w.receive)
	require.NoError(t, err)
	require.EqualValues(t, "done", outcome, "each consumer handles it")
}

// What panics because it is not new is only repeated; what panics although it is panics to whoever makes dead letters.
func TestPanicOfADuplicateIsVerified(t *testing.T) {
	w := newEnvironment(t)
	received := false
	once := func(ctx context.Context) error {
		if received {
			panic("received twice")
		}
		return w.receive(ctx)
	}
	for _, want := range []cqrs.Outcome{cqrs.Processed, cqrs.Duplicate} {
		outcome, err := w.uow.Handle(t.Context(), command("one", "", ""), once)
		require.NoError(t, err)
		require.Equal(t, want, outcome)
		received = true
	}
	w = newEnvironment(t)
	require.PanicsWithValue(t, "always", func() {
		_, _ = w.uow.Handle(t.Context(), command("two", "", ""), func(context.Context) error { panic("always") })
	})
	require.Zero(t, w.count(t, `SELECT count(*) FROM inbox`))
}

func TestConflictRetriesFromTheLoad(t *testing.T) {
	w := newEnvironment(t)
	other := w.another()
	attempts := 0
	_, err := w.uow.Handle(t.Context(), command("m-1", "", ""), func(ctx context.Context) error {
		if attempts++; attempts == 1 {
			require.NoError(t, other.uow.Within(t.Context(), other.receive), "somebody else is first")
			err := w.receive(ctx) // loads what the other has left …
			require.NoError(t, other.uow.Within(t.Context(), other.receive), "… and somebody is faster again")
			return err
		}
		return w.receive(ctx)
	})
	require.NoError(t, err)
	require.Equal(t, 2, attempts)
	require.Equal(t, int64(3), w.onHand(t))
}

func TestFailedUnitWritesNothing(t *testing.T) {
	w := newEnvironment(t)
	failure := errors.New("no")
	_, err := w.uow.Handle(t.Context(), command("m-1", "", ""), func(ctx context.Context) error {
		return errors.Join(w.receive(ctx), failure)
	})
	require.ErrorIs(t, err, failure)
	require.Zero(t, w.count(t, `SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM inbox) + (SELECT count(*) FROM outbox)`))
}

func TestARefusalIsTheAnswer(t *testing.T) {
	w := newEnvironment(t)
	outcome, err := w.uow.Handle(t.Context(), command("m-1", "reserve", cqrs.BranchAction), func(ctx context.Context) error {
		return errors.Join(w.receive(ctx), fmt.Errorf("commit: %w", inventory.ErrNotReserved))
	})
	require.NoError(t, err)
	require.EqualValues(t, "refused", outcome)
	require.Zero(t, w.onHand(t), "what was recorded before is dropped")
	require.Len(t, w.bus.published, 1)
	answer := w.bus.published[0]
	require.Contains(t, answer.Body.(saga.Refused).Reason, inventory.ErrNotReserved.Error())
	require.Equal(t, "m-1", answer.Meta.Causation)
	require.Equal(t, "reserve", answer.Meta.SagaStep)
	require.Equal(t, inventory.Category, answer.Category)
	outcome, err = w.uow.Handle(t.Context(), command("m-1", "reserve", cqrs.BranchAction), w.receive)
	require.NoError(t, err)
	require.EqualValues(t, "repeated", outcome)
	outcome, err = w.uow.Handle(t.Context(), command("m-2", "reserve", cqrs.BranchAction), w.receive)
	require.NoError(t, err)
	require.EqualValues(t, "done", outcome, "a person may have it asked again")
}

// A command that is handled without an event is answered, or its step would wait until its deadline. An event is answer enough, and a
// command that no saga sent needs none.
func TestCommandWithoutAnEventIsAnswered(t *testing.T) {
	optimisticAndVerified(t, func(t *testing.T, verify time.Duration) {
		w := newEnvironment(t).verifyDuplicates(verify)
		nothing := func(context.Context) error { return nil }
		for _, d := range []cqrs.Delivery{command("m-1", "reserve", cqrs.BranchAction), command("m-1", "reserve", cqrs.BranchAction)} { // the second is repeated
			_, err := w.uow.Handle(t.Context(), d, nothing)
			require.NoError(t, err)
		}
		sent := func() int { return w.count(t, `SELECT count(*) FROM outbox`) }
		require.Equal(t, 1, sent())
		answer := w.bus.published[0]
		require.Equal(t, saga.Processed{}, answer.Body)
		require.Equal(t, []any{"m-1", "saga-1", "reserve", cqrs.BranchAction, inventory.Category}, []any{answer.Meta.Causation, answer.Meta.SagaID, answer.Meta.SagaStep, answer.Meta.Branch, answer.Category})

		_, err := w.uow.Handle(t.Context(), command("m-2", "", ""), nothing)
		require.NoError(t, err)
		require.Equal(t, 1, sent())
		_, err = w.uow.Handle(t.Context(), command("m-3", "commit", cqrs.BranchAction), w.receive)
		require.NoError(t, err)
		require.Equal(t, 2, sent())
		require.IsType(t, inventory.Received{}, w.bus.published[len(w.bus.published)-1].Body)
	})
}

// A refusal that no saga waits for is returned, so that it becomes a dead letter; nothing is left of the delivery, and a replay is handled.
func TestARefusalWithoutASagaIsReturned(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.uow.Handle(t.Context(), command("m-1", "", ""), func(ctx context.Context) error {
		return errors.Join(w.receive(ctx), inventory.ErrNotReserved)
	})
	require.ErrorIs(t, err, inventory.ErrNotReserved)
	require.Equal(t, cqrs.KindRefused, cqrs.KindOf(err))
	require.Zero(t, w.onHand(t))
	require.Zero(t, w.count(t, `SELECT count(*) FROM inbox`))
	outcome, err := w.uow.Handle(t.Context(), command("m-1", "", ""), w.receive)
	require.NoError(t, err)
	require.Equal(t, cqrs.Processed, outcome)
}

// Processed once means per source and id: two services may use the same id.
func TestOneIDOfTwoSources(t *testing.T) {
	w := newEnvironment(t)
	for _, source := range []string{"", "/warehouse", "/depot", "/depot"} {
		_, err := w.uow.Handle(t.Context(), cqrs.Delivery{Consumer: "c", Meta: cqrs.Meta{ID: "1", Source: source}}, w.receive)
		require.NoError(t, err)
	}
	require.Equal(t, 3, w.count(t, `SELECT count(*) FROM events`))
}

func TestExpiredCommandsHaveNoEffect(t *testing.T) {
	w := newEnvironment(t)
	late := command("m-1", "reserve", cqrs.BranchAction)
	late.Meta.ExpiresAt = w.now.Add(-time.Millisecond)
	worthwhile, err := w.uow.NeedsProcessing(t.Context(), late)
	require.NoError(t, err)
	require.False(t, worthwhile)
	outcome, err := w.uow.Handle(t.Context(), late, w.receive)
	require.NoError(t, err)
	require.EqualValues(t, "expired", outcome)
	require.Zero(t, w.onHand(t))
	outcome, err = w.uow.Handle(t.Context(), command("m-2", "reserve", cqrs.BranchAction), w.receive)
	require.NoError(t, err)
	require.EqualValues(t, "done", outcome, "it bars no later attempt")
}

func TestBarrier(t *testing.T) { optimisticAndVerified(t, testBarrier) }

// whetherLookedUpOrNot has messages taken for new, and looked up before.
func optimisticAndVerified(t *testing.T, test func(t *testing.T, verify time.Duration)) {
	t.Run("taken for new", func(t *testing.T) { test(t, 0) })
	t.Run("looked up", func(t *testing.T) { test(t, time.Hour) })
}

func testBarrier(t *testing.T, verify time.Duration) {
	newEnvironment := func(t *testing.T) *environment { return newEnvironment(t).verifyDuplicates(verify) }
	handle := func(w *environment, id string, branch cqrs.Branch) string {
		outcome, err := w.uow.Handle(t.Context(), command(id, "reserve", branch), w.receive)
		require.NoError(t, err)
		return string(outcome)
	}
	t.Run("action, then compensation", func(t *testing.T) {
		w := newEnvironment(t)
		require.Equal(t, "done", handle(w, "do-1", cqrs.BranchAction))
		require.Equal(t, "repeated", handle(w, "do-2", cqrs.BranchAction), "asked again: it is done and answered")
		require.Equal(t, "done", handle(w, "undo-1", cqrs.BranchCompensation))
		require.Equal(t, "repeated", handle(w, "undo-2", cqrs.BranchCompensation))
		require.Equal(t, int64(2), w.onHand(t))
	})
	t.Run("compensation without its action, then the action", func(t *testing.T) {
		w := newEnvironment(t)
		require.Equal(t, "nothing to undo", handle(w, "undo-1", cqrs.BranchCompensation))
		require.Equal(t, saga.NothingToCompensate{}, w.bus.published[0].Body)
		require.Equal(t, "barred", handle(w, "do-1", cqrs.BranchAction))
		require.Equal(t, "repeated", handle(w, "do-1", cqrs.BranchAction))
		require.Equal(t, "barred", handle(w, "do-2", cqrs.BranchAction))
		require.Zero(t, w.onHand(t))
		require.Equal(t, 2, w.count(t, `SELECT count(*) FROM inbox WHERE message_id LIKE 'do-%' AND outcome = 'barred'`), "both are recorded")
		worthwhile, err := w.uow.NeedsProcessing(t.Context(), command("do-3", "reserve", cqrs.BranchAction))
		require.NoError(t, err)
		require.False(t, worthwhile, "nobody outside is asked for it")
	})
	t.Run("who asks outside is undone even if nothing was recorded", func(t *testing.T) {
		w := newEnvironment(t)
		undo := command("undo-1", "reserve", cqrs.BranchCompensation)
		undo.Asked = true
		handled := false
		outcome, err := w.uow.Handle(t.Context(), undo, func(context.Context) error { handled = true; return nil })
		require.NoError(t, err)
		require.EqualValues(t, "nothing to undo", outcome)
		require.True(t, handled)
		require.Equal(t, "barred", handle(w, "do-1", cqrs.BranchAction))
	})
	t.Run("events are not commands", func(t *testing.T) {
		w := newEnvironment(t)
		for _, id := range []string{"e-1", "e-2"} { // two lines of one reservation
			event := command(id, "reserve", cqrs.BranchAction)
			event.Command = false
			outcome, err := w.uow.Handle(t.Context(), event, w.receive)
			require.NoError(t, err)
			require.EqualValues(t, "done", outcome)
		}
	})
}

// Actions and compensations of a step in any order, repeated and at the same time: the action takes effect at most once and
// never after its compensation, and the compensation takes effect only if the action did.
func TestBarrierProperties(t *testing.T) { optimisticAndVerified(t, testBarrierProperties) }

func testBarrierProperties(t *testing.T, verify time.Duration) {
	w := newEnvironment(t).verifyDuplicates(verify)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		step := fmt.Sprint("step-", n)
		deliver := func(id string, branch cqrs.Branch) {
			_, err := w.uow.Handle(context.Background(), command(step+id, step, branch), func(ctx context.Context) error {
				msg := message.NewMessage(uuid.NewString(), []byte(step+" "+string(branch)))
				msg.SetContext(ctx)
				return w.bus.publisher.Publish("effects", msg)
			})
			if err != nil {
				rt.Errorf("%s: %v", id, err)
			}
		}
		for range rapid.IntRange(1, 5).Draw(rt, "rounds") {
			var together sync.WaitGroup
			for range rapid.IntRange(1, 3).Draw(rt, "at once") {
				branch := rapid.SampledFrom([]cqrs.Branch{cqrs.BranchAction, cqrs.BranchCompensation}).Draw(rt, "branch")
				id := fmt.Sprint(branch, rapid.IntRange(1, 2).Draw(rt, "attempt"))
				together.Go(func() { deliver(id, branch) })
			}
			together.Wait()
		}
		var effects []string
		if err := w.db.Select(&effects, `SELECT convert_from(payload, 'UTF8') FROM outbox WHERE topic = 'effects' AND payload LIKE $1 ORDER BY id`, []byte(step+" %")); err != nil {
			rt.Fatal(err)
		}
		switch got := strings.ReplaceAll(fmt.Sprint(effects), step+" ", ""); got {
		case "[]", "[do]", "[do undo]":
		default:
			rt.Fatalf("effects %s", got)
		}
	})
}

// The simulation's inbox, which is a model of the table, decides as the table does.
func TestSimulatedInboxMatchesPostgres(t *testing.T) {
	optimisticAndVerified(t, testSimulatedInboxMatchesPostgres)
}

func testSimulatedInboxMatchesPostgres(t *testing.T, verify time.Duration) {
	w := newEnvironment(t).verifyDuplicates(verify)
	effects := func() int { return w.count(t, `SELECT count(*) FROM outbox WHERE topic = 'effects'`) }
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		model := sagatest.Calm()
		for i := range rapid.IntRange(1, 12).Draw(rt, "deliveries") {
			branch := rapid.SampledFrom([]cqrs.Branch{cqrs.BranchAction, cqrs.BranchAction, cqrs.BranchCompensation, ""}).Draw(rt, "branch")
			d := command(fmt.Sprint(n, branch, rapid.IntRange(1, 3).Draw(rt, "attempt")), fmt.Sprint("step-", n), branch)
			d.Asked, d.Command = rapid.Bool().Draw(rt, "asked"), rapid.IntRange(0, 5).Draw(rt, "command") > 0
			if rapid.IntRange(0, 5).Draw(rt, "expired") == 0 {
				d.Meta.ExpiresAt = model.Now().Add(-time.Hour)
			}
			var refuse error
			if rapid.IntRange(0, 3).Draw(rt, "refuses") == 0 {
				refuse = inventory.ErrNotReserved
			}
			handle := func(inbox cqrs.Inbox, work func(ctx context.Context) error) (worthwhile bool, outcome cqrs.Outcome) {
				worthwhile, err := inbox.NeedsProcessing(context.Background(), d)
				if err == nil {
					outcome, err = inbox.Handle(context.Background(), d, func(ctx context.Context) error { return cmp.Or(work(ctx), refuse) })
				}
				if answered := d.Command && d.Meta.Branch != ""; errors.Is(err, inventory.ErrNotReserved) && !answered {
					return worthwhile, "returned" // no saga waits for the refusal, and nothing may be left of the delivery
				}
				if err != nil {
					rt.Fatal(err)
				}
				return worthwhile, outcome
			}
			before := effects()
			peekedTable, table := handle(w.uow, func(ctx context.Context) error {
				msg := message.NewMessage(uuid.NewString(), []byte("done"))
				msg.SetContext(ctx)
				return w.bus.publisher.Publish("effects", msg)
			})
			workedTable, workedModel := effects() > before, false
			peekedModel, modelled := handle(model, func(context.Context) error { workedModel = refuse == nil; return nil })
			if peekedTable != peekedModel || table != modelled || workedTable != workedModel {
				rt.Fatalf("delivery %d, %+v: the table says %v %s %v, the model %v %s %v", i, d, peekedTable, table, workedTable, peekedModel, modelled, workedModel)
			}
		}
	})
}

func TestRetentionKeepsRowsInUse(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`
		INSERT INTO inbox (consumer, message_id, outcome, received_at)
		SELECT 'c', n::text, 'done', now() - CASE WHEN n <= 2500 THEN interval '25 hours' ELSE interval '23 hours' END FROM generate_series(1, 2600) n;
		INSERT INTO idempotency_keys (owner, key, request, answer, created_at)
		SELECT 'guest', n::text, '', '{}', now() - CASE WHEN n <= 1000 THEN interval '2 hours' ELSE interval '30 minutes' END FROM generate_series(1, 1010) n;
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, attempts, first_at, last_at, dropped_at)
		SELECT n::text, 'c', n::text, 't', 'k', '{}', '', 'r', 1, now() - interval '9 days', now(), CASE n WHEN 1 THEN NULL WHEN 2 THEN now() ELSE now() - interval '8 days' END
		FROM generate_series(1, 5) n`)
	require.NoError(t, err)
	busy, err := w.db.BeginTxx(t.Context(), nil)
	require.NoError(t, err)
	_, err = busy.Exec(`SELECT FROM inbox WHERE message_id = '7' FOR UPDATE`)
	require.NoError(t, err)
	janitor := postgres.NewJanitor(w.db, postgres.Retention{Inbox: 24 * time.Hour, Idempotency: time.Hour, Dropped: 7 * 24 * time.Hour}, time.Hour, slog.New(slog.DiscardHandler))
	n, err := janitor.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(2499+1000+3), n, "who uses a row is not waited for")
	require.NoError(t, busy.Rollback())
	n, err = janitor.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), n)
	require.Equal(t, 100, w.count(t, `SELECT count(*) FROM inbox`))
	require.Equal(t, 10, w.count(t, `SELECT count(*) FROM idempotency_keys`))
}

func TestTheDatabasesTimeCounts(t *testing.T) {
	w := newEnvironment(t)
	for _, wrong := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		clock := postgres.NewClock(w.db, func() time.Time { return time.Now().Add(wrong) }, slog.New(slog.DiscardHandler))
		require.NoError(t, clock.Sync(t.Context()))
		require.WithinDuration(t, time.Now(), clock.Now(), 2*time.Second)
	}
}

func TestIdempotencyKeyIsTakenOnce(t *testing.T) {
	w := newEnvironment(t)
	keys := postgres.NewIdempotency(w.db)
	key := cqrs.IdempotencyKey{Owner: "guest", Scope: "POST /v1/things", Key: "k"}
	once := func(key cqrs.IdempotencyKey, request string) (earlier *cqrs.StoredResponse, err error) {
		err = w.uow.Within(t.Context(), func(ctx context.Context) error {
			if earlier, err = keys.Find(ctx, key, []byte(request)); err != nil || earlier != nil {
				return err
			}
			return keys.Keep(ctx, key, []byte(request), cqrs.StoredResponse{Status: 202, Location: "/there", Body: []byte(`{"n":1}`)})
		})
		return earlier, err
	}
	earlier, err := once(key, "a")
	require.NoError(t, err)
	require.Nil(t, earlier)
	earlier, err = once(key, "a")
	require.NoError(t, err)
	require.Equal(t, &cqrs.StoredResponse{Status: 202, Location: "/there", Body: []byte(`{"n":1}`)}, earlier)
	_, err = once(key, "b")
	require.ErrorIs(t, err, cqrs.ErrKeyReused)
	for _, other := range []cqrs.IdempotencyKey{{Owner: "else", Scope: key.Scope, Key: "k"}, {Owner: "guest", Scope: "POST /v1/others", Key: "k"}} {
		earlier, err = once(other, "b")
		require.NoError(t, err)
		require.Nil(t, earlier, "of another owner or scope it is another key")
	}
	_, err = keys.Find(t.Context(), key, nil)
	require.ErrorContains(t, err, "outside a unit of work")

	t.Run("kept by a version before migration 00010", func(t *testing.T) {
		_, err := w.db.ExecContext(t.Context(), `INSERT INTO idempotency_keys (owner, key, request, answer) VALUES ('guest', 'old', sha256('x'), '{"order_id":"1"}')`)
		require.NoError(t, err)
		earlier, err := once(cqrs.IdempotencyKey{Owner: "guest", Scope: "POST /v1/orders", Key: "old"}, strings.Repeat("y", 33))
		require.NoError(t, err)
		require.Equal(t, 202, earlier.Status)
		require.JSONEq(t, `{"order_id":"1"}`, string(earlier.Body))
	})
}
