package eventstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Repository is the app.Store of one kind of aggregate: A with the events E.
type Repository[A Aggregate, E any] struct {
	store    *Store
	category string
	rebuild  func([]E) A
	options  Options
}

// Options of a Repository.
type Options struct {
	// SnapshotEvery is after how many events the state is kept, if the aggregate is a Snapshotter; 0 never.
	SnapshotEvery int

	// Contended says that many units of work of several instances want the same aggregate at once. It is then locked while
	// units that changed it commit, and once one was too late before it is loaded, so that they queue up; without this, the
	// same one could be too late again and again.
	Contended bool
}

// NewRepository makes the store of the aggregates whose streams begin with category.
func NewRepository[A Aggregate, E any](s *Store, category string, rebuild func([]E) A, o Options) *Repository[A, E] {
	return &Repository[A, E]{s, category, rebuild, o}
}

// Update implements app.Store.
func (r *Repository[A, E]) Update(ctx context.Context, id string, decide func(A) error) error {
	return r.UpdateAll(ctx, []string{id}, func(all []A) error { return decide(all[0]) })
}

// UpdateAll implements app.Store.
func (r *Repository[A, E]) UpdateAll(ctx context.Context, ids []string, decide func([]A) error) error {
	session := sessionOf(ctx)
	if session == nil {
		return fmt.Errorf("update %s: called outside a unit of work", r.category)
	}
	var missing []*tracked
	for _, id := range ids {
		if t := session.touch(r.category, id); t.aggregate == nil && !slices.Contains(missing, t) {
			missing = append(missing, t)
		}
	}
	if err := r.fetch(ctx, session, missing); err != nil {
		return err
	}
	aggregates := make([]A, len(ids))
	for i, id := range ids {
		aggregates[i] = session.streams[Stream(r.category, id)].aggregate.(A)
	}
	return decide(aggregates)
}

// Load rebuilds an aggregate for reading. The error wraps app.ErrNotFound if nothing is stored under id.
func (r *Repository[A, E]) Load(ctx context.Context, id string) (A, error) {
	var none A
	loaded, err := r.store.read(ctx, nil, []wanted{{Stream(r.category, id), 0, r.options.SnapshotEvery > 0}})
	if err != nil {
		return none, err
	}
	a, err := r.fold(none, false, loaded[0])
	if err == nil && a.Version() == 0 {
		err = fmt.Errorf("%s: %w", Stream(r.category, id), app.ErrNotFound)
	}
	return a, err
}

// fetch takes streams for the session, in one order for everybody, and has their aggregates known.
func (r *Repository[A, E]) fetch(ctx context.Context, session *Session, missing []*tracked) error {
	slices.SortFunc(missing, func(a, b *tracked) int { return cmp.Compare(a.name, b.name) })
	if err := session.take(ctx, missing); err != nil {
		return err
	}
	if r.options.Contended {
		if err := session.lock(ctx, missing); err != nil {
			return err
		}
	}
	var load []*tracked
	var asked []wanted
	shared := r.store.cache.isShared(r.category)
	for _, t := range missing {
		t.snapshotEvery = r.options.SnapshotEvery
		known := session.known(t)
		a, ok := known.aggregate.(A)
		if ok && (!shared || t.stream.last != nil) {
			t.aggregate, t.read = a, known.version
			continue
		}
		t.read = 0
		if _, goesOn := known.aggregate.(restorer[E]); ok && goesOn {
			t.aggregate, t.read = a, known.version
		}
		load = append(load, t)
		asked = append(asked, wanted{t.name, t.read, r.options.SnapshotEvery > 0})
	}
	if len(load) == 0 {
		return nil
	}
	loaded, err := session.load(ctx, load, asked)
	if err != nil {
		return err
	}
	for i, t := range load {
		a, known := t.aggregate.(A)
		if known && len(loaded[i].events) > 0 {
			r.store.cache.foreign(r.category)
		}
		if a, err = r.fold(a, known, loaded[i]); err != nil {
			return fmt.Errorf("rebuild %s: %w", t.name, err)
		}
		t.aggregate, t.read = a, a.Version()
	}
	return nil
}

// restorer is an aggregate that can go on from a state.
type restorer[E any] interface {
	Continue(history []E)
}

// fold goes on from an aggregate that is known, or from its snapshot, or from nothing.
func (r *Repository[A, E]) fold(a A, known bool, f found) (A, error) {
	history := make([]E, len(f.events))
	for i, e := range f.events {
		history[i] = e.Body.(E)
	}
	if !known && f.snapshot.Version == 0 {
		return r.rebuild(history), nil
	}
	if !known {
		a = r.rebuild(nil)
		s, ok := any(a).(Snapshotter)
		if !ok {
			return a, fmt.Errorf("%T has snapshots but cannot restore them", a)
		}
		if err := s.Restore(f.snapshot.Version, f.snapshot.State); err != nil {
			return a, err
		}
	}
	if len(history) > 0 {
		c, ok := any(a).(restorer[E])
		if !ok {
			return a, fmt.Errorf("%T cannot go on from a state", a)
		}
		c.Continue(history)
	}
	return a, nil
}

// History returns the events of an aggregate, oldest first; inside a unit of work with those that it will append. The
// error wraps app.ErrNotFound if there are none.
func (s *Store) History(ctx context.Context, category, id string) ([]app.Event, error) {
	session := sessionOf(ctx)
	var events []app.Event
	if session == nil {
		stored, err := whole(s.read(ctx, nil, []wanted{{Stream(category, id), 0, false}}))
		if err != nil {
			return nil, err
		}
		events = stored[0].events
	} else {
		t := session.touch(category, id)
		if err := session.remember(ctx, t); err != nil {
			return nil, err
		}
		events = after(t.history, t.appended)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("%s: %w", Stream(category, id), app.ErrNotFound)
	}
	return events, nil
}

// Histories returns the events of several aggregates, each oldest first, as they are stored.
func (s *Store) Histories(ctx context.Context, category string, ids []string) ([][]app.Event, error) {
	asked := make([]wanted, len(ids))
	for i, id := range ids {
		asked[i] = wanted{stream: Stream(category, id)}
	}
	stored, err := whole(s.read(ctx, nil, asked))
	if err != nil {
		return nil, err
	}
	out := make([][]app.Event, len(ids))
	for i := range stored {
		out[i] = stored[i].events
	}
	return out, nil
}

// remember has the history of a stream known to the session.
func (s *Session) remember(ctx context.Context, t *tracked) error {
	if t.history != nil || t.read >= 0 && t.aggregate == nil {
		return nil
	}
	if err := s.take(ctx, []*tracked{t}); err != nil {
		return err
	}
	from := 0
	if known := s.known(t); known.known && known.aggregate == nil {
		t.history, from = known.history, known.version
		if t.stream.last != nil || !s.store.cache.isShared(t.category) {
			t.read = max(t.read, from)
			return nil
		}
	}
	loaded, err := s.load(ctx, []*tracked{t}, []wanted{{t.name, from, false}})
	if err != nil {
		return err
	}
	if from > 0 && len(loaded[0].events) > 0 {
		s.store.cache.foreign(t.category)
	}
	t.history = after(t.history, loaded[0].events)
	if t.aggregate == nil {
		t.read = len(t.history)
	}
	return nil
}

// take has the session have streams, each after the units of this instance that came before.
func (s *Session) take(ctx context.Context, all []*tracked) error {
	for _, t := range all {
		if t.stream != nil {
			continue
		}
		first := !slices.ContainsFunc(s.order, func(other *tracked) bool { return other.stream != nil && !slices.Contains(all, other) })
		stream, err := s.store.cache.take(ctx, t.name, first)
		if err != nil {
			return err
		}
		t.stream = stream
	}
	return nil
}

// known is what the session may use of what this instance knows of a stream: nothing if it reads in a transaction of its own.
func (s *Session) known(t *tracked) state {
	if t.stream == nil {
		return state{}
	}
	if s.unit.Own() {
		t.stream.state = state{} // whatever comes of this unit
		return state{}
	}
	return t.stream.current(s.unit)
}

// lock locks streams that many instances want: now if the session has a transaction of its own, else when it commits.
func (s *Session) lock(ctx context.Context, all []*tracked) error {
	names := make([]string, len(all))
	for i, t := range all {
		names[i] = t.name
	}
	if s.unit.Own() {
		tx, err := txn.From(ctx)
		if err == nil {
			_, err = tx.ExecContext(ctx, lockStreams, names)
		}
		return txn.Classify(err, "lock streams that many want")
	}
	for _, name := range names {
		if err := locks.Write(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// load reads streams, in the session's own transaction or else together with other units. Whoever has left one of them in a way that
// does not help is waited for; not by a session that may hold locks which he needs: it reads what is stored, and he is too late.
func (s *Session) load(ctx context.Context, streams []*tracked, asked []wanted) ([]found, error) {
	if s.unit.Own() {
		return whole(s.store.read(ctx, s.unit, asked))
	}
	for _, t := range streams {
		if t.stream != nil && t.stream.last != nil {
			if err := t.stream.last.Ended(ctx); err != nil {
				return nil, err
			}
		}
	}
	return whole(s.store.loads.Call(ctx, asked))
}
