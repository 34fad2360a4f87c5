package cqrs

import (
	"context"
	"sync"
)

// KeyChain links a message to the messages before it with the same key. A message may start as soon as the message before it was submitted
// for commit. If that commit fails, this message fails too, and runs again after the other message has ended.
type KeyChain struct {
	next func()
	done chan struct{}

	mu     sync.Mutex
	before *KeyChain
	unit   any
}

// NewKeyChain makes the link of a message after another one, or after none. Next lets the following message start; it may be called
// repeatedly.
func NewKeyChain(before *KeyChain, next func()) *KeyChain {
	return &KeyChain{before: before, next: next, done: make(chan struct{})}
}

type linkKey struct{}

// WithKeyChain puts a message's link into the context of its handler.
func WithKeyChain(ctx context.Context, l *KeyChain) context.Context {
	return context.WithValue(ctx, linkKey{}, l)
}

// KeyChainFromContext returns the link of the current message; nil if it has none.
func KeyChainFromContext(ctx context.Context) *KeyChain {
	l, _ := ctx.Value(linkKey{}).(*KeyChain)
	return l
}

// Submitted records the unit of work that will commit the message's effects, and lets the next message start.
func (l *KeyChain) Submitted(unit any) {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.unit = unit
	l.mu.Unlock()
	l.next()
}

// Done marks the message as acknowledged.
func (l *KeyChain) Done() { close(l.done) }

func (l *KeyChain) isDone() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// pending is the nearest earlier message that is not done; nil if there is none. Done messages between the two are unlinked.
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

// Before returns the unit of work of the message before; nil if that message is done.
func (l *KeyChain) Before() any {
	before := l.pending()
	if before == nil {
		return nil
	}
	before.mu.Lock()
	defer before.mu.Unlock()
	return before.unit
}

// Waits tells whether an earlier message is not done.
func (l *KeyChain) Waits() bool { return l.pending() != nil }

// Wait waits until all earlier messages are done. The error is ctx's.
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
