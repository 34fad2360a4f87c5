package eventstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Session is what one unit of work has loaded and will append. Nothing is written before its unit commits, so that a refusal can
// drop it all and still commit its answer.
type Session struct {
	store   *Store
	unit    *txn.Unit
	clock   app.Clock
	streams map[string]*tracked
	order   []*tracked // in the order in which they were touched
}

// Aggregate is what the store needs to see of one.
type Aggregate interface {
	Version() int
	Changes() []any
	Saved()
}

// Snapshotter is an aggregate whose state can be kept, because its history grows long.
type Snapshotter interface {
	Aggregate
	Snapshot() ([]byte, error)
	Restore(version int, snapshot []byte) error
}

// tracked is a stream in a session.
type tracked struct {
	name, category, id string
	stream             *stream // nil if it was loaded past the others of this instance
	aggregate          Aggregate
	history            []app.Event // of a stream that no Repository manages
	read               int         // its version when it was loaded; -1 if it was not
	appended           []app.Event // by Record
	snapshotEvery      int
}

type sessionKey struct{}

// WithSession begins the session of a unit.
func (s *Store) WithSession(ctx context.Context, u *txn.Unit, clock app.Clock) (context.Context, *Session) {
	session := &Session{store: s, unit: u, clock: clock, streams: map[string]*tracked{}}
	return context.WithValue(ctx, sessionKey{}, session), session
}

func sessionOf(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}

// Discard forgets everything that was loaded and recorded.
func (s *Session) Discard() {
	for _, t := range s.order {
		t.drop(s.store.cache)
	}
	clear(s.streams)
	s.order = nil
}

// Refused forgets everything, but what was read must still be so when the refusal that came of it is committed.
func (s *Session) Refused(ctx context.Context) error {
	for _, t := range s.order {
		if t.read >= 0 {
			if err := expect.Write(ctx, expectation{t.name, t.read}); err != nil {
				return err
			}
		}
	}
	s.Discard()
	return nil
}

// drop gives a stream back. If the unit has changed it, nothing is known of it now, for that came to nothing.
func (t *tracked) drop(c *cache) {
	if t.stream == nil {
		return
	}
	if t.aggregate != nil && len(t.aggregate.Changes()) > 0 {
		t.stream.state = state{}
	}
	c.give(t.stream)
	t.stream = nil
}

func (s *Session) touch(category, id string) *tracked {
	name := Stream(category, id)
	t := s.streams[name]
	if t == nil {
		t = &tracked{name: name, category: category, id: id, read: -1}
		s.streams[name] = t
		s.order = append(s.order, t)
	}
	return t
}

// Record adds facts to a stream that no Repository manages, after the first expected ones.
func (s *Store) Record(ctx context.Context, category, id string, expected int, facts []any) error {
	session := sessionOf(ctx)
	if session == nil {
		return fmt.Errorf("append to %s: called outside a unit of work", Stream(category, id))
	}
	t := session.touch(category, id)
	for i, fact := range facts {
		t.appended = append(t.appended, session.event(ctx, t, expected+i+1, fact))
	}
	return nil
}

// event makes the envelope of a fact from the message at hand.
func (s *Session) event(ctx context.Context, t *tracked, version int, body any) app.Event {
	at := app.MetaOf(ctx)
	m := app.Meta{
		ID: uuid.Must(uuid.NewV7()).String(), Subject: t.name, Version: version, Time: s.clock().UTC().Truncate(time.Microsecond),
		Correlation: at.Correlation, Causation: at.ID, SagaID: at.SagaID, SagaStep: at.SagaStep, Branch: at.Branch, Trace: at.Trace,
	}
	if m.Correlation == "" {
		m.Correlation = m.ID
	}
	return app.Event{Body: body, Meta: m, Category: t.category, Key: t.id}
}

// Flush has what was recorded written when the unit commits, and returns it, in the order in which it was recorded within each
// stream. What was read, but not changed, must then still be as it was.
func (s *Session) Flush(ctx context.Context) ([]app.Event, error) {
	var events []app.Event
	for _, t := range s.order {
		if t.aggregate != nil {
			for i, change := range t.aggregate.Changes() {
				t.appended = append(t.appended, s.event(ctx, t, t.aggregate.Version()+i+1, change))
			}
			snapshot, err := snapshotOf(t.name, t.aggregate, t.snapshotEvery)
			if err != nil {
				return nil, err
			}
			if snapshot != nil {
				if err := saveSnapshots.Write(ctx, *snapshot); err != nil {
					return nil, err
				}
			}
		}
		if len(t.appended) == 0 && t.read >= 0 {
			if err := expect.Write(ctx, expectation{t.name, t.read}); err != nil {
				return nil, err
			}
		}
		events = append(events, t.appended...)
	}
	for i := range events {
		registered, ok := s.store.types.Of(events[i].Body)
		if !ok {
			return nil, fmt.Errorf("%T is not registered with the event store", events[i].Body)
		}
		events[i].Meta.Type, events[i].Meta.Schema = registered.Name, registered.Schema
	}
	return events, s.store.Append(ctx, events)
}

// Submitted gives the streams back as the unit leaves them, for the next ones to go on from. It is called when the unit's place
// among those that will be committed is certain, and after it was committed if it is committed alone.
func (s *Session) Submitted() {
	for _, t := range s.order {
		if t.stream == nil {
			continue
		}
		switch st := t.stream; {
		case t.aggregate != nil && t.history == nil && consecutive(t):
			t.aggregate.Saved()
			st.state = state{aggregate: t.aggregate, version: t.aggregate.Version(), known: true}
		case t.aggregate == nil && t.read >= 0 && consecutive(t):
			st.state = state{history: after(t.history, t.appended), version: t.read + len(t.appended), known: true}
		default:
			st.state = state{}
		}
		if len(t.appended) > 0 {
			t.stream.last = s.unit
		}
		s.store.cache.give(t.stream)
		t.stream = nil
	}
}

// consecutive tells whether what was appended follows what was read.
func consecutive(t *tracked) bool {
	return !slices.ContainsFunc(t.appended, func(e app.Event) bool { return e.Meta.Version <= t.read }) &&
		(len(t.appended) == 0 || t.appended[len(t.appended)-1].Meta.Version == t.read+len(t.appended))
}

// Conflicted notes that what the unit has read was not what is stored: it must have been written elsewhere.
func (s *Session) Conflicted() {
	for _, t := range s.order {
		s.store.cache.foreign(t.category)
	}
}
