package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// handlers is an outbox.Local whose handlers the test plays.
type handlers struct {
	mu    sync.Mutex
	takes func(key, text string) bool
	taken map[string]func(acked bool) // by text, not done yet
	more  map[string]bool             // by text, what Offer was told
	sent  []string
	fails func(ctx context.Context) error // of Send; nil: none

	locally int // messages of topic t that Send was given

	failing string // a key that cannot be sent
	forgets int    // calls of Forget

	claimed map[string]bool   // keys
	offered []string          // those that were taken or delivered, in their order
	before  func(text string) // called by Offer
}

func newHandlers(takes func(key, text string) bool) *handlers {
	return &handlers{takes: takes, taken: map[string]func(bool){}, claimed: map[string]bool{}, more: map[string]bool{}}
}

func (h *handlers) sender() outbox.Sender { return h }

func (h *handlers) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	h.mu.Lock()
	for _, topic := range topics {
		if topic == "t" {
			h.locally++
		}
	}
	fails := h.fails
	h.mu.Unlock()
	if fails != nil {
		return slices.Repeat([]error{fails(ctx)}, len(messages))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := make([]error, len(messages))
	for i, msg := range messages {
		if h.failing != "" && msg.Metadata[cqrs.HeaderKey] == h.failing {
			errs[i] = errors.New("broken pipe")
			continue
		}
		h.sent = append(h.sent, string(msg.Payload))
	}
	return errs
}

func (h *handlers) Offer(_ string, msg *message.Message, more bool, done func(acked bool)) bool {
	text := string(msg.Payload)
	if h.before != nil {
		h.before(text)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.takes(msg.Metadata[cqrs.HeaderKey], text) {
		return false
	}
	h.taken[text], h.more[text] = done, more
	h.offered = append(h.offered, text)
	return true
}

// Claim claims a key if handlers would take the message "claim" of it.
func (h *handlers) Claim(_, key string) (release func(), deliver outbox.Deliver) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.takes(key, "claim") || h.claimed[key] {
		return nil, nil
	}
	h.claimed[key] = true
	end := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.claimed, key)
	}
	return end, func(msg *message.Message, with func(context.Context) context.Context, done func(acked bool)) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.taken[string(msg.Payload)] = func(acked bool) { end(); done(acked) }
		h.offered = append(h.offered, string(msg.Payload))
	}
}

func (*handlers) Ready() bool { return true }

func (h *handlers) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgets++
}

func (h *handlers) refuse() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.takes = func(string, string) bool { return false }
}

func (h *handlers) end(text string, acked bool) {
	h.mu.Lock()
	done := h.taken[text]
	delete(h.taken, text)
	h.mu.Unlock()
	done(acked)
}

func (h *handlers) sentOf() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sent)
}

// waitFails waits until sending has begun while it fails.
func (h *handlers) waitFails(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	fails, begun := h.fails, make(chan struct{})
	var once sync.Once
	h.fails = func(ctx context.Context) error { once.Do(func() { close(begun) }); return fails(ctx) }
	h.mu.Unlock()
	select {
	case <-begun:
	case <-time.After(kittest.Patience):
		require.Fail(t, "nothing was sent")
	}
}

func (h *handlers) waitTaken(t *testing.T, texts ...string) {
	t.Helper()
	kittest.Eventually(t, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, text := range texts {
			if h.taken[text] == nil {
				return fmt.Errorf("%s is not taken", text)
			}
		}
		return nil
	})
}

func (h *handlers) waitSent(t *testing.T, texts ...string) {
	t.Helper()
	kittest.Eventually(t, func() error {
		if sent := h.sentOf(); len(sent) < len(texts) {
			return fmt.Errorf("sent %v", sent)
		}
		return nil
	})
	require.Equal(t, texts, h.sentOf())
}

func all(string, string) bool { return true }

// keyOf is a key of a topic whose shard meets a condition.
func keyOf(topic string, shard func(int16) bool) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("key-", i); shard(outbox.ShardOf(topic, key)) {
			return key
		}
	}
}

// What handlers give back is sent before later messages of its key, which wait for it; messages of other keys do not wait.
func TestMessageGivenBackKeepsKeyOrder(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	runHandlers(t, db, dsn, h, outbox.Options{})
	write(t, db, "t", item{key: "k", text: "1"}, item{key: "k", text: "2"})
	h.waitTaken(t, "1", "2")
	require.Equal(t, map[string]bool{"1": false, "2": true}, h.more)
	h.refuse()
	write(t, db, "t", item{key: "k", text: "3"}, item{key: "other", text: "4"})
	h.waitSent(t, "4")
	time.Sleep(200 * time.Millisecond)
	require.Equal(t, []string{"4"}, h.sentOf(), "3 waits for 1 and 2")
	h.end("2", false)
	time.Sleep(100 * time.Millisecond)
	require.Equal(t, []string{"4"}, h.sentOf(), "2 and 3 wait for 1")
	h.end("1", false)
	h.waitSent(t, "4", "1", "2", "3")
	drained(t, db)
}

// After a message of a key that is sent, the next ones that were read with it are sent too.
func TestMessageBehindASentOneIsNotOffered(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(_, text string) bool { return text != "1" })
	write(t, db, "t", item{key: "k", text: "1"}, item{key: "k", text: "2"}, item{key: "k", text: "3"})
	runHandlers(t, db, dsn, h, outbox.Options{})
	h.waitSent(t, "1", "2", "3")
	require.Empty(t, h.taken)
	drained(t, db)
}

// A message is given back after the rows behind it were read: they are read again, and it is offered before them.
func TestMessageGivenBackAfterTheNextWasRead(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	other := keyOf("t", func(shard int16) bool { return shard == outbox.ShardOf("t", "k") })
	var once sync.Once
	h.before = func(text string) {
		if text == "2" {
			once.Do(func() { h.end("1", false) })
		}
	}
	runHandlers(t, db, dsn, h, outbox.Options{})
	write(t, db, "t", item{key: "k", text: "1"})
	h.waitTaken(t, "1")
	write(t, db, "t", item{key: other, text: "2"}, item{key: "k", text: "3"})
	h.waitTaken(t, "1", "3")
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, []string{"1", "2", "1", "3"}, h.offered)
}

// The rows of handled messages are deleted soon, without waiting for the next poll.
func TestHandledRowsAreDeleted(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	relay := runHandlers(t, db, dsn, h, outbox.Options{Poll: time.Hour})
	kittest.Eventually(t, func() error {
		if !relay.HoldsAll() {
			return fmt.Errorf("%d shards are held", relay.Held())
		}
		return nil
	})
	even, odd := keyOf("t", func(s int16) bool { return s%2 == 0 }), keyOf("t", func(s int16) bool { return s%2 == 1 })
	write(t, db, "t", item{key: even, text: "even"}, item{key: odd, text: "odd"})
	relay.Wake()
	h.waitTaken(t, "even", "odd")
	time.Sleep(100 * time.Millisecond) // the lane sleeps
	h.end("even", true)
	h.end("odd", true)
	require.Eventually(t, func() bool {
		var left int
		require.NoError(t, db.Get(&left, `SELECT count(*) FROM outbox`))
		return left == 0
	}, 5*time.Second, 10*time.Millisecond)
	require.Empty(t, h.sentOf())
}

// A relay that stops deletes the rows that were handled until then.
func TestRelayDeletesHandledRowsWhenItStops(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	_, stop := runSenders(t, db, dsn, h.sender, outbox.Options{Local: []string{"t"}})
	var items []item
	var texts []string
	for i := range 40 {
		items = append(items, item{key: fmt.Sprint("k", i), text: fmt.Sprint(i)})
		texts = append(texts, fmt.Sprint(i))
	}
	write(t, db, "t", items...)
	h.waitTaken(t, texts...)
	for _, text := range texts[1:] {
		h.end(text, true)
	}
	stop()
	var left []string
	require.NoError(t, db.Select(&left, `SELECT convert_from(payload, 'UTF8') FROM outbox`))
	require.Equal(t, []string{"0"}, left, "it was not handled")
	h.end("0", true) // after the stop
}

// A message is handled after its shard was given to another relay, which has sent it too. The first relay keeps its other leases, and deletes
// the rows of its own shards as soon as before.
func TestMessageHandledAfterItsShardHasMoved(t *testing.T) {
	db, dsn := kittest.Database(t)
	first, second := newHandlers(all), newHandlers(func(string, string) bool { return false })
	one := runHandlers(t, db, dsn, first, outbox.Options{Poll: time.Hour})
	kittest.Eventually(t, func() error {
		if !one.HoldsAll() {
			return fmt.Errorf("%d shards are held", one.Held())
		}
		return nil
	})
	keys := map[int16]string{}
	var items []item
	for n := range int16(outbox.Shards) {
		shard := outbox.FirstShard + n
		keys[shard] = keyOf("t", func(s int16) bool { return s == shard })
		items = append(items, item{key: keys[shard], text: fmt.Sprint(shard)})
	}
	write(t, db, "t", items...)
	one.Wake()
	for _, i := range items {
		first.waitTaken(t, i.text)
	}
	two := runHandlers(t, db, dsn, second, outbox.Options{})
	kittest.Eventually(t, func() error {
		if one.Held() != 8 || two.Held() != 8 || len(second.sentOf()) != 8 {
			return fmt.Errorf("%d and %d shards are held, %d messages are sent", one.Held(), two.Held(), len(second.sentOf()))
		}
		return nil
	})
	var owners []string
	require.NoError(t, db.Select(&owners, `SELECT owner FROM relay_leases ORDER BY shard`))
	for _, text := range second.sentOf() {
		first.end(text, true)
	}
	for text := range first.taken {
		first.end(text, true)
	}
	require.Eventually(t, func() bool {
		var left int
		require.NoError(t, db.Get(&left, `SELECT count(*) FROM outbox`))
		return left == 0
	}, 5*time.Second, 10*time.Millisecond)
	time.Sleep(1500 * time.Millisecond) // a heartbeat
	var now []string
	require.NoError(t, db.Select(&now, `SELECT owner FROM relay_leases ORDER BY shard`))
	require.Equal(t, owners, now)
	require.Empty(t, first.sentOf())
}

// A message of a suspended topic waits until the message of its key before it was handled. Messages of other topics do not wait meanwhile.
func TestSuspendedMessageBehindATakenOneBlocksNoOthers(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(_, text string) bool { return text == "1" })
	runHandlers(t, db, dsn, h, outbox.Options{Poll: 50 * time.Millisecond})
	write(t, db, "t", item{key: "k", text: "1"})
	h.waitTaken(t, "1")
	_, err := db.Exec(`INSERT INTO suspended_topics (topic, reason, next_try) VALUES ('t', 'test', app_now() + '1 hour')`)
	require.NoError(t, err)
	write(t, db, "t", item{key: "k", text: "2"}, item{key: "k", text: "3"})
	write(t, db, "other", item{key: "k", text: "4"})
	h.waitSent(t, "4")
	var suspended int
	require.NoError(t, db.Get(&suspended, `SELECT count(*) FROM outbox WHERE due_at = '-infinity'`))
	require.Zero(t, suspended, "they are behind one that may be given back")
	h.end("1", true)
	kittest.Eventually(t, func() error {
		var texts []string
		if err := db.Select(&texts, `SELECT convert_from(payload, 'UTF8') || due_at FROM outbox ORDER BY id`); err != nil {
			return err
		}
		if !slices.Equal(texts, []string{"2-infinity", "3-infinity"}) {
			return fmt.Errorf("left: %v", texts)
		}
		return nil
	})
}

// runHandlers starts a relay whose messages handlers may take.
func runHandlers(t *testing.T, db *sqlx.DB, dsn string, h *handlers, o outbox.Options) *outbox.Relay {
	t.Helper()
	o.Local = []string{"t"}
	relay, _ := runSenders(t, db, dsn, h.sender, o)
	return relay
}

// While handlers have many messages, the relay does not read their rows again and again: it waits for a notification, or for the next poll.
func TestTakenRowsAreNotReadInALoop(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	var items []item
	var texts []string
	for i := range 3000 {
		items = append(items, item{key: fmt.Sprint("k", i), text: fmt.Sprint(i)})
		texts = append(texts, fmt.Sprint(i))
	}
	write(t, db, "t", items...)
	runHandlers(t, db, dsn, h, outbox.Options{})
	h.waitTaken(t, texts...)
	require.Less(t, transactionsWithin(t, db, 3*time.Second), 100)
	for _, text := range texts {
		h.end(text, true)
	}
	drained(t, db)
}

// While the broker refuses connections, or answers nothing, handlers take what is theirs, however many other messages wait. Messages that they do not take
// wait, and delay no others. All are sent when the broker is back, those of a key in order.
func TestHandlersGoOnWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(ctx context.Context, back <-chan struct{}) error{
		"refuses": func(context.Context, <-chan struct{}) error { return errors.New("connection refused") },
		"silent": func(ctx context.Context, back <-chan struct{}) error {
			select {
			case <-back:
			case <-ctx.Done():
			}
			return errors.New("timeout")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, dsn := kittest.Database(t)
			back := make(chan struct{})
			h := newHandlers(func(key, _ string) bool { return key != "remote" })
			h.fails = func(ctx context.Context) error { return away(ctx, back) }
			runHandlers(t, db, dsn, h, outbox.Options{Batch: 10, Poll: 100 * time.Millisecond})
			var others []item
			for i := range 500 {
				others = append(others, item{key: fmt.Sprint("k", i), text: fmt.Sprint("other ", i)})
			}
			write(t, db, "other", others...)
			h.waitFails(t)
			for i := range 100 {
				texts := []string{fmt.Sprint(3 * i), fmt.Sprint(3*i + 1), fmt.Sprint(3*i + 2)}
				write(t, db, "t", item{key: "a", text: texts[0]}, item{key: fmt.Sprint("b", i), text: texts[1]}, item{key: "a", text: texts[2]})
				h.waitTaken(t, texts...)
				for _, text := range texts {
					h.end(text, true)
				}
				if i == 50 {
					write(t, db, "t", item{key: "remote", text: "first"}, item{key: "remote", text: "second"})
				}
			}
			kittest.Eventually(t, func() error {
				var left int
				if err := db.Get(&left, `SELECT count(*) FROM outbox WHERE topic = 't' AND key <> 'remote'`); err != nil || left > 0 {
					return fmt.Errorf("%d rows are left: %w", left, err)
				}
				return nil
			})
			require.Empty(t, h.sentOf())
			h.mu.Lock()
			h.fails = nil
			h.mu.Unlock()
			close(back)
			drained(t, db)
			sent := slices.DeleteFunc(h.sentOf(), func(text string) bool { return strings.HasPrefix(text, "other") })
			require.Equal(t, []string{"first", "second"}, sent)
			require.Len(t, h.sentOf(), len(others)+len(sent))
		})
	}
}

// While the broker is away nothing of the local lane is sent, because it could not be handed over after that: what handlers cannot take is offered to them again.
func TestNothingIsSentInDoubtWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	var refused, pinged, back atomic.Bool
	h := newHandlers(func(_, text string) bool { return text == "taken" || text == "later" && refused.Swap(true) })
	h.fails = func(context.Context) error { return errors.New("connection refused") }
	runHandlers(t, db, dsn, h, outbox.Options{Poll: 100 * time.Millisecond, Ping: func(context.Context) error {
		pinged.Store(true)
		if back.Load() {
			return nil
		}
		return errors.New("connection refused")
	}})
	write(t, db, "other", item{key: "o", text: "other"})
	h.waitFails(t)
	h.waitFails(t) // so the relay knows of the first failure
	write(t, db, "t", item{key: "a", text: "later"}, item{key: "b", text: "remote"})
	h.waitTaken(t, "later")
	write(t, db, "t", item{key: "c", text: "taken"})
	h.waitTaken(t, "taken")
	kittest.Eventually(t, func() error {
		if !pinged.Load() {
			return errors.New("the broker was not asked")
		}
		return nil
	})
	h.mu.Lock()
	require.Zero(t, h.locally)
	h.fails = nil
	h.mu.Unlock()
	back.Store(true)
	kittest.Eventually(t, func() error {
		if !slices.Contains(h.sentOf(), "remote") {
			return errors.New("it is not sent")
		}
		return nil
	})
}

// That the broker has answered once says nothing of a later time.
func TestAnswerOfTheBrokerIsOfItsTime(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	var answered atomic.Bool
	h := newHandlers(func(_, text string) bool { return text == "first" && answered.Load() || text == "taken" })
	h.fails = func(context.Context) error { return errors.New("connection refused") }
	runHandlers(t, db, dsn, h, outbox.Options{Poll: 100 * time.Millisecond, Ping: func(context.Context) error {
		answered.Store(true) // from now on handlers take the message that waits, so nothing is sent
		return nil
	}})
	write(t, db, "other", item{key: "o", text: "other"})
	h.waitFails(t)
	h.waitFails(t) // so the relay knows of the first failure
	write(t, db, "t", item{key: "a", text: "first"})
	h.waitTaken(t, "first")
	time.Sleep(2500 * time.Millisecond)
	write(t, db, "t", item{key: "b", text: "second"})
	write(t, db, "t", item{key: "c", text: "taken"})
	h.waitTaken(t, "taken")
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Zero(t, h.locally)
}

// transactionsWithin counts the transactions of the database within a time from now on.
func transactionsWithin(t *testing.T, db *sqlx.DB, d time.Duration) int {
	t.Helper()
	count := func() (n int) {
		require.NoError(t, db.Get(&n, `SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`))
		return n
	}
	time.Sleep(2 * time.Second) // statistics are up to a second old
	before := count()
	time.Sleep(d)
	return count() - before
}

// Many messages of a shard that wait for the broker hide none that can be taken, and are not read in a loop.
func TestManyWaitingMessagesHideNoOthers(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(key, _ string) bool { return key == "mine" })
	h.fails = func(context.Context) error { return errors.New("connection refused") }
	var items []item
	for i := 0; len(items) < 1500; i++ {
		if key := fmt.Sprint("k", i); outbox.ShardOf("t", key) == outbox.ShardOf("t", "mine") {
			items = append(items, item{key: key, text: fmt.Sprint("x", i)})
		}
	}
	write(t, db, "t", items...)
	runHandlers(t, db, dsn, h, outbox.Options{})
	h.waitFails(t)
	write(t, db, "t", item{key: "mine", text: "mine"})
	h.waitTaken(t, "mine")
	h.end("mine", true)
	require.Less(t, transactionsWithin(t, db, 5*time.Second), 150)
}

// The message before ends between the look at it and the offer, so the offer is refused. It is repeated: a message that is sent to a broker that is away can no
// longer be taken.
func TestMessageIsOfferedAgainAfterTheOneBeforeHasEnded(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	ended := false
	h.before = func(text string) {
		if text == "2" && !ended {
			ended = true
			h.end("1", true)
			h.takes = func(string, string) bool { h.takes = all; return false }
		}
	}
	h.fails = func(context.Context) error { t.Error("it was sent"); return errors.New("connection refused") }
	runHandlers(t, db, dsn, h, outbox.Options{})
	write(t, db, "t", item{key: "k", text: "1"}, item{key: "k", text: "2"})
	h.waitTaken(t, "2")
	h.end("2", true)
	drained(t, db)
}

// While one key cannot be sent, so that requests fail again and again, the broker is not away: messages that handlers do not take are sent.
func TestFailingKeyIsNoOutage(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(string, string) bool { return false })
	h.failing = "bad"
	runHandlers(t, db, dsn, h, outbox.Options{Poll: 20 * time.Millisecond})
	write(t, db, "other", item{key: "bad", text: "bad"})
	for i := range 40 {
		event := fmt.Sprint("event ", i)
		write(t, db, "other", item{key: fmt.Sprint("k", i), text: event})
		kittest.Eventually(t, func() error {
			if !slices.Contains(h.sentOf(), event) {
				return fmt.Errorf("%s is not sent", event)
			}
			return nil
		})
	}
	write(t, db, "t", item{key: "c", text: "command"})
	kittest.Eventually(t, func() error {
		if !slices.Contains(h.sentOf(), "command") {
			return errors.New("the command is not sent")
		}
		return nil
	})
}

// While requests of the other lane fail again and again, though the broker answers, a command that is to be sent waits for that answer only, and not for the next time
// that the broker would be asked after it was sent for another reason.
func TestFailingKeyOfAnotherLaneDelaysNoCommands(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(string, string) bool { return false })
	h.failing = "bad"
	runHandlers(t, db, dsn, h, outbox.Options{Poll: 100 * time.Millisecond, Ping: func(context.Context) error { return nil }})
	write(t, db, "other", item{key: "bad", text: "bad"})
	for n := range 5 {
		text := fmt.Sprint("command ", n)
		write(t, db, "t", item{key: fmt.Sprint(n), text: text})
		require.Eventually(t, func() bool { return slices.Contains(h.sentOf(), text) }, 5*time.Second, 5*time.Millisecond, "%s is not sent", text)
		time.Sleep(500 * time.Millisecond) // the other lane has failed once more
	}
}

// A topic of another service that does not exist is tried again and again. What was sent to topics of this service is known all the same, so that their messages can be
// taken if the broker goes away.
func TestSuspendedTopicOfOthersForgetsNothing(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(all)
	var tried atomic.Int64
	h.fails = func(context.Context) error {
		tried.Add(1)
		return errTopic
	}
	relay := runHandlers(t, db, dsn, h, outbox.Options{
		Poll: 50 * time.Millisecond, TopicFault: func(err error) bool { return errors.Is(err, errTopic) }, Repair: func(context.Context, string) error { return errTopic },
	})
	write(t, db, "t", item{key: "k", text: "1"})
	h.waitTaken(t, "1")
	write(t, db, "missing", item{key: "k", text: "x"})
	kittest.Eventually(t, func() error {
		if n := tried.Load(); n < 3 {
			return fmt.Errorf("tried %d times", n)
		}
		return nil
	})
	require.True(t, relay.HandsOver())
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, 1, h.forgets, "once, at the start")
}

// A suspended topic whose messages handlers could take is not tried again while the broker is away: nobody would know whether a message arrived, and the local lane would forget
// what it knows of all topics.
func TestSuspendedLocalTopicForgetsNothingWhileTheBrokerIsAway(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(key, _ string) bool { return key == "mine" })
	fails := func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.fails = func(context.Context) error { return err }
		if err == nil {
			h.fails = nil
		}
	}
	var away atomic.Bool
	var asked atomic.Int64
	fails(errTopic)
	relay, _ := runSenders(t, db, dsn, h.sender, outbox.Options{
		Local: []string{"t", "suspended"}, Poll: 50 * time.Millisecond, TopicFault: func(err error) bool { return errors.Is(err, errTopic) },
		Ping: func(context.Context) error {
			asked.Add(1)
			if away.Load() {
				return errors.New("connection refused")
			}
			return nil
		},
	})
	write(t, db, "suspended", item{key: "k", text: "x"})
	kittest.Eventually(t, func() error {
		n, err := db.MustExec(`UPDATE suspended_topics SET next_try = app_now() + interval '1 hour' WHERE topic = 'suspended'`).RowsAffected()
		if err == nil && n == 0 {
			err = errors.New("it is not suspended yet")
		}
		return err
	})
	time.Sleep(100 * time.Millisecond) // a retry may have begun
	away.Store(true)
	fails(errors.New("connection refused"))
	write(t, db, "other", item{key: "k", text: "event"})
	kittest.Eventually(t, func() error {
		if !relay.Down() {
			return errors.New("the relay has not noticed yet")
		}
		return nil
	})
	before := asked.Load()
	db.MustExec(`UPDATE suspended_topics SET next_try = app_now()`)
	time.Sleep(500 * time.Millisecond) // several times
	write(t, db, "t", item{key: "mine", text: "command"})
	h.waitTaken(t, "command")
	require.True(t, relay.HandsOver())
	h.mu.Lock()
	forgets := h.forgets
	h.mu.Unlock()
	require.Equal(t, 1, forgets, "once, at the start")
	require.Greater(t, asked.Load(), before+2, "it was not to be tried again")
	away.Store(false)
	fails(nil)
	h.end("command", true)
	drained(t, db)
}

// A crash of the database may bring back a row whose deletion was not on its disk yet. It is sent once more, although the relay knows that all rows up to it are gone.
func TestRowThatACrashBringsBackIsSent(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(string, string) bool { return false })
	relay := runHandlers(t, db, dsn, h, outbox.Options{Poll: 50 * time.Millisecond})
	relay.AdvanceMarksOften()
	w := write(t, db, "other", item{key: "k", text: "1"})[0]
	shard := outbox.ShardOf("other", "k")
	kittest.Eventually(t, func() error {
		relay.See(w.ID + 1)
		if mark := relay.LowWaterMark(shard); mark < w.ID {
			return fmt.Errorf("the mark is %d", mark)
		}
		return nil
	})
	_, err := db.Exec(`INSERT INTO outbox (id, message_id, topic, key, shard, payload, headers) OVERRIDING SYSTEM VALUE VALUES ($1, $2, 'other', 'k', $3, '1', '{}')`, w.ID, w.Message.UUID, shard)
	require.NoError(t, err)
	time.Sleep(300 * time.Millisecond)
	require.Equal(t, []string{"1"}, h.sentOf(), "no such row can be due without a crash")
	_, err = db.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.NoError(t, err)
	h.waitSent(t, "1", "1")
	drained(t, db)
}

// The database fails over to a standby that lacks the last ids, so that ids begin anew lower. What is written then is relayed.
func TestIDsBeginLowerAfterAFailover(t *testing.T) {
	db, dsn := kittest.Database(t)
	h := newHandlers(func(string, string) bool { return false })
	relay := runHandlers(t, db, dsn, h, outbox.Options{})
	relay.AdvanceMarksOften()
	begin := func(at int) {
		_, err := db.Exec(`SELECT setval(pg_get_serial_sequence('outbox', 'id'), $1)`, at)
		require.NoError(t, err)
	}
	begin(100)
	write(t, db, "other", item{key: "k", text: "1"}, item{key: "k", text: "2"})
	drained(t, db)
	begin(50)
	_, err := db.Exec(`UPDATE relay_leases SET owner = NULL, expires_at = '-infinity'`)
	require.NoError(t, err)
	kittest.Eventually(t, func() error {
		var free int
		if err := db.Get(&free, `SELECT count(*) FROM relay_leases WHERE owner IS NULL`); err != nil || free > 0 || !relay.HoldsAll() {
			return fmt.Errorf("%d shards are free: %w", free, err)
		}
		return nil
	})
	time.Sleep(time.Second) // marks would advance
	write(t, db, "other", item{key: "k", text: "3"})
	relay.Wake()
	h.waitSent(t, "1", "2", "3")
}
