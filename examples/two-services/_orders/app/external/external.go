// Package external has the commands that sagas send to other services, and the events that answer them: one file per service, all listed here.
// A command goes to the topic of the other service, whose event answers it. The other service must use the same headers: it answers with the
// saga's id, step and branch, as every service of this template does.
package external

import "github.com/millrace/millrace/kit/cqrs"

// All lists the external services.
func All() []cqrs.ExternalService {
	return []cqrs.ExternalService{billing}
}
