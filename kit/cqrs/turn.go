package cqrs

import (
	"context"
	"fmt"
	"sync"
)

// Turn is the place of a message among the messages of its key. The messages of a key that wait are started together; a unit of work lets them in
// one after the other. A message that is ready when the one before it has done its work joins that message's unit of work, so that both
// commit together.
//
// A message takes part only after those before it, and what it does is void if one before it was not processed: Join returns an error then.
type Turn struct {
	done chan struct{}

	mu     sync.Mutex
	before *Turn
	broken bool // a message before it was kept for later since Look

	most    int           // messages in its unit of work; 0: as many as that lets in
	kept    bool          // it was not processed, but kept for later
	wanted  bool          // the next message waits for the unit
	passed  any           // the unit that the next message joins
	changed chan struct{} // gets a token when passed is set
}

// NewTurn makes the turn of a message after another one, or after none.
func NewTurn(before *Turn) *Turn {
	return &Turn{before: before, done: make(chan struct{}), changed: make(chan struct{}, 1)}
}

type turnKey struct{}

// WithTurn puts a message's turn into the context of its handler.
func WithTurn(ctx context.Context, t *Turn) context.Context {
	return context.WithValue(ctx, turnKey{}, t)
}

// TurnFromContext returns the turn of the current message; nil if it has none.
func TurnFromContext(ctx context.Context) *Turn {
	t, _ := ctx.Value(turnKey{}).(*Turn)
	return t
}

// Limit limits the number of messages in the unit of work that the message begins or joins next. One: it works alone.
func (t *Turn) Limit(messages int) {
	if t != nil {
		t.most = max(1, messages)
	}
}

// Admits tells whether the unit of work of the message may have so many messages.
func (t *Turn) Admits(messages int) bool { return t != nil && (t.most == 0 || messages <= t.most) }

// Done says that the message was acknowledged.
func (t *Turn) Done() { close(t.done) }

// Kept says that the message was not processed but stored, as a dead letter or for a retry. Call it before Done.
func (t *Turn) Kept() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = true
}

func (t *Turn) isDone() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// pending is the nearest earlier message that is not done; nil if there is none.
func (t *Turn) pending() *Turn {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.before != nil && t.before.isDone() {
		before := t.before
		before.mu.Lock()
		t.broken = t.broken || before.kept || before.broken
		t.before = before.before
		before.mu.Unlock()
	}
	return t.before
}

// Look tells whether an earlier message is not done. It is called before it is looked up whether the key is blocked: Join fails if an earlier message was
// kept since, which may block the key.
func (t *Turn) Look() (waits bool) {
	waits = t.pending() != nil
	if t != nil && !waits {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.broken = false
	}
	return waits
}

// Wait waits until all earlier messages are done. The error is ctx's.
func (t *Turn) Wait(ctx context.Context) error {
	for before := t.pending(); before != nil; before = t.pending() {
		select {
		case <-before.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// errOutOfTurn is the error of a message before which another one was kept.
var errOutOfTurn = fmt.Errorf("an earlier message of the key was not processed: %w", ErrConflict)

// Join waits until the message before has passed its unit of work, which is returned, or all earlier messages are done; unit is then nil, and always
// if the message works alone. The
// error is ctx's, or wraps ErrConflict if an earlier message was not processed.
func (t *Turn) Join(ctx context.Context) (unit any, err error) {
	for {
		before := t.pending()
		if before == nil {
			if t != nil && t.isBroken() {
				return nil, errOutOfTurn
			}
			return nil, nil
		}
		if t.most == 1 {
			if err := t.Wait(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if unit := before.take(); unit != nil {
			return unit, nil
		}
		select {
		case <-before.done:
		case <-before.changed:
		case <-ctx.Done():
			if unit := before.leave(); unit != nil {
				return unit, nil
			}
			return nil, ctx.Err()
		}
	}
}

func (t *Turn) isBroken() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.broken
}

// take takes the passed unit, or says that it is wanted.
func (t *Turn) take() (unit any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	unit, t.passed = t.passed, nil
	t.wanted = unit == nil
	return unit
}

// leave takes the passed unit, or says that none is wanted any more.
func (t *Turn) leave() (unit any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	unit, t.passed = t.passed, nil
	t.wanted = false
	return unit
}

// Wanted tells whether the next message waits for the unit of work.
func (t *Turn) Wanted() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wanted
}

// Pass gives the unit of work to the next message, if that waits for it. Passed false: the caller keeps it.
func (t *Turn) Pass(unit any) (passed bool) {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.wanted {
		return false
	}
	t.wanted, t.passed = false, unit
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return true
}
