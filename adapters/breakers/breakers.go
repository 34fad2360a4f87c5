// Package breakers chooses when the circuit breakers of external services open. Each service has a breaker of gobreaker.
package breakers

import (
	"time"

	"github.com/sony/gobreaker"
)

// Settings returns the settings of the circuit breaker of the gateway with this name. The breaker opens when at least half of ten or more calls within ten
// seconds have failed. Five seconds later it lets three calls through.
func Settings(name string) gobreaker.Settings {
	return gobreaker.Settings{
		Name: name, Interval: 10 * time.Second, Timeout: 5 * time.Second, MaxRequests: 3,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.Requests >= 10 && 2*c.TotalFailures >= c.Requests },
	}
}
