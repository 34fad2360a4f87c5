package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// consumer is the sender of a relay whose handlers of commands are in this process.
type consumer struct {
	mu        sync.Mutex
	claimed   map[string]bool
	delivered []delivered // by a claim
	offered   []string    // ids of messages that came by the relay
	refuses   bool        // claims
}

type delivered struct {
	id              string
	order, inbox    bool // what its context says
	orderAfterwards bool
}

func (*consumer) Send(_ context.Context, _ []string, messages []*message.Message) []error {
	return make([]error, len(messages)) // of events
}

func (c *consumer) Offer(_ string, msg *message.Message, _ bool, done func(bool)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offered = append(c.offered, msg.UUID)
	go done(true)
	return true
}

func (c *consumer) Claim(_, key string) (release func(), deliver outbox.Deliver) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claimed[key] || c.refuses {
		return nil, nil
	}
	c.claimed[key] = true
	end := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.claimed, key)
	}
	return end, func(msg *message.Message, with func(context.Context) context.Context, done func(bool)) {
		end()
		ctx := with(context.Background())
		c.mu.Lock()
		c.delivered = append(c.delivered, delivered{msg.UUID, cqrs.OrderConfirmed(ctx), cqrs.InboxConfirmed(ctx), cqrs.OrderConfirmed(ctx)})
		c.mu.Unlock()
		go done(true)
	}
}

func (*consumer) Ready() bool { return true }

func (*consumer) Forget() {}

func (c *consumer) came() (byClaim []delivered, byRelay []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delivered, c.offered
}

// handlesCommands makes an environment with a relay, in which handle handles the commands to receive stock.
func handlesCommands(t *testing.T, handle func(w *environment, sku string, quantity int64) func(ctx context.Context) error) (*environment, *consumer) {
	t.Helper()
	db, dsn := kittest.Database(t)
	w := (&environment{db: db}).another()
	c := &consumer{claimed: map[string]bool{}}
	w.uow.Inline = []cqrs.InlineConsumer{{Category: "none"}}
	relay := outbox.NewRelay(db, func() outbox.Sender { return c }, slog.New(slog.DiscardHandler), outbox.Options{DSN: dsn, Local: []string{"commands"}})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { relay.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	kittest.Eventually(t, func() error {
		if claim := relay.Claim("commands", "x"); claim != nil {
			claim.Release()
			return nil
		}
		return errors.New("no key is claimed")
	})
	w.uow.Committing = relay.Committing
	w.uow.OnCommit = func(_ []cqrs.Event, messages []*outbox.Message) { relay.Offer(messages) }
	w.uow.InlineCommands.Claim = relay.Claim
	w.uow.InlineCommands.Command = func(topic string, msg *message.Message) *cqrs.InlineCommand {
		if topic != "commands" {
			return nil
		}
		sku := msg.Metadata[cqrs.HeaderKey]
		quantity, err := strconv.ParseInt(string(msg.Payload), 10, 64)
		if err != nil {
			t.Error(err)
		}
		inline := &cqrs.InlineCommand{Consumer: "commands", Meta: cqrs.Meta{ID: msg.UUID, Branch: cqrs.Branch(msg.Metadata[cqrs.HeaderBranch]), SagaID: "saga-1", SagaStep: "step of " + sku}}
		work := handle(w, sku, quantity)
		if work == nil {
			return inline
		}
		inline.Handle = func(ctx context.Context) error {
			d := cqrs.Delivery{Consumer: "commands", Meta: cqrs.MetaFromContext(ctx), Command: true, Category: inventory.Category, Key: sku}
			_, err := w.uow.Handle(ctx, d, work)
			return err
		}
		return inline
	}
	return w, c
}

// sends is the work of a message that receives stock of A and sends commands.
func (w *environment) sends(commands ...*message.Message) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if err := w.receive(ctx); err != nil {
			return err
		}
		for _, msg := range commands {
			msg.SetContext(ctx)
			if err := w.bus.publisher.Publish("commands", msg); err != nil {
				return err
			}
		}
		return nil
	}
}

func receiveCommand(id, sku string, quantity int) *message.Message {
	msg := message.NewMessage(id, []byte(strconv.Itoa(quantity)))
	msg.Metadata[cqrs.HeaderID], msg.Metadata[cqrs.HeaderKey] = id, sku
	return msg
}

func receiving(w *environment, sku string, quantity int64) func(ctx context.Context) error {
	return w.receiveOf(sku, quantity)
}

func (w *environment) of(t *testing.T, sku string) int64 {
	t.Helper()
	s, err := w.stock.Load(t.Context(), sku)
	if errors.Is(err, cqrs.ErrNotFound) {
		return 0
	}
	require.NoError(t, err)
	return s.OnHand()
}

// What a command does is committed with the message that sends it, with its own inbox row and cause, and nothing is sent. What its handler sends is handled too.
func TestCommandIsHandledInline(t *testing.T) {
	w, c := handlesCommands(t, func(w *environment, sku string, quantity int64) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			assert.Equal(t, cqrs.Principal{}, cqrs.PrincipalFromContext(ctx))
			if err := w.receiveOf(sku, quantity)(ctx); err != nil || sku != "B" {
				return err
			}
			msg := receiveCommand("c-2", "C", 3)
			msg.SetContext(ctx)
			return w.bus.publisher.Publish("commands", msg)
		}
	})
	ctx := cqrs.WithPrincipal(t.Context(), cqrs.Principal{Subject: "somebody"})
	_, err := w.uow.Handle(ctx, command("m-1", "", ""), w.sends(receiveCommand("c-1", "B", 2)))
	require.NoError(t, err)
	require.Equal(t, []int64{1, 2, 3}, []int64{w.onHand(t), w.of(t, "B"), w.of(t, "C")})
	require.Equal(t, 1, w.count(t, `SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM events UNION ALL SELECT xmin FROM inbox) r`), "one commit")
	require.Equal(t, 2, w.count(t, `SELECT count(*) FROM inbox WHERE consumer = 'commands' AND message_id IN ('c-1', 'c-2') AND outcome = 'done'`))
	for sku, cause := range map[string]string{"A": "m-1", "B": "c-1", "C": "c-2"} {
		require.Equal(t, cause, w.history(t, sku)[0].Meta.Causation)
		require.NotEmpty(t, w.published(sku).Meta.ID)
	}
	byClaim, byRelay := c.came()
	require.Empty(t, byClaim)
	require.Empty(t, byRelay)
	outcome, err := w.uow.Handle(t.Context(), cqrs.Delivery{Consumer: "commands", Meta: cqrs.Meta{ID: "c-1"}, Command: true}, w.receive)
	require.NoError(t, err)
	require.Equal(t, cqrs.Duplicate, outcome, "if it is sent all the same")
	kittest.Eventually(t, func() error {
		w.uow.InlineCommands.Claim("commands", "B").Release() // its key is free again
		return nil
	})
}

// A command that cannot be handled inline is handed over by the commit. Its look-ups are done, once.
func TestCommandIsHandedOver(t *testing.T) {
	ownTransaction := func(_ *environment, _ string, _ int64) func(ctx context.Context) error {
		return func(ctx context.Context) error { _, err := txn.FromContext(ctx); return err }
	}
	for name, handle := range map[string]func(w *environment, sku string, quantity int64) func(ctx context.Context) error{
		"it calls an external service": func(*environment, string, int64) func(context.Context) error { return nil },
		"it has statements of its own": ownTransaction,
		"it fails": func(w *environment, sku string, quantity int64) func(context.Context) error {
			return func(ctx context.Context) error {
				return errors.Join(w.receiveOf(sku, quantity)(ctx), errors.New("a bug"))
			}
		},
		"it panics": func(w *environment, sku string, quantity int64) func(context.Context) error {
			return func(ctx context.Context) error { panic(fmt.Sprint("a bug", w.receiveOf(sku, quantity)(ctx))) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, c := handlesCommands(t, handle)
			require.NoError(t, w.uow.Within(t.Context(), w.sends(receiveCommand("c-1", "B", 2))))
			require.Equal(t, []int64{1, 0}, []int64{w.onHand(t), w.of(t, "B")})
			require.Zero(t, w.count(t, `SELECT count(*) FROM inbox`))
			kittest.Eventually(t, func() error {
				if n := w.count(t, `SELECT count(*) FROM outbox WHERE topic = 'commands'`); n > 0 {
					return errors.New("its row is not deleted")
				}
				return nil
			})
			byClaim, byRelay := c.came()
			require.Equal(t, []delivered{{"c-1", true, true, false}}, byClaim)
			require.Empty(t, byRelay)
		})
	}
}

// Commands of one key are handled in their order: after one that cannot be handled inline, or whose key is not claimed, the next ones are sent.
func TestInlineCommandsOfOneKey(t *testing.T) {
	w, c := handlesCommands(t, func(w *environment, sku string, quantity int64) func(ctx context.Context) error {
		if quantity == 13 {
			return nil
		}
		return w.receiveOf(sku, quantity)
	})
	compensation := receiveCommand("c-6", "D", 1)
	compensation.Metadata[cqrs.HeaderBranch] = string(cqrs.BranchCompensation)
	require.NoError(t, w.uow.Within(t.Context(), w.sends(
		receiveCommand("c-1", "B", 1), receiveCommand("c-2", "B", 2), receiveCommand("c-3", "C", 13), receiveCommand("c-4", "C", 1), receiveCommand("c-5", "B", 13), compensation, receiveCommand("c-7", "D", 1),
	)))
	require.Equal(t, []int64{3, 0, 0}, []int64{w.of(t, "B"), w.of(t, "C"), w.of(t, "D")})
	kittest.Eventually(t, func() error {
		if n := w.count(t, `SELECT count(*) FROM outbox WHERE topic = 'commands'`); n > 0 {
			return errors.New("rows are left")
		}
		return nil
	})
	byClaim, byRelay := c.came()
	require.Equal(t, []delivered{{"c-3", true, true, false}, {"c-6", true, false, false}}, byClaim)
	require.ElementsMatch(t, []string{"c-4", "c-5", "c-7"}, byRelay)
}

// A message of the key waits in the outbox, which the commit finds. The unit of work is done again without claims, and the command comes by the relay, after that one.
func TestInlineCommandKeepsKeyOrder(t *testing.T) {
	for name, quantity := range map[string]int{"inline": 2, "handed over": 13} {
		t.Run(name, func(t *testing.T) {
			w, c := handlesCommands(t, func(w *environment, sku string, quantity int64) func(ctx context.Context) error {
				if quantity == 13 {
					return nil
				}
				return w.receiveOf(sku, quantity)
			})
			claim := w.uow.InlineCommands.Claim
			w.uow.InlineCommands.Claim = func(topic, key string) *outbox.Claim {
				c := claim(topic, key)
				if c == nil {
					return nil
				}
				ctx, unit := txn.NewUnit(context.Background(), w.db)
				msg := receiveCommand("before", "B", 1)
				msg.SetContext(ctx)
				assert.NoError(t, w.bus.publisher.Publish("commands", msg))
				assert.NoError(t, txn.Commit(context.Background(), w.db, []*txn.Unit{unit}))
				return c
			}
			require.NoError(t, w.uow.Within(t.Context(), w.sends(receiveCommand("c-1", "B", quantity))))
			require.Equal(t, []int64{1, 0}, []int64{w.onHand(t), w.of(t, "B")})
			kittest.Eventually(t, func() error {
				if _, byRelay := c.came(); len(byRelay) < 2 {
					return errors.New("not all have come")
				}
				return nil
			})
			byClaim, byRelay := c.came()
			require.Empty(t, byClaim)
			require.Equal(t, []string{"before", "c-1"}, byRelay)
		})
	}
}

// A command is not refused, nor does it record nothing, on what was stored before its sender's commit: it is handed over then.
func TestRefusedCommandIsHandedOver(t *testing.T) {
	for name, work := range map[string]error{"refused": aggregate.Refuse("there is none"), "silent": nil} {
		t.Run(name, func(t *testing.T) {
			w, c := handlesCommands(t, func(w *environment, sku string, quantity int64) func(ctx context.Context) error {
				return func(ctx context.Context) error {
					if work == nil {
						return nil
					}
					return errors.Join(w.receiveOf(sku, quantity)(ctx), work)
				}
			})
			require.NoError(t, w.uow.Within(t.Context(), w.sends(receiveCommand("c-1", "B", 2))))
			require.Equal(t, []int64{1, 0}, []int64{w.onHand(t), w.of(t, "B")})
			require.Zero(t, w.count(t, `SELECT count(*) FROM inbox WHERE message_id = 'c-1'`))
			byClaim, _ := c.came()
			require.Len(t, byClaim, 1)
		})
	}
}

// A further attempt at a step, which has an id of its own, is looked up: another one may have been handled. So is a message that is sent again with its id.
func TestFurtherAttemptIsLookedUp(t *testing.T) {
	w, c := handlesCommands(t, func(*environment, string, int64) func(context.Context) error { return nil })
	w.db.MustExec(`INSERT INTO inbox (consumer, message_id, saga_id, saga_step, branch, outcome) VALUES ('commands', 'first', 'saga-1', 'step of B', 'do', 'done')`)
	second := receiveCommand("second", "B", 2)
	second.Metadata[cqrs.HeaderBranch] = string(cqrs.BranchAction)
	w.db.MustExec(`INSERT INTO inbox (consumer, message_id, outcome) VALUES ('commands', 'again', 'done')`)
	require.NoError(t, w.uow.Within(t.Context(), w.sends(second, receiveCommand("other", "C", 2), receiveCommand("again", "D", 2))))
	byClaim, _ := c.came()
	require.Equal(t, []delivered{{"second", true, false, false}, {"other", true, true, false}, {"again", true, false, false}}, byClaim)
}

// A handler that sends itself the next command does so in some transactions, and not for ever in that of the first one.
func TestChainOfCommandsCommits(t *testing.T) {
	var n atomic.Int64
	w, c := handlesCommands(t, func(w *environment, sku string, _ int64) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			if err := w.receiveOf(sku, 1)(ctx); err != nil {
				return err
			}
			msg := receiveCommand(fmt.Sprint("c-", n.Add(1)), "B", 1)
			msg.SetContext(ctx)
			return w.bus.publisher.Publish("commands", msg)
		}
	})
	require.NoError(t, w.uow.Within(t.Context(), w.sends(receiveCommand("c-0", "B", 1))))
	require.Equal(t, int64(16), w.of(t, "B"))
	kittest.Eventually(t, func() error {
		if _, byRelay := c.came(); len(byRelay) < 1 {
			return errors.New("the next one has not come")
		}
		return nil
	})
	_, byRelay := c.came()
	require.Equal(t, []string{"c-16"}, byRelay)
}

// Who sends a command does not wait long for its handler, and does not fail if that is slow.
func TestSlowCommandIsHandedOver(t *testing.T) {
	w, c := handlesCommands(t, func(*environment, string, int64) func(context.Context) error {
		return func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, w.uow.Within(ctx, w.sends(receiveCommand("c-1", "B", 2), receiveCommand("c-2", "C", 2))))
	require.Equal(t, int64(1), w.onHand(t))
	kittest.Eventually(t, func() error {
		if byClaim, byRelay := c.came(); len(byClaim)+len(byRelay) < 2 {
			return errors.New("not all have come")
		}
		return nil
	})
}

// Where claims fail, few units of work are done twice: keys that many want, keys that are blocked, and a topic that is suspended are not claimed for a while.
func TestFailingClaimsAreGivenUp(t *testing.T) {
	const units, senders = 3000, 150
	for name, c := range map[string]struct {
		disturb string
		keys    int
	}{
		"a hot key":           {`SELECT 1`, 1},
		"some hot keys":       {`SELECT 1`, 8},
		"more hot keys":       {`SELECT 1`, 64},
		"blocked keys":        {`INSERT INTO blocked_keys (consumer, key, attempts, first_at, due_at) SELECT 'commands', convert_to('T-' || n, 'UTF8'), 1, now(), 'infinity' FROM generate_series(0, 199) n`, 1000},
		"the topic suspended": {`INSERT INTO suspended_topics (topic, reason, next_try) VALUES ('commands', 'r', now() + interval '1 hour')`, 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := handlesCommands(t, receiving)
			w.db.MustExec(c.disturb)
			var next, tries atomic.Int64
			var all sync.WaitGroup
			for range senders {
				all.Go(func() {
					for n := next.Add(1); n <= units; n = next.Add(1) {
						_, err := w.uow.Handle(t.Context(), command(fmt.Sprint("m-", n), "", ""), func(ctx context.Context) error {
							tries.Add(1)
							if err := w.receiveOf(fmt.Sprint("S-", n), 1)(ctx); err != nil {
								return err
							}
							msg := receiveCommand(fmt.Sprint("c-", n), fmt.Sprint("T-", int(n)%c.keys), 1)
							msg.SetContext(ctx)
							return w.bus.publisher.Publish("commands", msg)
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			require.Equal(t, units, w.count(t, `SELECT count(*) FROM inbox WHERE message_id LIKE 'm-%'`))
			t.Logf("%d units were tried %d times", units, tries.Load())
			require.Less(t, tries.Load(), int64(units*3/2))
		})
	}
}

// Messages of one key that wait for each other are one run, and send their commands: each would wait for the claimed keys, and these for it.
func TestRunOfSeveralHandlesNoCommands(t *testing.T) {
	w, c := handlesCommands(t, receiving)
	before := cqrs.NewTurn(nil)
	turns := []*cqrs.Turn{before, cqrs.NewTurn(before)}
	begun := make(chan struct{})
	var working sync.WaitGroup
	for i, turn := range turns {
		working.Go(func() {
			if i == 1 {
				<-begun
			}
			err := w.uow.Within(cqrs.WithTurn(t.Context(), turn), func(ctx context.Context) error {
				if i == 0 {
					close(begun)
					time.Sleep(100 * time.Millisecond) // the other one wants to join
				}
				return w.sends(receiveCommand("c-"+strconv.Itoa(i), "B"+strconv.Itoa(i), 2))(ctx)
			})
			if err != nil {
				t.Error(err)
			}
			turn.Done()
		})
	}
	working.Wait()
	require.Equal(t, []int64{2, 0, 0}, []int64{w.onHand(t), w.of(t, "B0"), w.of(t, "B1")})
	kittest.Eventually(t, func() error {
		if _, byRelay := c.came(); len(byRelay) < 2 {
			return errors.New("it has not come")
		}
		return nil
	})
	_, byRelay := c.came()
	require.ElementsMatch(t, []string{"c-0", "c-1"}, byRelay)
}

// A unit of work that runs into a lock does not keep claimed keys while it waits.
func TestUnitThatWaitsClaimsNothing(t *testing.T) {
	w, c := handlesCommands(t, receiving)
	tx := w.db.MustBegin()
	tx.MustExec(`INSERT INTO inbox (consumer, message_id, outcome) VALUES ('c', 'm-1', 'done')`)
	claim, claimed := w.uow.InlineCommands.Claim, make(chan struct{}, 10)
	w.uow.InlineCommands.Claim = func(topic, key string) *outbox.Claim {
		defer func() { claimed <- struct{}{} }()
		return claim(topic, key)
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.uow.Handle(context.Background(), command("m-1", "", ""), w.sends(receiveCommand("c-1", "B", 2)))
		done <- err
	}()
	<-claimed
	kittest.Eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.claimed["B"] {
			return errors.New("the key is claimed")
		}
		return nil
	})
	require.Empty(t, done)
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-done)
	require.Equal(t, int64(1), w.onHand(t))
}

// The claims of a unit of work end with it, also if it fails.
func TestClaimsEndWithTheUnit(t *testing.T) {
	w, c := handlesCommands(t, receiving)
	fails := func(ctx context.Context) error {
		return errors.Join(w.sends(receiveCommand("c-1", "B", 2))(ctx), errors.New("a bug"))
	}
	require.Error(t, w.uow.Within(t.Context(), fails))
	_, err := w.db.Exec(`ALTER TABLE events ADD CONSTRAINT broken CHECK (type <> 'inventory.received')`)
	require.NoError(t, err)
	require.Error(t, w.uow.Within(t.Context(), w.sends(receiveCommand("c-1", "B", 2))))
	_, err = w.db.Exec(`ALTER TABLE events DROP CONSTRAINT broken`)
	require.NoError(t, err)
	require.NoError(t, w.uow.Within(t.Context(), w.sends(receiveCommand("c-1", "B", 2))))
	require.Equal(t, int64(2), w.of(t, "B"))
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(t, c.claimed)
}
