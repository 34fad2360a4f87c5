package runner

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// By how much the heap may grow until it is collected. Messages are small and short-lived: with Go's default, 100 %, garbage collection takes a
// quarter of the time at full load.
const (
	most   = 400 // percent of what is live
	least  = 100
	growth = 120 << 20 // bytes, between the two
)

var bounded sync.Once

// BoundGarbage makes this process collect garbage as a Program without a memory limit does: there are never more than 120 MiB of it, or as
// much as is live if that is more. Go's own settings are a part of what is live, or a limit that must be above all that will ever be live.
// It can be called several times.
func BoundGarbage() {
	bounded.Do(func() { (&collection{}).adjust() })
}

// collection is unreachable as soon as it is adjusted, so that its finalizer runs after each collection.
type collection struct{ _ *byte } // the runtime may never run the finalizer of a tiny object without a pointer

func (c *collection) adjust() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(percent(live[0].Value.Uint64()))
	runtime.SetFinalizer(c, (*collection).adjust)
}

// percent is the growth of the heap after which it is collected, for so many bytes that are live.
func percent(live uint64) int {
	return int(max(least, min(most, 100*growth/max(live, 1)))) // at most 400
}
