package outbox

import (
	"context"
	"crypto/rand"
	"hash/fnv"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// leaseClass is the first number of the advisory locks: 0 says that a relay works (shared), 1 to Shards are the shards. Those that say that
// a relay is there have the number of its machine, and from when on.
const leaseClass = 0x6d73

// An instance asks its session once a second. One that does not for leaseFor, because it is stopped or cut off, loses the session,
// and knows it by its own clock, which goes on, before it uses a shard again.
const (
	leaseFor  = 5 * time.Second
	leaseBeat = time.Second
)

// leases are the shards that this instance relays. A shard is an advisory lock of a session, so it is free again at the
// moment when its holder's connection ends. How many relays work says how many shards are each one's share. Of those on one machine the
// one that has been there for the longest works, and the others stand by.
type leases struct {
	dsn     string
	machine int32 // a number made of its name
	since   int32 // in tenths of a second, from when on this one is there; it begins anew after six years, when two may be in the wrong order
	working bool
	log     *slog.Logger
	changed func()

	mu   sync.RWMutex // held for reading while shards are in use
	held map[int]bool
	beat time.Time // when the session was last asked with success
}

func newLeases(o Options, log *slog.Logger) *leases {
	return &leases{dsn: o.DSN, machine: number(o.Machine), since: int32(o.Since.UnixMilli() / 100 & math.MaxInt32), log: log}
}

// use returns the held shards that pick chooses; none of them is let go before done is called.
func (l *leases) use(pick func(int) bool) (shards []int16, done func()) {
	l.mu.RLock()
	fresh := time.Since(l.beat) < leaseFor-leaseBeat
	for shard := range l.held {
		if fresh && pick(shard) {
			shards = append(shards, int16(shard)) //nolint:gosec // less than Shards
		}
	}
	return shards, l.mu.RUnlock
}

func (l *leases) count() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.held)
}

func (l *leases) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := l.hold(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("relay: cannot hold shards", "error", err)
			pause(ctx, time.Second)
		}
	}
}

// hold keeps one connection and balances the shards on it until the connection or ctx ends.
func (l *leases) hold(ctx context.Context) error {
	config, err := pgx.ParseConfig(l.dsn)
	if err != nil {
		return err
	}
	config.ConnectTimeout = leaseFor
	config.RuntimeParams["idle_session_timeout"] = leaseFor.String()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		l.mu.Lock()
		l.held = nil
		l.mu.Unlock()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(closing) //nolint:errcheck,gosec // the locks go with the connection in any case
	}()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock_shared($1, $2)`, l.machine, l.since); err != nil {
		return err
	}
	l.working = false
	for {
		began := time.Now()
		if err := l.balance(ctx, conn); err != nil {
			return err
		}
		l.mu.Lock()
		l.beat = began
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(leaseBeat):
		}
	}
}

func (l *leases) balance(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, leaseFor)
	defer cancel()
	var relays, earlier int
	err := conn.QueryRow(ctx, `SELECT count(DISTINCT pid) FILTER (WHERE classid = $1 AND objid = 0 AND pid <> pg_backend_pid()), count(*) FILTER (WHERE classid = $2 AND objid < $3)
		FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
		leaseClass, l.machine, l.since).Scan(&relays, &earlier)
	if err != nil {
		return err
	}
	share := 0
	if earlier == 0 {
		relays++
		share = (Shards + relays - 1) / relays
	}
	if err := l.work(ctx, conn, earlier == 0); err != nil {
		return err
	}
	if l.count() == share {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[int]bool{}
	}
	before := len(l.held)
	for shard := range l.held {
		if len(l.held) <= share {
			break
		}
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock($1, $2)`, leaseClass, shard+1); err != nil {
			return err
		}
		delete(l.held, shard)
	}
	for shard := 0; shard < Shards && len(l.held) < share; shard++ {
		if l.held[shard] {
			continue
		}
		var got bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, leaseClass, shard+1).Scan(&got); err != nil {
			return err
		}
		if got {
			l.held[shard] = true
		}
	}
	if len(l.held) != before {
		l.log.Info("relay: shards", "held", len(l.held), "of", Shards, "relays", relays)
		l.changed()
	}
	return nil
}

// work says to other relays whether this one works.
func (l *leases) work(ctx context.Context, conn *pgx.Conn, works bool) error {
	if works == l.working {
		return nil
	}
	l.working = works
	change := `SELECT pg_advisory_lock_shared($1, 0)`
	if !works {
		change = `SELECT pg_advisory_unlock_shared($1, 0)`
		l.log.Info("relay: stands by for another instance on this machine")
	}
	_, err := conn.Exec(ctx, change, leaseClass)
	return err
}

// number makes a number of a machine's name, of a random one if it has none.
func number(machine string) int32 {
	if machine == "" {
		machine = rand.Text()
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(machine)) // a hash takes everything
	return int32(h.Sum32() >> 1)
}
