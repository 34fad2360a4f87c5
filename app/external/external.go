// Package external is what this service's sagas ask of other services, and what those answer: one file a service, all of them listed here.
// Commands go to the other service's topics and its events come by its topics, so it must keep to the same headers: it answers with the
// saga's id, step and branch, as every service of this template does.
package external

import "github.com/millrace/millrace/kit/cqrs"

// All lists every kind of aggregate of other services that sagas deal with.
func All() []cqrs.ExternalService {
	return []cqrs.ExternalService{}
}
