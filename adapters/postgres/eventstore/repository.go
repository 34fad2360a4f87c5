package eventstore

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"

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

	// Contended says that many units of work want the same aggregate at once. It is then locked before it is loaded, so
	// that they queue up; without this, all but one of them would find at their end that they have to start again.
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
	tx, err := txn.From(ctx)
	if err != nil || session == nil {
		return fmt.Errorf("update %s: called outside a unit of work", r.category)
	}
	var missing []string
	for _, id := range ids {
		if _, ok := session.loaded[Stream(r.category, id)]; !ok {
			missing = append(missing, id)
		}
	}
	loaded, err := r.load(ctx, tx, missing, r.options.Contended)
	if err != nil {
		return err
	}
	for id, aggregate := range loaded {
		session.track(Stream(r.category, id), tracked{aggregate, r.category, id, r.options.SnapshotEvery})
	}
	aggregates := make([]A, len(ids))
	for i, id := range ids {
		aggregates[i] = session.loaded[Stream(r.category, id)].aggregate.(A)
	}
	return decide(aggregates)
}

// Load rebuilds an aggregate for reading. The error wraps app.ErrNotFound if nothing is stored under id.
func (r *Repository[A, E]) Load(ctx context.Context, id string) (A, error) {
	loaded, err := r.load(ctx, txn.Or(ctx, r.store.db), []string{id}, false)
	if err != nil {
		var none A
		return none, err
	}
	if loaded[id].Version() == 0 {
		return loaded[id], fmt.Errorf("%s: %w", Stream(r.category, id), app.ErrNotFound)
	}
	return loaded[id], nil
}

// load rebuilds the aggregates with these ids, each from its snapshot if there is one.
func (r *Repository[A, E]) load(ctx context.Context, q sqlx.ExtContext, ids []string, lock bool) (map[string]A, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	streams := make([]string, len(ids))
	for i, id := range ids {
		streams[i] = Stream(r.category, id)
	}
	if lock {
		// In the order of the locks' own numbers, which is the same for everybody: no deadlock.
		const locks = `SELECT pg_advisory_xact_lock(n) FROM (
			SELECT DISTINCT hashtextextended(s, 0) AS n FROM unnest($1::text[]) s ORDER BY n OFFSET 0) numbers`
		if _, err := q.ExecContext(ctx, locks, streams); err != nil {
			return nil, txn.Classify(err, "lock "+streams[0])
		}
	}
	snapshots, err := r.snapshots(ctx, q, streams)
	if err != nil {
		return nil, err
	}
	events, err := r.store.query(ctx, q, `
		SELECT e.stream, e.version, position, type, schema, payload, meta, at
		FROM unnest($1::text[], $2::int[]) AS w(stream, after) JOIN events e ON e.stream = w.stream AND e.version > w.after
		ORDER BY e.stream, e.version`, streams, afters(streams, snapshots))
	if err != nil {
		return nil, err
	}
	histories := map[string][]E{}
	for _, e := range events {
		histories[e.Key] = append(histories[e.Key], e.Body.(E))
	}
	loaded := map[string]A{}
	for i, id := range ids {
		if loaded[id], err = r.fold(snapshots[streams[i]], histories[id]); err != nil {
			return nil, fmt.Errorf("rebuild %s: %w", streams[i], err)
		}
	}
	return loaded, nil
}

func afters(streams []string, snapshots map[string]snapshot) []int32 {
	out := make([]int32, len(streams))
	for i, stream := range streams {
		out[i] = int32(snapshots[stream].Version) //nolint:gosec // the column is an integer
	}
	return out
}

func (r *Repository[A, E]) fold(s snapshot, history []E) (A, error) {
	if s.Version == 0 {
		return r.rebuild(history), nil
	}
	aggregate := r.rebuild(nil)
	restorer, ok := any(aggregate).(interface {
		Snapshotter
		Continue(history []E)
	})
	if !ok {
		return aggregate, fmt.Errorf("%T has snapshots but cannot restore them", aggregate)
	}
	if err := restorer.Restore(s.Version, s.State); err != nil {
		return aggregate, err
	}
	restorer.Continue(history)
	return aggregate, nil
}

type snapshot struct {
	Stream  string `db:"stream"`
	Version int    `db:"version"`
	State   []byte `db:"state"`
}

func (r *Repository[A, E]) snapshots(ctx context.Context, q sqlx.QueryerContext, streams []string) (map[string]snapshot, error) {
	found := map[string]snapshot{}
	if r.options.SnapshotEvery == 0 {
		return found, nil
	}
	var rows []snapshot
	if err := sqlx.SelectContext(ctx, q, &rows, `SELECT stream, version, state FROM snapshots WHERE stream = ANY($1)`, streams); err != nil {
		return nil, txn.Classify(err, "read snapshots")
	}
	for _, row := range rows {
		found[row.Stream] = row
	}
	return found, nil
}
