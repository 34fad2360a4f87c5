package component

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// An active saga whose version was removed from the program is reported when the service starts, on /readyz and by the audit, and an operation on it names the version.
func TestVersionOfAnActiveSagaIsNotRegistered(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	i.Stock(10, "MUG-01")
	id := i.Place("pm_slow", "MUG-01")
	saga := i.SagaOf(id).ID
	i.ExpectFaults()
	i.Kill()
	_, err := kittest.OpenDB(t, i.DSN()).Exec(`UPDATE events SET payload = jsonb_set(payload::jsonb, '{version}', '99') WHERE stream = 'sagas/' || $1 AND version = 1`, saga)
	require.NoError(t, err)
	i.Again()
	const missing = "version 99 of order-fulfilment, which is not registered"
	kittest.Eventually(t, func() error {
		ready, err := i.Try(http.MethodGet, "/readyz", "")
		if err == nil && (ready.Status != http.StatusOK || !strings.Contains(ready.Body, missing)) {
			err = fmt.Errorf("%d %s", ready.Status, ready.Body)
		}
		return err
	})
	cancelled := i.Do(http.MethodPost, "/v1/orders/"+id+"/cancel", "")
	require.Equal(t, http.StatusConflict, cancelled.Status)
	require.Contains(t, cancelled.Body, "order-fulfilment v99")
	require.Contains(t, i.Output(), "active sagas have no definition")
	report, code := i.Audit()
	require.Equal(t, 1, code)
	require.Contains(t, report, missing)
}
