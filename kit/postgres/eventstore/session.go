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

// Session is the streams that one unit of work has read, and the events that it will append. Nothing is written before the unit commits, so a
// refusal can drop everything and still commit its answer.
type Session struct {
	store   *Store
	unit    *txn.Unit
	clock   cqrs.Clock
	streams map[string]*tracked
	order   []*tracked // in the order in which they were touched

	// What the unit has read, also of streams that were discarded since.
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
	folded    Aggregate // from the cache; this unit owns it now
	aggregate Aggregate
	appended  []cqrs.Event
	options   Options
	schema    string // of its snapshots; empty if it has none
}

// read is the version at which a unit has read a stream.
type read struct {
	stream, category string
	version          int
}

type sessionKey struct{}

// WithSession begins the session of a unit.
func (s *Store) WithSession(ctx context.Context, u *txn.Unit, clock cqrs.Clock) (context.Context, *Session) {
	session := &Session{store: s, unit: u, clock: clock, streams: map[string]*tracked{}}
	return context.WithValue(ctx, sessionKey{}, session), session
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

// read loads streams that the session has not read yet: from the cache, or else all of them in one query. Events says that the caller needs
// the events, not only the aggregates.
func (s *Session) read(ctx context.Context, all []*tracked, events bool) error {
	all = slices.DeleteFunc(slices.Clone(all), func(t *tracked) bool { return t.prefix != nil })
	slices.SortFunc(all, func(a, b *tracked) int { return cmp.Compare(a.name, b.name) }) // the same order for all units, so that two units do not wait for each other
	all = slices.Compact(all)
	if err := s.hold(ctx, all); err != nil {
		return err
	}
	var missing []*tracked
	var asked []wanted
	for _, t := range all {
		known, pending := s.known(t)
		if known != nil && known.trimmed() && (events || s.store.cache.isShared(t.category)) {
			known = nil
		}
		if known != nil && (pending || !s.store.cache.isShared(t.category)) {
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
	loaded, err := s.load(ctx, missing, asked)
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

// hold takes streams from the cache, each after the earlier units of this instance. A unit with a transaction of its own does not wait long: the unit
// that holds the stream may need a lock that the transaction holds.
func (s *Session) hold(ctx context.Context, all []*tracked) error {
	for _, t := range all {
		if t.stream != nil {
			continue
		}
		first := !s.unit.OwnTransaction() && !slices.ContainsFunc(s.order, func(other *tracked) bool { return other.stream != nil && !slices.Contains(all, other) })
		stream, err := s.store.cache.hold(ctx, t.name, first)
		if err != nil {
			return err
		}
		t.stream = stream
	}
	return s.lock(ctx, slices.DeleteFunc(slices.Clone(all), func(t *tracked) bool { return !t.options.Contended }))
}

// known returns what the session may use of a cached stream: nothing if its unit reads in a transaction of its own.
func (s *Session) known(t *tracked) (p *prefix, pending bool) {
	if t.stream == nil || s.unit.OwnTransaction() {
		return nil, false
	}
	p, t.folded, pending = s.store.cache.get(t.stream, s.unit)
	return p, pending
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

// load reads streams from the table, in the unit's own transaction or in one query with other units. If a unit of this instance is about to
// commit events of one of the streams, load waits for it. A unit with a transaction of its own does not wait, because it may hold locks that
// the other unit needs.
func (s *Session) load(ctx context.Context, streams []*tracked, asked []wanted) ([]*prefix, error) {
	s.loads++
	if s.unit.OwnTransaction() {
		return whole(s.store.read(ctx, s.unit, asked))
	}
	for _, t := range streams {
		if before := s.store.cache.pending(t.stream); before != nil {
			if err := before.Ended(ctx); err != nil {
				return nil, err
			}
		}
	}
	return whole(s.store.loads.Call(ctx, asked))
}

// history returns the whole history of a stream, with the events that the unit has recorded.
func (s *Session) history(ctx context.Context, t *tracked) ([]cqrs.Event, error) {
	if err := s.read(ctx, []*tracked{t}, true); err != nil {
		return nil, err
	}
	if t.prefix.snapshot.Version == 0 {
		return slices.Clip(t.prefix.with(t.appended).events), nil
	}
	loaded, err := s.load(ctx, []*tracked{t}, []wanted{{stream: t.name}})
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

// Flush adds the recorded events to the unit's writes and returns them, in the order in which they were recorded within each stream. The
// commit fails if a stream that was only read is no longer at the version that was read.
func (s *Session) Flush(ctx context.Context) ([]cqrs.Event, error) {
	var events []cqrs.Event
	for _, t := range s.order {
		if t.aggregate != nil {
			for i, change := range t.aggregate.Changes() {
				t.appended = append(t.appended, s.event(ctx, t, t.prefix.version()+i+1, change))
			}
		}
		for i, e := range t.appended {
			registered, ok := s.store.types.Of(e.Body)
			if !ok {
				return nil, fmt.Errorf("%T is not registered with the event store", e.Body)
			}
			t.appended[i].Meta.Type, t.appended[i].Meta.Schema = registered.Name, registered.Schema
		}
		if len(t.appended) == 0 && t.prefix != nil {
			if err := expect.Write(ctx, read{t.name, t.category, t.prefix.version()}); err != nil {
				return nil, err
			}
		}
		if err := s.extend(ctx, t); err != nil {
			return nil, err
		}
		events = append(events, t.appended...)
	}
	return events, s.store.Append(ctx, events)
}

// extend makes the prefix of a stream with its new events, and a snapshot if one is due.
func (s *Session) extend(ctx context.Context, t *tracked) error {
	if t.prefix == nil || len(t.appended) == 0 {
		return nil
	}
	if t.appended[0].Meta.Version != t.prefix.version()+1 {
		t.prefix = nil // another version was expected than was read: the database decides
		return nil
	}
	t.prefix = t.prefix.with(t.appended)
	a, ok := t.aggregate.(Snapshotter)
	if !ok || t.schema == "" || !t.snapshotDue() {
		return nil
	}
	snapshot, err := snapshotOf(t.name, t.schema, a)
	if err != nil {
		return err
	}
	t.prefix = &prefix{snapshot: snapshot}
	return saveSnapshots.Write(ctx, snapshot)
}

// snapshotDue tells whether enough events came after the snapshot, or, of a trimmed prefix, whether the version has passed a multiple.
func (t *tracked) snapshotDue() bool {
	after, every := t.prefix.version(), t.options.SnapshotEvery
	if t.prefix.trimmed() {
		return (after-len(t.appended))/every < after/every
	}
	return after-t.prefix.snapshot.Version >= every
}

// Submitted caches the streams that the unit has read and the events that it will append, for the next units. It is called when the unit's
// position in a commit group is certain.
func (s *Session) Submitted() {
	for _, t := range s.order {
		switch {
		case t.stream == nil && len(t.appended) > 0:
			s.store.cache.forget(t.name)
		case t.stream == nil:
		case len(t.appended) > 0:
			if t.aggregate != nil {
				t.aggregate.Saved()
			}
			s.store.cache.put(t.stream, t.prefix, t.aggregate, s.unit)
		case t.prefix != nil && t.prefix.trimmed():
			s.store.cache.putBack(t.stream, t.prefix, t.aggregate)
		case t.stored && !s.unit.OwnTransaction(): // which has not waited for units that are about to commit
			s.store.cache.put(t.stream, t.prefix, nil, nil)
		}
	}
	s.Discard()
}

// Discard drops everything that was read and recorded. The cache stays as it was.
func (s *Session) Discard() {
	for _, t := range s.order {
		if t.stream != nil {
			s.store.cache.release(t.stream)
			t.stream = nil
		}
	}
	clear(s.streams)
	s.order = nil
}

// Refused drops all recorded events. The commit of the refusal still fails if a stream is no longer at the version that was read.
func (s *Session) Refused(ctx context.Context) error {
	for _, r := range s.reads {
		if err := expect.Write(ctx, r); err != nil {
			return err
		}
	}
	s.Discard()
	return nil
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

// Conflicted removes the streams that the unit has read from the cache, because one of them was stale.
func (s *Session) Conflicted() { s.outdated(s.reads) }

func (s *Session) outdated(reads []read) {
	for _, r := range reads {
		s.store.cache.forget(r.stream)
		s.store.cache.foreign(r.category)
	}
}
