package query

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// OrderHistory reads the events of an order, oldest first.
type OrderHistory struct {
	cqrs.Result[[]cqrs.Event]
	ID string
}

type orderHistory struct{ history cqrs.History }

func (h orderHistory) handle(ctx context.Context, q OrderHistory) ([]cqrs.Event, error) {
	return h.history.History(ctx, order.Category, q.ID)
}
