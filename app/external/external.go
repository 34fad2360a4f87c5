// Package external has the messages of external services that sagas send or wait for: one file per service. All lists the services. The types have only
// the fields that this service uses.
package external

import "github.com/millrace/millrace/kit/cqrs"

// All lists the external services.
func All() []cqrs.ExternalService {
	return []cqrs.ExternalService{
		Warehouse,
	}
}
