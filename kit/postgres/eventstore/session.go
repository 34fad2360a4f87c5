package eventstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Session is the streams that one unit of work has read, and the events that it will append. Nothing is written before the unit commits, so what one
// message has done can be dropped: Savepoint and RollbackTo.
type Session struct {
	store   *Store
	unit    *txn.Unit
	clock   cqrs.Clock
	streams map[string]*tracked
	order   []*tracked // in the order in which they were touched

	// What the unit has read.
	reads  []read
	memory bool // some of it is from memory
	loads  int  // number of queries that it is from
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
	aggregate Aggregate // folded from the prefix and what is appended; nil if it must be folded anew
	appended  []cqrs.Event
	written   int // of them are among the unit's writes
	options   Options
	schema    string // of its snapshots; empty if it has none
}

// version is that of the stream with what is appended.
func (t *tracked) version() int { return t.prefix.version() + len(t.appended) }

// read is the version at which a unit has read a stream.
type read struct {
	stream, category string
	version          int
}

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
	return t
}

// read loads streams that the session has not read yet: from the cache, or else all of them in one query.
func (s *Session) read(ctx context.Context, all []*tracked) error {
	all = slices.DeleteFunc(slices.Clone(all), func(t *tracked) bool { return t.prefix != nil })
	slices.SortFunc(all, func(a, b *tracked) int { return cmp.Compare(a.name, b.name) }) // the same order for all units, so that two units do not wait for each other
	all = slices.Compact(all)
	if err := s.hold(ctx, all); err != nil {
		return err
	}
	var missing []*tracked
	var asked []wanted
	for _, t := range all {
		known := s.known(t)
		if known != nil && !s.store.cache.isShared(t.category) {
			s.memory = true
			s.note(t, known)
			continue
		}
		missing = append(missing, t)
		asked = append(asked, wanted{t.name, known, t.schema})
	}
	if len(missing) == 0 {
		return nil
	}
	loaded, err := s.load(ctx, asked)
	if err != nil {
		return err
	}
	for i, t := range missing {
		if known := asked[i].after; known != nil && loaded[i].version() > known.version() {
			s.store.cache.foreign(t.category)
		}
		t.stored = true
		s.note(t, loaded[i])
	}
	return nil
}

// note notes what was read of a stream.
func (s *Session) note(t *tracked, p *prefix) {
	t.prefix = p
	s.reads = append(s.reads, read{t.name, t.category, p.version()})
}

// hold takes streams from the cache, each after the earlier units of this instance. A unit waits as long as it must for streams in the order of their
// names, which is that of all units. It does not wait long out of this order, nor if it has a transaction of its own: the unit that holds
// the stream may need a stream or a lock that this one holds.
func (s *Session) hold(ctx context.Context, all []*tracked) error {
	contested := func(t *tracked) bool { return t.options.Contended && s.store.cache.isContested(t.name) }
	if slices.ContainsFunc(all, contested) {
		if err := s.unit.Begin(ctx); err != nil {
			return err
		}
	}
	for _, t := range all {
		if t.stream != nil {
			continue
		}
		patience := waitForSecond
		if inOrder := !slices.ContainsFunc(s.order, func(other *tracked) bool { return other.stream != nil && other.name > t.name }); inOrder {
			patience = waitInOrder
			if !s.unit.OwnTransaction() {
				patience = 0
			}
		}
		stream, err := s.store.cache.hold(ctx, t.name, patience)
		if err != nil {
			return err
		}
		t.stream = stream
	}
	return s.lock(ctx, slices.DeleteFunc(slices.Clone(all), func(t *tracked) bool { return !t.options.Contended }))
}

// known returns the cached prefix of a stream: nothing if the unit reads in a transaction of its own.
func (s *Session) known(t *tracked) *prefix {
	if t.stream == nil || s.unit.OwnTransaction() {
		return nil
	}
	return s.store.cache.get(t.stream)
}

// lockWait is how long a unit with a transaction of its own waits for a lock while it may hold others. Then it is rolled back, and waits
// without them.
const lockWait = 200 * time.Millisecond

// lock locks contended streams: now if the unit has a transaction of its own, else when it commits.
func (s *Session) lock(ctx context.Context, all []*tracked) error {
	names := make([]string, len(all))
	for i, t := range all {
		names[i] = t.name
	}
	if s.unit.OwnTransaction() && len(names) > 0 {
		return locks.Lock(ctx, names, lockWait)
	}
	for _, name := range names {
		if err := locks.Write(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// load reads streams from the table, in the unit's own transaction or in one query with other units.
func (s *Session) load(ctx context.Context, asked []wanted) ([]*prefix, error) {
	s.loads++
	if s.unit.OwnTransaction() {
		return whole(s.store.read(ctx, s.unit, asked))
	}
	return whole(s.store.loads.Call(ctx, asked))
}

// history returns the whole history of a stream, with the events that the unit has recorded.
func (s *Session) history(ctx context.Context, t *tracked) ([]cqrs.Event, error) {
	if err := s.read(ctx, []*tracked{t}); err != nil {
		return nil, err
	}
	if t.prefix.snapshot.Version == 0 {
		return slices.Clip(t.prefix.with(t.appended).events), nil
	}
	loaded, err := s.load(ctx, []wanted{{stream: t.name}})
	if err != nil {
		return nil, err
	}
	s.reads = append(s.reads, read{t.name, t.category, loaded[0].version()})
	return slices.Clip(loaded[0].with(t.appended).events), nil
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
		t.prefix = nil // another version was expected than was read: the database decides
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
type Mark map[*tracked]int

// Savepoint marks what was appended so far, for RollbackTo.
func (s *Session) Savepoint() Mark {
	m := Mark{}
	for _, t := range s.order {
		m[t] = len(t.appended)
	}
	return m
}

// RollbackTo drops the events that were recorded after a savepoint. The streams stay read: the commit still fails if one is no longer at the version
// that was read.
func (s *Session) RollbackTo(m Mark) {
	for _, t := range s.order {
		t.appended, t.written, t.aggregate = t.appended[:m[t]], m[t], nil
	}
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

// Release lets other units have the streams. The cache stays as it is.
func (s *Session) Release() {
	for _, t := range s.order {
		if t.stream != nil {
			s.store.cache.release(t.stream)
			t.stream = nil
		}
	}
}

// errStale makes a unit run again.
var errStale = fmt.Errorf("streams have changed since they were read: %w", cqrs.ErrConflict)

// Verify checks the streams that a unit has read before its error or panic becomes final. If all were read from the table in one query, they
// were current then. Otherwise their versions are compared with the table. The error is cqrs.ErrConflict if one is not current.
func (s *Session) Verify(ctx context.Context) error {
	if !s.memory && s.loads <= 1 {
		return nil
	}
	stale, err := s.store.stale(ctx, s.reads)
	if err != nil || len(stale) == 0 {
		return err
	}
	s.outdated(stale)
	return errStale
}

// Conflicted removes the streams that the unit has read from the cache, because one of them was stale. The next units lock those that many want before
// they read them.
func (s *Session) Conflicted() {
	s.outdated(s.reads)
	for _, t := range s.order {
		if t.options.Contended {
			s.store.cache.contest(t.name)
		}
	}
}

func (s *Session) outdated(reads []read) {
	for _, r := range reads {
		s.store.cache.forget(r.stream)
		s.store.cache.foreign(r.category)
	}
}
