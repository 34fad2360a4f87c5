// The streams of one unit of work. Nothing is written before the unit commits, and changes after a savepoint can be rolled back. TestOneUnitSeesItsOwnChanges,
// TestFailedUnitWritesNothing and TestMessageOfARunFailsAlone show it.

package eventstore

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Session is the streams that one unit of work has read, and the events that it will append. Nothing is written before the unit commits, so the changes of one
// message can be rolled back with Savepoint and RollbackTo.
type Session struct {
	store   *Store
	unit    *txn.Unit
	clock   cqrs.Clock
	streams map[string]*tracked
	order   []*tracked // in the order in which they were touched

	// What the unit has read.
	reads  []read
	memory bool // some streams were read from the cache
	loads  int  // number of queries that have read the others

	touches   int // of streams
	noWaiting bool
}

// Aggregate is the interface of an aggregate for the store.
type Aggregate interface {
	Version() int
	Changes() []any
	Saved()
}

// tracked is a stream in a session.
type tracked struct {
	name, category, id string

	stream    *stream   // while the session holds it; nil also if it took too long to get it
	prefix    *prefix   // what was read; nil if the stream was not read
	stored    bool      // the prefix was read from the table
	aggregate Aggregate // folded from the prefix and the appended events; nil if it must be folded again
	appended  []cqrs.Event
	written   int // of them are among the unit's writes
	touched   int // the session's last touch of it
	options   Options
	schema    string // of its snapshots; empty if it has none
}

// version is the version of the stream with the appended events.
func (t *tracked) version() int { return t.prefix.version() + len(t.appended) }

type sessionKey struct{}

// NewSession begins the session of a unit.
func (s *Store) NewSession(u *txn.Unit, clock cqrs.Clock) *Session {
	return &Session{store: s, unit: u, clock: clock, streams: map[string]*tracked{}}
}

// WithSession puts a session into the context of the handler of a message.
func WithSession(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

func sessionOf(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}

func (s *Session) touch(category, id string) *tracked {
	name := Stream(category, id)
	t := s.streams[name]
	if t == nil {
		t = &tracked{name: name, category: category, id: id}
		s.streams[name] = t
		s.order = append(s.order, t)
	}
	s.touches++
	t.touched = s.touches
	return t
}

// Record adds events to a stream that no Repository manages, after the first expected ones.
func (s *Store) Record(ctx context.Context, category, id string, expected int, events []any) error {
	session := sessionOf(ctx)
	if session == nil {
		return fmt.Errorf("append to %s: called outside a unit of work", Stream(category, id))
	}
	t := session.touch(category, id)
	for i, e := range events {
		t.appended = append(t.appended, session.event(ctx, t, expected+i+1, e))
	}
	return nil
}

// event makes the envelope of an event from the message that is handled.
func (s *Session) event(ctx context.Context, t *tracked, version int, body any) cqrs.Event {
	at := cqrs.MetaFromContext(ctx)
	m := cqrs.Meta{
		ID: uuid.Must(uuid.NewV7()).String(), Subject: t.name, Version: version, Time: s.clock().UTC().Truncate(time.Microsecond),
		Correlation: at.Correlation, Causation: at.ID, SagaID: at.SagaID, SagaStep: at.SagaStep, Branch: at.Branch, Trace: at.Trace,
	}
	if m.Correlation == "" {
		m.Correlation = m.ID
	}
	return cqrs.Event{Body: body, Meta: m, Category: t.category, Key: t.id}
}

// Flush adds the events that the message of ctx has recorded to the unit's writes and returns them, in the order in which they were recorded
// within each stream.
func (s *Session) Flush(ctx context.Context) ([]cqrs.Event, error) {
	var events []cqrs.Event
	for _, t := range s.order {
		if t.aggregate != nil {
			for _, change := range t.aggregate.Changes() {
				t.appended = append(t.appended, s.event(ctx, t, t.version()+1, change))
			}
			t.aggregate.Saved()
		}
		for i := t.written; i < len(t.appended); i++ {
			e := &t.appended[i]
			registered, ok := s.store.types.Of(e.Body)
			if !ok {
				return nil, fmt.Errorf("%T is not registered with the event store", e.Body)
			}
			e.Meta.Type, e.Meta.Schema = registered.Name, registered.Schema
		}
		events = append(events, t.appended[t.written:]...)
		t.written = len(t.appended)
	}
	return events, s.store.Append(ctx, events)
}

// Seal is called before the unit commits. The commit fails if a stream that was read is not at the version that was read. A snapshot is stored
// where one is due.
func (s *Session) Seal(ctx context.Context) error {
	for _, t := range s.order {
		if t.prefix == nil {
			continue
		}
		if len(t.appended) == 0 {
			if err := expect.Write(ctx, read{t.name, t.category, t.prefix.version()}); err != nil {
				return err
			}
			continue
		}
		if err := s.extend(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// extend makes the prefix of a stream with its new events, and a snapshot if one is due.
func (s *Session) extend(ctx context.Context, t *tracked) error {
	if t.appended[0].Meta.Version != t.prefix.version()+1 {
		t.prefix = nil // the expected version differs from the one that was read: the database decides
		return nil
	}
	t.prefix = t.prefix.with(t.appended)
	a, ok := t.aggregate.(Snapshotter)
	if !ok || t.schema == "" || t.prefix.version()-t.prefix.snapshot.Version < t.options.SnapshotEvery {
		return nil
	}
	snapshot, err := snapshotOf(t.name, t.schema, a)
	if err != nil {
		return err
	}
	t.prefix = &prefix{snapshot: snapshot}
	return saveSnapshots.Write(ctx, snapshot)
}

// Mark is a place in a session, between two messages.
type Mark struct {
	appended map[*tracked]int
	touches  int
}

// Savepoint marks what was appended so far, for RollbackTo.
func (s *Session) Savepoint() Mark {
	m := Mark{make(map[*tracked]int, len(s.order)), s.touches}
	for _, t := range s.order {
		m.appended[t] = len(t.appended)
	}
	return m
}

// RollbackTo drops the events that were recorded after a savepoint. The streams stay read: the commit still fails if one is no longer at the version
// that was read.
func (s *Session) RollbackTo(m Mark) {
	for _, t := range s.order {
		if t.touched > m.touches {
			t.appended, t.written, t.aggregate = t.appended[:m.appended[t]], m.appended[t], nil
		}
	}
}

// Opportunely calls f, in which the session reads only streams that no other unit holds. The error wraps ErrBusy otherwise.
func (s *Session) Opportunely(f func() error) error {
	s.noWaiting = true
	defer func() { s.noWaiting = false }()
	return f()
}

// Committed caches the streams that the unit has read, with the events that it has appended.
func (s *Session) Committed() {
	for _, t := range s.order {
		switch {
		case t.stream == nil && len(t.appended) > 0:
			s.store.cache.forget(t.name)
		case t.stream == nil:
		case len(t.appended) > 0, t.stored:
			s.store.cache.put(t.stream, t.prefix)
		}
	}
}

// Release lets other units hold the streams. The cache does not change.
func (s *Session) Release() {
	for _, t := range s.order {
		if t.stream != nil {
			s.store.cache.release(t.stream)
			t.stream = nil
		}
	}
}
