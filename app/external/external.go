// Package external has the messages of other services that sagas send or wait for: one file per service, all listed here. Its types have the fields that
// matter here.
package external

import "github.com/millrace/millrace/kit/cqrs"

// All lists the external services.
func All() []cqrs.ExternalService {
	return []cqrs.ExternalService{
		Warehouse,
	}
}
