// Package breakers chooses when calls of external services are suspended: a circuit breaker of gobreaker for each destination of commands.
package breakers

import (
	"github.com/sony/gobreaker"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/breaker"
)

// All are the breakers by the destinations of commands. Each opens when half of at least ten calls within ten seconds have failed, and lets three
// calls try again after five seconds.
func All() map[string]gobreaker.Settings {
	return map[string]gobreaker.Settings{
		payment.Category:  breaker.Settings("payments", 10, 0.5),
		shipment.Category: breaker.Settings("carrier", 10, 0.5),
		command.Couriers:  breaker.Settings("courier", 10, 0.5),
	}
}
