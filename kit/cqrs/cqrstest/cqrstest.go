// Package cqrstest tests command handlers without a database: its store holds one aggregate, which it returns for every id.
package cqrstest

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
)

// Store is a cqrs.Store of one aggregate.
type Store[A any] struct{ Aggregate A }

// Holding makes the store of an aggregate that was rebuilt from a history.
func Holding[A any](aggregate A) *Store[A] { return &Store[A]{aggregate} }

// Update implements cqrs.Store.
func (s *Store[A]) Update(_ context.Context, _ string, decide func(A) error) error {
	return decide(s.Aggregate)
}

// UpdateAll implements cqrs.Store: each id is that aggregate.
func (s *Store[A]) UpdateAll(_ context.Context, ids []string, decide func([]A) error) error {
	all := make([]A, len(ids))
	for i := range all {
		all[i] = s.Aggregate
	}
	return decide(all)
}

// Commands records the commands that it receives, in place of the command bus.
type Commands []any

// Send implements cqrs.Commands.
func (c *Commands) Send(_ context.Context, command cqrs.Command) error {
	*c = append(*c, command.Body)
	return nil
}

// Execute implements cqrs.Commands.
func (c *Commands) Execute(ctx context.Context, command cqrs.Command) error {
	return c.Send(ctx, command)
}
