// The reads of a unit of work. A decision that is based on cached streams counts only after the database has confirmed their versions: at the commit, or
// by Verify before an error is final. TestInstancesAgree shows it with three instances.

package eventstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// read is the version at which a unit has read a stream.
type read struct {
	stream, category string
	version          int
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

// note records the version at which a stream was read.
func (s *Session) note(t *tracked, p *prefix) {
	t.prefix = p
	s.reads = append(s.reads, read{t.name, t.category, p.version()})
}

// hold takes streams from the cache, each after the earlier units of this instance. A unit waits without a limit for streams in the order of their
// names, which all units use. Out of this order, or with a transaction of its own, it waits only briefly: the unit that holds
// the stream may need a stream or a lock that this unit holds.
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
		if s.noWaiting {
			patience = noPatience
		}
		stream, err := s.store.cache.hold(ctx, t.name, patience)
		if err != nil {
			return err
		}
		if stream == nil && s.noWaiting {
			return fmt.Errorf("%s: %w", t.name, ErrBusy)
		}
		t.stream = stream
	}
	return s.lock(ctx, slices.DeleteFunc(slices.Clone(all), func(t *tracked) bool { return !t.options.Contended }))
}

// known returns the cached prefix of a stream; nil if the unit reads in a transaction of its own.
func (s *Session) known(t *tracked) *prefix {
	if t.stream == nil || s.unit.OwnTransaction() {
		return nil
	}
	return s.store.cache.get(t.stream)
}

// lockWait is how long a unit with a transaction of its own waits for a lock while it may hold other locks. Then it is rolled back, and waits
// without these.
const lockWait = 200 * time.Millisecond

// lock locks contended streams: now if the unit has a transaction of its own, otherwise when it commits.
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

// errStale makes a unit run again.
var errStale = fmt.Errorf("streams have changed since they were read: %w", cqrs.ErrConflict)

// Verify checks the streams that a unit has read before its error or panic becomes final. If one query has read all of them from the table, they
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

// Conflicted removes the streams that the unit has read from the cache, because one of them was stale. The next units lock the contended ones before
// they read them.
func (s *Session) Conflicted() { s.conflicted(s.reads) }

// ConflictedSomewhere is Conflicted for a unit that has also read streams of inline consumers and commands: it queries which of them were stale.
func (s *Session) ConflictedSomewhere(ctx context.Context) {
	stale, err := s.store.stale(ctx, s.reads)
	if err != nil || len(stale) == 0 {
		stale = s.reads
	}
	s.conflicted(stale)
}

func (s *Session) conflicted(reads []read) {
	s.outdated(reads)
	for _, r := range reads {
		if s.streams[r.stream].options.Contended {
			s.store.cache.contest(r.stream)
		}
	}
}

func (s *Session) outdated(reads []read) {
	for _, r := range reads {
		s.store.cache.forget(r.stream)
		s.store.cache.foreign(r.category)
	}
}
