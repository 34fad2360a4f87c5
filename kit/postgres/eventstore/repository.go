package eventstore

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/millrace/millrace/kit/cqrs"
)

// Repository is the cqrs.Store of one type of aggregate, A with the events E.
type Repository[A Aggregate, E any] struct {
	store    *Store
	category string
	rebuild  func([]E) A
	options  Options
	schema   string // of snapshots; empty: none
}

// Options of a Repository.
type Options struct {
	// SnapshotEvery is the number of events after which a snapshot is stored; 0 never. The aggregate must then be a Snapshotter and have the
	// method Continue(history []E).
	SnapshotEvery int

	// SnapshotVersion must be changed when the same events give another state than before, although the fields of the state are the same.
	// Snapshots of another version, and of a state with other fields, are ignored and replaced.
	SnapshotVersion int

	// Contended says that units of work of several instances often change the same aggregate at the same time. Units then lock the aggregate
	// when they commit, and after several conflicts before they load it, so that they queue up. Without it one unit could conflict again and
	// again.
	Contended bool
}

// NewRepository makes the store of the aggregates whose streams begin with category. It panics if the options ask for snapshots and A cannot
// have them.
func NewRepository[A Aggregate, E any](s *Store, category string, rebuild func([]E) A, o Options) *Repository[A, E] {
	r := &Repository[A, E]{store: s, category: category, rebuild: rebuild, options: o}
	if o.SnapshotEvery == 0 {
		return r
	}
	a, ok := any(rebuild(nil)).(restorer[E])
	if !ok {
		panic(fmt.Sprintf("eventstore: %s: SnapshotEvery is set, but %T has no methods State, SetVersion and Continue", category, rebuild(nil)))
	}
	var err error
	if r.schema, err = schemaOf(o.SnapshotVersion, a.State()); err != nil {
		panic(fmt.Sprintf("eventstore: %s: %T cannot have snapshots: %s", category, a, err))
	}
	return r
}

// Update implements cqrs.Store.
func (r *Repository[A, E]) Update(ctx context.Context, id string, decide func(A) error) error {
	return r.UpdateAll(ctx, []string{id}, func(all []A) error { return decide(all[0]) })
}

// UpdateAll implements cqrs.Store.
func (r *Repository[A, E]) UpdateAll(ctx context.Context, ids []string, decide func([]A) error) error {
	session := sessionOf(ctx)
	if session == nil {
		return fmt.Errorf("update %s: called outside a unit of work", r.category)
	}
	streams := r.touch(session, ids)
	if err := session.read(ctx, streams); err != nil {
		return err
	}
	aggregates := make([]A, len(ids))
	for i, t := range streams {
		if t.aggregate == nil {
			a, err := r.fold(t.name, t.prefix.with(t.appended))
			if err != nil {
				return err
			}
			t.aggregate = a
		}
		aggregates[i] = t.aggregate.(A)
	}
	return decide(aggregates)
}

func (r *Repository[A, E]) touch(s *Session, ids []string) []*tracked {
	streams := make([]*tracked, len(ids))
	for i, id := range ids {
		t := s.touch(r.category, id)
		t.options, t.schema = r.options, r.schema
		streams[i] = t
	}
	return streams
}

// Load returns an aggregate as it is stored, for reading. Inside a unit of work the aggregate must still be at that version when the unit
// commits. The error wraps cqrs.ErrNotFound if nothing is stored under id.
func (r *Repository[A, E]) Load(ctx context.Context, id string) (a A, err error) {
	name, p := Stream(r.category, id), (*prefix)(nil)
	if session := sessionOf(ctx); session != nil {
		streams := r.touch(session, []string{id})
		if err := session.read(ctx, streams); err != nil {
			return a, err
		}
		p = streams[0].prefix.with(streams[0].appended)
	} else {
		stored, err := whole(r.store.read(ctx, nil, []wanted{{name, nil, r.schema}}))
		if err != nil {
			return a, err
		}
		p = stored[0]
	}
	if a, err = r.fold(name, p); err == nil && a.Version() == 0 {
		err = fmt.Errorf("%s: %w", name, cqrs.ErrNotFound)
	}
	return a, err
}

// fold makes a new aggregate from the first events of its stream.
func (r *Repository[A, E]) fold(name string, p *prefix) (a A, err error) {
	history, err := bodies[E](name, p.events)
	if err != nil {
		return a, err
	}
	if p.snapshot.Version == 0 {
		a = r.rebuild(history)
	} else {
		a = r.rebuild(nil)
		s := any(a).(restorer[E])
		if err := json.Unmarshal(p.snapshot.State, s.State()); err != nil {
			return a, fmt.Errorf("fold %s: snapshot of version %d: %w: %w", name, p.snapshot.Version, cqrs.ErrPermanent, err)
		}
		s.SetVersion(p.snapshot.Version)
		s.Continue(history)
	}
	if a.Version() != p.version() {
		return a, fmt.Errorf("fold %s: %T says that it is at version %d after %d events: %w", name, a, a.Version(), p.version(), cqrs.ErrPermanent)
	}
	return a, nil
}

func bodies[E any](name string, events []cqrs.Event) ([]E, error) {
	out := make([]E, len(events))
	for i, e := range events {
		body, ok := e.Body.(E)
		if !ok {
			return nil, fmt.Errorf("fold %s: event %d is a %T: %w", name, e.Meta.Version, e.Body, cqrs.ErrPermanent)
		}
		out[i] = body
	}
	return out, nil
}

// History returns the events of an aggregate, oldest first; inside a unit of work with those that it will append. The
// error wraps cqrs.ErrNotFound if there are none.
func (s *Store) History(ctx context.Context, category, id string) (events []cqrs.Event, err error) {
	if session := sessionOf(ctx); session != nil {
		events, err = session.history(ctx, session.touch(category, id))
	} else {
		var all [][]cqrs.Event
		if all, err = s.Histories(ctx, category, []string{id}); err == nil {
			events = all[0]
		}
	}
	if err == nil && len(events) == 0 {
		err = fmt.Errorf("%s: %w", Stream(category, id), cqrs.ErrNotFound)
	}
	return events, err
}

// Histories returns the events of several aggregates, each oldest first, as they are stored.
func (s *Store) Histories(ctx context.Context, category string, ids []string) ([][]cqrs.Event, error) {
	asked := make([]wanted, len(ids))
	for i, id := range ids {
		asked[i] = wanted{stream: Stream(category, id)}
	}
	stored, err := whole(s.read(ctx, nil, asked))
	if err != nil {
		return nil, err
	}
	out := make([][]cqrs.Event, len(ids))
	for i, p := range stored {
		out[i] = p.events
	}
	return out, nil
}
