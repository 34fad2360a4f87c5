package component_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/tests/harness"
)

// Read models are rebuilt from the event store while orders go on; whatever was wrong in them is right afterwards.
func TestReadModelsAreRebuiltWhileTheServiceRuns(t *testing.T) {
	if harness.External() != "" {
		t.Skip("needs the database and the settings of the service")
	}
	t.Parallel()
	w := harness.NewWorld(t)
	i := w.Start()
	db := harness.OpenDB(t, i.DSN())
	i.Stock(1000, "BOOK-1")
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
				if response, err := i.Try("POST", "/v1/orders", harness.OrderBody("pm_ok", "BOOK-1")); err != nil || response.Status != 202 {
					t.Errorf("%v %v", response, err)
				}
			}
		}
	}()
	for _, name := range []string{"orders", "stock", "sagas"} {
		out, err := w.Command("projections", "rebuild", name).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), name+": rebuilt from ")
	}
	close(stop)
	require.Positive(t, <-done)
	i.Balanced()
	_, err := db.Exec(`DELETE FROM order_rows; UPDATE stock_rows SET on_hand = on_hand + 1; UPDATE saga_rows SET status = 'running'`)
	require.NoError(t, err)
	for _, name := range []string{"orders", "stock", "sagas"} {
		out, err := w.Command("projections", "rebuild", name).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	i.Balanced()
	out, err := w.Command("projections", "rebuild", "nothing").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), `there is no projection "nothing"; there are orders, stock, sagas`)
	out, err = w.Command("projections", "list").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "stock_rows")
}
