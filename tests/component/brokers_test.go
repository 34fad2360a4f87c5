package component

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// Without any Kafka, by Watermill's SQL Pub/Sub: orders of every outcome, an instance that is killed in the middle and one that takes over,
// and the invariants.
func TestPostgresInKafkasPlace(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w := harness.NewEnvironment(t, "BROKER=postgres", "KAFKA_BROKERS=")
	if kittest.Real() {
		w.Sandbox() // which two instances can share, as they can the database
	}
	i := w.Start()
	require.Contains(t, i.Output(), "topics     tables of PostgreSQL")
	require.Contains(t, i.Do(http.MethodGet, "/readyz", "").Body, "topics: ok")
	i.Stock(1000, "MUG-01", "TEE-02", "HEAVY-99")
	began := time.Now()
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01", "TEE-02")).Status)
	t.Logf("one order: %s", time.Since(began).Round(time.Millisecond))
	place := func() {
		var all sync.WaitGroup
		for _, method := range []string{"pm_ok", "pm_declined", "pm_capture_refused", "pm_ok"} {
			all.Go(func() {
				for range 8 {
					i.Place(method, "MUG-01", "TEE-02")
				}
			})
		}
		all.Wait()
		i.Place("pm_ok", "HEAVY-99")
		i.Place("pm_ok", "MUG-01", "VOID-00")
	}
	place()
	i.Kill()
	i.Restart()
	if kittest.Real() {
		i = w.Start()
	}
	place()
	began = time.Now()
	report := i.Consistent()
	t.Logf("%d orders were decided within %s", report.Orders, time.Since(began).Round(time.Millisecond))
	require.Positive(t, report.Confirmed)
	require.Positive(t, report.Cancelled)
	code, took := i.Terminate()
	require.Zero(t, code)
	require.Less(t, took, 10*time.Second)
}
