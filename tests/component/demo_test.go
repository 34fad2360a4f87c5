package component

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

func TestDiagram(t *testing.T) {
	t.Parallel()
	output, code := run(t, nil, "sagas", "diagram", "order-fulfilment")
	require.Zero(t, code)
	for _, want := range []string{"stateDiagram-v2", "capture payment (pivot)", "undo_authorise_payment --> undo_reserve_stock: payment.Voided", "book_shipment --> undo_authorise_payment: shipment.Refused"} {
		require.Contains(t, output, want)
	}
}

func TestDemoProvesTheInvariants(t *testing.T) {
	if kittest.External() == "" {
		t.Parallel()
	} // else other tests place orders at the same service, some of which take longer than the demo waits for its books
	i := harness.Shared(t)
	output, code := run(t, nil, "demo", "--orders", "40", "--json", "--url", i.URL)
	require.Zero(t, code, output)
	require.Regexp(t, `^\{"orders":40,"confirmed":\d+,"cancelled":\d+,"by_reason":\{.*"payment declined":\d+.*\},"seconds":[\d.]+,"orders_per_second":[\d.]+,"latency_ms":\{"p50":[\d.]+,"p99":[\d.]+\},"books":"balanced","consistent":true\}\n$`, output)
	output, code = run(t, []string{"HTTP_ADDR=" + strings.TrimPrefix(i.URL, "http://")}, "sagas", "list", "--status", "completed")
	require.Zero(t, code, output)
	require.Contains(t, output, "order-fulfilment v2")
	id := strings.Fields(strings.Split(output, "\n")[1])[0]
	output, code = run(t, nil, "sagas", "show", "--url", i.URL, id)
	require.Zero(t, code, output)
	require.Contains(t, output, "capture payment")
	output, code = run(t, nil, "deadletters", "list", "--url", i.URL)
	require.Zero(t, code, output)
	require.Equal(t, http.StatusOK, i.Do(http.MethodGet, "/healthz", "").Status)
}

// The banner has the address of each part, the sandbox included.
func TestBannerHasTheAddressOfEachPart(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	for _, line := range []string{"  pages      " + i.URL + "/ui/\n", "  api        " + i.URL + "/docs\n", "  postgres   ", "  kafka      ", "  sandbox    " + i.URL + "/v1/sandbox/payments and …/carrier\n"} {
		require.Contains(t, i.Output(), line)
	}
}
