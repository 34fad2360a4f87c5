// Package views keeps this service's read models: a table each, written by a projection and read by queries. All of them are listed here.
package views

import (
	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/kit/postgres/readmodel"
)

// All lists every read model. They write where the unit of work of their context writes.
func All() []readmodel.Model {
	return []readmodel.Model{
		{Projection: projection.Orders(Orders{}), Table: "order_view"},
		{Projection: projection.Stock(Stock{}), Table: "stock_view"},
	}
}
