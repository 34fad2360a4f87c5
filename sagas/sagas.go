// Package sagas lists the sagas of the service.
package sagas

import (
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/fulfilment"
	"github.com/millrace/millrace/sagas/orderreturn"
)

// All lists the sagas, including old versions that still have running instances.
func All() []*saga.Saga {
	return []*saga.Saga{
		saga.New(fulfilment.Definition),
		saga.New(fulfilment.V1),
		saga.New(orderreturn.Definition),
	}
}
