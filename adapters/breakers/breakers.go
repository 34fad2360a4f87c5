// Package breakers chooses when calls of an external service are suspended: by a circuit breaker of gobreaker for each.
package breakers

import (
	"time"

	"github.com/sony/gobreaker"
)

// Settings are those of the breaker of a gateway, by the gateway's name. It opens when half of at least ten calls within ten seconds have failed,
// and lets three calls try again after five seconds.
func Settings(name string) gobreaker.Settings {
	return gobreaker.Settings{
		Name: name, Interval: 10 * time.Second, Timeout: 5 * time.Second, MaxRequests: 3,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.Requests >= 10 && 2*c.TotalFailures >= c.Requests },
	}
}
