// Package views stores this service's read models: one table each, written by a projection and read by queries. All lists them.
package views

import (
	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/kit/postgres/readmodel"
)

// All lists every read model. Read models write in the unit of work of their context.
func All() []readmodel.Model {
	return []readmodel.Model{
		{Projection: projection.Orders(Orders{}), Table: "order_view"},
		{Projection: projection.Stock(Stock{}), Table: "stock_view"},
	}
}
