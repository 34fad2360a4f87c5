// Package external describes the external services to which this service's sagas send commands, and the events that answer them: one file per
// service, all listed here. An external service receives the commands on its topics, and answers with events that carry the saga's id, step
// and branch, as every service of this template does.
package external

import "github.com/millrace/millrace/kit/cqrs"

// All lists the aggregates of external services that sagas use.
func All() []cqrs.ExternalService {
	return []cqrs.ExternalService{}
}
