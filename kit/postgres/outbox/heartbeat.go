// The heartbeat of a relay's leases. It has its own goroutine and connection, so a slow send never ends a lease. A relay that has lost a lease can no longer send.
// TestSlowBrokerKeepsLeases and TestLeasesExpireByTheDatabasesClock show it.

package outbox

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// run renews the leases until ctx is done, and then gives them back.
func (l *leases) run(ctx context.Context) {
	var conn *pgx.Conn
	var logged time.Time
	for ctx.Err() == nil {
		began := time.Now()
		err := l.heartbeat(ctx, &conn)
		if err != nil && ctx.Err() == nil && time.Since(logged) >= time.Second {
			logged = began
			l.log.Warn("relay: cannot renew leases", "error", txn.Classify(err, "renew leases"))
		}
		pause := max(heartbeatEvery-time.Since(began), 50*time.Millisecond)
		if err != nil {
			pause = 200 * time.Millisecond
		}
		sleep(ctx, l.heartbeatNow, pause)
	}
	l.release(context.WithoutCancel(ctx), &conn)
}

// connect opens the heartbeat's connection if it is not open.
func (l *leases) connect(ctx context.Context, conn **pgx.Conn) error {
	if *conn != nil && !(*conn).IsClosed() {
		return nil
	}
	config, err := txn.Config(l.dsn, map[string]string{"application_name": "millrace relay", "lock_timeout": "1s"})
	if err != nil {
		return err
	}
	*conn, err = pgx.ConnectConfig(ctx, config)
	return err
}

// heartbeat renews the leases, and takes or gives away shards so that each host has its share.
func (l *leases) heartbeat(ctx context.Context, conn **pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, leaseFor/2)
	defer cancel()
	if err := l.connect(ctx, conn); err != nil {
		return err
	}
	s, ended := l.current(ctx)
	preferred := []int16{} // NULL says that a relay of a former version has no preferences
	if !l.standby {
		preferred = append(preferred, l.prefers()...)
	}
	report, began := l.broker.report(), time.Now()
	renewed, peers, err := l.beat(ctx, *conn, s, ended, preferred, report)
	if err != nil {
		return errors.Join(err, closeConn(conn))
	}
	if !l.renew(s, began, renewed) {
		return ErrLeaseLost // the next heartbeat begins another session
	}
	if l.standby != peers.EarlierWorks {
		l.standby = peers.EarlierWorks
		l.log.Info("relay: standby", "standby", l.standby, "host", l.host)
	}
	switch cutOff := report == brokerCutOff; {
	case l.cutOff != cutOff:
		l.cutOff = cutOff
		l.log.Warn("relay: only this instance cannot reach the broker", "cut_off", cutOff)
	case cutOff && len(l.heldBy(s)) > 0:
		l.finish(s) // a send that hangs keeps the shards in use: it is cancelled, and the leases expire
		return ErrLeaseLost
	}
	if peers.Former {
		preferred, peers.Sole = nil, nil
	}
	if l.standby || l.cutOff {
		preferred, peers.Hosts = nil, 0
	}
	l.broker.update(s.ctx, peers.Unreached, peers.Reached)
	return l.exchange(ctx, conn, s, shareOf(l.heldBy(s), peers.Free, preferred, peers.Sole, peers.Hosts))
}

// peers is what the tables say of all relays.
type peers struct {
	Hosts        int     // hosts with a relay that is not cut off
	EarlierWorks bool    // a relay of this host that has started earlier is not cut off: this one stands by
	Former       bool    // a relay of a former version runs, which takes any shard
	Sole         []int16 // shards that exactly one relay prefers
	Free         []int16 // shards that no relay holds
	Unreached    bool    // another relay does not reach the broker
	Reached      bool    // another relay reports that the broker answers
}

// beat writes the row of this relay, renews its leases and reads those of others, in one round trip.
func (l *leases) beat(ctx context.Context, conn *pgx.Conn, s *session, ended []string, preferred []int16, report string) (renewed []int16, p peers, err error) {
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM relays WHERE expires_at < app_now()`)
	b.Queue(`INSERT INTO relays (owner, host, since, expires_at, preferred, broker) VALUES ($1, $2, $3, app_now() + $4::interval, $5, $6)
		ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at, preferred = excluded.preferred, broker = excluded.broker`, s.owner, l.host, l.since, leaseFor, preferred, report)
	b.Queue(`WITH renewed AS (UPDATE relay_leases SET expires_at = app_now() + $2::interval WHERE owner = $1 RETURNING shard)
		SELECT COALESCE(array_agg(shard), '{}') FROM renewed`, s.owner, leaseFor).QueryRow(func(row pgx.Row) error { return row.Scan(&renewed) })
	b.Queue(`SELECT count(DISTINCT host) FILTER (WHERE able), COALESCE(bool_or(host = $1 AND (since, owner) < ($2, $3) AND able AND other), false),
			bool_or(preferred IS NULL), ARRAY(SELECT shard FROM (SELECT unnest(preferred) FROM relays WHERE broker <> $5 AND owner <> ALL($4)) AS p(shard) GROUP BY shard HAVING count(*) = 1),
			ARRAY(SELECT shard FROM relay_leases WHERE owner IS NULL OR expires_at < app_now()),
			COALESCE(bool_or(broker IN ($5, $6) AND other), false), COALESCE(bool_or(broker = $7 AND other), false)
		FROM (SELECT *, broker <> $5 AS able, owner <> $3 AND owner <> ALL($4) AS other FROM relays) r`,
		l.host, l.since, s.owner, ended, brokerCutOff, brokerUnreached, brokerReached).
		QueryRow(func(row pgx.Row) error {
			return row.Scan(&p.Hosts, &p.EarlierWorks, &p.Former, &p.Sole, &p.Free, &p.Unreached, &p.Reached)
		})
	err = conn.SendBatch(ctx, b).Close() // which fills the results
	return renewed, p, err
}

// exchange gives shards away and takes free ones.
func (l *leases) exchange(ctx context.Context, conn **pgx.Conn, s *session, of share) error {
	give := l.give(s, of.give)
	if len(give)+len(of.take) == 0 {
		return nil
	}
	var taken []int16
	b := &pgx.Batch{}
	b.Queue(`UPDATE relay_leases SET owner = NULL, expires_at = '-infinity' WHERE owner = $1 AND shard = ANY($2)`, s.owner, give)
	b.Queue(`WITH taken AS (
			UPDATE relay_leases SET owner = $1, expires_at = app_now() + $2::interval WHERE shard IN (
				SELECT shard FROM relay_leases WHERE (owner IS NULL OR expires_at < app_now()) AND shard = ANY($3) FOR UPDATE SKIP LOCKED)
			RETURNING shard)
		SELECT COALESCE(array_agg(shard), '{}') FROM taken`, s.owner, leaseFor, of.take).QueryRow(func(row pgx.Row) error { return row.Scan(&taken) })
	if err := (*conn).SendBatch(ctx, b).Close(); err != nil {
		l.finish(s) // a statement that failed may have given shards away
		return errors.Join(err, closeConn(conn))
	}
	if len(taken) > 0 {
		l.taking()
	}
	l.mu.Lock()
	for _, shard := range give {
		delete(s.shards, shard)
		delete(l.giving, shard)
	}
	for _, shard := range taken {
		s.shards[shard] = true
	}
	held := len(s.shards)
	l.mu.Unlock()
	if len(give)+len(taken) > 0 {
		l.log.Info("relay: shards", "held", held, "of", Shards)
		l.changed()
	}
	return nil
}

// current returns the session, a new one if the last one has ended, and the tokens of sessions before it.
func (l *leases) current(ctx context.Context) (s *session, ended []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil && l.session.ctx.Err() == nil && !l.session.valid() {
		l.session.end(ErrLeaseLost)
	}
	if l.session == nil || l.session.ctx.Err() != nil {
		if l.session != nil {
			l.ended = append(l.ended[max(0, len(l.ended)-20):], l.session.owner)
		}
		own, end := context.WithCancelCause(context.WithoutCancel(ctx))
		until := time.Now().Add(leaseFor - leaseMargin)
		l.session = &session{owner: uuid.NewString(), ctx: own, end: end, until: until, shards: map[int16]bool{}}
		l.session.expiry = time.AfterFunc(time.Until(until), func() { end(ErrLeaseLost) })
		clear(l.giving)
	}
	return l.session, append([]string{}, l.ended...)
}

// renew notes that leases were renewed by a statement that was sent at began. It returns false, and ends the session, if one of them was
// lost, or if the answer came too late.
func (l *leases) renew(s *session, began time.Time, renewed []int16) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for shard := range s.shards {
		if !slices.Contains(renewed, shard) {
			s.end(ErrLeaseLost)
		}
	}
	if !s.valid() || !s.expiry.Reset(time.Until(began.Add(leaseFor-leaseMargin))) {
		s.end(ErrLeaseLost)
		return false
	}
	s.until = began.Add(leaseFor - leaseMargin)
	return true
}

// finish ends a session.
func (l *leases) finish(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.end(ErrLeaseLost)
}

// release gives all leases back, so that other relays need not wait until they expire.
func (l *leases) release(ctx context.Context, conn **pgx.Conn) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	l.mu.Lock()
	s := l.session
	l.session = nil
	l.mu.Unlock()
	if s == nil {
		return
	}
	s.end(ErrLeaseLost)
	if err := l.connect(ctx, conn); err != nil {
		return // the leases expire
	}
	b := &pgx.Batch{}
	b.Queue(`UPDATE relay_leases SET owner = NULL, expires_at = '-infinity' WHERE owner = $1`, s.owner)
	b.Queue(`DELETE FROM relays WHERE owner = $1`, s.owner)
	if err := (*conn).SendBatch(ctx, b).Close(); err != nil {
		l.log.Warn("relay: leases are left to expire", "error", err)
	}
	_ = closeConn(conn) // nothing is left to send
}

func closeConn(conn **pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := (*conn).Close(ctx)
	*conn = nil
	return err
}
