package query

import (
	"context"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/order"
)

// OrderHistory asks for the events of an order, oldest first.
type OrderHistory struct {
	app.Answers[[]app.Event]
	ID string
}

type orderHistory struct{ history History }

func (h orderHistory) handle(ctx context.Context, q OrderHistory) ([]app.Event, error) {
	return h.history.History(ctx, order.Category, q.ID)
}
