package cqrs

import (
	"context"
	"sync"
)

// KeyChain ties a message to those before it under the same key. A message may be handled as soon as the one before it was handed to be
// committed; should that come to nothing, so must this one, and it is handled again after the other was dealt with.
type KeyChain struct {
	next func()
	done chan struct{}

	mu     sync.Mutex
	before *KeyChain
	unit   any
}

// NewKeyChain makes the link of a message that comes after another one, or after none. Next lets the following one begin; it may be called
// more than once.
func NewKeyChain(before *KeyChain, next func()) *KeyChain {
	return &KeyChain{before: before, next: next, done: make(chan struct{})}
}

type linkKey struct{}

// WithKeyChain puts a message's link into the context of its handler.
func WithKeyChain(ctx context.Context, l *KeyChain) context.Context {
	return context.WithValue(ctx, linkKey{}, l)
}

// KeyChainFromContext returns the link of the message at hand; nil if it has none.
func KeyChainFromContext(ctx context.Context) *KeyChain {
	l, _ := ctx.Value(linkKey{}).(*KeyChain)
	return l
}

// Submitted notes the unit of work that will commit what the message has done, and lets the next one begin.
func (l *KeyChain) Submitted(unit any) {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.unit = unit
	l.mu.Unlock()
	l.next()
}

// Done says that the message was dealt with.
func (l *KeyChain) Done() { close(l.done) }

func (l *KeyChain) isDone() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// pending is the nearest message before that was not dealt with yet; nil if there is none. Those between are forgotten.
func (l *KeyChain) pending() *KeyChain {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.before != nil && l.before.isDone() {
		before := l.before
		before.mu.Lock()
		l.before = before.before
		before.mu.Unlock()
	}
	return l.before
}

// Before returns the unit of work of the message before; nil if that one was dealt with.
func (l *KeyChain) Before() any {
	before := l.pending()
	if before == nil {
		return nil
	}
	before.mu.Lock()
	defer before.mu.Unlock()
	return before.unit
}

// Waits tells whether a message before was not dealt with yet.
func (l *KeyChain) Waits() bool { return l.pending() != nil }

// Wait waits until all messages before were dealt with. The error is ctx's.
func (l *KeyChain) Wait(ctx context.Context) error {
	for before := l.pending(); before != nil; before = l.pending() {
		select {
		case <-before.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
