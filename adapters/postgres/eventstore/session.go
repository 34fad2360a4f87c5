package eventstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Session is what one unit of work has loaded and will append. Nothing is written before Flush, so that a refusal can drop
// it all and still commit its answer.
type Session struct {
	loaded   map[string]tracked
	order    []string // streams in the order in which they were touched
	appended map[string][]app.Event
	clock    app.Clock
}

// Aggregate is what the store needs to see of one.
type Aggregate interface {
	Version() int
	Changes() []any
}

// Snapshotter is an aggregate whose state can be kept, because its history grows long.
type Snapshotter interface {
	Aggregate
	Snapshot() ([]byte, error)
	Restore(version int, snapshot []byte) error
}

type tracked struct {
	aggregate     Aggregate
	category, id  string
	snapshotEvery int
}

type sessionKey struct{}

// WithSession begins a session.
func WithSession(ctx context.Context, clock app.Clock) (context.Context, *Session) {
	s := &Session{clock: clock}
	s.Discard()
	return context.WithValue(ctx, sessionKey{}, s), s
}

func sessionOf(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}

// Discard forgets everything that was loaded and recorded.
func (s *Session) Discard() {
	s.loaded, s.appended, s.order = map[string]tracked{}, map[string][]app.Event{}, nil
}

func (s *Session) track(stream string, t tracked) {
	s.loaded[stream] = t
	s.touch(stream)
}

func (s *Session) touch(stream string) {
	if !slices.Contains(s.order, stream) {
		s.order = append(s.order, stream)
	}
}

// Record adds facts to a stream that no Repository manages, after the first expected ones.
func (s *Store) Record(ctx context.Context, category, id string, expected int, facts []any) error {
	session := sessionOf(ctx)
	if session == nil {
		return fmt.Errorf("append to %s: called outside a unit of work", Stream(category, id))
	}
	stream := Stream(category, id)
	session.touch(stream)
	for i, fact := range facts {
		session.appended[stream] = append(session.appended[stream], session.event(ctx, category, id, expected+i+1, fact))
	}
	return nil
}

// event makes the envelope of a fact from the message at hand.
func (s *Session) event(ctx context.Context, category, id string, version int, body any) app.Event {
	at := app.MetaOf(ctx)
	m := app.Meta{
		ID: uuid.Must(uuid.NewV7()).String(), Subject: Stream(category, id), Version: version, Time: s.clock().UTC().Truncate(1000),
		Correlation: at.Correlation, Causation: at.ID, SagaID: at.SagaID, SagaStep: at.SagaStep, Branch: at.Branch, Trace: at.Trace,
	}
	if m.Correlation == "" {
		m.Correlation = m.ID
	}
	return app.Event{Body: body, Meta: m, Category: category, Key: id}
}

// Flush appends what was recorded and returns it, in the order in which it was recorded within each stream.
func (s *Session) Flush(ctx context.Context, store *Store, tx sqlx.ExtContext) ([]app.Event, error) {
	var events []app.Event
	for _, stream := range s.order {
		events = append(events, s.appended[stream]...)
		if t, ok := s.loaded[stream]; ok {
			for i, change := range t.aggregate.Changes() {
				events = append(events, s.event(ctx, t.category, t.id, t.aggregate.Version()+i+1, change))
			}
		}
	}
	for i := range events {
		t, ok := store.types.Of(events[i].Body)
		if !ok {
			return nil, fmt.Errorf("%T is not registered with the event store", events[i].Body)
		}
		events[i].Meta.Type, events[i].Meta.Schema = t.Name, t.Schema
	}
	if err := store.Append(ctx, tx, events); err != nil {
		return nil, err
	}
	for _, stream := range s.order {
		if t, ok := s.loaded[stream]; ok {
			if err := saveSnapshot(ctx, tx, stream, t); err != nil {
				return nil, err
			}
		}
	}
	return events, nil
}

// saveSnapshot keeps the state when the stream has passed a multiple of snapshotEvery.
func saveSnapshot(ctx context.Context, tx sqlx.ExtContext, stream string, t tracked) error {
	before, after := t.aggregate.Version(), t.aggregate.Version()+len(t.aggregate.Changes())
	s, ok := t.aggregate.(Snapshotter)
	if !ok || t.snapshotEvery == 0 || before/t.snapshotEvery == after/t.snapshotEvery {
		return nil
	}
	state, err := s.Snapshot()
	if err != nil {
		return fmt.Errorf("snapshot of %s: %w", stream, err)
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO snapshots (stream, version, state) VALUES ($1, $2, $3)
		ON CONFLICT (stream) DO UPDATE SET version = excluded.version, state = excluded.state WHERE snapshots.version < excluded.version`,
		stream, after, json.RawMessage(state))
	return txn.Classify(err, "snapshot of "+stream)
}
