// Package projection builds read models: one file each, all of them listed here.
package projection

import "github.com/millrace/millrace/app"

// Deps is where the read models are kept.
type Deps struct {
	Orders OrderRows
	Stock  StockRows
}

// All lists every projection.
func All(d Deps) []app.Projection {
	return []app.Projection{
		orders{d.Orders}.projection(),
		stock{d.Stock}.projection(),
	}
}
