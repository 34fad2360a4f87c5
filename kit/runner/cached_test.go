package runner

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Probes and scrapers of many machines share one query of the database.
func TestReadinessFiguresAreMadeOnceForAllWhoAsk(t *testing.T) {
	var c cached[int64]
	var made atomic.Int64
	read := func() int64 { return c.get(func() int64 { time.Sleep(time.Millisecond); return made.Add(1) }) }
	var asking sync.WaitGroup
	for range 100 {
		asking.Go(func() { read() })
	}
	asking.Wait()
	require.Equal(t, int64(1), made.Load())
	c.made = time.Now().Add(-2 * cacheFor)
	require.Equal(t, int64(2), read(), "and anew when they are old")
}
