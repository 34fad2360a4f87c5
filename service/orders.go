package service

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/sagas/fulfilment"
)

// cancelOrder asks the order's saga, and with it decides in one transaction whether it is too late.
func (s *Service) cancelOrder(ctx context.Context, orderID string) error {
	definition := s.saga(fulfilment.Name)
	return s.core.uow.Within(ctx, func(ctx context.Context) error {
		history, err := s.core.store.History(ctx, order.Category, orderID)
		if err != nil {
			return err
		}
		return s.core.manager.Cancel(ctx, definition, history[0], "cancelled by the customer")
	})
}
