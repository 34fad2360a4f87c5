package component

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// spans is a collector of traces, as OTLP clients see it.
type spans struct {
	mu     sync.Mutex
	traces map[string]map[string]span // by trace and span id
}

type span struct{ name, parent string }

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, sp := range scope.Spans {
				trace := hex.EncodeToString(sp.TraceId)
				if s.traces[trace] == nil {
					s.traces[trace] = map[string]span{}
				}
				s.traces[trace][hex.EncodeToString(sp.SpanId)] = span{sp.Name, hex.EncodeToString(sp.ParentSpanId)}
			}
		}
	}
}

func (s *spans) of(trace string) map[string]span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.traces[trace])
}

// One order is one trace, the caller's: through outbox, Kafka, handlers, saga and gateways, and through a delay.
func TestOneOrderIsOneTrace(t *testing.T) {
	t.Parallel()
	got := &spans{traces: map[string]map[string]span{}}
	server := httptest.NewServer(got)
	defer server.Close()
	i := harness.NewEnvironment(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL, "OTEL_BSP_SCHEDULE_DELAY=100").Start()
	i.Stock(100, "MUG-01")
	i.SetFaults("payments", `{"down":true}`)
	const trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	response := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), "traceparent", "00-"+trace+"-"+caller+"-01")
	require.Equal(t, http.StatusAccepted, response.Status)
	var order harness.Order
	response.JSON(t, &order)
	kittest.Eventually(t, func() error { // held back once at least
		for _, sp := range got.of(trace) {
			if sp.name == "message AuthorisePayment" {
				return nil
			}
		}
		return fmt.Errorf("not asked yet")
	})
	i.SetFaults("payments", `{"down":false}`)
	require.Equal(t, "confirmed", i.Decided(order.ID).Status)
	eventually(t, i, order.ID, "completed")

	wanted := []string{
		"POST /v1/orders", "message ReserveStock", "message AuthorisePayment", "POST /authorisations", "message BookShipment", "POST /bookings",
		"message CapturePayment", "POST /captures", "message CommitStock", "message ConfirmOrder",
		"message " + i.Topic("saga.order-fulfilment.orders"), "message " + i.Topic("saga.order-fulfilment.payments"), "message " + i.Topic("projection.orders"),
	}
	kittest.Eventually(t, func() error {
		var names []string
		for _, sp := range got.of(trace) {
			names = append(names, sp.name)
		}
		for _, name := range wanted {
			if !slices.Contains(names, name) {
				slices.Sort(names)
				return fmt.Errorf("no span %q among %s", name, strings.Join(names, ", "))
			}
		}
		return nil
	})
	all, attempts := got.of(trace), 0
	for id, sp := range all {
		_, known := all[sp.parent]
		require.True(t, known || sp.parent == caller, "the parent of %s %s is not in the trace", id, sp.name)
		if sp.name == "message AuthorisePayment" {
			attempts++
		}
	}
	require.Greater(t, attempts, 1, "before and after the delay")
}
